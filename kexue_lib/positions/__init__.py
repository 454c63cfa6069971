"""Positions by rotation (RoPE), and what reads texts longer than those of the training.

* rotation: :func:`rope_inv_freq`, :func:`rope_tables`, :func:`apply_rotary`, :func:`apply_rope` (and its plain form),
* frequencies for k times the length: :func:`scale_rope` (and its plain form) with the methods
  :data:`ROPE_METHODS`, :func:`dynamic_ntk_factor`, :func:`yarn_temperature`, and what they do to each pair:
  :func:`phase_coverage`,
* the number system behind them: :func:`digits`, :func:`mixed_radix_digits`, :func:`number_from_digits`,
* clipped distances (ReRoPE): :func:`rerope_scores`, :func:`rerope_attention` (and their plain forms),
* length: :func:`logn_scale`, :func:`sliding_window_mask`.

Convention: pairs are *interleaved* by default, (x₀, x₁), (x₂, x₃), …, as in the paper and in the author's code. With
``interleaved=False`` pair i is (x_i, x_{i+r/2}), as in GPT-NeoX and LLaMA. The two differ by a fixed permutation of the
r coordinates: consistent as long as q and k use the same, but weights trained with one do not work with the other.

Sources: RoFormer, https://arxiv.org/abs/2104.09864; Su Jianlin, https://kexue.fm/archives/8265 (2021),
https://kexue.fm/archives/9675, https://kexue.fm/archives/9706 and https://kexue.fm/archives/9708 (2023). The steps
D1–D11 are those of the chapter *beta-base-positions*.
"""

from .clipped import rerope_attention, rerope_attention_plain, rerope_scores, rerope_scores_plain
from .length import logn_scale, sliding_window_mask
from .radix import digits, mixed_radix_digits, number_from_digits
from .rotary import apply_rope, apply_rope_plain, apply_rotary, rope_inv_freq, rope_tables
from .scaling import (
    ROPE_METHODS,
    PhaseCoverage,
    dynamic_ntk_factor,
    phase_coverage,
    scale_rope,
    scale_rope_plain,
    yarn_temperature,
)

__all__ = [
    "ROPE_METHODS",
    "PhaseCoverage",
    "apply_rope",
    "apply_rope_plain",
    "apply_rotary",
    "digits",
    "dynamic_ntk_factor",
    "logn_scale",
    "mixed_radix_digits",
    "number_from_digits",
    "phase_coverage",
    "rerope_attention",
    "rerope_attention_plain",
    "rerope_scores",
    "rerope_scores_plain",
    "rope_inv_freq",
    "rope_tables",
    "scale_rope",
    "scale_rope_plain",
    "sliding_window_mask",
    "yarn_temperature",
]
