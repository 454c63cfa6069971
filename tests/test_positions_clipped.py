"""kexue_lib.positions: clipped distances. The blocks against the matrix, the matrix against each distance."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, HALF_AND_UP, randn_
from tolerances import GRADIENT, OUTPUT, assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import kexue_lib.positions as P

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64
NAMES = ("q", "k", "v", "inv_freq")


def problem(n, m, d=8, dv=5, lead=(2, 3), dtype=F64, rotary=None):
    theta = P.rope_inv_freq(rotary or d, 100.0, device=DEVICE, dtype=torch.promote_types(dtype, torch.float32))
    q, k = randn_(*lead, n, d, dtype=dtype), randn_(*lead, m, d, seed=1, dtype=dtype)
    return [q, k, randn_(*lead, m, dv, seed=2, dtype=dtype), theta]


def compare(fast, plain, inputs, dtype):
    """Output and every gradient; the plain form in float64."""
    got_in = [x.detach().clone().requires_grad_() for x in inputs]
    want_in = [x.detach().double().requires_grad_() for x in inputs]
    before = [x.detach().clone() for x in got_in]
    got, want = fast(*got_in), plain(*want_in)
    assert got.dtype == dtype
    # angles of up to as many radians as there are keys, rounded
    angles = inputs[1].shape[-2] * 2**-27 if dtype == torch.float32 else 0.0
    assert_close("output", got, want, OUTPUT[dtype] + angles)
    weight = randn_(*want.shape, seed=5)
    gradients = torch.autograd.grad((got.double() * weight).sum(), got_in, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad((want * weight).sum(), want_in, allow_unused=True, materialize_grads=True)
    for name, a, b in zip(NAMES if len(inputs) == 4 else ("q", "k", "inv_freq"), gradients, wanted, strict=True):
        # the gradient of a frequency sums terms multiplied by positions
        bound = (GRADIENT[dtype] + angles) * (8 if name == "inv_freq" else 1)
        assert_close(f"gradient of {name}", a.double(), b, bound)
    assert all(torch.equal(x, y) for x, y in zip(got_in, before, strict=True))


@pytest.mark.parametrize("leak", [None, 1.0, 2.5])
@pytest.mark.parametrize("window", [1, 3, 2.5, 50])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (1, 9), (4, 11)])
@pytest.mark.parametrize("interleaved", [True, False], ids=["pairs", "halves"])
def test_scores_equal_those_of_each_clipped_distance(n, m, window, leak, interleaved):
    q, k, _, theta = problem(n, m)

    def fast(q, k, theta):
        return P.rerope_scores(q, k, theta, window, leak, interleaved=interleaved)

    def plain(q, k, theta):
        return P.rerope_scores_plain(q, k, theta, window, leak, interleaved=interleaved)

    compare(fast, plain, [q, k, theta], F64)


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize("leak", [None, 3.0])
@pytest.mark.parametrize(
    ("n", "m", "window"),
    [(1, 1, 1), (5, 5, 2), (9, 9, 20), (200, 200, 30), (1, 300, 40), (140, 270, 129), (257, 257, 128), (129, 131, 2.5)],
)
def test_blocks_equal_the_matrix(n, m, window, leak, dtype):
    def fast(*x):
        return P.rerope_attention(*x, window, leak)

    def plain(*x):
        return P.rerope_attention_plain(*x, window, leak)

    compare(fast, plain, problem(n, m, lead=(2,), dtype=dtype), dtype)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(0, 200),
    st.floats(0.1, 400.0),
    st.none() | st.floats(1.0, 50.0),
    st.booleans(),
    st.booleans(),
)
def test_any_shape_window_and_leak(n, more, window, leak, interleaved, partial):
    inputs = problem(n, n + more, d=6, dv=2, lead=(2,), rotary=4 if partial else None)
    options = {"interleaved": interleaved, "scale": 0.7}
    got = P.rerope_attention(*inputs, window, leak, **options)
    assert_close("output", got, P.rerope_attention_plain(*inputs, window, leak, **options), 1e-12)


@pytest.mark.parametrize("leak", [None, 2.0])
def test_attention_gradcheck(leak):
    inputs = [x.requires_grad_() for x in problem(5, 7, d=4, dv=2, lead=(1,))]
    assert torch.autograd.gradcheck(lambda *x: P.rerope_attention(*x, 3, leak), inputs)


# --- what it means --------------------------------------------------------------------------------------------------


def rotary(q, k, v, theta):
    """Ordinary rotary attention."""
    return F.scaled_dot_product_attention(P.apply_rope(q, inv_freq=theta), P.apply_rope(k, inv_freq=theta), v,
                                          is_causal=True)  # fmt: skip


@pytest.mark.parametrize("n", [1, 30, 150])
def test_within_the_window_and_with_a_leak_of_one_it_is_ordinary_rotary_attention(n):
    inputs = problem(n, n)
    for window, leak in ((n, None), (n + 0.5, None), (n + 100, 2.0), (1, 1.0), (7, 1.0)):
        assert_close(f"window {window}", P.rerope_attention(*inputs, window, leak), rotary(*inputs), 1e-13)


def test_beyond_the_window_all_distances_count_as_the_window():
    theta = P.rope_inv_freq(8, device=DEVICE, dtype=F64)
    q, k = randn_(1, 8).expand(40, 8), randn_(1, 8, seed=1).expand(40, 8)  # equal tokens: scores show the distance
    scores = P.rerope_scores(q, k, theta, 10)[-1].flip(0)  # by distance
    free = (q[:1] * P.apply_rope(k, -torch.arange(40, device=DEVICE), theta)).sum(-1)
    assert_close("near", scores[:11], free[:11], 1e-13)
    assert_close("far", scores[10:], free[10].expand(30), 1e-13)
    leaky = P.rerope_scores(q, k, theta, 10, 4.0)[-1].flip(0)
    distance = 10 + (torch.arange(10, 40, device=DEVICE, dtype=F64) - 10) / 4
    assert_close("leaky", leaky[10:], (q[:1] * P.apply_rope(k[:30], -distance, theta)).sum(-1), 1e-13)


def test_a_large_leak_is_none():
    inputs = problem(60, 60)
    assert_close("leak", P.rerope_attention(*inputs, 7, 1e12), P.rerope_attention(*inputs, 7), 1e-9)
    assert_close("infinite", P.rerope_attention(*inputs, 7, math.inf), P.rerope_attention(*inputs, 7), 1e-14)


def test_later_keys_have_no_influence_and_a_text_can_be_continued():
    q, k, v, theta = problem(300, 300)
    whole = P.rerope_attention(q, k, v, theta, 50)
    assert_close("start", P.rerope_attention(q[..., :200, :], k[..., :200, :], v[..., :200, :], theta, 50),
                 whole[..., :200, :], 1e-13)  # fmt: skip
    for start in (299, 290, 100):
        assert_close("rest", P.rerope_attention(q[..., start:, :], k, v, theta, 50), whole[..., start:, :], 1e-13)


def test_fast_scores_in_float32_hold_at_distant_positions():
    q, k, _, theta = problem(1, 30_000, lead=())
    want = P.rerope_scores(q, k, theta, 100)
    got = P.rerope_scores(q.float(), k.float(), theta.float(), 100)
    assert_close("far", got[:, :-100], want[:, :-100], OUTPUT[torch.float32])  # angles of 100, not of 30 000
    assert_close("near", got, want, 3e-3)  # float32 angles up to 3e4


def test_no_queries_and_no_batch():
    for n, m, lead in ((0, 5, (2,)), (0, 0, ()), (3, 5, (0, 2))):
        inputs = problem(n, m, lead=lead)
        assert P.rerope_attention(*inputs, 2).shape == (*lead, n, 5)
        assert P.rerope_attention(*inputs, 2, 3.0).shape == (*lead, n, 5)


class Largest(TorchDispatchMode):
    """The largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            self.numel = max(self.numel, x.numel() if isinstance(x, torch.Tensor) else 0)
        return out


