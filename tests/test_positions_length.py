"""kexue_lib.positions: the factor log n and the window."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, HALF_AND_UP, randn_

import kexue_lib.positions as P
from kexue_lib.attention import attention_scale

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64


# --- log n ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 10**6), st.booleans())
def test_nothing_changes_up_to_the_trained_length(train_len, wide):
    dtype = F64 if wide else torch.float32
    positions = torch.tensor([0, 1, train_len // 2, train_len - 2, train_len - 1], device=DEVICE, dtype=dtype)
    assert torch.equal(P.logn_scale(positions, train_len), torch.ones_like(positions))
    beyond = P.logn_scale(positions[-1:] + max(1, train_len // 1000), train_len)
    assert (beyond > 1).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 10**5), st.integers(1, 64))
def test_at_k_times_the_length_it_is_one_plus_log_k_over_log_n(train_len, k):
    last = torch.tensor(k * train_len - 1, dtype=F64, device=DEVICE)
    want = 1 + math.log(k) / math.log(train_len)
    assert P.logn_scale(last, train_len).item() == pytest.approx(want, rel=1e-13)
    assert P.logn_scale(last, train_len, clip=False).item() == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("train_len", [2, 64, 512])
def test_unclipped_it_is_the_scale_of_attention(train_len):
    positions = torch.arange(3000, device=DEVICE)
    want = attention_scale(positions + 1, 16, train_len=train_len, dtype=F64) * 4
    got = P.logn_scale(positions.double(), train_len, clip=False)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
    torch.testing.assert_close(P.logn_scale(positions.double(), train_len), want.clamp(min=1), rtol=1e-13, atol=0)
    assert got[0] == 0.0


def test_dtypes_and_gradients_of_log_n():
    positions = torch.tensor([3, 100], device=DEVICE)
    assert P.logn_scale(positions, 10).dtype == torch.float32
    for dtype in HALF_AND_UP:
        assert P.logn_scale(positions.to(dtype), 10).dtype == torch.promote_types(dtype, torch.float32)
    at = (5 * torch.rand(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) + 20).to(DEVICE).requires_grad_()
    for clip in (True, False):
        assert torch.autograd.gradcheck(lambda t, clip=clip: P.logn_scale(t, 10, clip), at)
    (below,) = torch.autograd.grad(P.logn_scale(at, 1000).sum(), at)
    assert (below == 0).all()


# --- the window -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 15), st.booleans(), st.integers(0, 20))
def test_window_keeps_the_distances_below_it(n_q, n_k, window, causal, offset):
    if offset + n_q - 1 - (n_k - 1) >= window:
        with pytest.raises(ValueError, match="sees no key"):
            P.sliding_window_mask(n_q, n_k, window, causal, offset, device=DEVICE)
        return
    mask = P.sliding_window_mask(n_q, n_k, window, causal, offset, device=DEVICE)
    t = [[offset + i - j for j in range(n_k)] for i in range(n_q)]
    assert mask.tolist() == [[(x >= 0 if causal else -window < x) and x < window for x in row] for row in t]
    assert mask.any(-1).all()
    assert mask.device.type == DEVICE.type


def test_a_window_of_all_keys_is_the_causal_mask():
    assert torch.equal(P.sliding_window_mask(7, 7, 7), torch.ones(7, 7).tril().bool())
    assert P.sliding_window_mask(7, 7, 7, causal=False).all()


def test_continued_from_a_cache_the_last_rows_are_the_same():
    whole = P.sliding_window_mask(20, 20, 5)
    assert torch.equal(P.sliding_window_mask(3, 20, 5, q_offset=17), whole[17:])


def test_log_n_and_window_compile_and_ignore_autocast():
    torch._dynamo.reset()
    positions = torch.arange(50, device=DEVICE)

    def f(positions):
        return P.logn_scale(positions, 8), P.sliding_window_mask(5, 5, 3, device=positions.device)

    want = f(positions)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        cast = f(positions)
    for got in (torch.compile(f, fullgraph=True, backend="eager")(positions), cast):
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: P.logn_scale(torch.arange(3), 1), "train_len=1 "),
        (lambda: P.logn_scale(torch.arange(3), math.nan), "train_len=nan"),
        (lambda: P.logn_scale(torch.arange(3), torch.tensor(5.0)), "train_len="),
        (lambda: P.sliding_window_mask(3, 3, 0), "window=0"),
        (lambda: P.sliding_window_mask(0, 3, 1), "n_q=0"),
        (lambda: P.sliding_window_mask(3, 0, 1), "n_k=0"),
        (lambda: P.sliding_window_mask(3, 3, 1.5), r"window=1\.5"),
        (lambda: P.sliding_window_mask(3, 3, 1, q_offset=-1), "q_offset=-1"),
        (lambda: P.sliding_window_mask(3, 3, 1, q_offset=2), "sees no key; use a window >= 3"),
    ],
)
def test_length_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_log_n_commutes_with_rotation():
    q, positions = randn_(40, 8), torch.arange(40, device=DEVICE)
    scale = P.logn_scale(positions.double(), 8)[:, None]
    theta = P.rope_inv_freq(8, device=DEVICE, dtype=F64)
    torch.testing.assert_close(P.apply_rope(q * scale, inv_freq=theta), P.apply_rope(q, inv_freq=theta) * scale)
