"""``kexue_lib.derive`` needs SymPy and mpmath only."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import sys, time
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "matplotlib", "IPython", "numpy", "scipy", "pandas"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_steps_are_checked_where_neither_torch_nor_ipython_nor_numpy_can_be_imported() -> None:
    out = run(
        """
import sympy as sp
from kexue_lib.derive import *
from kexue_lib.derive.audit import audit
x, p = sp.Symbol("x", real=True), sp.Symbol("p", positive=True)
d = Derivation("bare")
d.exact("D1", eq((x + 1) ** 2, x**2 + 2*x + 1))
d.exact("D2", le(sp.log(p), p - 1))
d.numeric("D3", eq(sp.sin(x) ** 2 + sp.cos(x) ** 2, 1))
d.limit("D4", tends(sp.sin(x) / x, x, 0, 1))
d.series("D5", eq(sp.exp(x), 1 + x + sp.O(x**2)))
print([s.status for s in d], audit(d).survived, bool(d["D1"]._repr_mimebundle_()))
"""
    )
    assert out == "['proved', 'proved', 'sampled', 'proved', 'proved'] 0 True"


def test_autograd_evidence_without_torch_says_what_is_missing() -> None:
    out = run(
        """
import sympy as sp
from kexue_lib.derive import *
x = sp.Symbol("x", real=True)
try:
    Derivation("bare").autograd("D1", eq(sp.Derivative(x**2, x), 2 * x))
except DerivationError as error:
    print(error)
"""
    )
    assert "needs torch" in out


CLOCK = "start = time.process_time()\nimport kexue_lib.derive\nprint(time.process_time() - start)"


def test_the_import_costs_little_more_than_sympy() -> None:
    assert min(float(run("import sympy, mpmath\n" + CLOCK)) for _ in range(2)) < 0.5
    assert min(float(run(CLOCK)) for _ in range(2)) < 1.5


def test_the_package_alone_does_not_import_the_engine() -> None:
    assert run("import kexue_lib\nprint('sympy' in sys.modules, 'kexue_lib.derive' in sys.modules)") == "False False"


def test_every_public_name_is_there_and_documented() -> None:
    import kexue_lib.derive as derive

    for name in derive.__all__:
        assert getattr(derive, name).__doc__, name
    assert sorted(derive.__all__) == list(derive.__all__)
