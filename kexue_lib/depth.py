"""Scales for deep residual networks: residual weights, initial gains, and probes of what one step does.

* the constants: :func:`deepnorm_constants` (the paper's), :func:`residual_scale` (the post's table, per optimizer),
* the initialisation that goes with them: :func:`init_deepnorm_`,
* the magnitude of a matrix: :func:`weight_magnitude` (and its plain form),
* what one step of an optimizer changes: :func:`update_probe` (and its plain form), :func:`update_probes`,
  :func:`member_probes`.

Sources: Su Jianlin, https://kexue.fm/archives/8978 (2022); Wang et al., *DeepNet*, https://arxiv.org/abs/2203.00555.
The steps D1–D9 are those of the chapter *deepnet-1000-layers*.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "STEP_KINDS",
    "DeepNormConstants",
    "ResidualScale",
    "StepEffect",
    "deepnorm_constants",
    "init_deepnorm_",
    "member_probes",
    "residual_scale",
    "update_probe",
    "update_probe_plain",
    "update_probes",
    "weight_magnitude",
    "weight_magnitude_plain",
]

STEP_KINDS = ("sgd", "sign", "lamb")
"""The steps that :func:`update_probe` knows."""


# ----------------------------------------------------------------------------------------------------------------------
# Constants
# ----------------------------------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------------------------------
# Initialisation
# ----------------------------------------------------------------------------------------------------------------------

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


# ----------------------------------------------------------------------------------------------------------------------
# The magnitude of a matrix
# ----------------------------------------------------------------------------------------------------------------------


def weight_magnitude(w: Tensor) -> tuple[Tensor, Tensor]:
    r"""The best λ in W = λU with U as close to orthogonal as a factor can make it, and that U.

    λ minimises :math:`\lVert WW^\top/\kappa^2 - I\rVert_F` over κ:

    .. math:: \lambda^2 = \frac{\mathrm{tr}\,[(WW^\top)^2]}{\mathrm{tr}\,WW^\top}
              = \frac{\sum_i\sigma_i^4}{\sum_i\sigma_i^2}

    with the singular values σ of W. No decomposition is computed: tr[(WWᵀ)²] is the squared norm of the smaller of the
    Gram matrices WWᵀ and WᵀW.

    Args:
        w: ``(..., n, m)``, each matrix different from zero.

    Returns:
        λ ``(...)`` and U ``(..., n, m)``, differentiable in w.

    Raises:
        ValueError: fewer than two axes, or a matrix of zeros.
        TypeError: not a floating-point tensor.

    Hazards:
        For a random matrix λ is √2 times the Xavier gain, for every shape, and U is far from orthogonal (for a square
        one, half of the squared norm of UUᵀ − I remains): steps D2.

    Example:
        >>> q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
        >>> round(weight_magnitude(3 * q)[0].item(), 12)
        3.0

    Source: https://kexue.fm/archives/8978, steps D2 and D3.
    """
    _check_matrix(w)
    # Scaled first: fourth powers leave the range of float32 below 1e-10 and above 1e9.
    largest = w.detach().abs().amax((-2, -1), keepdim=True)
    if bool((largest == 0).any()):
        raise ValueError(f"w {tuple(w.shape)} has a matrix of zeros, which has no magnitude")
    v = w / largest
    gram = v @ v.mT if v.shape[-2] <= v.shape[-1] else v.mT @ v
    second, fourth = v.square().sum((-2, -1)), gram.square().sum((-2, -1))
    lam = (fourth / second).sqrt() * largest[..., 0, 0]
    return lam, w / lam[..., None, None]


def weight_magnitude_plain(w: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`weight_magnitude` by the singular values: its specification.

    Example:
        >>> weight_magnitude_plain(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))[0]  # √((81 + 1)/(9 + 1))
        tensor(2.8636)

    Source: https://kexue.fm/archives/8978, step D2.
    """
    _check_matrix(w)
    sigma = torch.linalg.svdvals(w)
    lam = (sigma.pow(4).sum(-1) / sigma.pow(2).sum(-1)).sqrt()
    return lam, w / lam[..., None, None]