def test_no_matrix_of_all_scores_is_made():
    inputs = problem(1000, 1000, d=4, dv=4, lead=())
    with torch.no_grad(), Largest() as seen:
        P.rerope_attention(*inputs, 100)
    assert seen.numel <= 128 * 1000
    with torch.no_grad(), Largest() as seen:
        P.rerope_attention_plain(*inputs, 100)
    assert seen.numel == 1000 * 1000


# --- autocast, compiling, bad input ---------------------------------------------------------------------------------


def test_autocast():
    inputs = problem(150, 150, dtype=torch.float32)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        got = P.rerope_attention(*inputs, 20)
    assert got.dtype == torch.bfloat16
    assert_close("autocast", got, P.rerope_attention_plain(*inputs, 20), OUTPUT[torch.bfloat16])


@pytest.mark.parametrize("leak", [None, 2.0])
def test_compiles_with_its_gradients(leak):
    torch._dynamo.reset()
    inputs = [x.requires_grad_() for x in problem(140, 140)]
    f = torch.compile(lambda *x: P.rerope_attention(*x, 20, leak), fullgraph=True, backend="aot_eager")
    weight = randn_(2, 3, 140, 5, seed=3)
    want = P.rerope_attention_plain(*inputs, 20, leak)
    out = f(*inputs)
    assert_close("output", out, want, OUTPUT[F64])
    gradients = (torch.autograd.grad((x * weight).sum(), inputs) for x in (out, want))
    for name, a, b in zip(NAMES, *gradients, strict=True):
        assert_close(name, a, b, 4 * GRADIENT[F64])
    scores = torch.compile(lambda q, k, t: P.rerope_scores(q, k, t, 20, leak), fullgraph=True, backend="eager")
    q, k, _, theta = inputs
    assert_close("scores", scores(q, k, theta), P.rerope_scores(q, k, theta, 20, leak), OUTPUT[F64])


