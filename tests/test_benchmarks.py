"""The benchmarks: what they promise before they show a number."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import attention, command, measuring, records, registry
from benchmarks.registry import Case, Contestant, Operation, RedTestsError
from kexue_lib.book.errors import BookError

GREEN, RED = "tests/no_such_file.py", "tests/no_such_file_either.py"  # verify is replaced where they would be run


def ones(device, dtype):
    return (torch.ones(4, device=device, dtype=dtype, requires_grad=True),)


def operation(peer=torch.sin, **options):
    contestants = (
        Contestant("ours", "ours", lambda case: torch.sin),
        Contestant("theirs", "peer", lambda case: peer),
        Contestant("absent", "peer", lambda case: peer, needs="no_such_module_here"),
    )
    options = {"name": "sine", "tests": (GREEN,), "cases": (Case("tiny", ones),), **options}
    return Operation(contestants=options.pop("contestants", contestants), **options)


def two(ours, theirs, role="peer", **options):
    """The contestants ours and theirs; options for the second."""
    return (Contestant("ours", "ours", ours), Contestant("theirs", role, theirs, **options))


def measured(op, case=0, **options):
    settings = {"device": torch.device("cpu"), "dtype": torch.float32, "backward": False, "rounds": 9, "turn_ms": 0.05}
    return measuring.measure(op, op.cases[case], **{**settings, **options})


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A registry of its own, remembered tests of its own, and no settings that would outlive the test."""
    for name in ("OPERATIONS", "SOURCES", "BROKEN"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(records, "SOURCES", registry.SOURCES)
    monkeypatch.setattr(command, "_GREEN", tmp_path / "green.json")
    monkeypatch.setattr(command, "LAST", records.ROOT / "_build" / "benchmarks" / f"{tmp_path.name}.json")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(command, "keep_memory", lambda: None)
    return tmp_path


def run(*arguments, path):
    return registry.main([*arguments, "--rounds", "7", "--turn-ms", "0.05", "--device", "cpu", "--json", str(path)])


# --- what is measured -----------------------------------------------------------------------------------------------


def test_a_record_says_what_was_measured():
    record = measured(operation(bar=1000.0), backward=True)
    assert [row["name"] for row in record["contestants"]] == ["ours", "theirs"]
    assert record["missing"] == ["absent"]
    assert record["best_peer"] == "theirs"
    assert record["verdict"] == "met"
    assert record["mode"] == "forward+backward"
    assert all(0 < row["q1"] <= row["ms"] <= row["q3"] for row in record["contestants"])
    assert json.loads(json.dumps(record)) == record
    text = records.table([record])
    assert "not installed" in text
    assert "bar 1000 × theirs: met" in text
    missed = measured(operation(bar=1e-9, note=lambda case: f"because of {case.name}"))
    assert missed["verdict"] == "missed"
    assert "note: because of tiny" in records.table([missed])


def test_contestants_have_to_agree():
    for peer in (
        torch.cos,
        lambda x: torch.sin(x) + 0 * x / 0,  # NaN
        lambda x: torch.sin(x)[:3],
        lambda x: (torch.sin(x), x),
        lambda x: None,
    ):
        with pytest.raises(RedTestsError, match="theirs"):
            measured(operation(peer=peer))
    with pytest.raises(RedTestsError, match="theirs is off ours"):  # the same result, another gradient
        measured(operation(peer=lambda x: torch.sin(x.detach()) + 0 * x), backward=True)
    measured(operation(peer=lambda x: torch.sin(x) * (1 + 1e-6)))
    with pytest.raises(RedTestsError, match="theirs is off ours"):
        measured(operation(peer=lambda x: torch.sin(x) * (1 + 1e-6), tolerance=1e-7), dtype=torch.float64)


def test_a_case_may_insist_on_its_dtype():
    case = Case("exact", lambda device, dtype: (torch.ones(4, dtype=torch.float64),))
    assert measured(operation(cases=(case,)))["dtype"] == "float64"
    assert measured(operation(), dtype=torch.float64)["dtype"] == "float64"
    assert measured(operation())["dtype"] == "float32"


def test_infinities_of_one_sign_agree_and_integers_have_to_be_equal():
    assert measuring._distance(torch.tensor([-torch.inf, 1.0]), torch.tensor([-torch.inf, 1.0])) == 0
    assert not measuring._distance(torch.tensor([torch.inf, 1.0]), torch.tensor([-torch.inf, 1.0])) < 1
    assert measuring._distance(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert measuring._distance(torch.tensor([1, 2]), torch.tensor([1, 3])) == float("inf")
    assert measuring._distance(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])) == pytest.approx(4 / 3)


