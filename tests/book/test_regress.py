"""Regressions that go well: what is run, in which order and where, what is not repeated, what the report says."""

from __future__ import annotations

import io
import re
import resource
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from checkouts import CLAIMS, REPOSITORY, STEP, make_checkout
from hypothesis import given
from hypothesis import strategies as st
from regressions import Stub, by_hand, inherited_stub
from rich.console import Console
from test_regress_ledger import row

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project
from kexue_lib.book.regress import capacity, cluster
from kexue_lib.book.regress.command import Settings, regress, show_ledger
from kexue_lib.book.regress.compare import compare
from kexue_lib.book.regress.drive import Driver
from kexue_lib.book.regress.figures import FigureMoves
from kexue_lib.book.regress.grid import Freshness, Item, Source, parse_seeds, plan
from kexue_lib.book.regress.identity import Identity, combined
from kexue_lib.book.regress.row import Key
from kexue_lib.book.regress.session import Session
from kexue_lib.book.regress.store import Ledger
from kexue_lib.book.regress.summary import summarise
from kexue_lib.book.regress.view import View

FIGURE = """
display({"application/vnd.kexue.figure+json": {"schema": 1, "name": "curve", "title": "t", "alt": "a",
         "measured": {"y": [seed, None, 1.5]}}, "text/plain": "figure"}, raw=True)
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    return inherited_stub(tmp_path, monkeypatch)


def run(stub: Stub, *chapters: str, **settings: Any) -> tuple[int, str]:
    """`kexue regress` in this process, with stubs."""
    out = io.StringIO()
    console = Console(file=out, width=200)
    given = Settings(**{"workers": 2, "module": "stub_runner", **settings})
    return regress(stub.checkout.project, chapters, given, console), out.getvalue()


# The plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0..3", (0, 1, 2, 3)), ("5,0..2,1", (5, 0, 1, 2)), (" 1 , 2 .. 2", (1, 2))]
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3..1", "0..", "-1", "1.5", "0...3"])
def test_other_texts_are_no_seeds(text: str) -> None:
    with pytest.raises(BookError, match="expected numbers and ranges"):
        parse_seeds(text)


def source(name: str, **minutes: float) -> Source:
    from kexue_lib.book.project import Chapter

    part, _, slug = name.partition("/")
    given = {"quick": 1.0, "full": 30.0, **minutes}
    return Source(Chapter(Path(), part, slug), "", "0" * 64, {"cells": []}, "{}", given)


def test_the_longest_runs_come_first_by_what_they_took_or_else_by_their_card() -> None:
    rows = [row(seconds=s, chapter="depth/b") for s in (10.0, 500.0, 20.0)]  # the median counts
    rows.append({**row(seconds=9999.0, chapter="depth/b"), "status": "timeout"})
    items = plan([source("depth/a"), source("depth/b")], (0, 1), ("quick", "full"), lambda s: ("cpu",), rows)
    assert [(i.key.chapter[-1], i.key.scale, i.key.seed, i.expected, i.known) for i in items] == [
        ("a", "full", 0, 1800.0, False), ("a", "full", 1, 1800.0, False),
        ("b", "full", 0, 1800.0, False), ("b", "full", 1, 1800.0, False),
        ("a", "quick", 0, 60.0, False), ("a", "quick", 1, 60.0, False),
        ("b", "quick", 0, 20.0, True), ("b", "quick", 1, 20.0, True),
    ]  # fmt: skip


def test_a_row_counts_while_its_source_its_library_files_and_its_versions_are_what_they_were() -> None:
    library = {"kexue_lib/__init__.py": "a", "kexue_lib/x.py": "b"}
    made = row(library={"hash": combined(library, ["kexue_lib/__init__.py"]), "files": ["kexue_lib/__init__.py"]})

    def fresh(source: str = "0" * 64, python: str = "3.11.7", torch: str | None = "2.13.0", **files: str) -> bool:
        now = Freshness({"depth/x": source}, {**library, **files}, python, {"torch": torch}.get)
        return now(made)

    assert fresh()
    assert fresh(**{"kexue_lib/x.py": "changed"})  # the run had not loaded it
    assert not fresh(**{"kexue_lib/__init__.py": "changed"})
    assert not fresh(source="1" * 64)
    assert not fresh(python="3.12.0")
    assert not fresh(torch="2.14.0")
    assert not fresh(torch=None)
    assert not Freshness({"depth/x": "0" * 64}, {}, "3.11.7", {"torch": "2.13.0"}.get)(made)


# On this machine --------------------------------------------------------------------------------------------------


def test_a_change_repeats_the_runs_that_it_concerns_and_no_others(stub: Stub) -> None:
    stub.chapter()
    stub.chapter("x = 1", slug="gau-warmup")
    assert run(stub, seeds=(0, 1))[0] == 0
    assert len(stub.started) == 4
    assert "4 of them are in" in run(stub, seeds=(0, 1))[1]
    assert len(stub.started) == 4
    run(stub, seeds=(0, 1, 2))  # two more
    assert len(stub.started) == 6
    stub.checkout.write("kexue_lib/beta.py", "VALUE = 3\n")  # which the stubs do not load
    run(stub, seeds=(0, 1, 2))
    assert len(stub.started) == 6
    stub.chapter("x = 2", slug="gau-warmup")
    run(stub, seeds=(0, 1, 2))
    assert len(stub.started) == 9
    stub.checkout.write("kexue_lib/alpha.py", "VALUE = 3\n")
    run(stub, seeds=(0, 1, 2))
    assert len(stub.started) == 15


def test_a_row_says_what_was_run_and_what_came_of_it(stub: Stub) -> None:
    stub.checkout.git("init", "-q")
    stub.checkout.git("add", ".")
    stub.checkout.git("commit", "-qm", "x")
    stub.chapter()
    run(stub, "entropy-invariant-softmax", seeds=(25,))
    (made,) = stub.rows
    assert (made["chapter"], made["scale"], made["device"], made["seed"]) == (
        "attention/entropy-invariant-softmax", "quick", "cpu", 25
    )  # fmt: skip
    assert made["library"]["files"] == ["kexue_lib/__init__.py", "kexue_lib/alpha.py"]
    assert made["commit"] == stub.checkout.git("rev-parse", "--short=12", "HEAD").strip()
    assert made["versions"]["tqdm"]
    assert made["claims"] == [
        {"id": "C1", "claim": "it holds", "verdict": "holds", "criteria": {"small": True}, "measured": {"value": 0.75}}
    ]
    assert made["seconds"] > 0
    assert made["peak_bytes"] == 2**20
    assert stub.started[0][2] == ""  # a run on the CPU sees no GPU


def test_a_long_run_that_was_cut_off_goes_on_with_its_trainings_and_a_finished_one_leaves_no_state(stub: Stub) -> None:
    stub.chapter("""
        import os
        from pathlib import Path
        state = Path(os.environ["KEXUE_CHECKPOINTS"], "state")
        if not state.exists():
            state.parent.mkdir(parents=True)
            state.write_text("half way")
            time.sleep(300)
    """)
    assert run(stub, scales=("full",), device="cpu", timeout=5.0)[0] == 1
    assert run(stub, scales=("full",), device="cpu", timeout=60.0)[0] == 0
    assert [(made["status"], made["resumed"]) for made in stub.rows] == [("timeout", False), ("done", True)]
    assert [path for path in (stub.checkout.root / "_build" / "checkpoints").rglob("*") if path.is_file()] == []


def test_an_unstable_claim_is_marked_with_its_reason_and_fails_only_if_asked(stub: Stub) -> None:
    stub.chapter(bound=0.525)
    status, output = run(stub, seeds=(0, 1, 2, 3))
    assert status == 0
    assert "criterion “small” is not met by seed 3 (value 0.53, other seeds 0.5 … 0.52)" in output
    assert run(stub, seeds=(0, 1, 2, 3), strict=True)[0] == 1


def test_a_verdict_that_fell_against_the_baseline_fails_the_regression(stub: Stub) -> None:
    stub.chapter()
    run(stub, seeds=(0, 1))
    project, console = stub.checkout.project, Console(file=io.StringIO(), width=200)
    committed = stub.checkout.root / "book" / "records" / "ledger.jsonl"
    assert show_ledger(project, None, console, save=committed) == 0
    assert run(stub, seeds=(0, 1))[0] == 0
    stub.checkout.git("init", "-q")
    stub.checkout.git("add", ".")
    stub.checkout.git("commit", "-qm", "x")
    stub.checkout.git("tag", "v1")
    stub.chapter(bound=0.505)
    status, output = run(stub, seeds=(0, 1))
    assert status == 1
    assert "A verdict fell against book/records/ledger.jsonl." in output
    assert run(stub, seeds=(0, 1), baseline="v1")[0] == 1
    assert run(stub, seeds=(0, 1), baseline="none")[0] == 0
    with pytest.raises(BookError, match="neither a ledger's file nor a tag"):
        run(stub, seeds=(0, 1), baseline="v2")
    # Appending to the committed ledger itself is compared with what was committed.
    assert run(stub, seeds=(0, 1), ledger=committed)[0] == 1


def test_a_dry_run_says_how_long_it_would_take_and_runs_nothing(stub: Stub) -> None:
    stub.chapter()
    status, output = run(stub, seeds=tuple(range(10)), dry=True)
    assert status == 0
    assert "10 runs on 2 × cpu: about 5 min, limited by cpu slots. 0 durations were measured, 10 are" in output
    assert stub.started == []


def test_the_error_of_a_run_does_not_name_its_scratch_folder(stub: Stub) -> None:
    """It has another name on each worker, and reports of the same runs have to say the same."""
    stub.chapter("import os\nraise ValueError(f'nothing in {os.getcwd()}/here')")
    run(stub)
    (made,) = stub.rows
    assert made["error"]["message"] == "ValueError: nothing in scratch/here"


def test_a_chapter_without_the_parameters_is_refused(stub: Stub) -> None:
    path = stub.checkout.chapter("x = 1")
    path.write_text(path.read_text().replace("seed = 0\n", ""))
    with pytest.raises(BookError, match="a regression needs the parameters seed"):
        run(stub)


def test_a_library_that_changes_during_a_run_stops_the_regression(stub: Stub) -> None:
    alpha = stub.checkout.root / "kexue_lib" / "alpha.py"
    stub.chapter(f"open({str(alpha)!r}, 'w').write('VALUE = 4')")
    with pytest.raises(BookError, match=r"changed during the run\): other files of kexue_lib"):
        run(stub)
    assert stub.rows == []


def test_a_run_on_a_gpu_sees_that_gpu_alone_and_no_two_share_one(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = tmp_path / "spans"
    stub.chapter(f"""
        import os
        began = time.time()
        time.sleep(0.2)
        open({str(spans)!r}, "a").write(f"{{os.environ['CUDA_VISIBLE_DEVICES']}} {{began}} {{time.time()}}\\n")
    """)
    monkeypatch.setattr(cluster, "local_gpus", lambda: ["0", "3"])
    status, output = run(stub, seeds=tuple(range(6)), device="cuda", workers=4)
    assert status == 0, output
    by_device: dict[str, list[tuple[float, float]]] = {}
    for line in spans.read_text().splitlines():
        device, began, ended = line.split()
        by_device.setdefault(device, []).append((float(began), float(ended)))
    assert {device: len(times) for device, times in by_device.items()} == {"0": 3, "3": 3}
    for times in by_device.values():
        times.sort()
        assert all(before[1] < after[0] for before, after in pairwise(times))
    assert {made["device"] for made in stub.rows} == {"cuda"}


def test_without_a_gpu_the_device_cuda_is_refused(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.chapter()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BookError, match="torch finds no GPU"):
        run(stub, device="cuda")
    with pytest.raises(BookError, match="Give --device cpu to have them on the CPU all the same"):
        run(stub, scales=("quick", "full"))
    assert stub.started == []


# On a cluster -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_workers_started_by_hand_give_the_same_report_as_this_machine(tmp_path: Path) -> None:
    """With papermill and a kernel, as in earnest."""
    stub = Stub(make_checkout(tmp_path / "checkout"), tmp_path / "starts")
    stub.checkout.chapter("import kexue_lib.alpha\nfrom IPython.display import display", STEP, CLAIMS, FIGURE)
    stub.checkout.chapter("import os\nos._exit(1)", slug="gau-warmup")
    arguments = ["regress", "--seeds", "0..1", "--retries", "0"]
    pages = []
    with by_hand(tmp_path / "hand") as hand:
        for name, more in (("here", ("-j", "2")), ("there", ("--scheduler", hand.address))):
            ledger = tmp_path / f"{name}.jsonl"
            done = stub.checkout.kexue(*arguments, *more, "--ledger", str(ledger))
            assert done.returncode == 1, done.stdout + done.stderr  # one chapter's kernel dies
            page = tmp_path / f"{name}.md"
            assert stub.checkout.kexue("ledger", str(ledger), "--no-times", "-o", str(page)).returncode == 0
            pages.append(page.read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    here, there = (Ledger(tmp_path / f"{name}.jsonl", tmp_path, print).new_rows() for name in ("here", "there"))
    assert compare(summarise(there), summarise(here)).figures == FigureMoves([], compared=1, known=True)
    assert "slope ≈ 0.512" in pages[0]
    assert "| gated/gau-warmup (quick, cpu) | 1 | died | notebooks/gated/gau-warmup.py:" in pages[0]


def test_a_cluster_without_the_resource_is_told_how_to_start_one(tmp_path: Path) -> None:
    with (
        cluster.local_cluster(1, [], tmp_path) as client,
        pytest.raises(BookError, match="--resources GPU=1"),
    ):
        cluster.await_workers(client, {"cuda": 1}, 0.1, print)


# Many runs --------------------------------------------------------------------------------------------------------


def fake(task: Any) -> dict[str, Any]:
    """What a worker would do, without doing it."""
    time.sleep(0.02)
    value = float(task.key.seed)
    claims = [{"id": "C1", "claim": "so", "verdict": "holds", "criteria": {}, "measured": {"value": value}}]
    return {"status": "done", "seconds": 0.02, "claims": claims, "files": [], "machine": "none",
            "steps": {"proved": 1, "asymptotic": 0, "sampled": 0, "unchecked": 0}}  # fmt: skip


def simulated(folder: Path, runs: int, workers: int) -> tuple[Session, float, float]:
    """A regression of fake runs: its session, its seconds, and the longest time between two looks at the clock.

    A worker for each GPU that is not there.
    """
    session = Session(
        ledger=Ledger(folder / "ledger.jsonl", folder, print), fresh=Freshness({}, {}, "3", lambda name: None),
        identity=Identity("", "3", {}), hashes={}, library=folder, commit=None, limits={"": 1.0}, scratch=folder,
        failed=folder, cache=folder, checkpoints=folder, work=fake,
    )  # fmt: skip
    chapters = [source(f"depth/c{number}") for number in range(20)]
    items = plan(chapters, range(runs // 20), ("quick",), lambda scale: ("cuda",), [])
    gaps, last = [0.0], [time.monotonic()]

    class Watched(View):
        def tick(self) -> None:
            gaps.append(time.monotonic() - last[0])
            last[0] = time.monotonic()
            super().tick()

    with cluster.local_cluster(0, [str(number) for number in range(workers)], folder / "dask") as client:
        began = time.monotonic()
        last[0] = began
        view = Watched(Console(file=io.StringIO()), items, 0, {"cuda": workers})
        session.run(client, items, view)
        return session, time.monotonic() - began, max(gaps)


def test_hundreds_of_runs_on_fifty_workers_stay_responsive(tmp_path: Path) -> None:
    """The same with 10 000 runs is measured in book/regression.md."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    session, seconds, gap = simulated(tmp_path, runs=600, workers=50)
    rows = Ledger(session.ledger.path, tmp_path, print).new_rows()
    assert len({(r["chapter"], r["seed"]) for r in rows}) == len(rows) == 600
    assert gap < 10  # 1.5 on a busy machine; how long an interrupt would wait
    assert seconds < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


