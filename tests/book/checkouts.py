"""A tiny checkout of the book in a temporary folder, with chapters that a test writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import kexue_lib.book
from kexue_lib.book.project import Project

REPOSITORY = Path(kexue_lib.book.__file__).resolve().parents[2]

CARDS = {
    "entropy-invariant-softmax": (
        "attention", 9034, "2022-04-11", "熵不变性Softmax的一个快速推导",
        "A quick derivation of the entropy-invariant softmax",
    ),
    "softmax-suits-attention": (
        "attention", 9019, "2022-04-07", "听说Attention与Softmax更配哦～", "I hear attention goes better with softmax"
    ),
    "gau-warmup": (
        "gated", 8990, "2022-03-11", "门控注意力单元（GAU）还需要Warmup吗？",
        "Does the gated attention unit (GAU) still need warm-up?",
    ),
}  # fmt: skip

HEAD = """\
# ---
# jupyter:
#   kernelspec: {{display_name: Python 3, language: python, name: python3}}
#   jupytext: {{text_representation: {{extension: .py, format_name: percent}}}}
#   kexue:
#     archive: {archive}
#     title_zh: {zh}
#     title_en: "{en}"
#     date: {date}
#     prerequisites: []
#     minutes: {{quick: 1, full: 30}}
# ---

# %% [markdown]
# # {en}

# %% tags=["setup", "hide-input"]
# written by the pipeline

# %% tags=["parameters"]
scale = "quick"
seed = 0
device = "auto"
"""

STEP = """
from IPython.display import display

display({"application/vnd.kexue.step+json": {"schema": 1, "derivation": "toy", "id": "D1", "kind": "exact",
         "status": "proved", "uses": [], "unfolds": [], "rests_on": [], "by": "by hand", "dims": {}, "links": []},
         "text/plain": "D1: proved"}, raw=True)
"""


CLAIMS = """
display({"application/vnd.kexue.claims+json": {"schema": 1, "chapter": "toy", "claims": [
    {"id": "C1", "claim": "it holds", "kind": "exact", "how": "D1", "criteria": [], "measured": {"slope": 0.51234},
     "evidence": ["D1"], "verdict": "holds"}]}, "text/plain": "C1 holds"}, raw=True)
"""

PAGE = "book/chapters/attention/entropy-invariant-softmax"


@dataclass
class Checkout:
    """A checkout in a temporary folder."""

    root: Path

    @property
    def project(self) -> Project:
        return Project(self.root)

    def write(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text), encoding="utf-8")
        return target

    def chapter(self, *cells: str, slug: str = "entropy-invariant-softmax") -> Path:
        """Write a chapter: the head, and after it the cells (`[tag] code`, or code)."""
        part, archive, date, zh, en = CARDS[slug]
        text = HEAD.format(archive=archive, date=date, zh=zh, en=en)
        for cell in cells:
            tag, body = "", textwrap.dedent(cell).strip("\n")
            if body.startswith("[markdown]"):
                lines = textwrap.dedent(cell.replace("[markdown]", "", 1)).strip("\n").splitlines()
                text += "\n# %% [markdown]\n" + "\n".join(f"# {line}".rstrip() for line in lines) + "\n"
                continue
            if body.startswith("["):
                tag, _, body = body[1:].partition("]")
                body = body.lstrip()
            text += "\n# %%" + (f' tags=["{tag}"]' if tag else "") + "\n" + body.strip("\n") + "\n"
        return self.write(f"notebooks/{part}/{slug}.py", text)

    def executed(self, slug: str = "entropy-invariant-softmax") -> Path:
        return self.root / "book" / "chapters" / CARDS[slug][0] / f"{slug}.ipynb"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kexue_lib.book.cli", "--root", str(self.root), *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}

    def kexue(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the command line on this checkout."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(),
            cwd=self.root,
            check=False,
        )

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.root, check=True, capture_output=True, text=True
        ).stdout


def make_checkout(root: Path) -> Checkout:
    """Write the files of a small checkout."""
    there = Checkout(root)
    there.write(
        "_config.yml",
        """\
        title: Test
        only_build_toc_files: true
        repository: {url: https://example.org/executable-kexue, branch: main, path_to_book: ""}
        execute: {execute_notebooks: "off"}
        """,
    )
    there.write("_toc.yml", "format: jb-book\nroot: book/index\n")
    there.write("book/index.md", "# Test\n")
    made = ("ledger.md", "seeds.md", "map.md", "steps/", "_generated/")
    there.write(".gitignore", "_build/\n__pycache__/\n" + "".join(f"book/{name}\n" for name in made))
    there.write("requirements.txt", "")
    shutil.copy(REPOSITORY / "book" / "plan.yml", there.root / "book" / "plan.yml")
    (there.root / "notebooks").mkdir()
    there.write("kexue_lib/__init__.py", "")
    there.write("kexue_lib/alpha.py", "VALUE = 1\n")
    there.write("kexue_lib/beta.py", "VALUE = 2\n")
    there.write("kexue_lib/lab/__init__.py", 'def announce(minutes):\n    print("announced", minutes)\n')
    shutil.copy(REPOSITORY / "kexue_lib" / "lab" / "markdown.py", there.root / "kexue_lib" / "lab" / "markdown.py")
    there.write(
        "kexue_lib/derive/__init__.py",
        """\
        class Derivation:
            def __init__(self, name, survived=0):
                self.name, self.survived = name, survived
        """,
    )
    there.write(
        "kexue_lib/derive/audit.py",
        """\
        class Report:
            def __init__(self, derivation):
                self.derivation = derivation

            def record(self):
                n = self.derivation.survived
                step = {"id": "D1", "killed": 7, "without_counterexample": 1, "equivalent": 1, "implied": 0,
                        "survived": ["sign: of x"] * n}
                return {"schema": 1, "derivation": self.derivation.name, "steps": [step], "killed": 7,
                        "equivalent": 1, "implied": 0, "survived": n, "not_run": 0}

        def audit(derivation, budget=90.0, progress=None):
            return Report(derivation)
        """,
    )
    (there.root / "kexue_lib" / "book").symlink_to(REPOSITORY / "kexue_lib" / "book")
    return there
