"""Attention whose focus does not depend on the length of the text: scales, entropies and their laws.

Softmax attention weighs ``n`` keys by ``p = softmax(lam * q·k)``. With a constant ``lam`` the weights spread as ``n``
grows; a factor that grows with ``log n`` holds them together. This package has

* the scales and the attention: :func:`attention_scale`, :func:`entropy_invariant_attention` (and its plain form),
* the measure of focus: :func:`attention_entropy`, :func:`query_key_entropy` (and their plain forms),
* the laws behind the scales, in float64 NumPy: :func:`softmax_entropy_lower_bound`, :func:`leader_entropy`,
  :func:`leader_lambda`, :func:`invariant_lambda`, :func:`sphere_entropy_drop`, :func:`sphere_entropy_rate`,
  :func:`sphere_lambda`.

Shapes: ``b`` batch, ``h`` heads, ``n`` queries, ``m`` keys, ``d`` width of a query and a key, ``dv`` width of a value.
Masks are boolean with ``True`` = visible. Entropies are in nats.

Sources: Su Jianlin, https://kexue.fm/archives/9034 (2022) and https://kexue.fm/archives/8823 (2021); the steps D1–D9
are those of the chapter *entropy-invariant-softmax*.
"""

from .entropy import attention_entropy, attention_entropy_plain, query_key_entropy, query_key_entropy_plain
from .laws import invariant_lambda, leader_entropy, leader_lambda, softmax_entropy_lower_bound
from .scale import SCALE_KINDS, attention_scale
from .softmax import entropy_invariant_attention, entropy_invariant_attention_plain
from .sphere import sphere_entropy_drop, sphere_entropy_rate, sphere_lambda

__all__ = [
    "SCALE_KINDS",
    "attention_entropy",
    "attention_entropy_plain",
    "attention_scale",
    "entropy_invariant_attention",
    "entropy_invariant_attention_plain",
    "invariant_lambda",
    "leader_entropy",
    "leader_lambda",
    "query_key_entropy",
    "query_key_entropy_plain",
    "softmax_entropy_lower_bound",
    "sphere_entropy_drop",
    "sphere_entropy_rate",
    "sphere_lambda",
]