def _check_matrix(w: Tensor) -> None:
    if not isinstance(w, Tensor) or not w.is_floating_point():
        raise TypeError(f"w is {w.dtype if isinstance(w, Tensor) else type(w).__name__}; floating point is needed")
    if w.dim() < 2 or 0 in w.shape[-2:]:
        raise ValueError(f"w has shape {tuple(w.shape)}; matrices (..., n, m) are needed")


# ----------------------------------------------------------------------------------------------------------------------
# What one step does
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepEffect:
    r"""What one step of size η along −d changes.

    Attributes:
        g2: ‖g‖₂², over all probed parameters.
        g1: ‖g‖₁.
        linear: ⟨g, Δθ⟩, the change of the loss to first order (step D1).
        dL: L(θ + Δθ) − L(θ).
        dF: root mean square of the change of the features; None if the loss function gives no features.
        loss: L(θ).
        per_param: ``name → (‖g‖₂², ‖g‖₁)`` of each parameter.
    """

    g2: float
    g1: float
    linear: float
    dL: float
    dF: float | None
    loss: float
    per_param: Mapping[str, tuple[float, float]]


LossFunction = Callable[[nn.Module], Any]


def update_probe(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: str = "sgd",
    lr: float = 1e-2,
    *,
    parameters: Callable[[str], bool] | None = None,
) -> StepEffect:
    r"""Take one step, look at what it changed, and put the parameters back, bit by bit.

    ========== =========================================================
    optimizer  Δθ, for each parameter tensor on its own
    ========== =========================================================
    ``"sgd"``  −η g
    ``"sign"`` −η sign g: the first step of Adam (its ε aside)
    ``"lamb"`` −η RMS(θ) sign g: the first step of LAMB; RMS(θ) = 0 → 1
    ========== =========================================================

    Args:
        model: its parameters are the same before and after, to the last bit; ``.grad`` is not touched.
        loss_fn: from the model to the loss (a 0-d tensor), or to a pair (loss, features) with a tensor of any shape. It
            is called twice and has to be deterministic: no dropout, one batch.
        optimizer: see the table.
        lr: η > 0, so small that the change is linear; compare ``linear`` with ``dL``.
        parameters: which parameters take part, from their names; default all that require gradients.

    Raises:
        ValueError: an unknown optimizer, η ≤ 0, no parameter, a loss that does not depend on them.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> x = torch.ones(1, 3)
        >>> step = update_probe(model, lambda m: m(x).sum(), lr=0.5)
        >>> round(step.g2, 5), round(step.linear, 5), round(step.dL, 5)  # linear in θ: nothing beyond the first order
        (4.0, -2.0, -2.0)

    Source: https://kexue.fm/archives/8978, step D1.
    """
    return update_probes(model, loss_fn, {optimizer: lr}, parameters=parameters)[optimizer]


def update_probes(
    model: nn.Module,
    loss_fn: LossFunction,
    steps: Mapping[str, float],
    *,
    parameters: Callable[[str], bool] | None = None,
) -> dict[str, StepEffect]:
    """:func:`update_probe` for several steps from the same point: one backward pass for all.

    Args:
        model, loss_fn, parameters: as there.
        steps: ``optimizer → lr``.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> effects = update_probes(model, lambda m: m(torch.ones(1, 3)).sum(), {"sgd": 0.1, "sign": 0.1})
        >>> round(effects["sgd"].dL, 4), round(effects["sign"].dL, 4)
        (-0.4, -0.4)

    Source: https://kexue.fm/archives/8978, step D1.
    """
    effects = _probe(model, loss_fn, steps, *_probed(model, steps, parameters), None)
    return {kind: found[0] for kind, found in effects.items()}