def test_results_that_are_no_tensors_are_read_for_the_comparison():
    ours = lambda case: lambda x: (x > 0).long()  # noqa: E731
    theirs = lambda case: lambda x: {"tags": (x > 0).long().tolist()}  # noqa: E731
    plain = operation(contestants=two(ours, lambda case: lambda x: object()), differentiable=False)
    with pytest.raises(RuntimeError, match=r"theirs failed: TypeError: a result is a object; give .* read"):
        measured(plain)
    read = operation(contestants=two(ours, theirs, read=lambda found: torch.tensor(found["tags"])))
    assert measured(read)["best_peer"] == "theirs"


def test_a_contestant_that_changes_its_inputs_is_refused():
    with pytest.raises(RedTestsError, match="theirs changes its inputs"):
        measured(operation(peer=lambda x: torch.sin(x.mul_(1))))


def test_an_error_names_the_contestant():
    with pytest.raises(RuntimeError, match="sine, tiny: theirs failed: ZeroDivisionError"):
        measured(operation(peer=lambda x: 1 / 0))


def test_who_takes_part():
    cases = (Case("small", ones, {"n": 1}), Case("large", ones, {"n": 9}, differentiable=False))
    op = operation(
        cases=cases,
        contestants=(
            Contestant("ours", "ours", lambda case: torch.sin),
            Contestant("slow", "plain", lambda case: torch.sin, applies=lambda case: case.options["n"] < 5),
            Contestant("no gradient", "peer", lambda case: lambda x: torch.sin(x.detach()), differentiable=False),
            Contestant("less work", "limit", lambda case: lambda x: x, agrees=lambda case: False),
        ),
    )
    names = lambda record: [row["name"] for row in record["contestants"]]  # noqa: E731
    assert names(measured(op)) == ["ours", "slow", "no gradient", "less work"]
    assert names(measured(op, case=1)) == ["ours", "no gradient", "less work"]
    backward = measured(op, backward=True)
    assert names(backward) == ["ours", "slow", "less work"]
    assert "best_peer" not in backward  # a limit is no peer
    assert [measuring.modes(op, case) for case in cases] == [("forward", "forward+backward"), ("forward",)]
    assert measuring.modes(operation(differentiable=False), cases[0]) == ("forward",)
    assert measuring.modes(operation(stateful=True), cases[0]) == ("step",)
    with pytest.raises(ValueError, match="no input requires a gradient"):
        measuring._job(torch.sin, (torch.ones(2),), True)


def optimizer(make):
    """A stateful contestant: the inputs are a parameter and its gradient."""

    def start(case, p, g):
        p.grad = g
        chosen = make([p])

        def step():
            chosen.step()
            return p

        return step

    return start


def test_stateful_contestants_start_from_their_own_copies():
    first = torch.zeros(3, requires_grad=True)
    case = Case("c", lambda device, dtype: (first, torch.ones(3)))
    sgd = optimizer(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    same = optimizer(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True))
    record = measured(operation(cases=(case,), stateful=True, contestants=two(sgd, same)))
    assert record["mode"] == "step"
    assert not first.any()
    # Nesterov's first two steps differ from these by more than the tolerance; plain SGD differs from the second on.
    plain = optimizer(lambda p: torch.optim.SGD(p, lr=0.1))
    measured(operation(cases=(case,), stateful=True, calls=1, contestants=two(sgd, plain)))
    with pytest.raises(RedTestsError, match="theirs is off ours"):
        measured(operation(cases=(case,), stateful=True, contestants=two(sgd, plain)))


def test_memory_is_the_peak_of_a_call():
    case = Case("c", lambda device, dtype: (torch.ones(1000, dtype=dtype),))
    wasteful = lambda case: lambda x: (x[:, None] + x).sum(1)  # noqa: E731
    thrifty = lambda case: lambda x: x * 1000 + x.sum()  # noqa: E731
    op = operation(cases=(case,), contestants=two(thrifty, wasteful, differentiable=False), memory=True, tolerance=10)
    rows = {row["name"]: row["peak_bytes"] for row in measured(op)["contestants"]}
    assert 4_000_000 <= rows["theirs"] < 4_100_000
    assert 4_000 <= rows["ours"] < 20_000
    assert "peak_bytes" not in measured(operation())["contestants"][0]


