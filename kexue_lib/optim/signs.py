"""What Tiger and Lion share: a step of one size for all entries of a tensor, in the direction of a sign.

A step is ``theta <- (1 - eta * weight_decay) * theta - eta * sign(...)`` with ``eta = lr * scale(theta)``. The fast
form here works on *buckets*: lists of tensors (on a CPU also pieces of large tensors) of at most ``_BLOCK`` entries, so
that the temporary direction is small, stays in the cache on a CPU, and never doubles the memory of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .rounding import stochastic_round_

__all__ = ["SCALES", "relative_size"]

SCALES = ("auto", "rms", "rms_rows", "half", None)
"""How large a step is: see :class:`~kexue_lib.optim.tiger.Tiger`."""

# Entries of a bucket; on a CPU for each thread: four pieces stay in its caches while several operations visit them.
_BLOCK = {"cpu": 1 << 17}
_BLOCK_ELSEWHERE = 1 << 25

Scalar = float | Tensor


def resolve(scale: str | None, theta: Tensor) -> str | None:
    """What ``"auto"`` means for a tensor."""
    if scale == "auto":
        return "rms" if theta.dim() > 1 else "half"
    return scale


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Half precision is too coarse, and float16 too narrow, for the norm of a large tensor."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def relative_size(theta: Tensor, scale: str | None, min_rms: float = 0.0) -> Scalar:
    """The factor by which the learning rate of a tensor is multiplied (plain form).

    Args:
        theta: the parameter, any shape.
        scale: one of :data:`SCALES`.
        min_rms: lower limit of a root mean square.

    Returns:
        1 or 0.5, a 0-d tensor, or for ``"rms_rows"`` a tensor of shape ``(..., 1)``.
    """
    kind = resolve(scale, theta)
    if kind is None:
        return 1.0
    if kind == "half":
        return 0.5
    square = theta.detach().to(_exact(theta.dtype)).square()
    mean = square.mean(-1, keepdim=True) if kind == "rms_rows" and theta.dim() else square.mean()
    return mean.sqrt().clamp(min=min_rms)


def _fast_sizes(params: list[Tensor], scale: str | None, min_rms: float) -> list[Tensor]:
    """:func:`relative_size` of many tensors for the two scales that depend on the values."""
    if scale == "rms_rows":
        return [
            torch.linalg.vector_norm(p, dim=-1, keepdim=True, dtype=_exact(p.dtype))
            .div_(math.sqrt(p.shape[-1]))
            .clamp_(min=min_rms)
            if p.dim()
            else p.abs().clamp(min=min_rms)
            for p in params
        ]
    sizes = list(torch._foreach_norm(params, 2, dtype=_exact(params[0].dtype)))
    torch._foreach_div_(sizes, [math.sqrt(max(p.numel(), 1)) for p in params])
    if min_rms > 0:
        torch._foreach_clamp_min_(sizes, min_rms)
    return sizes


def check_number(name: str, value: Any, test: Callable[[float], bool], allowed: str) -> None:
    """Refuse a value that is not allowed; a 0-d tensor is not looked at."""
    if isinstance(value, Tensor):
        if value.dim():
            raise ValueError(f"{name} has shape {tuple(value.shape)}; a number or a 0-d tensor is needed")
        return
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} ({type(value).__name__}) must be a number, {allowed}")
    if not test(value):  # NaN fails every test
        raise ValueError(f"{name}={value!r} must be {allowed}")


class SignMomentum(torch.optim.Optimizer):
    """The common part of :class:`~kexue_lib.optim.tiger.Tiger` and :class:`~kexue_lib.optim.lion.Lion`."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        #: Parameters whose gradient a hook has folded into the momentum since the last step, with the finite test.
        self._folded: dict[Tensor, Tensor | None] = {}
        super().__init__(params, defaults)

    # --- what a subclass says --------------------------------------------------------------------------------------
    def _check_group(self, group: dict[str, Any]) -> None:
        raise NotImplementedError

    def _advance(
        self, group: dict[str, Any], momenta: list[Tensor], grads: list[Tensor], oks: list[Tensor] | None, last: bool
    ) -> list[Tensor]:
        """Fold the gradients into the momenta; return the directions (new tensors) if this ends a block."""
        raise NotImplementedError

    def _plain(
        self, group: dict[str, Any], theta: Tensor, m: Tensor, g: Tensor, scale: str | None
    ) -> tuple[Tensor, Tensor]:
        """The plain form: new parameter (``theta`` itself if it does not move) and new momentum."""
        raise NotImplementedError

    # --- torch's protocol ------------------------------------------------------------------------------------------
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its options are checked."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_number("lr", group["lr"], lambda x: 0 <= x < math.inf, "finite and >= 0")
            check_number("weight_decay", group["weight_decay"], lambda x: 0 <= x < math.inf, "finite and >= 0")
            check_number("min_rms", group["min_rms"], lambda x: 0 <= x < math.inf, "finite and >= 0")
            check_number("center", group["center"], math.isfinite, "finite (0, or 1 for the weight of a norm)")
            if group["shrink_ratio"] is not None:
                check_number("shrink_ratio", group["shrink_ratio"], lambda x: 0 < x <= 1, "in (0, 1], or None")
            if group["scale"] not in SCALES:
                raise ValueError(f"scale={group['scale']!r} is not known; choose one of {', '.join(map(repr, SCALES))}")
            if group["rounding"] not in ("nearest", "stochastic"):
                raise ValueError(f"rounding={group['rounding']!r} is not known; choose 'nearest' or 'stochastic'")
            for p in group["params"]:
                if p.is_complex():
                    raise TypeError("a parameter is complex; the sign of a complex number is not defined here")
                if group["rounding"] == "stochastic" and p.dtype != torch.bfloat16:
                    raise TypeError(f"rounding='stochastic' is for bfloat16; a parameter has dtype {p.dtype}")
            self._check_group(group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._folded = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` gave; a momentum keeps its own dtype (torch's way casts it to the parameter's)."""
        super().load_state_dict(state_dict)
        saved = [k for group in state_dict["param_groups"] for k in group["params"]]
        for key, p in zip(saved, (p for group in self.param_groups for p in group["params"]), strict=True):
            momentum = state_dict["state"].get(key, {}).get("exp_avg")
            if momentum is not None:
                self.state[p]["exp_avg"] = momentum.to(p.device, copy=True)

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        momenta: list[Tensor],
        waiting: list[Tensor],
        waiting_momenta: list[Tensor],
    ) -> None:
        """Collect the tensors (``torch.compile`` runs a method of this name outside its graph).

        ``waiting``: no gradient now, but there is a momentum that is in use: a hook has folded the gradient, or other
        micro-batches of the block have one.
        """
        state, folded, blocks = self.state, self._folded, group.get("grad_accum_steps", 1) > 1
        for p in group["params"]:
            g = p.grad
            if g is not None:
                if g.is_sparse:
                    raise TypeError("a gradient is sparse; use dense gradients (Embedding(sparse=False))")
                s = state[p]
                if not s:
                    s["exp_avg"] = self._new_momentum(group, p)
                if p.numel():
                    params.append(p)
                    grads.append(g)
                    momenta.append(s["exp_avg"])
            elif p in folded or (blocks and p in state):
                waiting.append(p)
                waiting_momenta.append(state[p]["exp_avg"])

    @staticmethod
    def _new_momentum(group: dict[str, Any], p: Tensor) -> Tensor:
        return torch.zeros_like(p, dtype=group["state_dtype"] or p.dtype, memory_format=torch.preserve_format)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One micro-step: fold the gradients into the momenta; the last one of a block moves the parameters.

        Args:
            closure: evaluates the model again and returns the loss, as for torch's optimizers.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            momenta: list[Tensor] = []
            waiting: list[Tensor] = []
            waiting_momenta: list[Tensor] = []
            self._init_group(group, params, grads, momenta, waiting, waiting_momenta)
            k, at = group.get("grad_accum_steps", 1), group.get("micro_step", 0)
            last = at == k - 1
            if group["foreach"] is False or group["rounding"] == "stochastic":
                for p, g, m in zip(params, grads, momenta, strict=True):
                    theta = p.float() if group["rounding"] == "stochastic" else p
                    moved, new = self._plain(group, theta, m, g.to(m.dtype), resolve(group["scale"], p))
                    m.copy_(new)
                    if moved is not theta:
                        self._store(group, p, moved)
            elif params:
                self._fast(group, params, grads, momenta, last)
            if waiting:
                self._without_gradient(group, waiting, waiting_momenta, at == 0, last)
            if k > 1:
                group["micro_step"] = 0 if last else at + 1
        if self._folded:
            self._folded.clear()
        return loss

    @staticmethod
    def _store(group: dict[str, Any], p: Tensor, value: Tensor) -> None:
        if group["rounding"] == "stochastic":
            stochastic_round_(p, value.float(), generator=group["generator"])
        else:
            p.copy_(value)

    # --- the fast form ---------------------------------------------------------------------------------------------
    def _fast(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], last: bool
    ) -> None:
        for kind, where in _by_kind(params, group["scale"]):
            ps, gs, ms = params, grads, momenta
            if where is not None:
                ps, gs, ms = ([x[i] for i in where] for x in (params, grads, momenta))
            oks = self._finite(gs) if group["shrink_ratio"] is not None else None
            sizes = _fast_sizes(ps, kind, group["min_rms"]) if last and kind in ("rms", "rms_rows") else None
            for bp, bg, bm, bs, bo in _buckets(ps, gs, ms, sizes, oks):
                directions = self._advance(group, bm, _like(bg, bm), bo, last)
                self._move(group, kind, bp, directions, bs, bo, last)

    def _without_gradient(
        self, group: dict[str, Any], params: list[Tensor], momenta: list[Tensor], first: bool, last: bool
    ) -> None:
        """Finish the micro-step of tensors without a gradient: fold zeros, or nothing if a hook has folded."""
        for p, m in zip(params, momenta, strict=True):
            if p not in self._folded and first:
                m.mul_(group["beta"])
            ok = self._folded.get(p)
            kind = resolve(group["scale"], p)
            if last or ok is not None:
                oks = None if ok is None else [ok]
                sizes = _fast_sizes([p], kind, group["min_rms"]) if last and kind in ("rms", "rms_rows") else None
                if group["rounding"] == "stochastic":
                    value = p.float()
                    self._move(group, kind, [value], [m.sign()] if last else [], sizes, oks, last)
                    self._store(group, p, value)
                else:
                    self._move(group, kind, [p], [m.sign()] if last else [], sizes, oks, last)

    @staticmethod
    def _finite(grads: list[Tensor]) -> list[Tensor] | None:
        """For each tensor a 0-d boolean: are all entries finite? None if that is known to be so."""
        runs = list(_runs(grads))
        # To look at a value stops an accelerator and breaks a graph, but costs a CPU nothing. There a finite sum of
        # squares, which is quick, says that all is well in almost every step.
        if not torch.compiler.is_compiling() and all(run[0].device.type == "cpu" for run in runs):
            norms = [torch.stack(torch._foreach_norm(run, 2, dtype=_exact(run[0].dtype))) for run in runs]
            if math.isfinite(sum(sum(x.tolist()) for x in norms)):
                return None
        oks: list[Tensor] = []
        for run in runs:
            # The largest absolute value is finite exactly if all entries are: it cannot overflow, and NaN spreads.
            oks.extend(torch.stack(torch._foreach_norm(run, math.inf)).isfinite().unbind())
        return oks

    def _move(
        self,
        group: dict[str, Any],
        kind: str | None,
        params: list[Tensor],
        directions: list[Tensor],
        sizes: list[Tensor] | None,
        oks: list[Tensor] | None,
        last: bool,
    ) -> None:
        """theta <- (1 - eta decay) theta - eta direction; a tensor with a bad gradient shrinks to its centre."""
        lr, decay, center = group["lr"], group["weight_decay"], group["center"]
        if not last and oks is None:
            return
        eta: Scalar = lr * 0.5 if kind == "half" else lr
        if oks is None and sizes is None and not isinstance(eta, Tensor):
            # p - c p instead of p (1 - c): a product with a number wraps it in a tensor, which small tensors feel.
            if len(params) == 1:  # the calls of one tensor cost less
                if decay:
                    params[0].add_(params[0], alpha=-eta * decay)
                params[0].add_(directions[0], alpha=-eta)
                return
            if decay:
                torch._foreach_add_(params, params, alpha=-eta * decay)
            torch._foreach_add_(params, directions, alpha=-eta)
            return
        etas: list[Tensor] = []
        if last:
            if sizes is not None:
                etas = list(torch._foreach_mul(sizes, eta))
            else:
                etas = [torch.as_tensor(eta, dtype=_exact(p.dtype), device=p.device) for p in params]
        if oks is not None:
            shrink = group["shrink_ratio"]
            if last:
                etas = [torch.where(ok, e, torch.zeros_like(e)) for ok, e in zip(oks, etas, strict=True)]
                factors = [
                    torch.where(ok, 1.0 - e * decay, torch.full_like(e, shrink))
                    for ok, e in zip(oks, etas, strict=True)
                ]
            else:
                factors = chosen(oks, 1.0, shrink, params)
            torch._foreach_mul_(params, factors)
            if center:
                torch._foreach_add_(params, chosen(oks, 0.0, center * (1.0 - shrink), params))
        elif decay:
            factors = list(torch._foreach_mul(etas, -decay))
            torch._foreach_add_(factors, 1.0)
            torch._foreach_mul_(params, factors)
        if last:
            torch._foreach_mul_(directions, etas)
            torch._foreach_sub_(params, directions)


def chosen(oks: Sequence[Tensor], good: float, bad: float, like: Sequence[Tensor]) -> list[Tensor]:
    """``good`` or ``bad`` for each tensor, as 0-d tensors that lose nothing in the dtype of ``like``."""
    # torch.where of two numbers would give float32 also where the tensors are float64
    return [
        torch.where(ok, torch.full((), good, dtype=dtype, device=ok.device), bad)
        for ok, dtype in zip(oks, (_exact(t.dtype) for t in like), strict=True)
    ]


def guarded(oks: Sequence[Tensor] | None, grads: list[Tensor], otherwise: list[Tensor] | None) -> list[Tensor]:
    """The gradients, with ``otherwise`` (or 0) in place of the tensors that are not finite."""
    if oks is None:
        return grads
    if otherwise is None:
        return [torch.where(ok, g, 0.0) for ok, g in zip(oks, grads, strict=True)]
    return [torch.where(ok, g, x) for ok, g, x in zip(oks, grads, otherwise, strict=True)]


def _like(grads: list[Tensor], momenta: list[Tensor]) -> list[Tensor]:
    """Gradients in the dtype of the momenta."""
    if grads[0].dtype == momenta[0].dtype:
        return grads
    return [g.to(m.dtype) for g, m in zip(grads, momenta, strict=True)]


def _by_kind(params: list[Tensor], scale: str | None) -> Iterator[tuple[str | None, list[int] | None]]:
    """The kinds of scale in a group, each with the places of its tensors (None: all)."""
    if scale != "auto":
        yield scale, None
        return
    places: dict[str | None, list[int]] = {}
    for i, p in enumerate(params):
        places.setdefault(resolve(scale, p), []).append(i)
    for kind, where in places.items():
        yield kind, None if len(where) == len(params) else where


def _runs(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one device and dtype."""
    start = 0
    for i, t in enumerate(tensors):
        if t.dtype != tensors[start].dtype or t.device != tensors[start].device:
            yield tensors[start:i]
            start = i
    yield tensors[start:]


_Bucket = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor] | None, list[Tensor] | None]


def _buckets(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    sizes: list[Tensor] | None,
    oks: list[Tensor] | None,
) -> Iterator[_Bucket]:
    """Cut lists of tensors into buckets of one device and dtype and of bounded size.

    On a CPU large tensors are cut too, along their first axis, so that any layout is allowed.
    """
    if torch.compiler.is_compiling():  # a compiler fuses by itself
        yield params, grads, momenta, sizes, oks
        return
    start, filled, count = 0, 0, len(params)
    dtype, device = params[0].dtype, params[0].device
    on_cpu = device.type == "cpu"
    block = _block(device)
    for i, p in enumerate(params):
        n = p.numel()
        if not on_cpu or filled + n > block:
            new = not on_cpu and (p.dtype != dtype or p.device != device)  # on a CPU a bucket may mix dtypes
            if filled and (new or filled + n > block):
                yield _part(params, grads, momenta, sizes, oks, start, i)
                start, filled = i, 0
            if new:
                dtype, device = p.dtype, p.device
                block = _block(device)
            if on_cpu and n > block and p.shape[0] > 1:
                size = None if sizes is None else sizes[i]
                yield from _pieces(p, grads[i], momenta[i], size, None if oks is None else oks[i], block)
                start = i + 1
                continue
        filled += n
    if start < count:
        yield _part(params, grads, momenta, sizes, oks, start, count)


def _block(device: torch.device) -> int:
    each = _BLOCK.get(device.type)
    return _BLOCK_ELSEWHERE if each is None else each * torch.get_num_threads()


def _pieces(p: Tensor, g: Tensor, m: Tensor, size: Tensor | None, ok: Tensor | None, block: int) -> Iterator[_Bucket]:
    """A large tensor, cut along its first axis."""
    rows = max(1, block * p.shape[0] // p.numel())
    oks = None if ok is None else [ok]
    cut = size is not None and size.dim() == p.dim()  # one size for each row
    parts = size.split(rows) if size is not None and cut else None
    for j, (a, b, c) in enumerate(zip(p.split(rows), g.split(rows), m.split(rows), strict=True)):
        yield [a], [b], [c], None if size is None else [parts[j] if parts is not None else size], oks


def _part(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    sizes: list[Tensor] | None,
    oks: list[Tensor] | None,
    start: int,
    stop: int,
) -> _Bucket:
    here = slice(start, stop)
    return (
        params[here],
        grads[here],
        momenta[here],
        None if sizes is None else sizes[here],
        None if oks is None else oks[here],
    )
