"""The bench is light until it is used, and exports what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kexue_lib import lab


def _loaded(code: str) -> set[str]:
    heavy = "torch", "matplotlib", "numpy", "sympy", "IPython", "tqdm", "sklearn", "snownlp", "kexue_lib.book"
    script = f"{code}\nimport sys\nprint(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_bench_loads_nothing_heavy() -> None:
    assert _loaded("import kexue_lib.lab") == set()


def test_claims_and_numbers_need_no_torch_and_no_matplotlib() -> None:
    code = "from kexue_lib import lab; lab.Claims('x'); lab.approx(1.5); lab.Criterion; lab.settled"
    assert _loaded(code) == set()


def test_figures_need_no_torch() -> None:
    assert "torch" not in _loaded("from kexue_lib import lab; lab.figure; lab.style.rc()")


@pytest.mark.parametrize("name", lab.__all__)
def test_every_exported_name_exists(name: str) -> None:
    assert getattr(lab, name) is not None
    assert name in dir(lab)


def test_no_submodule_hides_a_function() -> None:
    # Importing a submodule binds its name on the package; a function of that name would vanish behind the module.
    import kexue_lib.lab.progressbar
    import kexue_lib.lab.run  # noqa: F401

    assert callable(lab.progress)
    assert callable(lab.announce)
    assert callable(lab.figure)


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Clams'.*Claims"):
        lab.Clams  # noqa: B018
