"""Benchmarks of kexue_lib.attention and kexue_lib.gau.

    python -m benchmarks.attention --list
    python -m benchmarks.attention entropy_invariant_attention --case 512
    python -m benchmarks.attention --device cuda --dtype bfloat16 --json attention.json

The bar everywhere: at least as fast as the best peer at equal shapes (ratio ours : peer <= 1).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import attention, gau

_CHAPTER = "attention/entropy-invariant-softmax"


def _random(*shapes: tuple[int, ...]) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    return lambda device, dtype: tuple(torch.randn(s, device=device, dtype=dtype, requires_grad=True) for s in shapes)


# --- entropy-invariant attention ------------------------------------------------------------------------------------


def _attention_case(b: int, h: int, n: int, d: int, causal: bool, device: str) -> Case:
    name = f"{'causal' if causal else 'all'} b={b} h={h} n={n} d={d}"
    return Case(name, _random(*3 * ((b, h, n, d),)), {"is_causal": causal}, (device,))


def _premultiplied(case: Case) -> Callable[..., Tensor]:
    """What one would write by hand: the row factors, made once, times q."""
    causal = case.options["is_causal"]
    tables: dict[int, Tensor] = {}

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = q.shape[2]
        if n not in tables:
            seen = torch.arange(1, n + 1, device=q.device) if causal else torch.full((n,), n, device=q.device)
            tables[n] = (seen.float().log() / math.log(512)).to(q.dtype)[:, None]
        return F.scaled_dot_product_attention(q * tables[n], k, v, is_causal=causal)

    return f


def _sdpa(case: Case) -> Callable[..., Tensor]:
    """Plain attention with a constant scale. Under a causal mask that is another function, with less work: a limit."""
    causal = case.options["is_causal"]
    factor = 1.0 if causal else None

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = (factor or attention.attention_scale(k.shape[2], 1)) / math.sqrt(q.shape[3])
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)

    return f


def _why_attention(case: Case) -> str:
    """Where the time beyond the kernel goes."""
    if not case.options["is_causal"]:
        return "The same kernel with the same arguments: the difference is the check of the inputs."
    return (
        "The same kernel. The peer keeps the factors of the rows from call to call; ours makes them in each call, by "
        "three small operations that only short texts feel."
    )


_SHAPES = ((8, 8, 64, 64), (4, 8, 256, 64), (1, 8, 1024, 64))
_GPU_SHAPES = ((32, 16, 512, 64), (8, 16, 2048, 64), (2, 16, 8192, 128))

register(
    Operation(
        name="entropy_invariant_attention",
        chapter=_CHAPTER,
        about="softmax attention whose scale grows with the logarithm of the number of visible keys",
        tests=("tests/test_attention.py",),
        cases=tuple(
            _attention_case(*shape, causal, device)
            for device, shapes in (("cpu", _SHAPES), ("cuda", _GPU_SHAPES))
            for shape in shapes
            for causal in (False, True)
        ),
        contestants=(
            Contestant(
                "kexue_lib",
                "ours",
                lambda case: lambda *x: attention.entropy_invariant_attention(*x, **case.options),
            ),
            Contestant(
                "kexue_lib, plain form",
                "plain",
                lambda case: lambda *x: attention.entropy_invariant_attention_plain(*x, **case.options),
            ),
            Contestant(
                "SDPA, its scale made by hand", "peer", _sdpa, applies=lambda case: not case.options["is_causal"]
            ),
            Contestant("SDPA, q multiplied by stored factors", "peer", _premultiplied),
            Contestant(
                "SDPA without the factor",
                "limit",
                _sdpa,
                agrees=lambda case: False,
                applies=lambda case: bool(case.options["is_causal"]),
            ),
        ),
        note=_why_attention,
    )
)


# --- the attention of a gated attention unit ------------------------------------------------------------------------


def _gau_case(b: int, n: int, s: int, e: int, devices: tuple[str, ...]) -> Case:
    return Case(f"b={b} n={n} s={s} e={e}", _random((b, n, s), (b, n, s), (b, n, e)), {"scale": "logn"}, devices)


def _softmax_by_hand(case: Case) -> Callable[..., Tensor]:
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lam = attention.attention_scale(k.shape[1], q.shape[2])
        return torch.softmax((lam * q) @ k.transpose(1, 2), dim=-1) @ v

    return f


def _single_head_sdpa(case: Case) -> Callable[..., Tensor]:
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = attention.attention_scale(k.shape[1], q.shape[2])
        q, k, v = (x.unsqueeze(1) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1)

    return f


register(
    Operation(
        name="gau_attention",
        chapter=_CHAPTER,
        about="the attention of a gated attention unit: one head, keys of width s, values of width e",
        tests=("tests/test_gau.py",),
        cases=(
            _gau_case(16, 64, 32, 128, ("cpu",)),
            _gau_case(1, 1024, 128, 512, ("cpu",)),
            _gau_case(8, 2048, 128, 1536, ("cuda",)),
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: lambda *x: gau.gau_attention(*x, **case.options)),
            Contestant(
                "kexue_lib, plain form", "plain", lambda case: lambda *x: gau.gau_attention_plain(*x, **case.options)
            ),
            Contestant("softmax(λ q kᵀ) v by hand", "peer", _softmax_by_hand),
            Contestant("SDPA", "peer", _single_head_sdpa),
        ),
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))