def test_a_slow_contestant_gets_fewer_turns_and_a_wider_interval():
    def slow(case):
        def f(x):
            until = time.process_time() + 0.03
            while time.process_time() < until:
                pass
            return torch.sin(x)

        return f

    ours = lambda case: torch.sin  # noqa: E731
    record = measured(operation(contestants=two(ours, slow, "plain")), rounds=40, turn_ms=0.2, seconds=0.3)
    fast, plain = record["contestants"]
    assert fast["turns"] == record["rounds"] > plain["turns"] >= 3
    assert record["plain_factor"]["median"] > 100
    if plain["turns"] < 6:
        assert record["plain_factor"]["coverage"] < 0.95
        assert " %)" in records.table([record])


def test_a_slow_peer_gets_the_turns_that_95_percent_need():
    def slow(case):
        def f(x):
            until = time.process_time() + 0.01
            while time.process_time() < until:
                pass
            return torch.sin(x)

        return f

    ours = lambda case: torch.sin  # noqa: E731
    record = measured(operation(contestants=two(ours, slow)), rounds=40, turn_ms=0.2, seconds=0.1)
    assert record["contestants"][1]["turns"] >= 7
    assert record["ratio"]["coverage"] >= 0.95


def test_the_promised_factor_is_judged():
    loop = lambda case: lambda x: torch.stack([torch.sin(y) for y in x])  # noqa: E731
    ours = lambda case: torch.sin  # noqa: E731
    for factor, verdict in ((1.001, "met"), (1e6, "missed")):
        op = operation(contestants=two(ours, loop, "plain"), factor=lambda case, f=factor: f)
        record = measured(op, turn_ms=1.0)
        assert record["promised_factor"] == factor
        assert record["factor_verdict"] == verdict
    assert f"promised 1e+06 × the plain form: {verdict}" in records.table([record])
    assert "promised_factor" not in measured(operation(factor=lambda case: None))


def test_paired_ratio_covers_the_true_ratio():
    """The 95 % interval of the median holds the true ratio in about 95 % of the samples, whatever the noise."""
    draw, hits = random.Random(0), 0
    for _ in range(400):
        ours = [1.1 * draw.lognormvariate(0, 0.3) for _ in range(21)]
        ratio = measuring.paired_ratio(ours, [draw.lognormvariate(0, 0.3) for _ in range(21)])
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        hits += ratio["low"] <= 1.1 <= ratio["high"]
    assert 370 <= hits <= 397


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 9, 31])
def test_the_interval_says_what_it_covers(n):
    """Coverage is 1 − 2 P(Binomial(n, 1/2) < k) for the k-th smallest and largest; 95 % needs six rounds."""
    ratio = measuring.paired_ratio([float(i + 1) for i in range(n)], [1.0] * n)
    assert ratio["median"] == statistics.median(range(1, n + 1))
    k = round(ratio["low"])
    assert ratio["high"] == n + 1 - k
    draw = random.Random(1)
    inside = sum(k <= sum(draw.random() < 0.5 for _ in range(n)) <= n - k for _ in range(4000)) / 4000
    assert ratio["coverage"] == pytest.approx(max(0, inside), abs=0.03)
    assert (ratio["coverage"] >= 0.95) == (n >= 6)


# --- the registry ---------------------------------------------------------------------------------------------------