def member_probes(
    model: nn.Module,
    loss_fn: LossFunction,
    steps: Mapping[str, float],
    *,
    parameters: Callable[[str], bool] | None = None,
) -> dict[str, list[StepEffect]]:
    r""":func:`update_probes` for many networks at once that share nothing but the calls.

    Small networks spend their time on calls, not on arithmetic. If every probed parameter has a first axis of E members
    (as in :class:`kexue_lib.lab.stacks.DeepStack`), one backward pass gives the gradients of all members.

    Args:
        model, steps, parameters: as there; the probed parameters are ``(E, ...)``.
        loss_fn: gives the losses ``(E,)``, or a pair of them and the features ``(E, ...)``. What belongs to member e
            may depend on the entries ``[e]`` of the parameters only.

    Returns:
        ``optimizer → [effect of each member]``.

    Example:
        >>> class Two(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> effects = member_probes(Two(), lambda m: m.w.square().sum(1), {"sgd": 0.25})["sgd"]
        >>> [(round(e.g2, 4), round(e.dL, 4)) for e in effects]
        [(20.0, -3.75), (36.0, -6.75)]

    Source: the chapter *deepnet-1000-layers*, experiment A.
    """
    names, probed = _probed(model, steps, parameters)
    members = probed[0].shape[0] if probed[0].dim() else 0
    if members < 1 or any(p.dim() < 1 or p.shape[0] != members for p in probed):
        raise ValueError(f"the probed parameters have no common first axis: {[tuple(p.shape) for p in probed][:4]} …")
    return _probe(model, loss_fn, steps, names, probed, members)


