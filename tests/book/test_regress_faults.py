"""Regressions when something goes wrong: no finished run is lost or repeated, nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from checkouts import make_checkout
from regressions import Stub, by_hand, environment, gone

from kexue_lib.book.errors import BookError
from kexue_lib.book.regress.cluster import running_cluster
from kexue_lib.book.regress.drive import Driver


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    return Stub(make_checkout(tmp_path / "checkout"), tmp_path / "starts")


def test_a_chapter_that_hangs_is_ended_with_all_it_started_and_tried_again_only_by_the_next_command(
    stub: Stub, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    stub.chapter(
        f"""
        import subprocess, sys, time
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
        open({str(child)!r}, "w").write(str(sleeper.pid))
        time.sleep(300)
        """
    )
    status, output = stub.kexue("regress", "--timeout", "6")
    assert status == 1
    assert "seed 0: timeout (notebooks/attention/entropy-invariant-softmax.py:" in output
    assert "the time limit of 6 s passed" in output
    assert gone([int(child.read_text()), *(pid for _, pid, _ in stub.started)])
    assert [(row["status"], row["attempts"]) for row in stub.rows] == [("timeout", 1)]
    stub.kexue("regress", "--timeout", "6")
    assert len(stub.started) == 2


def test_a_process_that_dies_is_tried_again_and_then_reported(stub: Stub) -> None:
    stub.chapter("import os; os._exit(3)")
    stub.chapter("x = 1", slug="gau-warmup")
    status, output = stub.kexue("regress", "--retries", "2")
    assert status == 1
    assert output.count("tried again, because the process ended with status 3") == 2
    by_chapter = {row["chapter"]: row for row in stub.rows}
    assert by_chapter["attention/entropy-invariant-softmax"]["status"] == "died"
    assert by_chapter["attention/entropy-invariant-softmax"]["attempts"] == 3
    assert by_chapter["gated/gau-warmup"]["status"] == "done"


def test_neither_a_claim_that_fails_nor_an_error_in_a_cell_is_tried_again(stub: Stub) -> None:
    stub.chapter(bound=0.0)
    stub.chapter("raise ValueError('deep inside')", slug="gau-warmup")
    for _ in range(2):
        status, output = stub.kexue("regress", "--retries", "5")
        assert status == 1
        assert "tried again" not in output
    assert len(stub.started) == 2  # one start of each chapter, though the command was given twice
    assert sorted((row["status"], row["attempts"]) for row in stub.rows) == [("done", 1), ("failed", 1)]
    assert "2 of them are in" in output
    assert "ValueError: deep inside" in output
    assert (
        "deep inside"
        in (stub.checkout.root / "_build/regress/failed/gated/gau-warmup.quick-cpu-seed-0.txt").read_text()
    )


def test_a_full_disk_leaves_no_torn_line_and_the_next_command_goes_on(stub: Stub) -> None:
    stub.chapter()
    stub.kexue("regress", "--seeds", "0..1", "-j", "1")
    # A row of another chapter that is larger than any other file of the runs: the limit is for all files alike.
    large = {**stub.rows[0], "chapter": "depth/other", "machine": "x" * 300_000}
    with stub.ledger.open("a", encoding="utf-8") as file:
        file.write(json.dumps(large) + "\n")
    before = stub.ledger.read_bytes()
    room = len(before) + int(1.5 * len(json.dumps(stub.rows[0])))  # for one row and a piece of the next
    status, output = stub.kexue(f"limit={room}", "regress", "--seeds", "0..9", "-j", "1")
    assert status == 2
    assert "could not be written: File too large. It is as it was before. Make room" in output
    assert "Traceback" not in output
    content = stub.ledger.read_bytes()
    assert content.startswith(before)
    assert content.endswith(b"}\n")
    assert [row["seed"] for row in stub.rows] == [0, 1, 0, 2]
    status, output = stub.kexue("regress", "--seeds", "0..9")
    assert status == 0, output
    assert sorted(row["seed"] for row in stub.rows) == [0, *range(10)]


def test_a_corrupt_line_is_told_and_its_run_made_again(stub: Stub) -> None:
    stub.chapter()
    stub.kexue("regress", "--seeds", "0..2")
    lines = stub.ledger.read_bytes().splitlines(keepends=True)
    stub.ledger.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2] + lines[0][:30])
    status, output = stub.kexue("regress", "--seeds", "0..2")
    assert status == 0
    assert "ledger.jsonl, line 2 is no valid row and is left out" in output
    assert "the last line was torn (an interrupted write); its 30 bytes were cut off" in output
    assert len(stub.started) == 4
    assert "is no valid row" in stub.kexue("ledger")[1]


def test_ctrl_c_ends_the_runs_keeps_the_rows_and_says_how_to_go_on(stub: Stub) -> None:
    stub.chapter("if seed == 3: time.sleep(300)")
    process = stub.start("regress", "--seeds", "0..9", "-j", "1")
    stub.wait(lambda: any(seed == 3 for seed, _, _ in stub.started))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    output = process.communicate(timeout=20)[0]
    assert process.returncode == 130
    assert "Interrupted: 3 of 10 runs are in" in output
    assert "The same command goes on with the others." in output
    assert "Traceback" not in output
    assert gone([pid for _, pid, _ in stub.started])
    assert [row["seed"] for row in stub.rows] == [0, 1, 2]
    assert list((stub.checkout.root / "_build" / "tmp").iterdir()) == []


def test_after_kill_9_no_finished_run_is_made_again(stub: Stub, tmp_path: Path) -> None:
    go = tmp_path / "go"
    stub.chapter(f"import os\nwhile seed >= 4 and not os.path.exists({str(go)!r}): time.sleep(0.05)")
    process = stub.start("regress", "--seeds", "0..7", "-j", "2")
    stub.wait(lambda: len(stub.started) == 6)
    stub.wait(lambda: len(stub.rows) == 4)
    process.kill()
    process.communicate()
    assert gone([pid for _, pid, _ in stub.started])
    go.touch()
    status, output = stub.kexue("regress", "--seeds", "0..7")
    assert status == 0, output
    assert "4 of them are in" in output
    starts = Counter(seed for seed, _, _ in stub.started)
    assert starts == {**dict.fromkeys(range(4), 1), 4: 2, 5: 2, 6: 1, 7: 1}
    assert sorted(row["seed"] for row in stub.rows) == list(range(8))


def test_two_regressions_at_once_share_the_runs(stub: Stub) -> None:
    stub.chapter(sleep=0.1)
    processes = [stub.start("regress", "--seeds", "0..15", "-j", "2") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(row["seed"] for row in stub.rows) == list(range(16))
    assert Counter(seed for seed, _, _ in stub.started) == dict.fromkeys(range(16), 1)
    for output in outputs:  # both report on all of them
        assert "holds 16/16" in output


def test_a_worker_killed_in_mid_run_costs_that_run_alone(stub: Stub, tmp_path: Path) -> None:
    stub.chapter(f"import os\nif seed == 1 and not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(300)")
    with by_hand(tmp_path / "hand") as hand:
        process = stub.start("regress", "--seeds", "0..5", "--scheduler", hand.address)
        stub.wait(lambda: any(seed == 1 for seed, _, _ in stub.started))
        stub.wait(lambda: len(stub.rows) == 5)
        running = next(pid for seed, pid, _ in stub.started if seed == 1)
        (tmp_path / "go").touch()
        parent = next(n for n, p in hand.processes.items() if n != "scheduler" and running in descendants(p.pid))
        hand.kill(parent)
        assert gone([running])
        output = process.communicate(timeout=40)[0]
    assert process.returncode == 0, output
    assert Counter(seed for seed, _, _ in stub.started) == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    assert sorted(row["seed"] for row in stub.rows) == list(range(6))


def test_the_message_of_a_lost_run_names_neither_worker_nor_task() -> None:
    """Reports of the same runs on other clusters have to say the same; Dask's words stay in the traceback."""

    class Lost:
        status = "error"

        def exception(self) -> Exception:
            return RuntimeError("kexue-run-7f marked as failed because 4 workers died, at last tcp://10.0.0.1:40001")

    class Client:
        status = "running"

    def never(*_: object) -> Any:
        raise AssertionError

    result = Driver(Client(), never, never, never, never)._result(Lost())
    assert result is not None
    assert result["message"] == "its worker was lost (RuntimeError)"
    assert "tcp://10.0.0.1:40001" in result["traceback"]