def test_registry_refuses_what_cannot_be_judged(alone):
    registry.register(operation())
    with pytest.raises(ValueError, match="twice"):
        registry.register(operation())
    for words, options in (
        ("no tests", {"tests": ()}),
        ("no cases", {"cases": ()}),
        ("roles", {"contestants": (Contestant("a", "peer", lambda case: torch.sin),)}),
        ("roles", {"contestants": two(lambda case: torch.sin, lambda case: torch.sin, "limit")}),
        ("two cases of one name", {"cases": 2 * (Case("c", ones),)}),
        ("two contestants of one name", {"contestants": 2 * (Contestant("ours", "peer", lambda case: torch.sin),)
                                         + (Contestant("x", "ours", lambda case: torch.sin),)}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            registry.register(operation(name="other", **options))
    assert list(registry.OPERATIONS) == ["sine"]


def test_every_file_registers_and_a_broken_one_does_not_stop_the_others(monkeypatch, tmp_path):
    assert {"entropy_invariant_attention", "rope_halves"} <= set(registry.discover())
    assert not registry.BROKEN
    (tmp_path / "unfinished.py").write_text("1 / 0")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    monkeypatch.setattr(registry, "BROKEN", {})
    registry.discover()
    assert list(registry.BROKEN) == ["unfinished"]


def test_a_number_depends_on_the_files_that_are_measured(alone):
    op = registry.OPERATIONS["x"] = operation(name="x", modules=("kexue_lib.gau",))
    files = records.library_files(op)
    assert {"kexue_lib/attention/kernels.py", "kexue_lib/gau.py", "kexue_lib/positions/rotary.py"} <= set(files)
    assert all(name.startswith(("kexue_lib/attention", "kexue_lib/gau", "kexue_lib/positions")) for name in files)
    registry.SOURCES["y"] = Path(attention.__file__)
    assert records.library_files(operation(name="y")) == records.library_files(op)
    assert set(records.hashes(operation(name="y"))) == {*records.library_files(op), "benchmarks/attention.py"}
    assert records.library_files(operation(name="nowhere")) == ()
    package = records.library_files(operation(name="z", modules=("kexue_lib.derive",)))
    assert "kexue_lib/derive/__init__.py" in package
    assert len(package) > 5


@pytest.mark.parametrize("name", sorted(registry.discover()))
def test_every_contestant_runs_and_agrees(name):
    """The smallest CPU case of each registered operation, once, in each mode."""
    op = registry.OPERATIONS[name]
    case = next((c for c in op.cases if "cpu" in c.devices), None)
    if case is None:
        pytest.skip("for GPUs only")
    for mode in measuring.modes(op, case):
        record = measured(op, op.cases.index(case), backward=mode == "forward+backward", rounds=1, seconds=0.01)
        assert record["contestants"][0]["role"] == "ours"
        assert record["mode"] == mode


# --- the command ----------------------------------------------------------------------------------------------------


def test_red_tests_forbid_numbers(tmp_path):
    green, red, none = (tmp_path / f"test_{name}.py" for name in ("green", "red", "none"))
    green.write_text("def test_it():\n    pass\n")
    red.write_text("def test_it():\n    assert 1 == 2, 'a reason'\n")
    none.write_text("")
    command.verify(operation(tests=(str(green),)))
    with pytest.raises(RedTestsError, match=r"no speed is shown for 'sine': its tests are red\n(.|\n)*a reason"):
        command.verify(operation(tests=(str(green), str(red))))
    with pytest.raises(RedTestsError, match="red"):
        command.verify(operation(tests=(str(none),)))


def test_an_operation_that_is_refused_does_not_stop_the_others(alone, capsys, monkeypatch):
    def verify(op):
        if op.tests == (RED,):
            raise RedTestsError(f"no speed is shown for {op.name!r}: its tests are red\nand why")

    monkeypatch.setattr(command, "verify", verify)
    registry.register(operation(name="red", tests=(RED,)))
    registry.register(operation(name="red too", tests=(RED,)))
    registry.register(operation(name="wrong", peer=torch.cos))
    registry.register(operation(name="well"))
    registry.BROKEN["unfinished"] = "ImportError: x"
    path = alone / "out.json"
    assert run(path=path) == 1
    said = capsys.readouterr()
    assert "refused, without a number: unfinished, red, red too, wrong" in said.err
    assert said.err.count("and why") == 1
    assert "benchmarks/unfinished.py cannot be imported: ImportError: x" in said.err
    assert "red · " not in said.out
    assert "wrong · " not in said.out
    assert "well · tiny · forward+backward" in said.out
    written = records.read(path)["operations"]
    assert [bool(written[name]["refused"]) for name in ("red", "wrong", "well")] == [True, True, False]
    assert not written["red"]["records"]
    assert not written["wrong"]["records"]
    assert [r["mode"] for r in written["well"]["records"]] == ["forward", "forward+backward"]
    assert written["well"]["machine"]["torch"] == torch.__version__


def test_green_tests_are_remembered_until_a_file_changes(alone, monkeypatch):
    calls = []
    monkeypatch.setattr(command, "verify", lambda op: calls.append(op.name))
    registry.register(operation(name="a", differentiable=False))
    registry.register(operation(name="b", differentiable=False))  # guarded by the same tests: they run once
    path = alone / "out.json"
    assert run(path=path) == 0
    assert run(path=path) == 0
    assert len(calls) == 1
    assert run("--retest", path=path) == 0
    assert len(calls) == 2
    monkeypatch.setattr(command.torch, "__version__", "0")
    assert run(path=path) == 0
    assert len(calls) == 3


def test_resume_goes_on_where_a_run_was_interrupted(alone, monkeypatch, capsys):
    measured_now = []
    measure = command.measure

    def counting(op, case, **options):
        measured_now.append(op.name)
        if op.name == "second" and len(measured_now) == 3:
            raise KeyboardInterrupt
        return measure(op, case, **options)

    monkeypatch.setattr(command, "measure", counting)
    monkeypatch.setattr(command, "verify", lambda op: None)
    for name in ("first", "second"):
        registry.register(operation(name=name))
    path = alone / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run(path=path)
    assert list(records.read(path)["operations"]) == ["first"]  # nothing that was measured is lost
    measured_now[:] = ["", "", "", ""]
    assert run("--resume", path=path) == 0
    assert measured_now[4:] == ["second", "second"]
    assert list(records.read(path)["operations"]) == ["first", "second"]
    assert registry.main(["--resume", "--rounds", "5", "--device", "cpu", "--json", str(path)]) == 0  # other settings
    assert measured_now[6:] == ["first", "first", "second", "second"]


def test_the_record_keeps_other_operations_and_drops_those_that_are_gone(alone, monkeypatch):
    monkeypatch.setattr(command, "verify", lambda op: None)
    monkeypatch.setattr(records, "RECORD", alone / "records" / "benchmarks.json")
    record = lambda *a: registry.main(["--record", "--rounds", "7", "--turn-ms", "0.05", "--device", "cpu", *a])  # noqa: E731
    for name in ("first", "second", "third"):
        registry.register(operation(name=name))
    assert record("first", "second") == 0
    assert record("third") == 0
    assert list(records.read(records.RECORD)["operations"]) == ["first", "second", "third"]
    del registry.OPERATIONS["second"]
    assert record() == 0
    assert list(records.read(records.RECORD)["operations"]) == ["first", "third"]
    for bad in (["--case", "tiny"], ["--quick"], ["--mode", "forward"]):
        with pytest.raises(SystemExit):
            record(*bad)


def test_command_line(alone, capsys):
    registry.register(operation(chapter="attention/x", about="the sine"))
    registry.register(operation(name="other", cases=(Case("gpu", ones, devices=("cuda",)),)))
    assert registry.main(["--list"], description=attention.__doc__) == 0
    listed = capsys.readouterr().out
    assert "sine · attention/x" in listed
    assert "the sine" in listed
    assert "tiny  [cpu, cuda; forward, forward+backward]" in listed
    assert registry.main(["--list", "--chapter", "attention"]) == 0
    assert "other" not in capsys.readouterr().out
    for bad, words in (
        (["no_such_operation"], "unknown operation 'no_such_operation'"),
        (["--rounds", "0"], "must be positive"),
        (["--minutes", "-1"], "must be positive"),
        (["--chapter", "nowhere"], "no operation fits"),
        (["--module", "nowhere"], "no operation fits"),
        (["sine", "--case", "huge"], "no case fits"),
        (["other", "--device", "cpu"], "no case fits"),
    ):
        with pytest.raises(SystemExit) as stop:
            registry.main([*bad, "--device", "cpu"])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    assert registry.main(["--module", Path(__file__).stem, "--list"]) == 0


def test_the_time_for_all_is_shared(alone, monkeypatch):
    shares = []

    def taken(op, case, *, seconds, **options):
        shares.append(seconds)
        now[0] += 30 if case.name == "a" else seconds
        return measured(op)

    now = [0.0]
    monkeypatch.setattr(command, "measure", taken)
    monkeypatch.setattr(command, "verify", lambda op: None)
    monkeypatch.setattr(command, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    registry.register(operation(cases=tuple(Case(name, ones) for name in "abcd"), differentiable=False))
    assert run("--minutes", "1", "--seconds", "1000", path=alone / "out.json") == 0
    assert shares == pytest.approx([15, 10, 10, 10])


def test_a_document_that_the_page_cannot_read_is_not_written(tmp_path):
    op = operation()
    good = records.entry(op, {}, {}, {}, [measured(op)])
    path = tmp_path / "out.json"
    records.write(path, {"schema": records.SCHEMA, "operations": {"sine": good}})
    before = path.read_text()
    for bad in ({**good, "date": None}, {**good, "records": []}, {**good, "refused": "red"}):
        with pytest.raises(BookError, match="sine"):
            records.write(path, {"schema": records.SCHEMA, "operations": {"sine": bad}})
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_machine_and_versions():
    facts = measuring.machine(torch.device("cpu"))
    assert facts["torch"] == torch.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert measuring.versions([operation()]) == {}
    assert "rotary-embedding-torch" in measuring.versions([registry.discover()["rope_interleaved"]])
