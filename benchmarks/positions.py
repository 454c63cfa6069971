"""Benchmarks of kexue_lib.positions.

    python -m benchmarks.positions --list
    python -m benchmarks.positions rerope_attention --case 512

A rotation is bound by memory: each number of q is read and written once. ReRoPE is bound by its scores: a causal matrix
of them is needed, two whole ones are not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import positions

_ATTENTION = "attention/entropy-invariant-softmax"
_CHAPTER = "length/beta-base-positions"


def _random(*shapes: tuple[int, ...]) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    return lambda device, dtype: tuple(torch.randn(s, device=device, dtype=dtype, requires_grad=True) for s in shapes)


# --- rotation from shared tables ------------------------------------------------------------------------------------


def _rope_ours(case: Case) -> Callable[..., Tensor]:
    interleaved = case.options["interleaved"]
    tables: dict[str, Tensor] = {}

    def f(x: Tensor) -> Tensor:
        if "cos" not in tables:
            inv_freq = positions.rope_inv_freq(x.shape[-1], device=x.device)
            tables["cos"], tables["sin"] = positions.rope_tables(torch.arange(x.shape[-2], device=x.device), inv_freq)
        return positions.apply_rotary(x, tables["cos"], tables["sin"], interleaved=interleaved)

    return f


def _rope_plain(case: Case) -> Callable[..., Tensor]:
    return lambda x: positions.apply_rope_plain(x, **case.options)


def _rotate_half(case: Case) -> Callable[..., Tensor]:
    """x·cos + rotate_half(x)·sin with full-width tables, as most model code has it."""
    interleaved = case.options["interleaved"]
    tables: dict[str, Tensor] = {}

    def f(x: Tensor) -> Tensor:
        if not tables:
            cos, sin = positions.rope_tables(
                torch.arange(x.shape[-2], device=x.device), positions.rope_inv_freq(x.shape[-1], device=x.device)
            )
            widen = (lambda t: t.repeat_interleave(2, -1)) if interleaved else (lambda t: torch.cat((t, t), -1))
            tables["cos"], tables["sin"] = widen(cos).to(x.dtype), widen(sin).to(x.dtype)
        if interleaved:
            a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
            turned = torch.stack((-b, a), dim=-1).flatten(-2)
        else:
            a, b = x.chunk(2, dim=-1)
            turned = torch.cat((-b, a), dim=-1)
        return x * tables["cos"] + turned * tables["sin"]

    return f


def _rotary_embedding_torch(case: Case) -> Callable[..., Tensor]:
    from rotary_embedding_torch import RotaryEmbedding  # type: ignore[import-not-found, unused-ignore]

    factor = case.options.get("factor", 1.0)
    made: dict[str, RotaryEmbedding] = {}

    def f(x: Tensor) -> Tensor:
        if "module" not in made:
            made["module"] = RotaryEmbedding(dim=x.shape[-1], theta_rescale_factor=factor).to(x.device)
        return made["module"].rotate_queries_or_keys(x)

    return f


def _rope_operation(
    name: str, interleaved: bool, peers: tuple[Contestant, ...], note: str | Callable[[Case], str] = ""
) -> Operation:
    shapes = ((("cpu",), ((16, 1, 64, 32), (2, 8, 512, 64))), (("cuda",), ((8, 16, 2048, 64),)))
    return Operation(
        name=name,
        chapter=_ATTENTION,
        about=f"rotary position encoding from shared tables; pairs are {'neighbours' if interleaved else 'halves'}",
        tests=("tests/test_positions.py",),
        cases=tuple(
            Case(
                f"b={b} h={h} n={n} d={d}",
                _random((b, h, n, d)),
                {"interleaved": interleaved},
                devices,
            )
            for devices, group in shapes
            for b, h, n, d in group
        ),
        contestants=(
            Contestant("kexue_lib", "ours", _rope_ours),
            Contestant("kexue_lib, rotation matrices", "plain", _rope_plain),
            Contestant("x·cos + rotate_half(x)·sin", "peer", _rotate_half),
            *peers,
        ),
        note=note,
    )


register(
    _rope_operation(
        "rope_interleaved",
        True,
        (Contestant("rotary-embedding-torch", "peer", _rotary_embedding_torch, needs="rotary_embedding_torch"),),
    )
)


def _why_halves(case: Case) -> str:
    """Why the smallest case is slower."""
    return (
        "The peer's tables are as wide as x and made before; ours are half as wide, which costs calls of kernels. They "
        "are felt where x is small (here 32 768 numbers); otherwise ours is faster."
    )


register(_rope_operation("rope_halves", False, (), _why_halves))


# --- rotation by scaled frequencies, tables included ----------------------------------------------------------------

_FACTOR = 8.0
_TRAINED = 64


def _scaled(method: str, interleaved: bool, plain: bool = False) -> Callable[[Case], Callable[..., Any]]:
    """q and k, rotated by frequencies that are made once and tables that are made in each call, as a model does."""

    def make(case: Case) -> Callable[..., Any]:
        made: dict[str, Tensor] = {}

        def f(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            if not made:
                theta = positions.rope_inv_freq(q.shape[-1], device=q.device, dtype=torch.float32)
                made["theta"] = positions.scale_rope(theta, _FACTOR, method, train_len=_TRAINED)
                made["t"] = torch.arange(q.shape[-2], device=q.device)
            if plain:
                turned = [
                    positions.apply_rope_plain(x, made["t"], made["theta"], interleaved=interleaved) for x in (q, k)
                ]
                return turned[0], turned[1]
            cos, sin = positions.rope_tables(made["t"], made["theta"])
            return (
                positions.apply_rotary(q, cos, sin, interleaved=interleaved),
                positions.apply_rotary(k, cos, sin, interleaved=interleaved),
            )

        return f

    return make


def _llama(case: Case) -> Callable[..., Any]:
    """A Llama of transformers, rope_type "llama3"."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    made: dict[str, Any] = {}

    def f(q: Tensor, k: Tensor) -> Any:
        if not made:
            config = LlamaConfig(
                hidden_size=q.shape[-1],
                num_attention_heads=1,
                max_position_embeddings=int(_FACTOR * _TRAINED),
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": _FACTOR,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": _TRAINED,
                },
            )
            made["module"] = LlamaRotaryEmbedding(config).to(q.device)
            made["t"] = torch.arange(q.shape[-2], device=q.device)[None]
        return apply_rotary_pos_emb(q, k, *made["module"](q, made["t"]))

    return f


