"""Residual weights and initial gains by depth: the paper's, and the post's table per optimizer.

Sources: Su Jianlin, https://kexue.fm/archives/8978 (2022); Wang et al., *DeepNet*, https://arxiv.org/abs/2203.00555.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["DeepNormConstants", "ResidualScale", "deepnorm_constants", "init_deepnorm_", "residual_scale"]


class ResidualScale(NamedTuple):
    """Weight α of the stream and initial gain λ of the branch, in x ← LN(αx + F(x))."""

    alpha: float
    gain: float

    @property
    def branch_weight(self) -> float:
        """λ²/α: size of the branch beside a stream of size 1 (two matrices of gain λ, weight 1/α)."""
        return self.gain**2 / self.alpha


class DeepNormConstants(NamedTuple):
    """The constants of each side; None for a side that the architecture lacks."""

    encoder: ResidualScale | None
    decoder: ResidualScale | None


def _layers(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer >= 1")
    return value


def deepnorm_constants(encoder_layers: int | None = None, decoder_layers: int | None = None) -> DeepNormConstants:
    r"""The residual weights α and gains β of the DeepNet paper.

    ================ ======================= ======================= ================ =================
    architecture     encoder α               encoder β               decoder α        decoder β
    ================ ======================= ======================= ================ =================
    encoder only     (2N)^(1/4)              (8N)^(−1/4)
    decoder only                                                     (2M)^(1/4)       (8M)^(−1/4)
    encoder, decoder 0.81 (N⁴M)^(1/16)       0.87 (N⁴M)^(−1/16)      (3M)^(1/4)       (12M)^(−1/4)
    ================ ======================= ======================= ================ =================

    Args:
        encoder_layers: N ≥ 1, or None for a decoder alone.
        decoder_layers: M ≥ 1, or None for an encoder alone.

    Returns:
        A pair ``(encoder, decoder)`` of :class:`ResidualScale`; β is its field ``gain``.

    Raises:
        ValueError: both are None, or one is no integer ≥ 1.

    Hazards:
        N counts *layers* of two (a decoder with cross-attention: three) sublayers. β scales the values, the output
        projections and both feed-forward matrices; not queries, keys, embeddings or the head.

    Example:
        >>> deepnorm_constants(encoder_layers=50).encoder
        ResidualScale(alpha=3.1622776601683795, gain=0.22360679774997896)
        >>> deepnorm_constants(18, 18).decoder.alpha == 54 ** 0.25
        True

    Source: Wang et al., https://arxiv.org/abs/2203.00555, and the authors' code; step D7.
    """
    if encoder_layers is None and decoder_layers is None:
        raise ValueError("encoder_layers and decoder_layers are both None; give at least one")
    n = None if encoder_layers is None else _layers("encoder_layers", encoder_layers)
    m = None if decoder_layers is None else _layers("decoder_layers", decoder_layers)
    if n is not None and m is not None:
        both = (n**4 * m) ** (1 / 16)
        return DeepNormConstants(
            ResidualScale(0.81 * both, 0.87 / both), ResidualScale((3 * m) ** 0.25, (12 * m) ** -0.25)
        )
    one = ResidualScale((2 * (n or m or 1)) ** 0.25, (8 * (n or m or 1)) ** -0.25)
    return DeepNormConstants(one if n is not None else None, one if m is not None else None)


def residual_scale(n_layers: int, optimizer: str = "adam", norm: str = "post") -> ResidualScale:
    r"""The table of the post: α and λ with which one step changes the loss by the same amount at every depth.

    With M = 2N sublayers, one step changes the loss by about η times

    .. math:: M(\lambda/\alpha)^2 \;\text{(SGD)},\qquad M\lambda/\alpha\;\text{(Adam)},\qquad
              M\lambda^2/\alpha\;\text{(LAMB)}.

    ========= ============== ================ ===============
    optimizer post: α        post: λ          pre: λ (α = 1)
    ========= ============== ================ ===============
    "sgd"     M^(1/4)        M^(−1/4)         M^(−1/2)
    "adam"    M^(1/2)        M^(−1/2)         M^(−1)
    "lamb"    1              M^(−1/2)         M^(−1/2)
    ========= ============== ================ ===============

    Args:
        n_layers: N ≥ 1, layers of two sublayers each.
        optimizer: "sgd", "adam" (any step of the size of a sign) or "lamb".
        norm: "post" for x ← LN(αx + F(x)), "pre" for x ← x + F(LN(x)).

    Raises:
        ValueError: n_layers is no integer ≥ 1, an unknown optimizer or norm.

    Hazards:
        Orders of magnitude, not tuned constants: under Adam the paper's constants (made for SGD) may train faster.
        For Pre-LN the table is sufficient, not necessary: with λ = 1 the change already grows like log N under SGD only
        (step D9).

    Example:
        >>> residual_scale(8, "sgd"), residual_scale(8, "adam").branch_weight == 16 ** -1.5
        (ResidualScale(alpha=2.0, gain=0.5), True)

    Source: https://kexue.fm/archives/8978, steps D7 and D9.
    """
    m = 2 * _layers("n_layers", n_layers)
    powers = {  # (power of M in α, power in λ)
        "post": {"sgd": (0.25, -0.25), "adam": (0.5, -0.5), "lamb": (0.0, -0.5)},
        "pre": {"sgd": (0.0, -0.5), "adam": (0.0, -1.0), "lamb": (0.0, -0.5)},
    }
    if norm not in powers:
        raise ValueError(f"norm={norm!r} is not known; choose one of {', '.join(map(repr, powers))}")
    if optimizer not in powers[norm]:
        raise ValueError(f"optimizer={optimizer!r} is not known; choose one of {', '.join(map(repr, powers[norm]))}")
    a, b = powers[norm][optimizer]
    return ResidualScale(m**a, m**b)


_FUSED = ("qkv_proj", "qkv", "in_proj_weight")


@torch.no_grad()
def init_deepnorm_(
    module: nn.Module,
    gain: float,
    include: Iterable[str] = ("ffn", "v_proj", "out_proj"),
    *,
    generator: torch.Generator | None = None,
) -> list[str]:
    r"""Give the chosen weight matrices Xavier-normal values times ``gain``, in place.

    .. math:: W_{ij} \sim N\Bigl(0,\; \mathrm{gain}^2\,\frac{2}{\mathrm{fan_{in}}+\mathrm{fan_{out}}}\Bigr)

    Args:
        module: changed in place; parameters that do not match keep their values.
        gain: > 0, such as ``deepnorm_constants(…).encoder.gain``.
        include: parts of dotted parameter names. A parameter with at least two axes is chosen if one of them is a whole
            part of its name: "ffn" chooses ``layers.0.ffn.up.weight``. For ``nn.TransformerEncoderLayer`` write
            ``("linear1", "linear2", "v_proj", "out_proj")``.
        generator: of the random numbers.

    Returns:
        The names that were initialised; a fused weight appears as ``name[values]``.

    Raises:
        ValueError: gain ≤ 0, or an entry of ``include`` chooses nothing: a call that silently does nothing is the usual
            mistake.

    Hazards:
        Queries and keys stay as they are, and so do embeddings and the head: scaling them is not DeepNorm. In a fused
        weight (a part of the name is ``qkv_proj``, ``qkv`` or ``in_proj_weight``, rows in the order q, k, v in equal
        thirds) "v_proj" chooses the last third only. A weight that is used twice is initialised once.

    Example:
        >>> attention = nn.MultiheadAttention(8, 2)
        >>> init_deepnorm_(attention, 0.5, include=("v_proj", "out_proj"))
        ['in_proj_weight[values]', 'out_proj.weight']

    Source: https://arxiv.org/abs/2203.00555 (which weights); https://kexue.fm/archives/8978 and step D2 (the gain).
    """
    if isinstance(gain, Tensor) or not 0 < gain < math.inf:
        raise ValueError(f"gain={gain!r} must be a finite number > 0")
    wanted = (include,) if isinstance(include, str) else tuple(include)
    if not wanted:
        raise ValueError("include is empty; name the parts of parameter names that are to be initialised")
    done, found = [], set()
    for name, parameter in module.named_parameters():
        parts = name.split(".")
        if parameter.dim() < 2:
            continue
        hits = {part for part in parts if part in wanted}
        if hits:
            _xavier_(parameter, gain, generator)
            done.append(name)
        elif "v_proj" in wanted and any(part in _FUSED for part in parts):
            if parameter.shape[0] % 3:
                raise ValueError(f"{name} {tuple(parameter.shape)} looks fused, but its rows are no three equal parts")
            _xavier_(parameter[2 * parameter.shape[0] // 3 :], gain, generator)
            done.append(f"{name}[values]")
            hits = {"v_proj"}
        found |= hits
    missing = [part for part in wanted if part not in found]
    if missing:
        names = [name for name, parameter in module.named_parameters() if parameter.dim() >= 2]
        raise ValueError(
            f"no weight matrix has {missing[0]!r} as a part of its name; there are {', '.join(names[:8]) or 'none'}"
        )
    return done


def _xavier_(weight: Tensor, gain: float, generator: torch.Generator | None) -> None:
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    # drawn where the generator lives, so that one seed gives the same weights on every device
    device = generator.device if generator is not None else weight.device
    values = torch.empty(weight.shape, dtype=weight.dtype, device=device)
    weight.copy_(values.normal_(0.0, gain * math.sqrt(2.0 / (fan_in + fan_out)), generator=generator))