AT_WORK: list[int] = []
MOST: list[int] = []


def counted(number: int) -> dict[str, Any]:
    AT_WORK.append(number)
    MOST.append(len(AT_WORK))
    time.sleep(0.005)
    AT_WORK.remove(number)
    return {"status": "done", "seconds": 0.0, "number": number}


def test_no_more_tasks_are_in_flight_than_there_are_slots_and_the_first_ones_come_first(tmp_path: Path) -> None:
    class Task:
        device = "cpu"
        width = 1

    tasks = [Task() for _ in range(60)]
    flying: list[int] = []
    with cluster.local_cluster(4, [], tmp_path) as client:
        driver = Driver(client, counted, tasks.index, lambda: cluster.slots(client), lambda: cluster.demands(client))
        batches = driver.run(list(tasks), lambda: flying.append(driver.running))
        order = [result["number"] for batch in batches for _, result in batch]
    assert sorted(order) == list(range(60))
    assert max(MOST) <= 4
    assert max(flying) <= 4
    assert all(abs(place - number) < 30 for place, number in enumerate(order))


# On paper ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=30), st.integers(1, 8))
def test_longest_first_is_within_four_thirds_of_the_best(seconds: list[float], slots: int) -> None:
    """Graham 1969: longest first needs at most 4/3 − 1/(3m) of the best makespan, so of any lower bound's best."""
    works = [capacity.Work("cpu", s) for s in sorted(seconds, reverse=True)]
    outcome = capacity.simulate(works, {"cpu": slots}, dispatch=0.0)
    assert outcome.bound <= outcome.makespan + 1e-9
    assert outcome.makespan <= sum(seconds) / slots + (1 - 1 / slots) * max(seconds) + 1e-9  # Graham 1966: any order
    assert outcome.used("cpu") <= 1 + 1e-9
    if slots == 1:
        assert outcome.makespan == pytest.approx(sum(seconds))


