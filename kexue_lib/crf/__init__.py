r"""Linear-chain conditional random fields: exact sums, marginals, best paths and samples, for batches with padding.

A sentence has n places and k tags. A path y = (y_1, …, y_n) of tags has the score

.. math:: S(y) = a_{y_1} + \sum_{t=1}^n h_t(y_t) + \sum_{t=2}^n A_{y_{t-1} y_t} + z_{y_n}

and the probability :math:`e^{S(y)}/Z`. There are k^n paths; everything here costs O(n k²) (O(n k³) for the tree).

* sums: :func:`crf_log_partition`, :func:`crf_score`, :func:`crf_nll`, :func:`crf_marginals`,
* paths: :func:`crf_viterbi` (the best one), :func:`crf_sample` (exact draws),
* the module :class:`LinearChainCRF`, whose transitions are read as ``scale * theta``,
* the transitions: :func:`double_center`, :func:`legal_transitions`, :func:`legal_start_end`,
* the plain forms, which look at all k^n paths one by one: :func:`crf_paths_plain`, :func:`crf_log_partition_plain`,
  :func:`crf_marginals_plain`, :func:`crf_viterbi_plain`.

Shapes: ``b`` sentences, ``n`` places, ``k`` tags; emissions h ``(b, n, k)``, transitions A ``(k, k)`` with ``A[i, j]``
the score of the step from tag i to tag j, start a and end z ``(k,)``, mask ``(b, n)`` boolean with ``True`` = a place
of the sentence. Padding stands at the end; what the emissions hold there does not matter.

Half precision is raised to float32, also under autocast: a sum over n places does not survive in 8 bits.

Sources: Su Jianlin, https://kexue.fm/archives/7196 (2020); Lafferty, McCallum and Pereira, *Conditional Random Fields*
(2001); the steps D1–D9 are those of the chapter *crf-learning-rate*.
"""

from .checks import FORBIDDEN, METHODS
from .layer import LinearChainCRF
from .paths import crf_sample, crf_viterbi
from .plain import crf_log_partition_plain, crf_marginals_plain, crf_paths_plain, crf_viterbi_plain
from .scores import crf_log_partition, crf_marginals, crf_nll, crf_score
from .transitions import double_center, legal_start_end, legal_transitions

__all__ = [
    "FORBIDDEN",
    "METHODS",
    "LinearChainCRF",
    "crf_log_partition",
    "crf_log_partition_plain",
    "crf_marginals",
    "crf_marginals_plain",
    "crf_nll",
    "crf_paths_plain",
    "crf_sample",
    "crf_score",
    "crf_viterbi",
    "crf_viterbi_plain",
    "double_center",
    "legal_start_end",
    "legal_transitions",
]
