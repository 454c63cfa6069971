"""kexue_lib.depth.effective and .merging: path lengths, streams, and sublayers side by side."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from tolerances import GRADIENT, OUTPUT, assert_close
from torch import nn

import kexue_lib.depth as K
import kexue_lib.depth.effective
import kexue_lib.depth.merging
from kexue_lib.norm import deepnorm_plain

pytestmark = pytest.mark.filterwarnings("error")
F64, F32 = torch.float64, torch.float32


# --- the law of the path lengths -------------------------------------------------------------------------------------


def weights_(*shape, seed=0, dtype=F64, grad=False):
    return randn_(*shape, seed=seed).exp().to(dtype).detach().requires_grad_(grad)


def test_D4_the_law_is_the_sum_over_all_subsets_of_branches():
    w = weights_(5)
    law = torch.zeros(6, dtype=F64, device=DEVICE)
    for taken in itertools.product((0, 1), repeat=5):
        law[sum(taken)] += math.prod(float(w[t]) for t in range(5) if taken[t])
    assert_close("law", K.path_lengths(w), law / law.sum(), OUTPUT[F64])


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("shape", [(1,), (2,), (3, 7), (2, 1, 96), (129,)])
def test_path_lengths_agree_with_the_plain_form_in_values_and_gradients(shape, dtype):
    w, exact = weights_(*shape, dtype=dtype, grad=True), weights_(*shape, dtype=dtype).double().requires_grad_()
    got, want = K.path_lengths(w), K.path_lengths_plain(exact)
    assert_close("P", got, want, OUTPUT[dtype])
    assert_close("sum", got.sum(-1), torch.ones_like(want[..., 0]), OUTPUT[dtype])
    # random weights: the gradient of the sum of all P vanishes
    weight = randn_(*want.shape, seed=3)
    (dw,) = torch.autograd.grad((got * weight.to(dtype)).sum(), w)
    (reference,) = torch.autograd.grad((want * weight).sum(), exact)
    assert_close("dP/dw", dw, reference, GRADIENT[dtype])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_path_lengths_are_a_law_with_the_right_mean_and_variance(numbers):
    w = torch.tensor(numbers, dtype=F64)
    law, k = K.path_lengths(w), torch.arange(len(numbers) + 1, dtype=F64)
    p = w / (1 + w)
    mean = (law * k).sum()
    assert (law >= 0).all()
    assert law.sum().item() == pytest.approx(1, rel=1e-13)
    assert mean.item() == pytest.approx(K.effective_depth(w).item(), rel=1e-12, abs=1e-12)
    assert (law * (k - mean) ** 2).sum().item() == pytest.approx((p * (1 - p)).sum().item(), rel=1e-9, abs=1e-9)
    torch.testing.assert_close(K.path_lengths(w.flip(0)), law, rtol=1e-12, atol=1e-300)  # order plays no part


def test_path_lengths_agree_with_scipy():
    from scipy.stats import poisson_binom  # a peer that is missing fails the test

    w = weights_(60).cpu()
    want = poisson_binom((w / (1 + w)).numpy()).pmf(np.arange(61))
    np.testing.assert_allclose(K.path_lengths(w).numpy(), want, rtol=1e-7, atol=1e-15)


def test_D4_the_smallest_shares_keep_their_relative_accuracy():
    law = K.path_lengths(torch.ones(1000, dtype=F64, device=DEVICE))  # Post Norm: binomial
    want = [math.comb(1000, k) / 2**1000 for k in (0, 1, 500, 999, 1000)]
    assert law[[0, 1, 500, 999, 1000]].tolist() == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("count", [1, 4, 96, 512])
def test_D4_pre_norm_has_harmonic_depth_and_post_norm_half_of_all(count):
    harmonic = math.fsum(1 / k for k in range(2, count + 2))
    pre, post = K.branch_weights(count), K.branch_weights(count, "post")
    assert pre.tolist() == pytest.approx([1 / t for t in range(1, count + 1)])
    assert (1 + pre).prod().item() == pytest.approx(count + 1)
    assert K.effective_depth(pre).item() == pytest.approx(harmonic)
    assert K.effective_depth(post).item() == pytest.approx(count / 2)
    assert K.path_lengths(pre)[0].item() == pytest.approx(1 / (count + 1))


@given(n=st.integers(1, 60), alpha=st.floats(0.5, 3), gain=st.floats(0.2, 2))
@settings(max_examples=50, deadline=None)
def test_D4_branch_weights_follow_the_recursion_of_the_stream(n, alpha, gain):
    size, want = 1.0, []
    for _ in range(n):
        want.append(gain**4 / (alpha**2 * size))
        size = alpha**2 * size + gain**4
    assert K.branch_weights(n, alpha=alpha, gain=gain).tolist() == pytest.approx(want, rel=1e-9)
    post = K.branch_weights(n, "post", alpha=alpha, gain=gain)
    assert post.tolist() == pytest.approx([(gain**2 / alpha) ** 2] * n)


@pytest.mark.parametrize(("alpha", "last"), [(3.0, 0.0), (0.5, 3.0)])
def test_branch_weights_of_very_deep_streams_stay_finite(alpha, last):
    """For α > 1 the stream outgrows every number; for α < 1 its mean square settles at λ⁴/(1 − α²)."""
    w = K.branch_weights(5000, alpha=alpha)
    assert torch.isfinite(w).all()
    assert w[-1].item() == pytest.approx(last)


def test_D4_the_constants_of_deepnorm_give_less_than_one_branch():
    for layers, per_depth in ((8, 1.0), (500, 1.0)):
        m = 2 * layers
        sgd, lamb = K.residual_scale(layers, "sgd"), K.residual_scale(layers, "lamb")
        paper = K.deepnorm_constants(layers).encoder
        found = [K.branch_weights(m, "post", alpha=s.alpha, gain=s.gain)[0].item() for s in (sgd, lamb, paper)]
        assert found == pytest.approx([per_depth * m**-1.5, m**-2.0, m**-1.5 / 4])


@pytest.mark.parametrize("shape", [(1,), (3, 7), (40,)])
def test_effective_depth_agrees_with_the_plain_form_in_values_and_gradients(shape):
    for dtype in (F64, F32):
        w, exact = weights_(*shape, dtype=dtype, grad=True), weights_(*shape, dtype=dtype).double().requires_grad_()
        got, want = K.effective_depth(w), K.effective_depth_plain(exact)
        assert_close("depth", got, want, OUTPUT[dtype])
        (dw,), (reference,) = torch.autograd.grad(got.sum(), w), torch.autograd.grad(want.sum(), exact)
        assert_close("gradient", dw, reference, GRADIENT[dtype])


def test_gradcheck_of_the_path_law():
    assert torch.autograd.gradcheck(K.path_lengths, weights_(2, 5, grad=True))
    assert torch.autograd.gradcheck(K.effective_depth, weights_(2, 5, grad=True))


@pytest.mark.parametrize("f", [K.path_lengths, K.path_lengths_plain, K.effective_depth, K.effective_depth_plain])
def test_bad_weights_are_refused_and_inputs_unchanged(f):
    w = weights_(2, 5)
    before = w.clone()
    f(w)
    assert torch.equal(w, before)
    for bad, words in ((-0.5, r"-0\.5"), (math.inf, "inf"), (math.nan, "nan")):
        with pytest.raises(ValueError, match=words):
            f(torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match=r"\(2, 0\)"):
        f(torch.zeros(2, 0))
    with pytest.raises(TypeError, match="int64"):
        f(torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="list"):
        f([1.0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_branches": 0}, "n_branches=0"),
        ({"n_branches": True}, "n_branches=True"),
        ({"n_branches": 2.0}, r"n_branches=2\.0"),
        ({"mode": "none"}, "'none'.*'pre', 'post'"),
        ({"alpha": 0}, "alpha=0"),
        ({"gain": math.inf}, "gain=inf"),
    ],
)
def test_bad_settings_of_the_weights_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        K.branch_weights(**{"n_branches": 4, **arguments})


# --- the stream ------------------------------------------------------------------------------------------------------

NAMES = ("mean_square", "relative_change", "cosine", "input_change")


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize(("shape", "keep"), [((2, 3), 0), ((5, 2, 3, 7), 0), ((4, 3, 5), 1), ((4, 3, 2, 5, 6), 2)])
def test_stream_statistics_agree_with_the_plain_form_in_values_and_gradients(shape, keep, dtype):
    x, exact = randn_(*shape, dtype=dtype, grad=True), randn_(*shape).to(dtype).double().requires_grad_()
    got, want = K.stream_statistics(x, keep=keep), K.stream_statistics_plain(exact, keep=keep)
    for name in NAMES:
        a, b = getattr(got, name), getattr(want, name)
        assert a.shape == (shape[0] - (name != "mean_square"), *shape[1 : 1 + keep])
        assert_close(name, a, b, OUTPUT[dtype])
        (dx,) = torch.autograd.grad(a.square().sum(), x, retain_graph=True)
        (reference,) = torch.autograd.grad(b.square().sum(), exact, retain_graph=True)
        assert_close(f"gradient of {name}", dx, reference, GRADIENT[dtype])


def test_D2_orthogonal_branches_of_size_one_give_the_rates_of_the_derivation():
    d, length = 64, 40
    basis = torch.linalg.qr(randn_(d, d))[0] * math.sqrt(d)
    stream = basis[:length].cumsum(0)  # x_{t-1} = sum of t orthogonal vectors
    found, t = K.stream_statistics(stream), torch.arange(1, length, dtype=F64, device=DEVICE)
    torch.testing.assert_close(found.mean_square[:-1], t)
    torch.testing.assert_close(found.cosine, (t / (t + 1)).sqrt())
    torch.testing.assert_close(found.relative_change, t.rsqrt())


def test_aligned_branches_change_the_size_but_not_what_the_next_branch_sees():
    t = torch.arange(1, 9, dtype=F64, device=DEVICE)
    found = K.stream_statistics(t[:, None, None] * randn_(3, 16))
    torch.testing.assert_close(found.relative_change, 1 / t[:-1])
    assert found.input_change.max() < 1e-3  # ε of the norm is all that is left
    torch.testing.assert_close(found.cosine, torch.ones_like(found.cosine))


@given(scale=st.floats(0.1, 10), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_statistics_do_not_depend_on_scale_or_rotation(scale, seed):
    x, turn = randn_(4, 3, 6, seed=seed), torch.linalg.qr(randn_(6, 6, seed=seed + 1))[0]
    base, other = K.stream_statistics(x), K.stream_statistics(scale * x @ turn)
    torch.testing.assert_close(other.mean_square, scale**2 * base.mean_square)
    torch.testing.assert_close(other.cosine, base.cosine)
    torch.testing.assert_close(other.relative_change, base.relative_change)


def test_half_precision_is_taken_up():
    x = randn_(3, 4, 8)
    for dtype in (torch.bfloat16, torch.float16):
        found = K.stream_statistics(x.to(dtype))
        assert found.mean_square.dtype == F32
        assert_close("mean square", found.mean_square, K.stream_statistics(x).mean_square, OUTPUT[dtype])


@pytest.mark.parametrize("f", [K.stream_statistics, K.stream_statistics_plain])
def test_bad_streams_are_refused(f):
    for x, words in ((randn_(5), r"\(5,\)"), (randn_(1, 3), r"\(1, 3\)"), (torch.zeros(2, 0), r"\(2, 0\)")):
        with pytest.raises(ValueError, match=words):
            f(x)
    with pytest.raises(ValueError, match=r"keep=2.*0 … 1"):
        f(randn_(3, 2, 4), keep=2)
    with pytest.raises(ValueError, match="keep=True"):
        f(randn_(3, 2, 4), keep=True)
    with pytest.raises(TypeError, match="int64"):
        f(torch.ones(3, 2, dtype=torch.int64))


# --- neighbours side by side -----------------------------------------------------------------------------------------


def matrices(count, d=6, seed=0, dtype=F64, grad=False):
    return [randn_(d, d, seed=seed + t, dtype=dtype, grad=grad) for t in range(count)]


def tanh_branches(weights):
    return [lambda h, w=w: torch.tanh(h @ w) for w in weights]


def plain_norm(x):
    return deepnorm_plain(torch.zeros_like(x), x)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
@pytest.mark.parametrize("mode", ["pre", "post"])
def test_a_stack_without_groups_is_the_recursion(mode, alpha):
    weights, x = matrices(4), randn_(2, 3, 6)
    stream = K.grouped_stack(x, tanh_branches(weights), alpha=alpha, mode=mode)
    for t, w in enumerate(weights):
        assert torch.equal(stream[t], x)
        x = alpha * x + torch.tanh(plain_norm(x) @ w) if mode == "pre" else plain_norm(alpha * x + torch.tanh(x @ w))
        torch.testing.assert_close(stream[t + 1], x, rtol=1e-12, atol=1e-12)
        x = stream[t + 1]


def test_D1_pre_norm_is_the_start_plus_all_branches():
    branches, x = tanh_branches(matrices(6)), randn_(3, 6)
    stream = K.grouped_stack(x, branches)
    parts = sum(f(F.layer_norm(h, (6,))) for f, h in zip(branches, stream, strict=False))
    torch.testing.assert_close(stream[-1], x + parts)


@pytest.mark.parametrize("mode", ["pre", "post"])
def test_a_group_of_two_is_one_sublayer_of_double_width(mode):
    up, down = matrices(2), matrices(2, seed=9)
    narrow = [lambda h, a=a, b=b: torch.relu(h @ a) @ b for a, b in zip(up, down, strict=True)]
    wide = [lambda h: torch.relu(h @ torch.cat(up, 1)) @ torch.cat(down, 0)]
    x = randn_(5, 6)
    got = K.grouped_stack(x, narrow, [(0, 1)], mode=mode)
    torch.testing.assert_close(got, K.grouped_stack(x, wide, mode=mode))
    assert not torch.allclose(got[-1], K.grouped_stack(x, narrow, mode=mode)[-1])


def test_branches_in_no_group_are_dropped():
    branches, x = tanh_branches(matrices(4)), randn_(5, 6)
    got = K.grouped_stack(x, branches, [(0,), (3,)])
    assert torch.equal(got, K.grouped_stack(x, [branches[0], branches[3]]))


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("mode", ["pre", "post"])
def test_merge_sublayers_agrees_with_the_plain_form_in_values_and_gradients(mode, count, axis, dtype):
    d = 6
    weights, exact = (matrices(count, d, dtype=kind, grad=True) for kind in (dtype, F64))
    x = randn_(2, 3, d, dtype=dtype, grad=True)
    with torch.no_grad():
        for w, e in zip(weights, exact, strict=True):
            e.copy_(w)
    y = x.detach().double().requires_grad_()
    got = K.merge_sublayers(x, tanh_branches(weights), alpha=1.3, mode=mode, axis=axis)
    want = K.merge_sublayers_plain(y, tanh_branches(exact), alpha=1.3, mode=mode)
    assert got.shape == (count - 1, 2, 3, d)
    loose = 10 * OUTPUT[dtype]  # errors of count branches add up
    assert_close("ends", got, want, loose)
    weight = randn_(*want.shape, seed=5)
    grads = torch.autograd.grad((got * weight.to(dtype)).sum(), [x, *weights])
    references = torch.autograd.grad((want * weight).sum(), [y, *exact])
    for name, a, b in zip(["x", *map(str, range(count))], grads, references, strict=True):
        assert_close(f"gradient of {name}", a, b, 10 * GRADIENT[dtype])


def test_merging_branches_that_ignore_their_input_changes_nothing_in_pre_norm():
    constant = [lambda h, t=t: torch.full_like(h, float(t)) for t in range(4)]
    x = randn_(3, 6)
    ends, usual = K.merge_sublayers(x, constant), K.grouped_stack(x, constant)[-1]
    for end in ends:
        torch.testing.assert_close(end, usual)


@pytest.mark.parametrize("mode", ["pre", "post"])
def test_merge_sublayers_calls_every_branch_once(mode):
    calls = [0] * 5

    def branch(t):
        def f(h):
            calls[t] += 1
            return torch.tanh(h)

        return f

    K.merge_sublayers(randn_(3, 6), [branch(t) for t in range(5)], mode=mode)
    assert calls == [1] * 5


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("mode", ["pre", "post"])
def test_merge_errors_agree_with_the_plain_form_in_values_and_gradients(mode, keep):
    weights = matrices(5, grad=True)
    stream = K.grouped_stack(randn_(3, 4, 6), tanh_branches(weights), mode=mode)
    got = K.merge_errors(stream, tanh_branches(weights), mode=mode, keep=keep, axis=1)
    want = K.merge_errors_plain(stream, tanh_branches(weights), mode=mode, keep=keep)
    assert got.shape == ((4, 3) if keep else (4,))
    assert_close("errors", got, want, OUTPUT[F64])
    grads = (torch.autograd.grad(e.sum(), weights, retain_graph=True) for e in (got, want))
    for a, b in zip(*grads, strict=True):
        assert_close("gradient", a, b, GRADIENT[F64])


def test_D3_the_merge_error_of_a_linear_branch_is_the_change_of_its_input():
    turn = torch.linalg.qr(randn_(32, 32))[0]
    branches = [lambda h: h @ turn] * 6
    stream = K.grouped_stack(randn_(8, 32), branches)
    found = K.stream_statistics(stream)
    torch.testing.assert_close(K.merge_errors(stream, branches), found.input_change[:-1], rtol=1e-4, atol=0)


def test_gradcheck_of_a_merged_stack():
    weights = matrices(3, d=3, grad=True)

    def run(x, *weights):
        return K.merge_sublayers(x, tanh_branches(weights), mode="post")

    assert torch.autograd.gradcheck(run, (randn_(2, 3, grad=True), *weights))


def test_what_cannot_be_merged_is_refused():
    branches, x = tanh_branches(matrices(3)), randn_(2, 6)
    for groups in ([(0, 3)], [(-1,)]):
        with pytest.raises(IndexError, match=r"no branch (3|-1).*0 … 2"):
            K.grouped_stack(x, branches, groups)
    for groups in ([(0, 0)], [(0,), (0,)], [()]):
        with pytest.raises(ValueError, match="at most once"):
            K.grouped_stack(x, branches, groups)
    for f in (K.merge_sublayers, K.merge_sublayers_plain):
        with pytest.raises(ValueError, match="1 branches"):
            f(x, branches[:1])
        with pytest.raises(ValueError, match=r"\(6,\)"):
            f(x[0], branches)
        with pytest.raises(ValueError, match="'none'"):
            f(x, branches, mode="none")
    for axis in (1, -1, 2):
        with pytest.raises(ValueError, match=f"axis={axis}"):
            K.merge_sublayers(x, branches, axis=axis)
    for f in (K.merge_errors, K.merge_errors_plain):
        with pytest.raises(ValueError, match=r"M = 3"):
            f(randn_(3, 2, 6), branches)


# --- compile and autocast --------------------------------------------------------------------------------------------


def test_all_compile_in_one_graph():
    weights, x = matrices(4, dtype=F32), randn_(3, 6, dtype=F32)

    def run(x, w):
        branches = tanh_branches(weights)
        stream = K.grouped_stack(x, branches)
        found = K.stream_statistics(stream)
        merged = K.merge_sublayers(x, branches, mode="post")
        return K.path_lengths(w), K.effective_depth(w), merged, K.merge_errors(stream, branches), found.cosine

    torch._dynamo.reset()
    w = weights_(5, dtype=F32)
    for got, want in zip(torch.compile(run, fullgraph=True, backend="eager")(x, w), run(x, w), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("mode", ["pre", "post"])
def test_autocast_keeps_the_stream_in_float32(mode):
    linear = nn.ModuleList(nn.Linear(6, 6) for _ in range(4)).to(DEVICE)
    x = randn_(3, 6, dtype=F32)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        stream = K.grouped_stack(x, list(linear), mode=mode)
        merged = K.merge_sublayers(x, list(linear), mode=mode)
        errors = K.merge_errors(stream, list(linear), mode=mode)
        found = K.stream_statistics(stream)
        law = K.path_lengths(weights_(5, dtype=F32))
    assert {stream.dtype, merged.dtype, errors.dtype, found.cosine.dtype, law.dtype} == {F32}
    assert_close("law", law, K.path_lengths(weights_(5, dtype=F32)).double(), OUTPUT[torch.bfloat16])
    assert_close("ends", merged, K.merge_sublayers(x, list(linear), mode=mode).double(), 4 * OUTPUT[torch.bfloat16])


@pytest.mark.parametrize("module", [kexue_lib.depth.effective, kexue_lib.depth.merging])
def test_examples_in_the_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 3
    assert result.failed == 0
