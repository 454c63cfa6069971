"""The frame of the repository: pins, metadata, README, workflows, and what importing the library costs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    pytest.skip("the pins need Python 3.11", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = [
    Requirement(line)
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: Everything that the library, or one of its extras, asks for.
WANTED = [
    Requirement(text)
    for group in (PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"].values())
    for text in group
]
#: Modules whose ``__all__`` is the public interface.
LAYERS = {"book", "derive", "lab"}
TOPICS = sorted(
    {p.stem for p in (ROOT / "kexue_lib").glob("*.py") if p.stem != "__init__"}
    | {p.parent.name for p in (ROOT / "kexue_lib").glob("*/__init__.py") if p.parent.name not in LAYERS}
)
# A topic may import those that stand before it.
ORDER = [
    "positions",
    "attention",
    "gau",
    "vq",
    "norm",
    "depth",
    "optim",
    "min_norm",
    "multitask",
    "crf",
    "argmax",
    "flows",
]
# What a function of a topic may import when it is called, with an error that names the extra.
OPTIONAL = {"argmax": {"scipy"}}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---------------------------------------------------------------------------------------------------------------------
# Versions
# ---------------------------------------------------------------------------------------------------------------------


def test_every_pin_is_one_exact_public_version() -> None:
    for pin in PINS:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert "*" not in specifier.version, pin
        assert "+" not in specifier.version, f"{pin}: a local version exists on one machine only"
    names = [canonical(pin.name) for pin in PINS]
    assert len(names) == len(set(names)), "a package is pinned twice"


def test_the_pins_on_which_the_book_rests() -> None:
    pins = {canonical(pin.name): str(pin.specifier) for pin in PINS}
    assert pins["torch"] == "==2.13.0"
    assert pins["sympy"] == "==1.14.0"  # its LaTeX changes between releases, and outputs are compared to the letter
    # 1.x, because 2.x ignores _config.yml; the pair of themes that draws one header, not two
    assert pins["jupyter-book"] == "==1.0.4.post1"
    assert pins["sphinx-book-theme"] == "==1.1.4"
    assert pins["pydata-sphinx-theme"] == "==0.15.4"


def test_the_pins_satisfy_everything_that_pyproject_asks_for() -> None:
    pins = {canonical(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    for requirement in WANTED:
        if canonical(requirement.name) == "kexue-lib":
            assert requirement.extras <= PYPROJECT["project"]["optional-dependencies"].keys()
            continue
        assert canonical(requirement.name) in pins, f"{requirement} is not pinned"
        assert requirement.specifier.contains(pins[canonical(requirement.name)], prereleases=True), requirement


def test_the_library_leaves_torch_and_numpy_alone() -> None:
    """A user's (and Colab's) torch and numpy have to stay: lower bounds only, in the library and in every extra."""
    bounds = {canonical(r.name): {s.operator for s in r.specifier} for r in WANTED}
    assert bounds["torch"] == {">="}
    assert bounds["numpy"] == {">="}
    assert {canonical(Requirement(r).name) for r in PYPROJECT["project"]["dependencies"]} == {"torch", "numpy"}


def test_the_version_is_the_same_everywhere() -> None:
    import kexue_lib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert kexue_lib.__version__ == PYPROJECT["project"]["version"] == citation["version"]
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert not released or released[0] == kexue_lib.__version__


def test_the_licences_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PYPROJECT["project"]["license"] == citation["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "creativecommons.org/licenses/by/4.0" in (ROOT / "LICENSE-prose.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# What the documents say
# ---------------------------------------------------------------------------------------------------------------------


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "book/how-to-read.md"])
def test_every_make_target_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    code = re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    named = [
        word
        for piece in code
        for line in piece.splitlines()
        if (found := re.match(r"\s*make ((?:[a-z]+ ?)+)", line))
        for word in found.group(1).split()
    ]
    assert named
    assert set(named) <= make_targets()


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  make ([a-z]+)", shown, re.MULTILINE))
    assert listed == make_targets()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_kexue_command_that_a_document_names_exists(document: str) -> None:
    from kexue_lib.book.cli import cli

    named = set(re.findall(r"\bkexue ([a-z]+)", (ROOT / document).read_text(encoding="utf-8")))
    assert named
    assert named <= cli.commands.keys()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE-prose.md"])
def test_relative_links_of_a_document_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "#")):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_bibliography_has_every_post_of_the_plan() -> None:
    text = (ROOT / "book" / "bibliography.md").read_text(encoding="utf-8")
    plan = yaml.safe_load((ROOT / "book" / "plan.yml").read_text(encoding="utf-8"))
    entries = dict(re.findall(r"^- \[(\d+)\]\(https://kexue\.fm/archives/\1\) · (.*)$", text, re.MULTILINE))
    for part in plan["parts"]:
        assert f"\n### {part['title']}\n" in text
        for post in part["chapters"]:
            for fact in (post["title_zh"], post["title_en"], str(post["date"])):
                assert fact in entries[str(post["archive"])], post["slug"]


def test_no_file_names_a_path_of_one_machine() -> None:
    # put together here, so that this file does not contain what it looks for
    roots = ("work/", "root/", r"home/(?!someone\b)\w", r"Users/(?!someone\b)\w", r"opt/\w")
    forbidden = re.compile(r"(?<![\w.})~*])/(?:" + "|".join(roots) + ")")
    found = []
    for path in tracked():
        if path.suffix in {".png", ".svg"} or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if forbidden.search(re.sub(r"https?://[^\s)>\"']+", "", line)):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


# ---------------------------------------------------------------------------------------------------------------------
# Workflows
# ---------------------------------------------------------------------------------------------------------------------


def test_there_are_workflows() -> None:
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "pages.yml", "weekly.yml"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_has_least_permissions_and_pinned_actions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 90
        extra = job.get("permissions", {})
        assert extra.keys() <= {"pages", "id-token"}, name
        assert not extra or path.name == "pages.yml"
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
    pinned = re.findall(r"uses: \S+@[0-9a-f]{40}(.*)", text)
    assert all(re.fullmatch(r" # v\d+\.\d+\.\d+", comment) for comment in pinned), "say the version beside the commit"


def test_ci_run_ends_with_the_tests() -> None:
    path = ROOT / ".ci" / "run"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make test"
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_hooks_use_the_environment_and_download_nothing() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
    every = [hook for repo in hooks["repos"] for hook in repo["hooks"]]
    assert {hook["language"] for hook in every} == {"system"}
    assert {hook["id"] for hook in every} == {"ruff", "ruff-format", "mypy"}


# ---------------------------------------------------------------------------------------------------------------------
# Importing
# ---------------------------------------------------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, kexue_lib; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    tops = {name.partition(".")[0] for name in loaded}
    assert not tops & {"torch", "numpy", "sympy", "mpmath", "matplotlib", "IPython", "papermill", "distributed"}
    assert [name for name in loaded if name.startswith("kexue_lib")] == ["kexue_lib"]


def test_importing_the_package_takes_less_than_a_tenth_of_a_second() -> None:
    times = []
    for _ in range(5):
        said = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import kexue_lib"], capture_output=True, text=True, check=True
        ).stderr
        (microseconds,) = re.findall(r"\|\s*(\d+) \| kexue_lib$", said, re.MULTILINE)
        times.append(int(microseconds) / 1e6)
    assert min(times) <= 0.1


def imports_of(path: Path, *, lazy: bool = False) -> set[str]:
    """What a file imports from elsewhere: when it is imported, or (lazy) also when its functions are called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    nodes = [node for node in ast.walk(tree) if lazy or node not in inside]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            if node.module == "kexue_lib":
                names |= {f"kexue_lib.{alias.name}" for alias in node.names}
    return names


