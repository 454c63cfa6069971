"""Rotary attention of the small language model, and what may be changed in it without training.

No weight depends on how positions enter. So one trained model serves all schemes that change only that: other
frequencies, clipped distances, a factor that grows with log n, a window.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib.positions import apply_rope, logn_scale, rerope_scores, rope_inv_freq, sliding_window_mask

__all__ = ["PositionRule", "RotaryAttention", "position_rule"]


@dataclass(frozen=True, eq=False)
class PositionRule:
    r"""What rotary attention does with positions; every field changes one thing, and fields combine.

    .. math::
        s_{ij} = \frac{c\,f_i}{\sqrt d}\; q_i \cdot R_{-p(i-j)}\,k_j
        \qquad\text{for}\quad 0 \le i - j < \text{window}

    Args:
        inv_freq: the frequencies of the rotation R, ``(r / 2,)``, r ≤ d; by default those of base 10000. From
            :func:`kexue_lib.positions.scale_rope` for example.
        rerope: w, from which on distances are clipped, p(t) = min(t, w)
            (:func:`kexue_lib.positions.rerope_scores`); None: p(t) = t.
        leak: with ``rerope``: beyond w distances grow on, 1/leak as fast.
        logn: N of the factor f = log n / log N of a query that sees n keys (:func:`kexue_lib.positions.logn_scale`);
            None: f = 1.
        clip: whether f is at least 1: then nothing changes up to length N, and a trained model can be given it.
        window: how many keys a query sees, itself included; None: all before it.
        scale: c, a factor of all scores, such as the square of :func:`kexue_lib.positions.yarn_temperature`.

    Raises:
        ValueError: a number out of its range, or a leak without ``rerope``.

    >>> PositionRule(rerope=32, logn=64)
    PositionRule(rerope=32, logn=64)

    Source: the override hooks of https://kexue.fm/archives/9706 and https://kexue.fm/archives/9708.
    """

    inv_freq: Tensor | None = None
    rerope: float | None = None
    leak: float | None = None
    logn: float | None = None
    clip: bool = True
    window: int | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.inv_freq is not None and (not isinstance(self.inv_freq, Tensor) or self.inv_freq.dim() != 1):
            shown = tuple(self.inv_freq.shape) if isinstance(self.inv_freq, Tensor) else self.inv_freq
            raise ValueError(f"inv_freq={shown!r} is not allowed; allowed: None, or a tensor (r / 2,)")
        for name, value, above in (("rerope", self.rerope, 0), ("logn", self.logn, 1), ("scale", self.scale, 0)):
            if value is not None and (isinstance(value, (bool, Tensor)) or not above < value < math.inf):
                raise ValueError(f"{name}={value!r} is not allowed; allowed: a number > {above}")
        if self.leak is not None and (self.rerope is None or isinstance(self.leak, bool) or not self.leak >= 1):
            raise ValueError(f"leak={self.leak!r} is not allowed; allowed: a number >= 1, together with rerope")
        window = self.window
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
            raise ValueError(f"window={window!r} is not allowed; allowed: None, or an integer >= 1")

    def __repr__(self) -> str:
        """The fields that change something."""
        plain = PositionRule.__dataclass_fields__
        shown = {
            name: getattr(self, name) if name != "inv_freq" else "…"
            for name in plain
            if getattr(self, name) is not plain[name].default
        }
        return f"PositionRule({', '.join(f'{name}={value}' for name, value in shown.items())})"


class RotaryAttention(nn.Module):
    """Causal softmax attention with rotary positions: ``(q, k, v)``, each ``(batch, heads, n, d)``, to the same shape.

    Args:
        rule: what it does with positions; default: ordinary rotary positions. It may be exchanged at any time, since
            no weight depends on it: for a while by :func:`position_rule`.

    >>> q = torch.zeros(1, 1, 3, 4)
    >>> v = torch.arange(3.0).view(1, 1, 3, 1).expand(1, 1, 3, 4)
    >>> RotaryAttention()(q, q, v)[0, 0, :, 0]  # equal scores: the mean of what came before
    tensor([0.0000, 0.5000, 1.0000])
    >>> RotaryAttention(PositionRule(window=2))(q, q, v)[0, 0, :, 0]
    tensor([0.0000, 0.5000, 1.5000])
    """

    def __init__(self, rule: PositionRule | None = None) -> None:
        """Keep the rule."""
        super().__init__()
        self.rule = rule or PositionRule()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mix the values of the places up to each query's own."""
        rule, n, d = self.rule, q.shape[-2], q.shape[-1]
        theta = rule.inv_freq
        if theta is not None:
            theta = theta.to(q.device)
        if rule.scale != 1:
            q = q * rule.scale
        if rule.logn is not None:
            q = q * logn_scale(torch.arange(n, device=q.device), rule.logn, clip=rule.clip).to(q.dtype)[:, None]
        seen = None
        if rule.window is not None or rule.rerope is not None:
            seen = sliding_window_mask(n, n, rule.window or n, device=q.device)
        if rule.rerope is None:
            q, k = apply_rope(q, inv_freq=theta), apply_rope(k, inv_freq=theta)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        if theta is None:
            theta = rope_inv_freq(d, device=q.device, dtype=torch.promote_types(q.dtype, torch.float32))
        scores = rerope_scores(q, k, theta, rule.rerope, rule.leak) / math.sqrt(d)
        assert seen is not None
        return scores.masked_fill(~seen, -math.inf).softmax(-1).to(v.dtype) @ v


@contextlib.contextmanager
def position_rule(model: nn.Module, rule: PositionRule) -> Iterator[None]:
    """Give all :class:`RotaryAttention` of a model another rule, for the time of a ``with`` block.

    >>> from kexue_lib.lab.language import CausalDecoder
    >>> model = CausalDecoder(10, dim=16, heads=2)
    >>> with position_rule(model, PositionRule(window=4)):
    ...     print(model.attentions[0].rule)
    PositionRule(window=4)
    >>> model.attentions[0].rule
    PositionRule()

    Raises:
        ValueError: the model has no rotary attention.
    """
    layers = [module for module in model.modules() if isinstance(module, RotaryAttention)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no RotaryAttention whose rule could be changed")
    kept = [layer.rule for layer in layers]
    try:
        for layer in layers:
            layer.rule = rule
        yield
    finally:
        for layer, before in zip(layers, kept, strict=True):
            layer.rule = before