def descendants(pid: int) -> set[int]:
    import psutil

    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def test_a_lost_scheduler_is_told_and_the_finished_runs_stay(stub: Stub, tmp_path: Path) -> None:
    stub.chapter("if seed == 1: time.sleep(300)")
    with by_hand(tmp_path / "hand") as hand:
        process = stub.start("regress", "--seeds", "0..3", "--scheduler", hand.address)
        stub.wait(lambda: any(seed == 1 for seed, _, _ in stub.started))
        stub.wait(lambda: len(stub.rows) == 3)
        hand.kill("scheduler")
        output = process.communicate(timeout=40)[0]
        assert process.returncode == 2
        assert "The connection to the scheduler was lost. What was finished is in" in output
        assert "1 of 4 runs are left" in output
        assert "Traceback" not in output
        assert gone([pid for _, pid, _ in stub.started])  # the workers end what they were at
    assert sorted(row["seed"] for row in stub.rows) == [0, 2, 3]


def test_runs_on_a_cluster_end_when_their_command_is_killed(stub: Stub, tmp_path: Path) -> None:
    stub.chapter("time.sleep(300)")
    with by_hand(tmp_path / "hand", workers=1) as hand:
        process = stub.start("regress", "--scheduler", hand.address)
        stub.wait(lambda: len(stub.started) == 1)
        process.kill()
        process.communicate()
        assert gone([pid for _, pid, _ in stub.started])