def files_of(topic: str) -> list[Path]:
    module = ROOT / "kexue_lib" / f"{topic}.py"
    return [module] if module.is_file() else sorted((ROOT / "kexue_lib" / topic).rglob("*.py"))


def test_every_topic_has_its_place_in_the_order() -> None:
    assert sorted(ORDER) == TOPICS


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_module_imports_only_what_lies_below_it(topic: str) -> None:
    allowed = {"torch", "numpy", "kexue_lib"} | set(sys.stdlib_module_names)
    below = {topic, *ORDER[: ORDER.index(topic)]}
    for file in files_of(topic):
        for name in imports_of(file):
            assert name.partition(".")[0] in allowed, f"{file} imports {name}"
        for name in imports_of(file, lazy=True):
            top, _, rest = name.partition(".")
            assert top in allowed | OPTIONAL.get(topic, set()), f"{file} imports {name}"
            if top == "kexue_lib" and rest:
                assert rest.partition(".")[0] in below, f"{file} imports {name}, which does not lie below it"


@pytest.mark.parametrize("topic", TOPICS)
def test_all_lists_exactly_the_public_names_of_a_topic_module(topic: str) -> None:
    module = importlib.import_module(f"kexue_lib.{topic}")
    if len(files_of(topic)) == 1:  # a package has files of its own use
        tree = ast.parse(files_of(topic)[0].read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.ClassDef)
        defined = {n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")}
        assert defined <= set(module.__all__), "public, but not in __all__"
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert hasattr(module, name), f"in __all__, but not there: {name}"
        documented = getattr(module, name).__doc__ if callable(getattr(module, name)) else "data"
        assert documented, f"no docstring: {name}"