def _probe(
    model: nn.Module,
    loss_fn: LossFunction,
    steps: Mapping[str, float],
    names: list[str],
    values: list[Tensor],
    members: int | None,
) -> dict[str, list[StepEffect]]:
    rows = members or 1
    with torch.enable_grad():
        loss, features = _loss(loss_fn(model), members)
        if not loss.requires_grad:
            raise ValueError("the loss does not depend on any parameter")
        found = torch.autograd.grad(loss.sum(), values, allow_unused=True)
    before = None if features is None else features.detach().clone()
    start = loss.detach().double().reshape(rows)
    del loss, features
    # Parameters of one shape are handled together, (tensors, members, numbers): a thousand layers are few calls then.
    groups: dict[Any, list[int]] = {}
    for k, p in enumerate(values):
        groups.setdefault((p.shape, p.dtype, p.device), []).append(k)
    places = list(groups.values())
    saved = [torch.stack([values[k].detach() for k in group]) for group in places]
    grads = []
    for group, stack in zip(places, saved, strict=True):
        full = [torch.zeros_like(values[k]) if (g := found[k]) is None else g for k in group]
        grads.append(torch.stack(full).reshape(len(group), rows, stack[0].numel() // rows))
    del found

    def norms(tensors: list[Tensor], order: int) -> list[Tensor]:
        return [torch.linalg.vector_norm(t, order, dim=2).double() for t in tensors]

    squares, absolutes = [t.square() for t in norms(grads, 2)], norms(grads, 1)
    g2, g1 = (torch.stack([t.sum(0) for t in found]).sum(0) for found in (squares, absolutes))
    table: list[Any] = [None] * len(values)
    for group, two, one in zip(places, squares, absolutes, strict=True):
        for k, row in zip(group, torch.stack((two, one), dim=-1).tolist(), strict=True):
            table[k] = row
    per_param = [{name: (row[e][0], row[e][1]) for name, row in zip(names, table, strict=True)} for e in range(rows)]
    effects: dict[str, list[StepEffect]] = {}
    with torch.no_grad():
        for kind, lr in steps.items():
            if kind == "sgd":
                steps_of, linear = grads, -lr * g2
            elif kind == "sign":
                steps_of, linear = [g.sign() for g in grads], -lr * g1
            else:
                flat = [p.reshape(g.shape) for p, g in zip(saved, grads, strict=True)]
                sizes = [t / math.sqrt(max(1, g.shape[2])) for t, g in zip(norms(flat, 2), grads, strict=True)]
                sizes = [torch.where(t > 0, t, 1.0) for t in sizes]
                steps_of = [g.sign() * t[..., None].to(g.dtype) for t, g in zip(sizes, grads, strict=True)]
                linear = -lr * torch.stack([(t * a).sum(0) for t, a in zip(sizes, absolutes, strict=True)]).sum(0)
            try:
                for group, stack, move in zip(places, saved, steps_of, strict=True):
                    torch._foreach_add_([values[k] for k in group], list(move.view_as(stack).unbind()), alpha=-lr)
                after, moved = _loss(loss_fn(model), members)
            finally:
                for group, stack in zip(places, saved, strict=True):  # add and subtract would leave rounding errors
                    torch._foreach_copy_([values[k] for k in group], list(stack.unbind()))
            change: list[float | None] = [None] * rows
            if before is not None and moved is not None:
                change = (moved - before).reshape(rows, -1).double().square().mean(1).sqrt().tolist()
            numbers = torch.stack((g2, g1, linear, after.double().reshape(rows) - start, start), 1).tolist()
            effects[kind] = [
                StepEffect(g2=a, g1=b, linear=c, dL=d, dF=change[e], loss=f, per_param=per_param[e])
                for e, (a, b, c, d, f) in enumerate(numbers)
            ]
    return effects


def update_probe_plain(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: str = "sgd",
    lr: float = 1e-2,
    *,
    parameters: Callable[[str], bool] | None = None,
) -> StepEffect:
    """:func:`update_probe` on a copy of the model, parameter by parameter: its specification.

    Example:
        >>> round(update_probe_plain(nn.Linear(2, 1), lambda m: m(torch.ones(1, 2)).sum(), "sign", 0.5).dL, 5)
        -1.5

    Source: https://kexue.fm/archives/8978, step D1.
    """
    _probed(model, {optimizer: lr}, parameters)
    other = copy.deepcopy(model)
    names, values = _probed(other, {optimizer: lr}, parameters)
    with torch.enable_grad():
        loss, features = _loss(loss_fn(other))
        grads = torch.autograd.grad(loss, values, allow_unused=True)
    per_param, linear = {}, 0.0
    with torch.no_grad():
        for name, p, found in zip(names, values, grads, strict=True):
            g = torch.zeros_like(p) if found is None else found
            per_param[name] = (float(g.double().square().sum()), float(g.double().abs().sum()))
            step = g if optimizer == "sgd" else g.sign()
            if optimizer == "lamb":
                rms = p.square().mean().sqrt()
                step = step * torch.where(rms > 0, rms, torch.ones_like(rms))
            p -= lr * step
            linear -= lr * float((g.double() * step.double()).sum())
        after, moved = _loss(loss_fn(other))
    return StepEffect(
        g2=sum(a for a, _ in per_param.values()),
        g1=sum(b for _, b in per_param.values()),
        linear=linear,
        dL=float(after.double() - loss.detach().double()),
        dF=None
        if features is None or moved is None
        else float((moved - features.detach()).double().square().mean().sqrt()),
        loss=float(loss.detach()),
        per_param=per_param,
    )


def _probed(
    model: nn.Module, steps: Mapping[str, float], parameters: Callable[[str], bool] | None
) -> tuple[list[str], list[Tensor]]:
    if not steps:
        raise ValueError("steps is empty; give at least one optimizer and its learning rate")
    for kind, lr in steps.items():
        if kind not in STEP_KINDS:
            raise ValueError(f"optimizer={kind!r} is not known; choose one of {', '.join(map(repr, STEP_KINDS))}")
        if isinstance(lr, Tensor) or not 0 < lr < math.inf:
            raise ValueError(f"lr={lr!r} must be a finite number > 0")
    pairs = [(k, p) for k, p in model.named_parameters() if p.requires_grad and (parameters is None or parameters(k))]
    if not pairs:
        raise ValueError("no parameter is probed: none requires gradients, or parameters= chooses none")
    return [k for k, _ in pairs], [p for _, p in pairs]


def _loss(result: Any, members: int | None = None) -> tuple[Tensor, Tensor | None]:
    loss, features = result if isinstance(result, tuple) else (result, None)
    shape = () if members is None else (members,)
    if not isinstance(loss, Tensor) or loss.shape != shape:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn gave {found}; a tensor {shape}, or a pair of it and the features, is needed")
    return loss, features
