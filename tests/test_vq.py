"""kexue_lib.vq: linear-time attention over quantized keys equals the dense one, its gradients, streams, codebooks."""

from __future__ import annotations

import doctest
import importlib
import math
import shutil
import warnings
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensors import DEVICE, HALF_AND_UP, randn_
from tolerances import GRADIENT, OUTPUT, assert_close, relative_rms
from torch.utils._python_dispatch import TorchDispatchMode

import kexue_lib.vq as V
import kexue_lib.vq.attention
import kexue_lib.vq.blocks
import kexue_lib.vq.codebook
import kexue_lib.vq.cost
import kexue_lib.vq.plain

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64
MODES = (False, True, "exact")


def problem(b=2, h=2, n=13, c=5, dk=4, dv=3, *, seed=0, dtype=F64, size=1.0):
    """q, codebook, codes, v, k_hat: keys near a codebook."""
    q, k, v = (
        size * randn_(b, h, n, dk, seed=seed, dtype=dtype),
        randn_(b, h, n, dk, seed=seed + 1, dtype=dtype),
        randn_(b, h, n, dv, seed=seed + 2, dtype=dtype),
    )
    codebook = randn_(h, c, dk, seed=seed + 3, dtype=dtype if dtype in (torch.float32, F64) else torch.float32)
    codes, k_hat = V.vq_assign(k, codebook)
    return q, codebook, codes, v, k_hat


def toeplitz(h, width, *, seed=7, dtype=F64):
    return randn_(h, width, seed=seed, dtype=dtype)


def dense(q, k, v, bias=None, scale=None):
    """Softmax attention written out once more, with nothing of the library."""
    n = q.shape[2]
    scores = q @ k.transpose(-1, -2) * (q.shape[3] ** -0.5 if scale is None else scale)
    for i, j in product(range(n), range(n)):
        if j > i:
            scores[..., i, j] = -math.inf
        elif bias is not None and i - j < bias.shape[1]:
            scores[..., i, j] = scores[..., i, j] + bias[:, i - j]
    return torch.softmax(scores, -1) @ v


