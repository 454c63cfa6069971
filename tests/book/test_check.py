"""`kexue check`, the audits, links, contents, and the generated pages."""

from __future__ import annotations

import json

import pytest
from checkouts import CLAIMS, PAGE, STEP, Checkout

from kexue_lib.book.audit_run import read_audit, stale_audit
from kexue_lib.book.check import card_problems, record_problems
from kexue_lib.book.ledger import ledger
from kexue_lib.book.links import anchors, link_problems
from kexue_lib.book.map import chapter_map
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.records import gather
from kexue_lib.book.staleness import library_hashes
from kexue_lib.book.toc import toc_problems


def test_a_built_checkout_has_nothing_wrong(built: Checkout) -> None:
    done = built.kexue("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 chapters checked: nothing is wrong." in done.stdout


def test_all_kinds_of_problems_are_told_at_once(built: Checkout) -> None:
    path = built.chapter("[markdown]\n$$x$$", "import sympy as sp\nA = sp.MatrixSymbol('A', 2, 2)\nsp.diff(f, A)")
    path.write_text(path.read_text(encoding="utf-8").replace("2022-04-11", "2022-04-12"), encoding="utf-8")
    built.write("_toc.yml", "format: jb-book\nroot: book/index\n")
    done = built.kexue("check", "--no-audit")
    assert done.returncode == 1
    for said in (
        "date is '2022-04-12' in the card and '2022-04-11'",
        "it was not made from",
        "a displayed equation in static LaTeX",
        "a derivative with the matrix symbol A",
        f"add `- file: {PAGE}`",
        "problems in 1 chapters.",
    ):
        assert said in done.stdout
    assert "Traceback" not in done.stderr


def test_the_audit_record_has_hashes_and_counts_and_no_times(built: Checkout) -> None:
    chapter = built.project.chapters[0]
    record = json.loads(chapter.audit.read_text(encoding="utf-8"))
    assert set(record) == {"schema", "chapter", "cells", "library", "packages", "derivations"}
    assert {"kexue_lib/derive/__init__.py", "kexue_lib/derive/audit.py"} <= set(record["library"])
    assert not any(name.startswith(("kexue_lib/lab", "kexue_lib/book")) for name in record["library"])
    assert "without_counterexample" not in record["derivations"][0]["steps"][0]
    audit = read_audit(chapter)
    assert audit is not None
    assert audit.counts() == {"killed": 7, "equivalent": 1, "implied": 0, "survived": 0}
    assert audit.problems() == []


def test_an_audit_is_stale_when_what_it_rests_on_changes(built: Checkout) -> None:
    chapter = built.project.chapters[0]

    def why() -> list[str]:
        return stale_audit(chapter, built.project, library_hashes(built.project))

    assert why() == []
    built.write("kexue_lib/lab/__init__.py", "changed = True\n")
    assert why() == []
    path = built.root / "kexue_lib/derive/audit.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n# another\n", encoding="utf-8")
    assert why() == ["kexue_lib/derive/audit.py has changed"]
    notebook = read_executed(chapter)
    notebook["cells"][3]["source"] = "x = 1"
    chapter.executed.write_text(json.dumps(notebook), encoding="utf-8")
    assert why()[0] == "the derivation has changed"
    chapter.audit.write_text("{", encoding="utf-8")
    assert why() == ["there is no audit record"]


@pytest.mark.slow
def test_a_surviving_mutant_fails_the_check_and_is_named_by_the_build(checkout: Checkout) -> None:
    checkout.write("_toc.yml", "format: jb-book\nroot: book/index\nchapters:\n- file: " + PAGE + "\n")
    checkout.chapter("from kexue_lib.derive import Derivation\n\nd = Derivation('toy', survived=2)", STEP)
    said = "attention/entropy-invariant-softmax: a check without teeth: toy D1: the mutant survives: sign: of x"
    done = checkout.kexue("build", "--no-html")
    assert done.returncode == 0
    assert said in done.stdout
    done = checkout.kexue("check")
    assert done.returncode == 1
    assert said in done.stdout
    assert "2 problems" in done.stdout
    assert checkout.kexue("check", "--no-audit").returncode == 0


@pytest.mark.slow
def test_a_derivation_that_the_audit_cannot_find_fails_the_build(checkout: Checkout) -> None:
    checkout.chapter("[experiment] from kexue_lib.derive import Derivation\nd = Derivation('toy')", STEP)
    done = checkout.kexue("build", "--no-html")
    assert done.returncode == 1
    assert "audit failed" in done.stdout
    assert "no Derivation of that name" in done.stdout
    assert not checkout.project.chapters[0].audit.exists()


@pytest.mark.slow
def test_a_derivation_that_needs_an_experiment_fails_its_audit_with_cell_and_line(checkout: Checkout) -> None:
    path = checkout.chapter("[experiment] measured = 3", "x = 1\ny = measured")
    line = path.read_text(encoding="utf-8").splitlines().index("y = measured") + 1
    done = checkout.kexue("build", "--no-html")
    assert done.returncode == 1
    assert f"audit failed in cell 5 (notebooks/attention/entropy-invariant-softmax.py:{line}): NameError" in done.stdout


def test_records_are_gathered_from_the_outputs(built: Checkout) -> None:
    records = gather(read_executed(built.project.chapters[0]))
    assert [step["id"] for step in records.steps] == ["D1"]
    assert records.by_status() == {"proved": 1, "asymptotic": 0, "sampled": 0, "unchecked": 0}
    assert records.by_verdict() == {"holds": 1, "partly": 0, "fails": 0, "open": 0}
    assert records.run["parameters"]["scale"] == "quick"
    assert record_problems(built.project.chapters[0]) == []


