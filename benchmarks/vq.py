"""Benchmarks of kexue_lib.vq: linear attention over quantized keys against fused dense attention, and codebooks.

    python -m benchmarks.vq --list
    python -m benchmarks.vq vq_attention --case 4096

The bar of the attention is ``scaled_dot_product_attention`` from 1024 tokens on, where the two are near each other; for
shorter texts the dense kernel is the better choice.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import vq

_CHAPTER = "attention/vq-key-linear-attention"
_TESTS = ("tests/test_vq.py",)


def _keys(h: int, n: int, c: int, d: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Keys near a codebook, the codebook, their codes and codewords."""
    codebook = torch.randn(h, c, d, device=device, dtype=torch.promote_types(dtype, torch.float32))
    codes, k_hat = vq.vq_assign(torch.randn(1, h, n, d, device=device, dtype=dtype), codebook)
    return codebook, codes, k_hat.to(dtype)


def _inputs(h: int, n: int, c: int, d: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        codebook, codes, k_hat = _keys(h, n, c, d, device, dtype)
        q, v = (torch.randn(1, h, n, d, device=device, dtype=dtype, requires_grad=True) for _ in range(2))
        return q, v, codebook, codes, k_hat

    return make


# --- attention --------------------------------------------------------------------------------------------------------


def _attention_case(h: int, n: int, c: int, block: int, d: int, devices: tuple[str, ...], **more: Any) -> Case:
    options = {"n": n, "c": c, "block_size": block, "d": d}
    return Case(f"h={h} n={n} c={c} d={d}", _inputs(h, n, c, d), options, devices, **more)


def _ours(case: Case) -> Callable[..., Tensor]:
    block = case.options["block_size"]
    return lambda q, v, codebook, codes, k_hat: vq.vq_attention(
        q, codebook, codes, v, k_hat=k_hat, block_size=block, cache_grad=True
    )


def _plain(case: Case) -> Callable[..., Tensor]:
    return lambda q, v, codebook, codes, k_hat: vq.vq_attention_plain(
        q, codebook, codes, v, k_hat=k_hat, cache_grad=True
    )


def _fused(case: Case) -> Callable[..., Tensor]:
    """Dense causal attention; it gets the quantized keys ready made."""
    return lambda q, v, codebook, codes, k_hat: F.scaled_dot_product_attention(q, k_hat, v, is_causal=True)


def _factor(case: Case) -> float | None:
    """The plain form computes all n² pairs; the count of step D10 says how many ours needs."""
    n, d = case.options["n"], case.options["d"]
    full = 2 * vq.dense_multiply_adds(n, d, d)
    ratio = full / vq.vq_multiply_adds(n, d, d, case.options["c"], case.options["block_size"])
    return ratio if ratio > 1 else None


register(
    Operation(
        name="vq_attention",
        about="causal softmax attention over quantized keys, gradients of queries and values exact",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=(
            _attention_case(1, 1024, 128, 128, 64, ("cpu",)),
            _attention_case(1, 4096, 128, 128, 64, ("cpu",)),
            _attention_case(8, 4096, 512, 512, 64, ("cpu",), differentiable=False),
            _attention_case(1, 16384, 128, 128, 64, ("cpu",)),
            _attention_case(8, 32768, 512, 512, 64, ("cuda",)),
        ),
        contestants=(
            Contestant("kexue_lib", "ours", _ours),
            Contestant(
                "kexue_lib, plain form",
                "plain",
                _plain,
                applies=lambda case: case.options["n"] <= 4096 and "h=1" in case.name,
            ),
            Contestant("scaled_dot_product_attention", "peer", _fused),
        ),
        memory=True,
        factor=_factor,
    )
)


def _bias_inputs(n: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        q, v, codebook, codes, k_hat = _inputs(1, n, 128, 64)(device, dtype)
        bias = torch.randn(1, 128, device=device, dtype=dtype)
        gap = torch.arange(n, device=device)[:, None] - torch.arange(n, device=device)
        mask = torch.where((gap >= 0) & (gap < 128), bias[0, gap.clamp(0, 127)], 0.0)
        return q, v, codebook, codes, k_hat, bias, mask.masked_fill(gap < 0, -torch.inf)

    return make


def _windowed(attend: Callable[..., Tensor]) -> Callable[[Case], Callable[..., Tensor]]:
    return lambda case: (
        lambda q, v, codebook, codes, k_hat, bias, mask: attend(
            q, codebook, codes, v, k_hat=k_hat, bias=bias, block_size=128, cache_grad=True
        )
    )


register(
    Operation(
        name="vq_attention_with_window",
        about="the same with a bias for the nearest 128 distances",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=tuple(Case(f"n={n} c=128 l=128 d=64", _bias_inputs(n), {"n": n}) for n in (1024, 4096)),
        contestants=(
            Contestant("kexue_lib", "ours", _windowed(vq.vq_attention)),
            Contestant("kexue_lib, plain form", "plain", _windowed(vq.vq_attention_plain)),
            Contestant(
                "scaled_dot_product_attention, mask ready made",
                "peer",
                lambda case: (
                    lambda q, v, codebook, codes, k_hat, bias, mask: F.scaled_dot_product_attention(
                        q, k_hat, v, attn_mask=mask
                    )
                ),
            ),
        ),
        memory=True,
    )
)


# --- decoding ---------------------------------------------------------------------------------------------------------


def _decode_inputs(n: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        q, v, codebook, codes, k_hat = (x.detach() for x in _inputs(8, n, 128, 64)(device, dtype))
        return q, v, codebook, codes, k_hat

    return make


def _decode(case: Case) -> Callable[..., Tensor]:
    """The state after all tokens but the last, made once; then the last token."""
    states: dict[int, vq.VQAttentionState] = {}

    def f(q: Tensor, v: Tensor, codebook: Tensor, codes: Tensor, k_hat: Tensor) -> Tensor:
        last = slice(q.shape[2] - 1, None)
        if id(q) not in states:
            most = slice(0, q.shape[2] - 1)
            _, states[id(q)] = vq.vq_attention(
                q[:, :, most], codebook, codes[:, :, most], v[:, :, most], block_size=128, return_state=True
            )
        out: Tensor
        out, _ = vq.vq_attention(
            q[:, :, last],
            codebook,
            codes[:, :, last],
            v[:, :, last],
            block_size=128,
            state=states[id(q)],
            return_state=True,
        )
        return out

    return f


register(
    Operation(
        name="vq_decode",
        about="one more token of a stream, 8 heads: a state of fixed size against all keys and values",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=tuple(Case(f"h=8 n={n} c=128 d=64", _decode_inputs(n), {"n": n}) for n in (4096, 32768)),
        contestants=(
            Contestant("kexue_lib", "ours", _decode),
            Contestant(
                "scaled_dot_product_attention over all keys",
                "peer",
                lambda case: (
                    lambda q, v, codebook, codes, k_hat: F.scaled_dot_product_attention(q[:, :, -1:], k_hat, v)
                ),
            ),
        ),
        differentiable=False,
    )
)


# --- codebooks --------------------------------------------------------------------------------------------------------


def _assign_inputs(h: int, n: int, c: int, d: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        wide = torch.promote_types(dtype, torch.float32)
        return torch.randn(1, h, n, d, device=device, dtype=wide), torch.randn(h, c, d, device=device, dtype=wide)

    return make


def _by_cdist(case: Case) -> Callable[..., tuple[Tensor, Tensor]]:
    def f(k: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        codes = torch.cdist(k, codebook.unsqueeze(0)).argmin(-1)
        return codes, codebook.gather(1, codes[0].unsqueeze(-1).expand(-1, -1, k.shape[-1])).unsqueeze(0)

    return f


def _module(codebook: Tensor) -> Any:
    from vector_quantize_pytorch import VectorQuantize  # type: ignore[import-not-found, unused-ignore]

    h, c, d = codebook.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = VectorQuantize(
            dim=h * d, heads=h, codebook_dim=d, separate_codebook_per_head=True, codebook_size=c, decay=0.99, eps=1e-12
        ).to(codebook.device, codebook.dtype)
    for name in ("embed", "embed_avg"):
        getattr(module._codebook, name).data.copy_(codebook)
    module._codebook.cluster_size.data.fill_(1.0)
    return module


def _rows(k: Tensor) -> Tensor:
    """The keys of all heads side by side, as the peer wants them."""
    return k.transpose(1, 2).flatten(2).contiguous()


def _peer_assign(case: Case) -> Callable[..., Any]:
    made: dict[int, Any] = {}

    def f(k: Tensor, codebook: Tensor) -> Any:
        if id(codebook) not in made:
            made[id(codebook)] = _module(codebook).eval(), _rows(k)
        module, rows = made[id(codebook)]
        return module(rows)

    return f


def _read_assign(result: Any) -> tuple[Tensor, Tensor]:
    out, codes, _ = result
    codes = codes.reshape(1, codes.shape[1], -1)
    return codes.transpose(1, 2), out.unflatten(-1, (codes.shape[-1], -1)).transpose(1, 2)


register(
    Operation(
        name="vq_assign",
        about="the nearest code of each key, and its vector",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=tuple(
            Case(f"h={h} n={n} c={c} d=64", _assign_inputs(h, n, c, 64), {"n": n})
            for h, n, c in ((1, 4096, 128), (8, 4096, 512))
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: vq.vq_assign),
            Contestant(
                "kexue_lib, plain form",
                "plain",
                lambda case: vq.vq_assign_plain,
                applies=lambda case: "h=1" in case.name,
            ),
            Contestant("cdist and argmin", "peer", _by_cdist),
            Contestant(
                "vector-quantize-pytorch", "peer", _peer_assign, needs="vector_quantize_pytorch", read=_read_assign
            ),
        ),
        differentiable=False,
        memory=True,
    )
)


def _our_step(case: Case, k: Tensor, codebook: Tensor) -> Callable[[], Tensor]:
    book = vq.EMACodebook(*codebook.shape).to(codebook.device, codebook.dtype)
    book.codebook.copy_(codebook)
    book.sums.copy_(codebook)

    def step() -> Tensor:
        book(k)
        return book.codebook

    return step


def _peer_step(case: Case, k: Tensor, codebook: Tensor) -> Callable[[], Tensor]:
    module, rows = _module(codebook).train(), _rows(k)

    def step() -> Tensor:
        module(rows)
        found: Tensor = module._codebook.embed
        return found

    return step


register(
    Operation(
        name="vq_codebook_step",
        about="quantize keys with a straight-through estimator and move the codebook by its averages",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=tuple(
            Case(f"h={h} n={n} c={c} d=64", _assign_inputs(h, n, c, 64), {"n": n})
            for h, n, c in ((2, 1024, 64), (8, 4096, 512))
        ),
        contestants=(
            Contestant("kexue_lib", "ours", _our_step),
            Contestant("vector-quantize-pytorch", "peer", _peer_step, needs="vector_quantize_pytorch"),
        ),
        differentiable=False,
        stateful=True,
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))
