"""The command line ``kexue``.

Exit status: 0 well; 1 a chapter or a check failed; 2 wrong usage, configuration or environment; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project

if TYPE_CHECKING:
    from rich.console import Console

_EXIT = (
    "Exit status: 0 well, 1 a chapter or a check failed, 2 wrong usage, configuration or environment, 130 interrupted."
)
_DEFAULT_JOBS = max(1, os.cpu_count() or 1)


@click.group(epilog=_EXIT, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kexue-lib", prog_name="kexue")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The checkout to work on; by default the one that holds the current folder.",
)
@click.pass_context
def cli(context: click.Context, root: Path | None) -> None:
    """Build, run and check the chapters of Executable Kexue."""
    context.obj = root


def _jobs(command: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        default=_DEFAULT_JOBS,
        show_default="number of cores",
        help="How many chapters run at a time.",
    )
    return option(command)


def _timeout(command: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="Limit for one chapter; a chapter that passes it is ended with everything it started.",
    )
    return option(command)


_PATH = click.Path(dir_okay=False, path_type=Path)
_BASELINE = "What to compare with: a ledger, a tag, or none.  [default: the committed ledger]"
_TIMEOUT = "Limit for one run, which is then ended with everything it started.  [default: 300 for quick, else 3600]"
_RETRIES = "How often a run is tried again after a fault of the infrastructure; never after an error in a cell."
_PROCESSES = "How many run a chapter together, if not quick: each has a GPU (or core) and a share of every batch."
_any_versions = click.option(
    "--any-versions", is_flag=True, help="Go on although installed packages differ from requirements.txt."
)


@cli.command(epilog=_EXIT)
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option("-f", "--force", is_flag=True, help="Execute the chapters even if they are fresh.")
@_jobs
@_timeout
@click.option("-k", "--keep-going", is_flag=True, help="Run the other chapters although one has failed.")
@click.option("--html/--no-html", default=True, help="Make the book in _build/html as well.  [default: html]")
@_any_versions
@click.pass_obj
def build(
    root: Path | None,
    chapters: tuple[str, ...],
    force: bool,
    jobs: int,
    timeout: float,
    keep_going: bool,
    html: bool,
    any_versions: bool,
) -> None:
    """Execute the chapters that are stale, audit their derivations, and make the book.

    A chapter is stale when its source, a file of kexue_lib that it loads, or a pinned version has changed. A run that
    fails, hangs or is interrupted leaves the chapter's previous notebook as it was.
    """
    from kexue_lib.book.build import build as run
    from kexue_lib.book.chapters import Options

    options = Options(workers=jobs, timeout=timeout, keep_going=keep_going, any_versions=any_versions)
    sys.exit(run(Project.find(root), chapters, options, _console(), force=force, html=html))


@cli.command(epilog=_EXIT)
@click.argument("chapter")
@click.option(
    "-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter of the chapter."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The notebook to write; by default below _build/runs.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    show_default="300 for scale quick, else 3600",
    metavar="SECONDS",
    help="Limit for the run.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many processes run the chapter together, by torchrun: each has a GPU and a share of every batch.",
)
@_any_versions
@click.pass_obj
def run(
    root: Path | None,
    chapter: str,
    parameters: tuple[tuple[str, str], ...],
    output: Path | None,
    timeout: float | None,
    processes: int,
    any_versions: bool,
) -> None:
    """Run one chapter with parameters of your choice, and print its claims.

    The book is not touched: the notebook goes below _build/runs, or to --output. A run that is not quick keeps the
    state of its trainings below _build/checkpoints: after a crash the same command goes on from there.

    Example: kexue run entropy-invariant-softmax -p seed 3 -p scale full
    """
    from kexue_lib.book.single_run import run_chapter

    project = Project.find(root)
    sys.exit(
        run_chapter(
            project,
            chapter,
            parameters,
            _console(),
            output=output,
            timeout=timeout,
            any_versions=any_versions,
            processes=processes,
        )
    )


@cli.command(epilog=_EXIT)
@click.option("--audit/--no-audit", default=True, help="Look at the mutation audits too.  [default: audit]")
@_jobs
@_timeout
@click.pass_obj
def check(root: Path | None, audit: bool, jobs: int, timeout: float) -> None:
    """Check everything that needs no execution, and the mutation audits.

    Every executed notebook was really executed, in order, from the source beside it; none is stale; no mutant of a
    checked step survives (stale audits are run again); cards agree with the plan and the contents with the chapters;
    no banned calculus or markup; no dead link.
    """
    from kexue_lib.book.chapters import Options
    from kexue_lib.book.check import check as run

    sys.exit(run(Project.find(root), Options(workers=jobs, timeout=timeout), _console(), audit=audit))


@cli.command(epilog=_EXIT)
@click.argument("chapter", metavar="[PART/]SLUG")
@click.pass_obj
def new(root: Path | None, chapter: str) -> None:
    """Start a planned chapter: write its source with the whole anatomy, ready to run and to be filled."""
    from kexue_lib.book.scaffold import new_chapter

    sys.exit(new_chapter(Project.find(root), chapter, _console()))


@cli.command(epilog=_EXIT)
@click.pass_obj
def dist(root: Path | None) -> None:
    """Pack the built book into dist/executable-kexue-VERSION.zip, which opens from the file system."""
    from kexue_lib.book.hand_out import hand_out_archive

    sys.exit(hand_out_archive(Project.find(root), _console()))


@cli.command(epilog=_EXIT)
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The PDF to write; by default below dist.",
)
@click.pass_obj
def pdf(root: Path | None, chapters: tuple[str, ...], output: Path | None) -> None:
    """Print the built book, or some of its chapters, into one PDF (needs Chromium)."""
    from kexue_lib.book.hand_out import hand_out_pdf

    sys.exit(hand_out_pdf(Project.find(root), chapters, _console(), output=output))


@cli.command(epilog=_EXIT)
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option("--seeds", default="0", show_default=True, metavar="SEEDS", help="Such as 0..9 or 0,3,7..9.")
@click.option("--scale", "scales", multiple=True, default=("quick",), show_default=True, help="quick or full; repeat.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("-j", "--workers", type=click.IntRange(min=1), help="Cores for runs on the CPU.  [default: all]")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help=_PROCESSES)
@click.option("--scheduler", metavar="ADDRESS", help="A Dask cluster that is there: tcp://host:port.")
@click.option("--scheduler-file", type=_PATH, help="The file in which its scheduler has left the address.")
@click.option("--wait", type=float, default=300.0, show_default=True, help="Seconds to wait for its workers.")
@click.option("--ledger", type=_PATH, help="The file to append to.  [default: _build/regress/ledger.jsonl]")
@click.option("--baseline", help=_BASELINE)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help=_TIMEOUT)
@click.option("--retries", type=click.IntRange(min=0), default=2, show_default=True, help=_RETRIES)
@click.option("--strict", is_flag=True, help="An unstable claim counts as a failure.")
@click.option("--dry-run", is_flag=True, help="Say what would be run and how long it would take.")
@_any_versions
@click.pass_obj
def regress(root: Path | None, chapters: tuple[str, ...], **given: Any) -> None:
    """Run chapters over seeds, scales and devices, and say what moved.

    Each run leaves a row in the ledger. A run that is there already is not repeated, so that the same command goes on
    where it was interrupted. The runs go to this machine's cores and GPUs, or to a Dask cluster.

    Example: kexue regress --seeds 0..9 --scale quick --scale full
    """
    from kexue_lib.book.regress.command import Settings
    from kexue_lib.book.regress.command import regress as run
    from kexue_lib.book.regress.grid import parse_seeds

    if given["scheduler"] or given["scheduler_file"]:
        if given["scheduler"] and given["scheduler_file"]:
            raise BookError("--scheduler and --scheduler-file name the same thing; give one of them.")
        if given["workers"]:
            raise BookError("--workers is for runs on this machine; the cluster at --scheduler has its own workers.")
    given["workers"] = given["workers"] or _DEFAULT_JOBS
    given["scales"] = tuple(dict.fromkeys(given["scales"]))
    settings = Settings(seeds=parse_seeds(given.pop("seeds")), dry=given.pop("dry_run"), **given)
    sys.exit(run(Project.find(root), chapters, settings, _console()))


@cli.command(epilog=_EXIT)
@click.argument("ledger", required=False, type=_PATH)
@click.option("--baseline", help=_BASELINE)
@click.option("-o", "--output", type=_PATH, help="The page to write.  [default: _build/regress/report.md]")
@click.option("--times/--no-times", default=True, help="Also what a clock gave, memory, machines.  [default: times]")
@click.option("--strict", is_flag=True, help="An unstable claim counts as a failure.")
@click.option("--save", type=_PATH, help="Write the newest row of each run to this file: a ledger to commit.")
@click.pass_obj
def ledger(root: Path | None, ledger: Path | None, **given: Any) -> None:
    """Report on a ledger: every claim over its seeds, what is unstable, what moved, time and memory.

    Without LEDGER it is the one that `kexue regress` appends to, or else the committed one.
    """
    from kexue_lib.book.regress.command import show_ledger

    sys.exit(show_ledger(Project.find(root), ledger, _console(), **given))


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    """Run the command line; errors of the user are told without a traceback."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BookError as error:
        click.echo(f"kexue: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("kexue: interrupted; what was not finished is as it was before.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
