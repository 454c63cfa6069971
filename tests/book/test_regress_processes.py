"""`kexue regress --processes`: who gets which GPUs, how many runs are at work, and what is refused."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkouts import make_checkout
from hypothesis import given, settings
from hypothesis import strategies as st
from regressions import Stub, by_hand, environment, inherited_stub, lab_checkout
from test_processes import TRAINING
from test_regress import run, source
from test_regress_ledger import row

from kexue_lib.book.errors import BookError
from kexue_lib.book.regress import capacity, cluster
from kexue_lib.book.regress.compare import compare
from kexue_lib.book.regress.drive import Driver
from kexue_lib.book.regress.grid import Durations, plan
from kexue_lib.book.regress.report import markdown, report
from kexue_lib.book.regress.settings import Settings, this_machine
from kexue_lib.book.regress.summary import summarise


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    return inherited_stub(tmp_path, monkeypatch)


def gpus(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "local_gpus", lambda: [str(n) for n in range(count)])


# What is refused, and who gets what --------------------------------------------------------------------------------


def test_quick_runs_alone_have_nothing_to_share_and_are_refused() -> None:
    with pytest.raises(BookError, match="runs of scale quick always use one process"):
        Settings(processes=2)
    wide = Settings(processes=2, scales=("quick", "full"))
    assert (wide.processes_at("quick"), wide.processes_at("full")) == (1, 2)
    assert wide.widths == {"cpu": 1, "cuda": 2}


def test_more_processes_than_cores_or_gpus_are_refused_before_anything_runs(
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub.chapter()
    with pytest.raises(BookError, match="takes 3 cores, and --workers allows 2 at a time"):
        run(stub, scales=("full",), device="cpu", processes=3, workers=2)
    gpus(2, monkeypatch)
    with pytest.raises(BookError, match="takes 3 GPUs, and torch finds 2 on this machine"):
        run(stub, scales=("quick", "full"), processes=3)
    assert stub.started == []


@pytest.mark.parametrize(
    ("there", "processes", "groups", "said"),
    [
        (4, 1, ("0", "1", "2", "3"), []),
        (4, 2, ("0,1", "2,3"), []),
        (5, 2, ("0,1", "2,3"), ["GPU 4 is left over: a run takes 2."]),
        (5, 3, ("0,1,2",), ["GPUs 3, 4 are left over: a run takes 3."]),
    ],
)
def test_each_worker_has_as_many_gpus_as_a_run_takes(
    there: int, processes: int, groups: tuple[str, ...], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(there, monkeypatch)
    told: list[str] = []
    machine = this_machine(Settings(scales=("full",), processes=processes, workers=2), told.append)
    assert (machine.gpus, told) == (groups, said)
    assert machine.units == {"cpu": 2, "cuda": there // processes * processes}


def test_two_groups_of_gpus_run_two_processes_each_and_share_no_gpu(
    stub: Stub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans = tmp_path / "spans"
    stub.chapter(f"""
        began = time.time()
        time.sleep(0.1)
        with open({str(spans)!r}, "a") as file:
            file.write(f"{{os.environ['CUDA_VISIBLE_DEVICES']}} {{os.environ.get('LOCAL_RANK')}} {{scale}}\\n")
    """)
    gpus(5, monkeypatch)
    status, output = run(stub, seeds=(0, 1), scales=("quick", "full"), processes=2, timeout=120.0)
    assert status == 0, output
    assert output.count("GPU 4 is left over: a run takes 2.") == 1
    lines = Counter(spans.read_text().splitlines())
    quick = {line: many for line, many in lines.items() if line.endswith("quick")}
    assert quick == {" None quick": 2}  # no GPU, no torchrun
    full = {line: many for line, many in lines.items() if line.endswith("full")}
    assert full == {f"{group} {rank} full": 1 for group in ("0,1", "2,3") for rank in (0, 1)}
    assert sorted((made["scale"], made["device"], made["processes"]) for made in stub.rows) == [
        ("full", "cuda", 2), ("full", "cuda", 2), ("quick", "cpu", 1), ("quick", "cpu", 1)
    ]  # fmt: skip
    # The number of processes is no part of the key: nothing is repeated with another one.
    status, output = run(stub, seeds=(0, 1), scales=("quick", "full"), processes=1)
    assert "4 of them are in" in output
    assert len(stub.rows) == 4


@pytest.mark.slow
def test_two_processes_share_a_training_of_a_regression(tmp_path: Path) -> None:
    """With papermill, torchrun and Gloo, as in earnest."""
    with_lab = lab_checkout(tmp_path)
    claims = """
    from IPython.display import display
    display({"application/vnd.kexue.claims+json": {"schema": 1, "chapter": "toy", "claims": [
        {"id": "C1", "claim": "it learns", "kind": "exact", "how": "", "evidence": [], "criteria": [],
         "measured": {"processes": float(os.environ.get("WORLD_SIZE", 1))},
         "verdict": "holds"}]}, "text/plain": "C1"}, raw=True)
    display({"application/vnd.kexue.figure+json": {"schema": 1, "name": "losses", "title": "t", "alt": "a",
             "measured": {"loss": [float(value) for value in losses]}}, "text/plain": "figure"}, raw=True)
    """
    with_lab.chapter("import os", TRAINING, claims)
    there = Stub(with_lab, with_lab.root / "starts")
    done = with_lab.kexue("regress", "--scale", "full", "--device", "cpu", "-j", "2", "--processes", "2", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = there.rows
    assert made["processes"] == 2
    assert made["claims"][0]["measured"]["processes"] == 2.0  # the notebook's own word
    alone: dict[str, Any] = {}
    exec(TRAINING, alone)
    assert made["figures"]["losses"]["loss"] == pytest.approx(alone["losses"], abs=1e-10)


# On a cluster that is there ------------------------------------------------------------------------------------------


def test_a_worker_has_to_offer_as_many_units_as_a_run_has_processes(stub: Stub, tmp_path: Path) -> None:
    stub.chapter()
    arguments = {"scales": ("full",), "device": "cpu", "processes": 2, "timeout": 120.0}
    with by_hand(tmp_path / "hand", workers=0) as hand:
        for number in range(2):
            hand.worker(f"one-{number}", env=environment())
        with pytest.raises(BookError, match=r"runs on cpu by 2 processes after 2 s.*--resources CPU=2$"):
            run(stub, scheduler=hand.address, wait=2.0, **arguments)
        assert stub.started == []
        hand.worker("two", resources="CPU=2", env=environment())
        status, output = run(stub, scheduler=hand.address, wait=60.0, **arguments)
        assert status == 0, output
    assert len(stub.started) == 2
    assert [made["processes"] for made in stub.rows] == [2]


def test_room_counts_whole_runs_on_each_worker() -> None:
    room = cluster.Room(((3, 3), (3, 3), (1, 1), (4, 1)))
    assert room.units == 11
    assert [room.fits(width) for width in (1, 2, 3, 4, 5)] == [8, 3, 3, 1, 0]


def test_threads_without_resources_offer_no_run_of_two_processes(tmp_path: Path) -> None:
    class Client:
        """A cluster of one worker with four threads, which declares nothing."""

        def scheduler_info(self) -> dict[str, Any]:
            return {"workers": {"a": {"nthreads": 4, "resources": {}}}}

    room = cluster.slots(Client())["cpu"]
    assert (room.units, room.fits(1), room.fits(2)) == (4, 4, 0)


# How many at a time --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Task:
    """What the driver reads of a run."""

    number: int
    width: int
    device: str = "cpu"


BUSY: list[int] = []
PEAK: list[int] = []


def work(task: tuple[int, int]) -> dict[str, Any]:
    BUSY.append(task[1])
    PEAK.append(sum(BUSY))
    time.sleep(0.004)
    BUSY.remove(task[1])
    return {"status": "done", "seconds": 0.0, "number": task[0]}


@settings(max_examples=6, deadline=None)
@given(widths=st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=25))
def test_runs_of_different_widths_never_take_more_units_than_there_are_and_all_end(
    tmp_path_factory: pytest.TempPathFactory, widths: list[int]
) -> None:
    PEAK.clear()
    tasks = [Task(number, width) for number, width in enumerate(widths)]
    with cluster.local_cluster(4, [], tmp_path_factory.mktemp("dask")) as client:
        driver = Driver(
            client, work, lambda task: (task.number, task.width),
            lambda: cluster.slots(client), lambda: cluster.demands(client),
        )  # fmt: skip
        flying: list[int] = []
        batches = driver.run(list(tasks), lambda: flying.append(sum(task.width for task in driver._running.values())))
        ended = [result["number"] for batch in batches for _, result in batch]
    assert sorted(ended) == list(range(len(widths)))
    assert max(PEAK) <= 4
    assert max(flying) <= 4


class Recording:
    """A client that only notes what it is given."""

    status = "running"

    def __init__(self) -> None:
        self.given: list[int] = []

    def submit(self, function: Any, task: Task, **_: Any) -> Recording:
        self.given.append(task.number)
        return Recording()

    def add_done_callback(self, call: Any) -> None:
        """Nothing ends."""


def first(widths: list[int], *workers: tuple[int, int]) -> list[int]:
    """The runs that start at once."""
    client = Recording()
    room = cluster.Room(workers)
    driver = Driver(client, work, lambda task: task, lambda: {"cpu": room}, lambda: {"cpu": {"CPU": 1}})
    tasks = iter([Task(number, width) for number, width in enumerate(widths)])
    for task in tasks:
        driver._waiting.setdefault("cpu", deque()).append(task)
    driver._fill("cpu", driver._waiting["cpu"], room, {"CPU": 1})
    assert [task.number for task in driver._waiting["cpu"]] == [n for n in range(len(widths)) if n not in client.given]
    return client.given


def test_a_wide_run_is_not_overtaken_by_narrow_ones_unless_no_worker_has_a_place_for_it() -> None:
    assert first([2, 1, 1], (2, 2)) == [0]
    assert first([1, 2, 1], (2, 2)) == [0]  # the last one would keep the wide one waiting
    assert first([2, 2, 1, 1], (3, 3)) == [0, 2]  # one wide run is all that fits beside a narrow one
    assert first([4, 1, 1], (2, 2), (2, 2)) == [1, 2]  # no worker has four
    assert first([2, 2, 2, 1], (2, 1), (2, 1)) == [0, 1]
    assert first([1, 1, 1], (2, 1), (2, 1)) == [0, 1]  # a worker of one thread does one run at a time


# Times ---------------------------------------------------------------------------------------------------------------


def test_a_forecast_counts_the_units_that_runs_take(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [capacity.Work("cuda", 10.0, 2)] * 3 + [capacity.Work("cuda", 4.0)]
    outcome = capacity.simulate(works, {"cuda": 4}, dispatch=0.0)
    assert outcome.makespan == 20.0
    assert outcome.busy == {"cuda": 64.0}
    with pytest.raises(ValueError, match="takes 2 × 'cuda'"):
        capacity.simulate(works, {"cuda": 1})
    stub.chapter()
    gpus(5, monkeypatch)
    output = run(stub, seeds=tuple(range(4)), scales=("quick", "full"), processes=2, dry=True)[1]
    # Half an hour by the card; two at a time.
    assert (
        "8 runs (4 of them by 2 processes each) on 2 × cpu and 4 × cuda: about 1.0 h, limited by cuda slots" in output
    )
    assert stub.started == []


def test_durations_are_those_of_the_same_number_of_processes() -> None:
    rows = [row(scale="full", seconds=100.0), row(1, scale="full", seconds=60.0, processes=2)]
    known = Durations(rows)
    assert known.expect(source("depth/x"), "full", "cpu", 1) == (100.0, True)  # an old row: one process
    assert known.expect(source("depth/x"), "full", "cpu", 2) == (60.0, True)
    assert known.expect(source("depth/x"), "full", "cpu", 4) == (1800.0, False)
    items = plan(
        [source("depth/x")], (0,), ("quick", "full"), lambda scale: ("cpu",), rows, {"quick": 1, "full": 2}.get
    )  # type: ignore[arg-type]
    assert [(item.key.scale, item.width, item.expected) for item in items] == [("full", 2, 60.0), ("quick", 1, 60.0)]


def test_reports_keep_the_times_of_different_numbers_of_processes_apart() -> None:
    old = summarise([row(0, seconds=100.0), row(1, seconds=100.0, processes=1)])
    new = summarise([row(0, seconds=101.0), row(1, seconds=55.0, processes=2)])
    found = compare(old, new)
    assert found.seconds == {(("depth/x", "quick", "cpu"), 1): (100.0, 101.0)}
    text = markdown(report(new, found, baseline="v1"))
    assert "Times that moved" not in text
    assert "| depth/x (quick, cpu) | 1 | 101 |" in text
    assert "| depth/x (quick, cpu, 2 processes) | 1 | 55 |" in text
    assert "CPU and memory are those of the first" in text


def test_the_command_line_refuses_what_the_settings_refuse(tmp_path: Path) -> None:
    done = make_checkout(tmp_path).kexue("regress", "--processes", "2")
    assert done.returncode == 2
    assert "--processes 2 has nothing to share" in done.stderr