def values_and_gradients(f, tensors):
    """Output, and the gradient of every tensor (zeros where there is none)."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    out = f(*leaves)
    weight = randn_(*out.shape, seed=99)
    grads = torch.autograd.grad((out.double() * weight).sum(), leaves, allow_unused=True)
    return out, [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]


def assert_equals_plain(shape, length, *, cache_grad, given_keys, with_bias, causal=True, dtype=F64):
    q, codebook, codes, v, k_hat = problem(**shape, dtype=dtype)
    inputs = {"q": q, "v": v, "codebook": codebook}
    if given_keys:
        inputs["k_hat"] = k_hat.to(dtype)
    if with_bias:
        inputs["bias"] = toeplitz(q.shape[1], length, dtype=dtype)
    names = list(inputs)

    def call(function):
        def f(*tensors):
            t = dict(zip(names, tensors, strict=True))
            return function(
                t["q"],
                t["codebook"],
                codes,
                t["v"],
                k_hat=t.get("k_hat"),
                bias=t.get("bias"),
                block_size=length,
                cache_grad=cache_grad,
                causal=causal,
            )

        return f

    before = [x.clone() for x in inputs.values()]
    out, grads = values_and_gradients(call(V.vq_attention), inputs.values())
    ref, wanted = values_and_gradients(call(V.vq_attention_plain), [x.double() for x in inputs.values()])
    assert_close("output", out, ref, OUTPUT[dtype])
    for name, got, want in zip(names, grads, wanted, strict=True):
        floor = 0.1 * torch.ones_like(want)  # a gradient that is zero up to rounding has no relative error
        size = max(1.0, float(floor.norm() / want.norm().clamp(min=1e-300)))
        assert_close(f"gradient of {name}", got, want, size * GRADIENT[dtype])
    assert all(torch.equal(x, y) for x, y in zip(inputs.values(), before, strict=True))
    return dict(zip(names, grads, strict=True))


# --- the identity -----------------------------------------------------------------------------------------------------


def test_pick_out_identity():  # D1
    q, codebook, codes, _, k_hat = problem()
    for f in (torch.exp, torch.sin, lambda x: x**3 - 1):
        one_hot = F.one_hot(codes, codebook.shape[1]).to(F64)
        direct = f(q @ k_hat.transpose(-1, -2))
        picked = f(q @ codebook.transpose(-1, -2)) @ one_hot.transpose(-1, -2)
        torch.testing.assert_close(direct, picked, rtol=1e-14, atol=1e-14)
    soft = torch.softmax(8 * one_hot, -1)  # nearly one-hot is not enough
    assert (f(q @ (soft @ codebook).transpose(-1, -2)) - f(q @ codebook.transpose(-1, -2)) @ soft.mT).abs().max() > 0.1


@pytest.mark.parametrize("n", [1, 2, 9])
def test_plain_forms_are_dense_attention(n):
    q, codebook, codes, v, k_hat = problem(n=n)
    bias = toeplitz(2, 3)
    assert_close("no bias", V.vq_attention_plain(q, codebook, codes, v), dense(q, k_hat, v), OUTPUT[F64])
    assert_close(
        "bias",
        V.vq_attention_plain(q, codebook, codes, v, bias=bias, block_size=3, scale=0.7),
        dense(q, k_hat, v, bias, 0.7),
        OUTPUT[F64],
    )
    assert_close(
        "recursion", V.vq_attention_recurrent_plain(q, codebook, codes, v), dense(q, k_hat, v), 4 * OUTPUT[F64]
    )
    everything = torch.softmax(q @ k_hat.mT / 2, -1) @ v
    assert_close("all", V.vq_attention_plain(q, codebook, codes, v, causal=False), everything, OUTPUT[F64])


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("given_keys", [False, True], ids=["codebook", "k_hat"])
@pytest.mark.parametrize("cache_grad", MODES)
def test_attention_equals_its_plain_form(cache_grad, given_keys, with_bias, dtype):
    """Output and each gradient, lengths below, at and beyond one, two and many blocks."""
    for n, length in ((1, 4), (8, 4), (13, 3), (13, 16), (41, 8)):
        assert_equals_plain(
            {"n": n}, length, cache_grad=cache_grad, given_keys=given_keys, with_bias=with_bias, dtype=dtype
        )


@pytest.mark.parametrize("cache_grad", MODES)
@pytest.mark.parametrize("given_keys", [False, True], ids=["codebook", "k_hat"])
def test_attention_over_everything_equals_its_plain_form(cache_grad, given_keys):
    for n in (1, 300):
        assert_equals_plain({"n": n}, 4, cache_grad=cache_grad, given_keys=given_keys, with_bias=False, causal=False)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40),
    length=st.integers(1, 45),
    c=st.integers(1, 9),
    budget=st.sampled_from([1, 200, 2000, 2**19]),
    cache_grad=st.sampled_from(MODES),
    with_bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
@example(n=40, length=1, c=1, budget=1, cache_grad="exact", with_bias=True, seed=0)
def test_any_block_size_and_any_chunks_give_dense_attention(n, length, c, budget, cache_grad, with_bias, seed):
    """Chunks of one block, of some blocks and rows, of everything: no seam, forward or backward."""
    saved = kexue_lib.vq.blocks._BUDGET["cpu"]
    kexue_lib.vq.blocks._BUDGET["cpu"] = budget
    try:
        assert_equals_plain(
            {"n": n, "c": c, "seed": seed, "b": 1, "h": 3},
            length,
            cache_grad=cache_grad,
            given_keys=True,
            with_bias=with_bias,
        )
    finally:
        kexue_lib.vq.blocks._BUDGET["cpu"] = saved


@pytest.mark.parametrize("tile", [1, 3, 7, 64])
def test_without_a_window_the_blocks_may_have_any_length(tile, monkeypatch):
    monkeypatch.setattr(kexue_lib.vq.attention, "_TILE", tile)
    q, codebook, codes, v, k_hat = problem(n=50)
    assert_close("output", V.vq_attention(q, codebook, codes, v), dense(q, k_hat, v), OUTPUT[F64])
    assert_equals_plain({"n": 50}, 4, cache_grad="exact", given_keys=True, with_bias=False)


def test_unused_codes_change_nothing():
    q, codebook, codes, v, _ = problem(n=20)
    far = torch.cat((codebook, 1e3 * randn_(2, 4, 4, seed=8)), dim=1)
    out = V.vq_attention(q, far, codes, v, block_size=2, bias=toeplitz(2, 2))
    assert_close("output", out, V.vq_attention(q, codebook, codes, v, block_size=2, bias=toeplitz(2, 2)), OUTPUT[F64])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**6))
def test_codes_may_be_renamed(n, length, seed):
    q, codebook, codes, v, _ = problem(n=n, seed=seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    renamed = torch.argsort(order)[codes]
    bias = toeplitz(2, length)
    out = V.vq_attention(q, codebook, codes, v, block_size=length, bias=bias)
    other = V.vq_attention(q, codebook[:, order], renamed, v, block_size=length, bias=bias)
    torch.testing.assert_close(out, other, rtol=1e-11, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 9), st.floats(0.1, 1e3), st.integers(0, 10**6))
def test_attention_stays_in_the_hull_of_the_values_seen(n, length, size, seed):
    q, codebook, codes, v, _ = problem(n=n, seed=seed, size=size)
    out = V.vq_attention(q, codebook, codes, v, block_size=length, bias=toeplitz(2, length))
    assert (out <= v.cummax(2).values + 1e-12).all()
    assert (out >= v.cummin(2).values - 1e-12).all()


def test_rows_do_not_see_later_tokens():
    q, codebook, codes, v, _ = problem(n=12)
    bias = toeplitz(2, 3)
    out = V.vq_attention(q, codebook, codes, v, block_size=3, bias=bias)
    for seen in range(1, 12):
        other_codes, other_v = codes.clone(), v.clone()
        other_codes[:, :, seen:], other_v[:, :, seen:] = 0, 1e3
        changed = V.vq_attention(q, codebook, other_codes, other_v, block_size=3, bias=bias)
        assert_close("earlier rows", changed[:, :, :seen], out[:, :, :seen], OUTPUT[F64])
        assert relative_rms(changed[:, :, seen:], out[:, :, seen:]) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_huge_scores_and_long_sequences_stay_finite(dtype):
    """The sums without a common maximum would overflow: e^(q·C) and n·v both (D3)."""
    q, codebook, codes, v, k_hat = problem(b=1, h=1, n=3000, c=7, dtype=dtype, size=300.0)
    out, grads = values_and_gradients(
        lambda q, v, k: V.vq_attention(q, codebook, codes, v, k_hat=k, block_size=64, cache_grad="exact"),
        (q, v, k_hat),
    )
    ref = F.scaled_dot_product_attention(q.double(), k_hat.double(), v.double(), is_causal=True)
    assert relative_rms(out, ref) < {torch.float32: 1e-3, torch.bfloat16: 1e-2}[dtype]
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("value", [1e4, 3e4])
def test_mean_values_keep_their_digits(value):
    """A constant value comes out as it went in, after 4096 tokens of a few codes."""
    q, codebook, codes, _, _ = problem(b=1, h=1, n=4096, c=3, dtype=torch.float32)
    v = torch.full((1, 1, 4096, 2), value, device=DEVICE)
    out, state = V.vq_attention(q, codebook, codes, v, block_size=16, return_state=True)
    assert float((out / value - 1).abs().max()) < 1e-5
    assert float((state.means[state.counts > 0] / value - 1).abs().max()) < 1e-5


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweep", [True, False], ids=["sweep", "pairs"])
@pytest.mark.parametrize("previous", [True, False])
def test_exact_gradient_of_separate_keys_in_linear_time(sweep, previous):  # D7
    """Both ways give what autograd gives for dense attention whose keys are separate tensors."""
    b, h, nb, length, c, dk, dv = 1, 2, 6, 3, 4, 3, 2
    q, codebook, codes, v, k_hat = problem(b=b, h=h, n=nb * length, c=c, dk=dk, dv=dv)

    def blocks(x):
        return x.reshape(b * h, nb, length, *x.shape[3:])

    zero_counts, zero_sums = torch.zeros(h, c, dtype=F64), torch.zeros(h, c, dv, dtype=F64)
    options = kexue_lib.vq.blocks.Options(previous, 0.5, "exact", h, F64, sweep)

    def ours(q, k, v):
        return kexue_lib.vq.blocks.BlockAttention.apply(
            blocks(q), blocks(k), blocks(v), codebook, None, blocks(codes), zero_counts, zero_sums, options
        ).reshape(b, h, nb * length, dv)

    out, grads = values_and_gradients(ours, (q, k_hat, v))
    ref, wanted = values_and_gradients(lambda q, k, v: dense(q, k, v, scale=0.5), (q, k_hat, v))
    assert_close("output", out, ref, OUTPUT[F64])
    for name, got, want in zip("qkv", grads, wanted, strict=True):
        assert_close(name, got, want, 4 * GRADIENT[F64])


def test_exact_gradient_equals_finite_differences():
    """The exact gradient is that of the dense form by each k̂; the fast form is not changed by moving one of them."""
    q, codebook, codes, v, k_hat = problem(b=1, h=1, n=9, c=3, dk=2, dv=2)
    _, (got,) = values_and_gradients(
        lambda k: V.vq_attention(q, codebook, codes, v, k_hat=k, block_size=2, cache_grad="exact"), (k_hat,)
    )
    weight, step = randn_(1, 1, 9, 2, seed=99), 1e-5
    want = torch.zeros_like(k_hat)
    for j, d in product(range(9), range(2)):
        move = torch.zeros_like(k_hat)
        move[0, 0, j, d] = step
        up, down = (((dense(q, k_hat + s * move, v)) * weight).sum() for s in (1, -1))
        want[0, 0, j, d] = (up - down) / (2 * step)
    assert float((got - want).abs().max()) < 1e-7


def test_same_code_different_gradients():
    """Why the pick-out trick alone gives no gradient: tokens of one code need gradients of their own (C4)."""
    q, codebook, codes, v, k_hat = problem(b=1, h=1, n=12, c=2)
    _, (grad,) = values_and_gradients(
        lambda k: V.vq_attention(q, codebook, codes, v, k_hat=k, block_size=2, cache_grad="exact"), (k_hat,)
    )
    same = grad[0, 0][codes[0, 0] == codes[0, 0, 0]]
    assert len(same) > 2
    assert (same - same[0])[1:].abs().amax(-1).min() > 1e-4


def test_stopped_cache_gives_keys_the_gradient_of_two_blocks():  # D8
    """The gradient of a key sums over the queries of its own and the next block, and no others."""
    q, codebook, codes, v, k_hat = problem(b=1, h=1, n=24)
    length = 4

    def grads(rows, mode):
        k = k_hat.clone().requires_grad_()
        out = V.vq_attention(q, codebook, codes, v, k_hat=k, block_size=length, cache_grad=mode)
        return torch.autograd.grad(out[:, :, rows].sum(), k)[0][0, 0].abs().sum(-1)

    for block in range(6):
        rows = slice(block * length, block * length + length)
        reached = (grads(rows, False) > 0).nonzero().flatten().tolist()
        assert reached == list(range(max(0, block - 1) * length, block * length + length))
        assert (grads(rows, "exact")[: block * length + length] > 0).all()


def test_gradcheck():
    q, codebook, codes, v, _ = problem(b=1, h=2, n=7, c=3, dk=2, dv=2)
    bias = toeplitz(2, 2).requires_grad_()
    inputs = [x.requires_grad_() for x in (q, codebook, v)]
    assert torch.autograd.gradcheck(
        lambda q, c, v, b: V.vq_attention(q, c, codes, v, bias=b, block_size=2, cache_grad=True), [*inputs, bias]
    )


def test_no_second_derivative():
    q, codebook, codes, v, k_hat = problem()
    q.requires_grad_()
    for options in ({}, {"causal": False, "k_hat": k_hat, "cache_grad": "exact"}):
        out = V.vq_attention(q, codebook, codes, v, **options)
        with pytest.raises(RuntimeError, match="vq_attention_plain"):  # not silently zero
            torch.autograd.grad(out.sum(), q, create_graph=True)


# --- streaming --------------------------------------------------------------------------------------------------------


def stream(pieces, q, codebook, codes, v, **options):
    state, start, outs = None, 0, []
    for size in pieces:
        part = slice(start, start + size)
        out, state = V.vq_attention(
            q[:, :, part], codebook, codes[:, :, part], v[:, :, part], state=state, return_state=True, **options
        )
        outs.append(out)
        start += size
    return torch.cat(outs, dim=2), state


@settings(deadline=None, max_examples=60)
@given(
    pieces=st.lists(st.integers(0, 13), min_size=1, max_size=12),
    length=st.integers(1, 6),
    with_bias=st.booleans(),
    learns=st.booleans(),
    seed=st.integers(0, 10**6),
)
@example(pieces=[1] * 12, length=3, with_bias=True, learns=False, seed=0)
@example(pieces=[3, 3, 3, 3, 1], length=3, with_bias=True, learns=False, seed=0)
def test_any_split_of_the_stream_gives_the_same(pieces, length, with_bias, learns, seed):
    n = max(1, sum(pieces))
    pieces = pieces if sum(pieces) else [1]
    q, codebook, codes, v, k_hat = problem(n=n, seed=seed)
    bias = toeplitz(2, length) if with_bias else None
    out, state = stream(pieces, q.requires_grad_(learns), codebook, codes, v, bias=bias, block_size=length)
    torch.testing.assert_close(out, dense(q, k_hat, v, bias), rtol=1e-11, atol=1e-12)
    _, at_once = stream([n], q, codebook, codes, v, bias=bias, block_size=length)
    torch.testing.assert_close(state.means, at_once.means, rtol=1e-11, atol=1e-12)
    assert torch.equal(state.counts, at_once.counts)
    assert torch.equal(state.recent_codes, at_once.recent_codes)
    assert torch.equal(state.recent_v, at_once.recent_v)
    assert state.recent_v.shape[2] < 2 * length
    assert int(state.counts[0, 0].sum()) + state.recent_v.shape[2] == n


def test_a_stream_passes_gradients_to_its_own_tokens():
    q, codebook, codes, v, k_hat = problem(n=20)
    _, state = stream([13], q[:, :, :13], codebook, codes[:, :, :13], v[:, :, :13], block_size=4)
    last = slice(13, 20)

    def ours(q, v, k):
        return V.vq_attention(q, codebook, codes[:, :, last], v, k_hat=k, block_size=4, cache_grad="exact", state=state)

    def whole(q_, v_, k_):
        put = lambda old, new: torch.cat((old[:, :, :13], new), dim=2)  # noqa: E731
        return dense(put(q, q_), put(k_hat, k_), put(v, v_))[:, :, last]

    inputs = [x[:, :, last] for x in (q, v, k_hat)]
    out, grads = values_and_gradients(ours, inputs)
    ref, wanted = values_and_gradients(whole, inputs)
    assert_close("output", out, ref, OUTPUT[F64])
    for name, got, want in zip("qvk", grads, wanted, strict=True):
        assert_close(name, got, want, 4 * GRADIENT[F64])


def test_state_does_not_grow():
    q, codebook, codes, v, _ = problem(b=1, h=1, n=200)
    _, early = stream([40], q, codebook, codes, v, block_size=8)
    _, late = stream([40, 160], q, codebook, codes, v, block_size=8)
    assert [x.shape for x in early[:4]] == [x.shape for x in late[:4]]
    numbers = V.vq_state_numbers(5, 3, 8)
    assert early.counts.numel() + early.means.numel() == numbers["cache"]
    _, fullest = stream([47], q, codebook, codes, v, block_size=8)
    assert fullest.recent_codes.numel() + fullest.recent_v.numel() == numbers["recent"]
    assert late.recent_v.untyped_storage().nbytes() == late.recent_v.numel() * 8  # no view of the whole sequence


def test_decoding_makes_no_blocks():
    """One more token costs one row, not two blocks of rows."""
    q, codebook, codes, v, _ = problem(b=1, h=1, n=300, c=4)
    _, state = V.vq_attention(q, codebook, codes, v, block_size=128, return_state=True)
    new = [x[:, :, :1].clone() for x in (q, codes, v)]
    with LargestTensor() as seen:
        V.vq_attention(new[0], codebook, new[1], new[2], block_size=128, state=state)
    assert seen.numel <= 256 * 4  # the recent keys themselves


# --- assignment and codebook ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 10**6))
def test_assignment_is_the_nearest_code(n, c, d, seed):
    k, codebook = randn_(2, 3, n, d, seed=seed), randn_(3, c, d, seed=seed + 1)
    codes, k_hat = V.vq_assign(k, codebook)
    want, want_hat = V.vq_assign_plain(k, codebook)
    assert torch.equal(codes, want)
    assert torch.equal(k_hat, want_hat)
    nearest = torch.stack([torch.cdist(k[:, h], codebook[h][None]).amin(-1) for h in range(3)], 1)
    torch.testing.assert_close((k - k_hat).norm(dim=-1), nearest, rtol=1e-9, atol=1e-9)


def test_ties_go_to_the_lowest_code():
    codebook = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]], device=DEVICE)
    k = torch.tensor([[[[0.0, 3.0], [1.0, 0.0]]]], device=DEVICE)
    assert V.vq_assign(k, codebook)[0].tolist() == [[[0, 0]]]


def test_assignment_by_parts_has_no_seam(monkeypatch):
    k, codebook = randn_(2, 3, 50, 4), randn_(3, 7, 4, seed=1)
    want = V.vq_assign(k, codebook)[0]
    monkeypatch.setitem(kexue_lib.vq.codebook._BUDGET, "cpu", 100)
    assert torch.equal(V.vq_assign(k, codebook)[0], want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_assignment_equals_the_peer(dtype):
    vector_quantize_pytorch = importlib.import_module("vector_quantize_pytorch")
    h, c, d, n = 2, 6, 4, 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = vector_quantize_pytorch.VectorQuantize(
            dim=h * d, heads=h, codebook_dim=d, separate_codebook_per_head=True, codebook_size=c
        ).to(DEVICE)
        assert isinstance(peer.project_in, torch.nn.Identity)  # the heads are the parts of the width
        peer.to(dtype).eval()
        k = randn_(1, h, n, d, dtype=dtype)
        out, indices, _ = peer(k.transpose(1, 2).reshape(1, n, h * d))
    codes, k_hat = V.vq_assign(k, peer._codebook.embed.detach())
    assert torch.equal(codes[0].T, indices[0])
    torch.testing.assert_close(out.view(n, h, d).transpose(0, 1)[None], k_hat)


def test_moving_averages_equal_the_peer():
    """With the same start, three steps move both codebooks alike (the peer's smoothing of counts is switched off)."""
    vector_quantize_pytorch = importlib.import_module("vector_quantize_pytorch")
    h, c, d = 2, 4, 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = vector_quantize_pytorch.VectorQuantize(
            dim=h * d, heads=h, codebook_dim=d, separate_codebook_per_head=True, codebook_size=c, decay=0.9, eps=1e-12
        ).to(DEVICE)
        peer.train()
        ours = V.EMACodebook(h, c, d, decay=0.9).to(DEVICE)
        start = randn_(h, c, d, dtype=torch.float32)
        peer._codebook.embed.data.copy_(start)
        peer._codebook.embed_avg.data.copy_(start)
        peer._codebook.cluster_size.data.fill_(1.0)
        ours.codebook.copy_(start)
        ours.sums.copy_(start)
        for step in range(3):
            k = randn_(1, h, 200, d, seed=step + 5, dtype=torch.float32)
            _, indices, _ = peer(k.transpose(1, 2).reshape(1, 200, h * d))
            assert torch.equal(ours(k).codes[0].T, indices[0])
    torch.testing.assert_close(ours.codebook, peer._codebook.embed, rtol=1e-5, atol=1e-6)


def test_straight_through_has_the_value_of_the_code_to_the_last_bit():
    k, k_hat = randn_(50, seed=1, dtype=torch.float32, grad=True), 1e-3 * randn_(50, seed=2, dtype=torch.float32)
    out = V.straight_through(k, k_hat)
    assert torch.equal(out, k_hat)
    assert not torch.equal(k + (k_hat - k).detach(), k_hat)  # the usual form rounds
    (grad,) = torch.autograd.grad((out * k_hat).sum(), k)
    assert torch.equal(grad, k_hat)


def test_codebook_moves_by_the_averages():  # D8
    book = V.EMACodebook(1, 2, 1, decay=0.75).double().to(DEVICE)
    book.codebook.copy_(torch.tensor([[[0.0], [10.0]]]))
    book.sums.copy_(book.codebook)
    k = torch.tensor([1.0, 3.0, 2.0], dtype=F64, device=DEVICE).view(1, 1, 3, 1)
    quantized = book(k)
    assert quantized.codes.flatten().tolist() == [0, 0, 0]
    assert float(quantized.commit_loss) == pytest.approx((1 + 9 + 4) / 3)
    assert quantized.codebook.flatten().tolist() == [0, 10]  # the one that was used
    counts = [0.75 + 0.25 * 3, 0.75]
    assert book.counts.flatten().tolist() == pytest.approx(counts)
    assert book.codebook.flatten().tolist() == pytest.approx([0.25 * 6 / counts[0], 7.5 / counts[1]])
    before = book.codebook.clone()
    book.eval()(k)
    assert torch.equal(book.codebook, before)
    assert set(book.state_dict()) == {"codebook", "sums", "counts"}


def test_commitment_draws_keys_to_their_codes_only():
    book = V.EMACodebook(2, 4, 3, generator=torch.Generator().manual_seed(0)).double().to(DEVICE)
    k = randn_(1, 2, 7, 3, grad=True)
    quantized = book(k)
    (grad,) = torch.autograd.grad(quantized.commit_loss, k)
    torch.testing.assert_close(grad, 2 * (k - quantized.k_hat).detach() / 14)
    assert not quantized.codebook.requires_grad


def test_repeated_training_steps_lead_to_the_means():
    """Fixed clusters: the averages converge to the cluster means."""
    centres = torch.tensor([[[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]]], dtype=torch.float32, device=DEVICE)
    k = (centres[0].repeat(30, 1) + 0.3 * randn_(90, 2, dtype=torch.float32))[None, None]
    book = V.EMACodebook(1, 3, 2, decay=0.8).to(DEVICE)
    book.init_kmeans(k[:, :, :3])
    for _ in range(60):
        codes = book(k).codes
    means = torch.stack([k[0, 0][codes[0, 0] == s].mean(0) for s in range(3)])
    torch.testing.assert_close(book.codebook[0], means, rtol=1e-4, atol=1e-4)
    assert float(book.perplexity()) == pytest.approx(3, abs=1e-3)


def test_kmeans_lowers_the_error():
    k = randn_(2, 2, 200, 3, dtype=torch.float32)
    book = V.EMACodebook(2, 8, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def error():
        return float((k - V.vq_assign(k, book.codebook)[1]).square().mean())

    random = error()
    book.init_kmeans(k, iterations=0, generator=torch.Generator().manual_seed(1))
    drawn = error()
    book.init_kmeans(k, iterations=10, generator=torch.Generator().manual_seed(1))
    assert error() < 0.9 * drawn
    assert drawn < random
    assert book.counts.mean(-1).tolist() == pytest.approx([1, 1], rel=1e-5)
    few = V.EMACodebook(2, 8, 3).to(DEVICE)
    few.init_kmeans(k[:, :, :1])  # fewer keys than codes
    assert few.codebook.isfinite().all()


def test_unused_codes_are_put_on_keys():
    book = V.EMACodebook(1, 3, 2).to(DEVICE)
    book.counts.copy_(torch.tensor([[1.0, 0.001, 2.0]]))
    old = book.codebook.clone()
    k = randn_(1, 1, 5, 2, dtype=torch.float32) + 100
    dead = book.reset_unused(k, generator=torch.Generator().manual_seed(0))
    assert dead.tolist() == [[False, True, False]]
    assert torch.equal(book.codebook[0, [0, 2]], old[0, [0, 2]])
    assert (book.codebook[0, 1] == k[0, 0]).all(-1).any()
    torch.testing.assert_close(book.sums[0, 1], book.codebook[0, 1])
    assert book.counts[0, 1] == 1


# --- cost -------------------------------------------------------------------------------------------------------------


def test_costs_are_equal_at_the_break_even():  # D10
    for d_k, d_v, c, length in product((16, 64), (16, 128), (64, 512), (32, 512)):
        n = V.vq_break_even(d_k, d_v, c, length)
        assert V.vq_multiply_adds(n, d_k, d_v, c, length) == pytest.approx(V.dense_multiply_adds(n, d_k, d_v))
    assert V.vq_break_even(64, 64, 512, 512) == 3 * 512 + 3 * 512 + 1


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out


def peak_bytes(f):
    """Peak of what PyTorch's allocator held during f, from the profiler's record of allocations and releases."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
        f()
    held = peak = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.skipif(DEVICE.type != "cpu", reason="reads the CPU allocator")
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"cache_grad": "exact"}], ids=str)
def test_peak_memory_grows_linearly(options):
    """Forward and backward, beyond the constant of the buffers: twice the length, at most 2.1 times the memory."""

    def peak(n):
        q, codebook, codes, v, k_hat = problem(b=1, h=1, n=n, c=8, dk=8, dv=8, dtype=torch.float32)
        more = {**options, "bias": toeplitz(1, 32, dtype=torch.float32)} if "bias" in options else options
        leaves = [x.requires_grad_() for x in (q, v, k_hat)]
        return peak_bytes(
            lambda: torch.autograd.grad(
                V.vq_attention(q, codebook, codes, v, k_hat=k_hat, block_size=32, **more).sum(), leaves
            )
        )

    small, large = peak(2**14), peak(2**15)
    assert large <= 2.1 * small
    assert large < 4 * 8 * 2**15 * 25 + 8 * 4 * 2**19  # some tensors of the size of v, and the buffers of a chunk


def test_work_grows_linearly():
    """Counted floating-point operations of the matrix products double with the length."""
    from torch.utils.flop_counter import FlopCounterMode

    def count(n, **options):
        q, codebook, codes, v, k_hat = problem(b=1, h=1, n=n, c=16, dk=8, dv=8, dtype=torch.float32)
        in_place = {torch.ops.aten.baddbmm_: lambda _, a, b, **rest: 2 * math.prod(a) * b[-1]}
        counter = FlopCounterMode(display=False, custom_mapping=in_place)
        with counter:
            V.vq_attention(q, codebook, codes, v, k_hat=k_hat, block_size=32, **options)
        return counter.get_total_flops()

    bias = toeplitz(1, 32, dtype=torch.float32)
    for options in ({}, {"bias": bias}):
        assert count(2048, **options) == 2 * count(1024, **options)
        assert count(65536, **options) == 64 * count(1024, **options)
    # Two dense blocks and c codes, scores and values: 2 flops each.
    assert count(1024, bias=bias) == 2 * 1024 * (2 * 32 + 16) * (8 + 8)


# --- refusals, autocast, compilation, documentation -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"q": None}, TypeError, "NoneType"),
        ({"q": lambda x: x[0]}, ValueError, r"\(2, 13, 4\)"),
        ({"q": lambda x: x.long()}, TypeError, "int64"),
        ({"q": lambda x: x[..., :3]}, ValueError, "width"),
        ({"v": lambda x: x[:, :, :5]}, ValueError, r"v \(2, 2, 5, 3\)"),
        ({"codes": lambda x: x.double()}, TypeError, "float64"),
        ({"codes": lambda x: x + 4}, IndexError, "5 codes"),
        ({"codes": lambda x: x - 1}, IndexError, "-1"),
        ({"codebook": lambda x: x.half()}, ValueError, "float16"),
        ({"codebook": lambda x: x.long()}, ValueError, "int64"),
        ({"codebook": lambda x: x[:1]}, ValueError, "heads"),
        ({"k_hat": lambda x: x[:, :, :5]}, ValueError, "k_hat"),
        ({"block_size": 0}, ValueError, "block_size=0"),
        ({"block_size": 2.0}, ValueError, r"block_size=2\.0"),
        ({"bias": torch.zeros(2, 3)}, ValueError, r"\(2, 512\)"),
        ({"bias": torch.zeros(1, 512)}, ValueError, r"bias \(1, 512\)"),
        ({"scale": math.nan}, ValueError, "scale=nan"),
        ({"cache_grad": "all"}, ValueError, "'all'"),
        ({"causal": False, "bias": torch.zeros(2, 512)}, ValueError, "bias needs causal"),
        ({"causal": False, "return_state": True}, ValueError, "return_state needs causal"),
    ],
    ids=lambda x: str(x)[:30] if isinstance(x, dict) else "",
)
def test_attention_refuses(change, error, words):
    q, codebook, codes, v, k_hat = problem()
    given_values = {"q": q, "codebook": codebook, "codes": codes, "v": v, "k_hat": k_hat}
    for name, value in change.items():
        given_values[name] = value(given_values[name]) if callable(value) else value
    with pytest.raises(error, match=words):
        V.vq_attention(**given_values)


def test_a_state_of_another_kind_is_refused():
    q, codebook, codes, v, _ = problem()
    _, state = V.vq_attention(q, codebook, codes, v, block_size=4, return_state=True)
    with pytest.raises(ValueError, match="block_size=4, not 8"):
        V.vq_attention(q, codebook, codes, v, block_size=8, state=state)
    with pytest.raises(ValueError, match="means of shape"):
        V.vq_attention(q[:1], codebook, codes[:1], v[:1], block_size=4, state=state)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: V.EMACodebook(0, 2, 3), ValueError, "heads=0"),
        (lambda: V.EMACodebook(1, 2, 3, decay=1.0), ValueError, r"decay=1\.0"),
        (lambda: V.EMACodebook(1, 2, 3, eps=0.0), ValueError, r"eps=0\.0"),
        (lambda: V.vq_assign(torch.zeros(2, 3), torch.zeros(1, 2, 3)), ValueError, "b, h, n, d"),
        (lambda: V.vq_assign(torch.zeros(1, 1, 2, 3), torch.zeros(1, 2, 3).bfloat16()), ValueError, "bfloat16"),
        (lambda: V.straight_through(torch.zeros(2), torch.zeros(3)), ValueError, "same shape"),
        (lambda: V.vq_multiply_adds(4, 1, 1, 0, 2), ValueError, "c=0"),
    ],
)
def test_the_rest_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_autocast_accumulates_in_float32():
    q, codebook, codes, v, k_hat = problem(n=63, dtype=torch.float32)
    for options in ({}, {"causal": False}):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            out = V.vq_attention(q.bfloat16(), codebook, codes, v.bfloat16(), k_hat=k_hat, block_size=8, **options)
            plain = V.vq_attention(q, codebook, codes, v, k_hat=k_hat, block_size=8, **options)
            assigned, _ = V.vq_assign(k_hat, codebook)
        assert out.dtype == torch.bfloat16
        assert torch.equal(assigned, codes)
        assert plain.dtype == torch.float32
        ref = V.vq_attention_plain(q.double(), codebook.double(), codes, v.double(), block_size=8, **options)
        assert_close("float32 inputs", plain, ref, OUTPUT[torch.float32])
        exact = [x.bfloat16().double() for x in (q, v)]
        ref = V.vq_attention_plain(exact[0], codebook.double(), codes, exact[1], block_size=8, **options)
        assert_close("bfloat16 inputs", out, ref, OUTPUT[torch.bfloat16])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("cache_grad", MODES)
def test_attention_compiles(cache_grad, backend):
    torch._dynamo.reset()
    q, codebook, codes, v, k_hat = problem(n=11)
    bias = toeplitz(2, 4)

    def f(q, v, k, bias):
        return V.vq_attention(q, codebook, codes, v, k_hat=k, bias=bias, block_size=4, cache_grad=cache_grad)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own
        out, grads = values_and_gradients(torch.compile(f, fullgraph=True, backend=backend), (q, v, k_hat, bias))
    ref, wanted = values_and_gradients(f, (q, v, k_hat, bias))
    assert_close("output", out, ref, OUTPUT[F64])
    for got, want in zip(grads, wanted, strict=True):
        assert_close("gradient", got, want, GRADIENT[F64])


def test_codebook_compiles():
    torch._dynamo.reset()
    book = V.EMACodebook(2, 5, 4, generator=torch.Generator().manual_seed(0)).double().to(DEVICE)
    other = V.EMACodebook(2, 5, 4, generator=torch.Generator().manual_seed(0)).double().to(DEVICE)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        k = randn_(1, 2, 30, 4, seed=seed)
        want, got = book(k), compiled(k)
        assert torch.equal(want.codes, got.codes)
    torch.testing.assert_close(book.codebook, other.codebook)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_attention_through_inductor():
    torch._dynamo.reset()
    q, codebook, codes, v, k_hat = problem(n=40, dtype=torch.float32)

    def f(q, v, k):
        return V.vq_attention(q, codebook, codes, v, k_hat=k, block_size=8)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out, grads = values_and_gradients(torch.compile(f, fullgraph=True), (q, v, k_hat))
    ref, wanted = values_and_gradients(f, (q, v, k_hat))
    assert_close("output", out, ref, OUTPUT[torch.float32])
    for got, want in zip(grads, wanted, strict=True):
        assert_close("gradient", got, want, 4 * GRADIENT[torch.float32])


def test_processes_share_their_averages(tmp_path):
    """Two gloo processes with half of the keys each move their codebooks as one process with all keys."""
    import torch.multiprocessing as mp

    mp.start_processes(_half_of_the_keys, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    book = V.EMACodebook(1, 4, 2, generator=torch.Generator().manual_seed(0))
    book(randn_(2, 1, 20, 2, dtype=torch.float32).cpu())
    torch.testing.assert_close(book.codebook, first)


def _half_of_the_keys(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    book = V.EMACodebook(1, 4, 2, generator=torch.Generator().manual_seed(0))
    book(randn_(2, 1, 20, 2, dtype=torch.float32).cpu()[rank : rank + 1])
    torch.save(book.codebook, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["attention", "codebook", "plain", "cost"])
def test_examples_of_the_documentation(name):
    found = doctest.testmod(getattr(kexue_lib.vq, name))
    assert found.attempted
    assert not found.failed
