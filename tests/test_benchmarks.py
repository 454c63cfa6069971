"""The benchmarks: what they promise before they show a number."""

from __future__ import annotations

import json
import random

import pytest
import torch

from benchmarks import attention, command, measuring, records, registry
from benchmarks.registry import Case, Contestant, Operation, RedTestsError


def operation(peer=torch.sin, **options):
    case = Case("tiny", lambda device, dtype: (torch.ones(4, device=device, dtype=dtype, requires_grad=True),))
    contestants = (
        Contestant("ours", "ours", lambda case: torch.sin),
        Contestant("theirs", "peer", lambda case: peer),
        Contestant("absent", "peer", lambda case: peer, needs="no_such_module_here"),
    )
    options = {"name": "sine", "tests": ("tests/test_benchmarks.py::test_green",), "cases": (case,), **options}
    return Operation(contestants=options.pop("contestants", contestants), **options)


def measured(op, **options):
    settings = {"device": torch.device("cpu"), "dtype": torch.float32, "backward": True, "rounds": 9, "turn_ms": 0.05}
    return measuring.measure(op, op.cases[0], **{**settings, **options})


def test_green():
    """What the operation above is guarded by."""
    assert torch.sin(torch.tensor(0.0)) == 0


def test_a_record_says_what_was_measured():
    record = measured(operation(bar=1000.0))
    assert [row["name"] for row in record["contestants"]] == ["ours", "theirs"]
    assert record["missing"] == ["absent"]
    assert record["best_peer"] == "theirs"
    assert record["verdict"] == "met"
    assert all(0 < row["q1"] <= row["ms"] <= row["q3"] for row in record["contestants"])
    assert json.loads(json.dumps(record)) == record
    text = records.table([record])
    assert "not installed" in text
    assert "bar 1000 × theirs: met" in text
    assert measured(operation(bar=1e-9))["verdict"] == "missed"


def test_contestants_have_to_agree():
    with pytest.raises(RedTestsError, match="theirs is off ours"):
        measured(operation(peer=torch.cos))
    with pytest.raises(RedTestsError, match="off ours"):
        measured(operation(peer=lambda x: torch.sin(x) + 0 * x / 0))  # NaN


def test_red_tests_forbid_numbers():
    command.verify(operation())
    with pytest.raises(RedTestsError, match="red"):
        command.verify(operation(tests=("tests/test_benchmarks.py::test_that_is_not_there",)))


def test_registry_refuses_what_cannot_be_judged():
    with pytest.raises(ValueError, match="twice"):
        registry.register(registry.OPERATIONS["rope_halves"])
    with pytest.raises(ValueError, match="no tests"):
        registry.register(operation(tests=()))
    with pytest.raises(ValueError, match="roles"):
        registry.register(operation(contestants=(Contestant("a", "peer", lambda case: torch.sin),)))


def test_paired_ratio_covers_the_true_ratio():
    """The 95 % interval of the median holds the true ratio in about 95 % of the samples, whatever the noise."""
    draw, hits = random.Random(0), 0
    for _ in range(400):
        ours = [1.1 * draw.lognormvariate(0, 0.3) for _ in range(21)]
        ratio = measuring.paired_ratio(ours, [draw.lognormvariate(0, 0.3) for _ in range(21)])
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        hits += ratio["low"] <= 1.1 <= ratio["high"]
    assert 370 <= hits <= 397


def test_command_line(tmp_path, capsys, monkeypatch):
    assert registry.main(["--list"], description=attention.__doc__) == 0
    assert "entropy_invariant_attention" in capsys.readouterr().out
    for bad in (["no_such_operation"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            registry.main(bad)
    assert "unknown operation 'no_such_operation'" in capsys.readouterr().err
    monkeypatch.setattr(registry, "OPERATIONS", {"sine": operation()})
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # the setting would outlive this test
    path = tmp_path / "out.json"
    assert registry.main(["--rounds", "7", "--turn-ms", "0.05", "--device", "cpu", "--json", str(path)]) == 0
    written = json.loads(path.read_text())["operations"]["sine"]
    assert written["machine"]["torch"] == torch.__version__
    assert [r["mode"] for r in written["records"]] == ["forward", "forward+backward"]
    red = operation(tests=("tests/test_benchmarks.py::test_that_is_not_there",))
    monkeypatch.setattr(registry, "OPERATIONS", {"sine": red})
    capsys.readouterr()
    assert registry.main(["--device", "cpu", "--json", str(path)]) == 1
    assert " ms " not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["entropy_invariant_attention", "rope_interleaved", "rope_halves", "gau_attention"])
def test_every_contestant_of_the_chapter_runs(name):
    op = registry.OPERATIONS[name]
    case = next(c for c in op.cases if "cpu" in c.devices)
    record = measuring.measure(
        op, case, device=torch.device("cpu"), dtype=torch.float32, backward=True, rounds=1, turn_ms=0.1
    )
    assert record["contestants"][0]["name"] == "kexue_lib"