X, T = torch.ones(2, 5, 4), torch.ones(2)


@pytest.mark.parametrize("f", [P.rerope_scores, P.rerope_scores_plain, P.rerope_attention, P.rerope_attention_plain])
@pytest.mark.parametrize(
    ("q", "k", "theta", "window", "leak", "error", "words"),
    [
        ([1.0], X, T, 2, None, ValueError, "q list"),
        (torch.ones(4), X, T, 2, None, ValueError, r"q \(4,\)"),
        (X.long(), X, T, 2, None, TypeError, "int64"),
        (X, torch.ones(2, 5, 6), T, 2, None, ValueError, "one width"),
        (X, X[:, :3], T, 2, None, ValueError, "5 queries and 3 keys"),
        (X, X, torch.ones(1, 2), 2, None, ValueError, "inv_freq"),
        (X, X, torch.ones(3), 2, None, ValueError, "6 coordinates.*has 4"),
        (X, X, T, 0, None, ValueError, "window=0"),
        (X, X, T, math.nan, None, ValueError, "window=nan"),
        (X, X, T, True, None, ValueError, "window=True"),
        (X, X, T, 2, 0.5, ValueError, r"leak=0\.5"),
        (X, X, T, 2, math.nan, ValueError, "leak=nan"),
    ],
)
def test_clipped_refuses(f, q, k, theta, window, leak, error, words):
    with pytest.raises(error, match=words):
        f(*((q, k, X) if "attention" in f.__name__ else (q, k)), theta, window, leak)


@pytest.mark.parametrize("f", [P.rerope_attention, P.rerope_attention_plain])
def test_clipped_attention_refuses_values_that_do_not_fit(f):
    for q, v in ((X, X[:, :3]), (X, X[:1]), (X, None), (X[:1], X)):
        with pytest.raises(ValueError, match="same leading axes"):
            f(q, X, v, T, 2)
