# Thin on purpose: each target calls a tool. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
PORT   ?= 8000

.DEFAULT_GOAL := help
.PHONY: help setup book dist pdf test lint bench serve pins clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the virtual environment with the exact pins

# The old stamp goes first: an interrupted setup is then repeated instead of taken for a finished one.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  f"The pins need Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12 …")'
	@rm -f $(STAMP)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(STAMP)

book: $(STAMP) ## execute what is stale and build the book into _build/html
	$(BIN)/kexue build

dist: book ## pack the book into a zip file that opens without a server
	$(BIN)/kexue dist

pdf: book ## print the book into one PDF (CHAPTERS="slug …" for some; needs Chromium)
	$(BIN)/kexue pdf $(CHAPTERS)

# As many processes as cores. worksteal keeps neighbours together, so that what they share is mostly made once.
test: $(STAMP) ## run all tests (ARGS=--thorough: every audit and more seeds)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

lint: $(STAMP) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# ARGS: --quick for a look, --record to keep the result for the book's page, --list, and whatever --help shows.
bench: $(STAMP) ## measure kexue_lib beside its peers (OPS="rope_halves …" for some, ARGS="--quick")
	$(BIN)/python -m benchmarks $(OPS) $(ARGS)

serve: book ## show the book at http://localhost:8000 (PORT=… for another port)
	@echo "The book: http://localhost:$(PORT)/  (Ctrl-C ends)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# torch stays at the version that the committed notebooks were made with; `make pins TORCH=torch` raises it.
TORCH ?= $(shell grep '^torch==' requirements.txt)
pins: ## remake requirements.txt from pyproject.toml in a fresh environment
	rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet --editable '.[dev,bench]' "$(TORCH)"
	{ sed -n '/^#/p' requirements.txt; .venv-pins/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > .venv-pins/pins
	mv .venv-pins/pins requirements.txt && rm -rf .venv-pins

clean: ## remove what was built (the environment and the executed notebooks stay)
	rm -rf _build build dist book/_generated book/steps book/map.md book/ledger.md book/seeds.md book/benchmarks.md .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find kexue_lib tests notebooks book -name __pycache__ -type d -prune -exec rm -rf {} +