def other_environment(folder: Path) -> dict[str, str]:
    """The environment of a worker that finds another tqdm first."""
    (folder / "tqdm-0.0.1.dist-info").mkdir(parents=True)
    (folder / "tqdm-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tqdm\nVersion: 0.0.1\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), environment()["PYTHONPATH"]])}


def test_a_cluster_with_other_versions_is_refused(stub: Stub, tmp_path: Path) -> None:
    stub.chapter()
    with by_hand(tmp_path / "hand", workers=0) as hand:
        hand.worker("other", env=other_environment(tmp_path / "other"))
        status, output = stub.kexue("regress", "--scheduler", hand.address)
    assert status == 2
    assert "The cluster's workers have other versions than this command" in output
    assert "tqdm 0.0.1 instead of " in output
    assert "Install the same checkout and requirements.txt on every worker" in output
    assert stub.rows == []
    assert stub.started == []


def test_a_worker_with_other_versions_that_comes_later_is_refused_too(stub: Stub, tmp_path: Path) -> None:
    stub.chapter("if seed == 0: time.sleep(300)")
    with by_hand(tmp_path / "hand", workers=1) as hand:
        process = stub.start("regress", "--seeds", "0..3", "--scheduler", hand.address)
        stub.wait(lambda: len(stub.started) == 1)
        hand.worker("other", env=other_environment(tmp_path / "other"))
        output = process.communicate(timeout=40)[0]
        assert process.returncode == 2
        assert "worker other on" in output
        assert "tqdm 0.0.1 instead of " in output
        assert gone([pid for _, pid, _ in stub.started])
    assert len(stub.started) == 1
    assert stub.rows == []


def test_without_a_scheduler_at_the_address_the_message_says_so(tmp_path: Path) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(BookError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9 "),
        running_cluster("tcp://127.0.0.1:9", None),
    ):
        pass
    with pytest.raises(BookError, match="There is no scheduler file"), running_cluster(None, tmp_path / "none"):
        pass