def _two(f: Callable[[Case], Callable[..., Tensor]]) -> Callable[[Case], Callable[..., Any]]:
    def make(case: Case) -> Callable[..., Any]:
        rotate = f(case)
        return lambda q, k: (rotate(q), rotate(k))

    return make


def _scaled_operation(name: str, about: str, method: str, interleaved: bool, peer: Contestant) -> Operation:
    shapes = ((16, 2, 64, 32, ("cpu",)), (2, 8, 512, 64, ("cpu",)), (8, 16, 4096, 128, ("cuda",)))
    return Operation(
        name=name,
        chapter=_CHAPTER,
        about=about,
        tests=("tests/test_positions.py", "tests/test_positions_scaling.py"),
        cases=tuple(
            Case(f"b={b} h={h} n={n} d={d}", _random((b, h, n, d), (b, h, n, d)), {"factor": _FACTOR}, devices)
            for b, h, n, d, devices in shapes
        ),
        contestants=(
            Contestant("kexue_lib", "ours", _scaled(method, interleaved)),
            Contestant(
                "kexue_lib, rotation matrices",
                "plain",
                _scaled(method, interleaved, plain=True),
                applies=lambda case: "4096" not in case.name,
            ),
            peer,
        ),
    )


register(
    _scaled_operation(
        "rope_scaled_halves",
        "q and k by Llama 3's scaled frequencies, tables made anew; pairs are halves",
        "llama3",
        False,
        Contestant("transformers, a Llama's", "peer", _llama, needs="transformers"),
    )
)
register(
    _scaled_operation(
        "rope_scaled_interleaved",
        "q and k by NTK-aware frequencies, tables made anew; pairs are neighbours",
        "ntk_aware",
        True,
        Contestant("rotary-embedding-torch", "peer", _two(_rotary_embedding_torch), needs="rotary_embedding_torch"),
    )
)