def test_links_of_a_chain_count_one_by_one_and_a_step_shown_twice_counts_once() -> None:
    link = {"derivation": "d", "kind": "exact"}
    chain = {
        "schema": 1, "derivation": "d", "id": "D1", "kind": "numeric", "status": "sampled",
        "links": [{**link, "id": "D1.1", "status": "proved"}, {**link, "id": "D1.2", "status": "sampled"}],
    }  # fmt: skip
    output = {"data": {"application/vnd.kexue.step+json": chain}}
    notebook = {"cells": [{"outputs": [output, output]}], "metadata": {}}
    assert gather(notebook).by_status() == {"proved": 1, "asymptotic": 0, "sampled": 1, "unchecked": 0}


def test_evidence_that_names_no_step_is_a_problem(built: Checkout) -> None:
    chapter = built.project.chapters[0]
    text = chapter.executed.read_text(encoding="utf-8")
    assert text.count('"D1"') >= 2
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for claim in output.get("data", {}).get("application/vnd.kexue.claims+json", {}).get("claims", []):
                claim["evidence"] = ["D9"]
    chapter.executed.write_text(json.dumps(notebook), encoding="utf-8")
    assert record_problems(chapter) == [f"{PAGE}.ipynb: claim C1 names the evidence D9, and no step has that id."]


def test_links_lead_somewhere(built: Checkout) -> None:
    assert link_problems(built.project) == []
    assert {"D1", "where-it-leads"} <= anchors(read_executed(built.project.chapters[0]))
    built.chapter(
        "[markdown]\n[a](#nowhere) [b](other.ipynb) [c](http://example.org) [d](https://example.org)\n"
        "[e](../../index.md) `[f](gone.md)` [g](../gated/gau-warmup.ipynb)"
    )
    said = link_problems(built.project)
    assert [line.rpartition("softmax.py:")[2].partition(":")[2].strip() for line in said] == [
        "the link #nowhere leads to nothing: attention/entropy-invariant-softmax has no place #nowhere.",
        "the link other.ipynb leads to nothing: there is no book/chapters/attention/other.ipynb.",
        "the link http://example.org is neither relative nor https.",
        "the link ../gated/gau-warmup.ipynb leads to nothing: there is no book/chapters/gated/gau-warmup.ipynb.",
    ]


def test_the_contents_agree_with_the_chapters(built: Checkout) -> None:
    assert toc_problems(built.project) == []
    built.chapter("x = 1", slug="gau-warmup")
    other = "book/chapters/gated/gau-warmup"
    assert toc_problems(built.project) == [f"_toc.yml: {other} has a source, but is not listed: add `- file: {other}`."]
    head = "format: jb-book\nroot: book/index\nchapters:\n"
    built.write("_toc.yml", f"{head}- file: {other}\n- file: {PAGE}\n")
    assert "not in the order of book/plan.yml" in toc_problems(built.project)[0]
    built.write("_toc.yml", f"{head}- file: {PAGE}\n- file: {other}\n- file: {other}\n- file: book/chapters/a/b\n")
    assert len(toc_problems(built.project)) == 2


def test_unknown_prerequisites_are_told(built: Checkout) -> None:
    path = built.project.chapters[0].source
    path.write_text(
        path.read_text(encoding="utf-8").replace("prerequisites: []", "prerequisites: [x]"), encoding="utf-8"
    )
    assert card_problems(built.project.chapters[0], built.project) == [
        "attention/entropy-invariant-softmax: the prerequisites x are not in book/plan.yml."
    ]


def test_the_ledger_counts_what_the_notebooks_say(built: Checkout) -> None:
    text = ledger(built.project)
    rows = [line for line in text.splitlines() if line.startswith("| [A quick derivation of the entropy-invariant")]
    assert [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows] == [
        ["1", "0", "0", "0", "1"],  # steps
        ["7", "1", "0", "0", "8"],  # mutants
        ["1", "0", "0", "0", "1"],  # claims
    ]
    assert "| **All** | **7** | **1** | **0** | **0** | **8** |" in text
    assert "run: quick,\N{NO-BREAK SPACE}cpu" in text
    assert "35 chapters of the 36 planned ones are not there yet" in text
    built.project.chapters[0].audit.unlink()
    assert "not audited" in ledger(built.project)


def test_a_checkout_without_executed_chapters_claims_nothing(checkout: Checkout) -> None:
    assert "No chapter has been executed yet." in ledger(checkout.project)
    assert "0 of 36 chapters are there." in chapter_map(checkout.project)


def test_the_map_shows_all_chapters_and_links_those_that_are_there(built: Checkout) -> None:
    built.chapter("x = 1", slug="gau-warmup")
    text = chapter_map(built.project)
    rows = [line for line in text.splitlines() if "kexue.fm/archives/" in line]
    assert len(rows) == 36
    assert "1 of 36 chapters are there." in text
    assert '](chapters/attention/entropy-invariant-softmax.ipynb) | [<span lang="zh">' in rows[0]
    assert "**there**: 1 of 1 steps checked; of 1 claims 1 hold" in rows[0]
    assert sum("being written" in row for row in rows) == 1
    assert sum("planned" in row for row in rows) == 34
    assert CLAIMS


def test_a_line_of_the_committed_ledger_that_is_no_row_is_a_problem(built: Checkout) -> None:
    built.write("book/records/ledger.jsonl", '{"schema": 1}\n')
    done = built.kexue("check", "--no-audit")
    assert done.returncode == 1
    assert "ledger.jsonl, line 1 is no valid row and is left out: " in done.stdout
