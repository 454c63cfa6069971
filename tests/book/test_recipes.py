"""The recipes in book/regression.md: their command lines parse, and their parts fit together."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import click
import pytest
import yaml
from checkouts import REPOSITORY
from dask.utils import parse_timedelta
from distributed import Scheduler
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from kexue_lib.book.cli import cli
from kexue_lib.book.project import Project
from kexue_lib.book.regress.grid import parse_seeds
from kexue_lib.book.regress.settings import Settings

TEXT = (REPOSITORY / "book" / "regression.md").read_text(encoding="utf-8")
Document = dict[str, Any]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


DOCUMENTS: list[Document] = [document for block in blocks("yaml") for document in yaml.safe_load_all(block)]
PYTHON = ast.parse("".join(blocks("python")))


def of(kind: str) -> list[Document]:
    return [document for document in DOCUMENTS if document["kind"] == kind]


def pods() -> Iterator[tuple[str, Document]]:
    """The name of each deployment or job, and what its pods are."""
    for document in [*of("Deployment"), *of("Job")]:
        yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def containers() -> list[Document]:
    return [container for _, pod in pods() for container in pod["containers"]]


def in_bash() -> list[list[str]]:
    """The commands of the shell blocks, without comments and without variables set before them."""
    found = []
    for line in "".join(blocks("bash")).splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        found += [words] if words else []
    return found


def in_sentences() -> list[list[str]]:
    """The commands in the prose, without what stands for something else."""
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    spans = [span for span in re.findall(r"`([^`\n]+)`", prose) if re.match(r"(kexue|dask) ", span)]
    return [[word for word in span.split() if word != "…" and not word.startswith("[")] for span in spans]


def in_python() -> list[list[str]]:
    """The command of the Slurm recipe with an address, and a worker with the arguments that it is given."""
    (text,) = [
        node.value.value
        for node in ast.walk(PYTHON)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return [[*text.split(), "tcp://a:1"], ["dask", "worker", "tcp://a:1", *slurm()["worker_extra_args"]]]


def slurm() -> dict[str, Any]:
    (call,) = [
        node
        for node in ast.walk(PYTHON)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "SLURMCluster"
    ]
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def in_yaml() -> list[list[str]]:
    return [container["command"] for container in containers()]


COMMANDS = [*in_bash(), *in_sentences(), *in_python(), *in_yaml()]


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """The parameters of a command line, as its own program parses them; nothing is run."""
    program, name, *rest = words
    commands: dict[str, Any] = (
        {"scheduler": dask_scheduler, "worker": dask_worker} if program == "dask" else cli.commands
    )
    context = commands[name].make_context(f"{program} {name}", rest)
    return dict(context.params)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_line_parses(words: list[str]) -> None:
    assert words[0] in ("kexue", "dask"), "a command of another program: teach this test to read it"
    parameters = parsed(words)
    if words[:2] == ["kexue", "regress"]:
        parse_seeds(parameters["seeds"])
        Settings(scales=parameters["scales"], processes=parameters["processes"])
    Project(REPOSITORY).select([*parameters.get("chapters", ()), *filter(None, [parameters.get("chapter")])])


@pytest.mark.parametrize(
    "words",
    [
        ["kexue", "regress", "--seed", "0"],
        ["kexue", "run", "why-residual", "--processes", "0"],
        ["dask", "worker", "tcp://a:1", "--resource", "GPU=1"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_would_be_noticed(words: list[str]) -> None:
    with pytest.raises(click.ClickException):
        parsed(words)


def test_the_page_has_the_commands_that_these_tests_are_about() -> None:
    """A recipe that is not found is not tested."""
    assert len(in_bash()) >= 9
    assert sum(words[:2] == ["kexue", "regress"] for words in COMMANDS) >= 6
    assert [words[:2] for words in in_yaml()] == [["dask", "scheduler"], ["dask", "worker"], ["kexue", "regress"]]


def test_each_worker_offers_one_thread_and_a_resource_that_regressions_know() -> None:
    workers = [parsed(words) for words in COMMANDS if words[:2] == ["dask", "worker"] and len(words) > 2]
    assert len(workers) >= 4
    for parameters in workers:
        assert re.fullmatch(r"(CPU|GPU)=[1-9]", parameters["resources"])
        assert parameters["nthreads"] in (0, 1)  # 0: not said; dask-jobqueue gives a worker its cores
    assert slurm()["cores"] == slurm()["processes"] == 1


def test_a_slurm_worker_leaves_before_its_job_is_ended() -> None:
    parameters = parsed(in_python()[1])
    hours, minutes, seconds = map(int, slurm()["walltime"].split(":"))
    latest = parse_timedelta(parameters["lifetime"]) + parse_timedelta(parameters["lifetime_stagger"])
    assert 0 < latest < 3600 * hours + 60 * minutes + seconds


# Kubernetes ----------------------------------------------------------------------------------------------------------


def test_selectors_choose_the_pods_that_they_are_meant_for() -> None:
    labels = {d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"] for d in of("Deployment")}
    for deployment in of("Deployment"):
        name = deployment["metadata"]["name"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    (service,) = of("Service")
    chosen = [name for name, there in labels.items() if service["spec"]["selector"].items() <= there.items()]
    (scheduler,) = [name for name, pod in pods() if pod["containers"][0]["command"][:2] == ["dask", "scheduler"]]
    assert chosen == [scheduler]


def test_workers_and_command_name_the_service_and_the_port_at_which_the_scheduler_listens() -> None:
    (service,) = of("Service")
    (port,) = service["spec"]["ports"]
    (listens,) = [parsed(words)["port"] for words in in_yaml() if words[1] == "scheduler"]
    assert port == {"port": int(listens or Scheduler.default_port)}
    address = f"tcp://{service['metadata']['name']}:{port['port']}"
    assert [parsed(words)["scheduler"] for words in in_yaml() if words[1] != "scheduler"] == [address, address]


def test_every_mounted_volume_is_there_and_every_claim_is_defined_for_all_its_users() -> None:
    modes = {claim["metadata"]["name"]: claim["spec"]["accessModes"] for claim in of("PersistentVolumeClaim")}
    users: dict[str, list[str]] = {}
    for name, pod in pods():
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                users.setdefault(volumes[mount["name"]], []).append(name)
    assert users.keys() == modes.keys()
    assert users == {"kexue-build": ["kexue-gpu", "kexue-regress"]}
    assert modes["kexue-build"] == ["ReadWriteMany"]


def test_workers_and_command_have_the_claim_at_the_build_folder_of_the_same_checkout() -> None:
    """Where the paths agree a worker keeps its checkpoints there."""
    mounts = {
        container["name"]: mount["mountPath"]
        for container in containers()
        for mount in container.get("volumeMounts", [])
    }
    (folder,) = [container["workingDir"] for container in containers() if "workingDir" in container]
    assert mounts == dict.fromkeys(("worker", "command"), f"{folder}/_build")
    assert Project(REPOSITORY).build.name == "_build"


def test_a_worker_offers_as_many_gpus_as_its_pod_has() -> None:
    (worker,) = [container for container in containers() if container["command"][:2] == ["dask", "worker"]]
    assert parsed(worker["command"])["resources"] == f"GPU={worker['resources']['limits']['nvidia.com/gpu']}"


def test_all_containers_are_of_one_image() -> None:
    assert len({container["image"] for container in containers()}) == 1


def test_the_python_of_the_slurm_recipe_compiles() -> None:
    compile(PYTHON, "recipe", "exec")