def test_the_simulation_agrees_with_counting_by_hand() -> None:
    works = [capacity.Work("cuda", 10.0)] * 5 + [capacity.Work("cpu", 3.0)] * 8
    outcome = capacity.simulate(works, {"cuda": 2, "cpu": 4}, dispatch=0.0)
    assert (outcome.makespan, outcome.limit) == (30.0, "cuda slots")
    assert outcome.used("cuda") == pytest.approx(50 / 60)
    late = capacity.simulate([capacity.Work("cpu", 1.0)] * 100, {"cpu": 100}, dispatch=0.1)
    assert late.makespan == pytest.approx(11.0)  # one after the other is given out
    lost = capacity.simulate([capacity.Work("cpu", 1.0)] * 200, {"cpu": 10}, mtbf=2.0)
    assert lost.lost > 20
    assert lost.makespan > 20.0
    with pytest.raises(ValueError, match="takes 1 × 'cuda'"):
        capacity.simulate([capacity.Work("cuda", 1.0)], {"cpu": 1})


def test_the_whole_book_is_720_runs_of_each_scale() -> None:
    works = capacity.grid([10.0, 20.0], [600.0])
    assert sum(work.device == "cuda" for work in works) == sum(work.device == "cpu" for work in works) == 720
    lines = capacity.table([10.0, 20.0], [600.0]).splitlines()
    assert len(lines) == 5


def test_the_table_in_the_documentation_follows_from_the_durations_that_stand_below_it() -> None:
    text = (REPOSITORY / "book" / "regression.md").read_text(encoding="utf-8")
    durations = re.findall(
        r"^\| [a-z]+/[a-z0-9-]+ \| (\d+)(?: \(card\))? \| (\d+)(?: \(card\))? \|$", text, re.MULTILINE
    )
    assert len(durations) >= 8
    assert capacity.table([float(quick) for quick, _ in durations], [float(full) for _, full in durations]) in text
    hours = sum(work.seconds for work in capacity.grid([1.0], [float(full) for _, full in durations])) / 3600
    assert f"{hours:.0f} hours of it" in text


def test_an_item_is_itself_alone() -> None:
    """The driver keeps books by item, and two plans may hold equal runs."""
    key = Key("depth/x", "quick", "cpu", 0)
    assert Item(key, source("depth/x"), 1.0, True) != Item(key, source("depth/x"), 1.0, True)


def test_the_ledger_of_a_checkout_without_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="`kexue regress` makes one"):
        show_ledger(Project(tmp_path), None, Console(file=io.StringIO()))
