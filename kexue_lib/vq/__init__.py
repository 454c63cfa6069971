"""Attention over quantized keys: exact softmax attention in linear time.

If every key is one of c codebook vectors, tokens with the same code have the same score, and a softmax over n keys
becomes one over c codes. This package has

* the assignment and the codebook: :func:`vq_assign`, :func:`straight_through`, :class:`EMACodebook`,
* the attention: :func:`vq_attention` (blocks, windowed bias, three kinds of gradients, streaming by
  :class:`VQAttentionState`),
* the plain forms: :func:`vq_assign_plain`, :func:`vq_attention_plain` (dense), :func:`vq_attention_recurrent_plain`,
* the cost: :func:`dense_multiply_adds`, :func:`vq_multiply_adds`, :func:`vq_break_even`, :func:`vq_state_numbers`.

Shapes: ``b`` batch, ``h`` heads, ``n`` tokens, ``c`` codes, ``dk`` width of a query and a key, ``dv`` of a value.

Sources: Su Jianlin, https://kexue.fm/archives/9844 (2023); Lingle, Transformer-VQ, arXiv 2309.16354; the steps D1–D11
are those of the chapter *vq-key-linear-attention*.
"""

from .attention import VQAttentionState, vq_attention
from .codebook import EMACodebook, Quantized, straight_through, vq_assign, vq_assign_plain
from .cost import dense_multiply_adds, vq_break_even, vq_multiply_adds, vq_state_numbers
from .plain import vq_attention_plain, vq_attention_recurrent_plain

__all__ = [
    "EMACodebook",
    "Quantized",
    "VQAttentionState",
    "dense_multiply_adds",
    "straight_through",
    "vq_assign",
    "vq_assign_plain",
    "vq_attention",
    "vq_attention_plain",
    "vq_attention_recurrent_plain",
    "vq_break_even",
    "vq_multiply_adds",
    "vq_state_numbers",
]