# --- clipped distances ----------------------------------------------------------------------------------------------


def _rerope(f: Callable[..., Tensor]) -> Callable[[Case], Callable[..., Tensor]]:
    def make(case: Case) -> Callable[..., Tensor]:
        window, leak = case.options["window"], case.options["leak"]
        made: dict[str, Tensor] = {}

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if not made:
                made["theta"] = positions.rope_inv_freq(q.shape[-1], device=q.device, dtype=torch.float32)
            return f(q, k, v, made["theta"], window, leak)

        return run

    return make


def _rotary_sdpa(case: Case) -> Callable[..., Tensor]:
    """Ordinary rotary attention: one score for each pair, by a fused kernel."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(positions.apply_rope(q), positions.apply_rope(k), v, is_causal=True)

    return run


def _rerope_case(b: int, h: int, n: int, d: int, window: int, leak: float | None, devices: tuple[str, ...]) -> Case:
    name = f"b={b} h={h} n={n} d={d} w={window}{'' if leak is None else f' leak={leak:g}'}"
    return Case(name, _random(*3 * ((b, h, n, d),)), {"window": window, "leak": leak}, devices)


register(
    Operation(
        name="rerope_attention",
        chapter=_CHAPTER,
        about="causal attention whose relative positions are clipped at w (ReRoPE), or grow slowly beyond (leaky)",
        tests=("tests/test_positions.py", "tests/test_positions_clipped.py"),
        cases=(
            _rerope_case(16, 2, 64, 32, 32, None, ("cpu",)),
            _rerope_case(4, 2, 512, 32, 32, None, ("cpu",)),
            _rerope_case(1, 8, 1024, 64, 256, None, ("cpu",)),
            _rerope_case(1, 8, 1024, 64, 256, 8.0, ("cpu",)),
            _rerope_case(4, 16, 4096, 64, 512, None, ("cuda",)),
        ),
        contestants=(
            Contestant("kexue_lib, blocks", "ours", _rerope(positions.rerope_attention)),
            Contestant("kexue_lib, two matrices of scores", "plain", _rerope(positions.rerope_attention_plain)),
            Contestant("ordinary RoPE by SDPA", "limit", _rotary_sdpa, agrees=lambda case: False),
        ),
        memory=True,
    )
)


# --- digits ---------------------------------------------------------------------------------------------------------


def _numbers(count: int, radices: tuple[int, ...]) -> Case:
    top = math.prod(radices)

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.randint(0, top, (count,), device=device),)

    return Case(f"{count} numbers, {len(radices)} digits", inputs, {"radices": radices})


def _unravel(case: Case) -> Callable[[Tensor], Tensor]:
    shape = case.options["radices"][::-1]
    return lambda n: torch.stack(torch.unravel_index(n, shape)[::-1], dim=-1)


def _by_powers(case: Case) -> Callable[[Tensor], Tensor]:
    """The definition, by broadcasting: n // (β_1⋯β_{m−1}) % β_m."""
    radices = case.options["radices"]

    def f(n: Tensor) -> Tensor:
        weights = torch.tensor([math.prod(radices[:m]) for m in range(len(radices))], device=n.device)
        return n[:, None] // weights % torch.tensor(radices, device=n.device)

    return f


register(
    Operation(
        name="mixed_radix_digits",
        chapter=_CHAPTER,
        about="the digits of integers where each place has a radix of its own",
        tests=("tests/test_positions_radix.py",),
        cases=(_numbers(1000, (10, 10, 10, 10)), _numbers(100_000, (60, 60, 24, 7, 52))),
        contestants=(
            Contestant(
                "kexue_lib",
                "ours",
                lambda case: lambda n: positions.mixed_radix_digits(n, case.options["radices"]),
            ),
            Contestant("n // β₁⋯βₘ₋₁ % βₘ", "plain", _by_powers),
            Contestant("torch.unravel_index", "peer", _unravel),
        ),
        differentiable=False,
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))
