"""Which classes of a linear layer can be its argmax: quick test, reflection, certificates, and how likely it all is.

A layer scores class ``i`` by ``<w_i, z> + b_i``. Class ``k`` is *argmaxable* when some ``z`` gives it a score that is
strictly larger than every other one. This module has

* the decision for every class: :func:`argmaxable` (and its plain form :func:`argmaxable_plain`), built from
  :func:`self_test`, :func:`reflection_search` and non-negative least squares,
* the two kinds of proof, for one class: :func:`argmax_margin` (a linear programme; presence), :func:`hull_certificate`
  and :func:`verify_certificate` (absence),
* the laws: :func:`argmax_failure_log10`, :func:`lost_probability_log10`, :func:`wendel`, :func:`n_rankings`.

Shapes: ``n`` classes, ``d`` width of ``z``. Nothing here is differentiable or meant for a training loop. Every answer
"yes" carries a ``z`` and every answer "no" a convex combination; both are checked with rounding errors counted, so
that they are proofs about the numbers in ``weight`` and ``bias``.

SciPy (extra ``lp``) is needed wherever a linear programme or non-negative least squares is solved.

Sources: Su Jianlin, https://kexue.fm/archives/9046 (2022); Grivas, Bogoychev and Lopez, arXiv 2203.06462 (2022). The
steps D1–D11 are those of the chapter *unargmaxable-words*.
"""

from .certificates import hull_certificate, verify_certificate
from .decision import ArgmaxableResult, Margin, argmax_margin, argmaxable, argmaxable_plain
from .laws import argmax_failure_log10, lost_probability_log10, n_rankings, wendel
from .quick_test import self_test, self_test_plain
from .reflections import Reflections, reflection_search

__all__ = [
    "ArgmaxableResult",
    "Margin",
    "Reflections",
    "argmax_failure_log10",
    "argmax_margin",
    "argmaxable",
    "argmaxable_plain",
    "hull_certificate",
    "lost_probability_log10",
    "n_rankings",
    "reflection_search",
    "self_test",
    "self_test_plain",
    "verify_certificate",
    "wendel",
]
