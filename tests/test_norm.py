"""kexue_lib.norm: parity with the plain form and with PyTorch, the theorems, and what may go wrong."""

from __future__ import annotations

import doctest
import math
import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, HALF_AND_UP, randn_
from tolerances import GRADIENT, OUTPUT, assert_close
from torch import nn

import kexue_lib.norm as K

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64
SHAPES = {"rows": (3, 8), "one row": (7,), "odd": (2, 5, 33), "one entry": (4, 1), "long": (2, 1023), "no row": (0, 8)}


def inputs(shape, dtype=F64, affine=True):
    d = shape[-1]
    x, f = (randn_(*shape, seed=k, dtype=dtype, grad=True) for k in (1, 2))
    if not affine:
        return x, f, None, None
    return x, f, randn_(d, seed=3, dtype=dtype, grad=True), randn_(d, seed=4, dtype=dtype, grad=True)


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
@pytest.mark.parametrize("alpha", [1.0, 0.3, 6.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_deepnorm_equals_its_plain_form(shape, alpha, affine, dtype):
    values = inputs(SHAPES[shape], dtype, affine)
    before = [None if v is None else v.detach().clone() for v in values]
    exact = [None if v is None else v.detach().double().requires_grad_() for v in values]
    out, ref = K.deepnorm(*values[:2], alpha, *values[2:]), K.deepnorm_plain(*exact[:2], alpha, *exact[2:])
    assert out.dtype == dtype
    assert_close("output", out, ref, OUTPUT[dtype]) if ref.numel() else None
    weight = randn_(*ref.shape, seed=9)
    wanted = [k for k, v in enumerate(values) if v is not None]
    grads = torch.autograd.grad((out.double() * weight).sum(), [values[k] for k in wanted])
    refs = torch.autograd.grad((ref * weight).sum(), [exact[k] for k in wanted])
    for name, got, want in zip("xfwb", grads, refs, strict=False):
        if want.numel() and want.abs().max() > 0:
            assert_close(f"gradient of {name}", got, want, GRADIENT[dtype])
        else:
            # no row, or one entry, which is normalised to 0: rounding is multiplied by 1/√ε = 316
            assert got.abs().sum() <= 1e4 * torch.finfo(torch.float32 if dtype != F64 else F64).eps
    assert all(v is None or torch.equal(v, b) for v, b in zip(values, before, strict=True))


@given(
    alpha=st.floats(0.1, 30),
    factor=st.floats(0.2, 5),
    eps=st.sampled_from([0.0, 1e-5, 1e-2]),
    rows=st.integers(1, 4),
    d=st.integers(3, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_D4_the_two_forms_of_deepnorm_agree_with_the_matched_eps(alpha, factor, eps, rows, d, seed):
    x, f = randn_(rows, d, seed=seed), factor * randn_(rows, d, seed=seed + 1)
    one = K.deepnorm(x, f, alpha, eps=eps)
    other = K.deepnorm(x, f / alpha, eps=eps / alpha**2)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_D4_with_one_eps_the_two_forms_differ():
    x, f = randn_(4, 8) * 1e-2, randn_(4, 8, seed=1) * 1e-2
    one, other = K.deepnorm(x, f, 4.0, eps=1e-3), K.deepnorm(x, f / 4.0, eps=1e-3)
    assert (one - other).abs().max() > 0.1


@given(alpha=st.floats(0.1, 30), shift=st.floats(-50, 50), d=st.integers(2, 40), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_result_is_centred_has_rms_one_and_ignores_a_shift(alpha, shift, d, seed):
    x, f = randn_(3, d, seed=seed), randn_(3, d, seed=seed + 1)
    y = K.deepnorm(x, f, alpha, eps=0.0)
    torch.testing.assert_close(y.mean(-1), torch.zeros(3, dtype=F64, device=DEVICE), atol=1e-10, rtol=0)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(3, dtype=F64, device=DEVICE))
    torch.testing.assert_close(K.deepnorm(x + shift, f, alpha, eps=0.0), y, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("affine", [False, True])
def test_gradcheck(affine):
    values = [v for v in inputs((2, 5), affine=affine) if v is not None]
    assert torch.autograd.gradcheck(lambda *v: K.deepnorm(*v[:2], 1.7, *v[2:]), values)
    assert torch.autograd.gradgradcheck(lambda *v: K.deepnorm(*v[:2], 1.7, *v[2:]), values)


def test_alpha_one_is_post_norm_of_pytorch():
    x, f, w, b = inputs((3, 8))
    assert torch.equal(K.deepnorm(x, f, 1.0, w, b), F.layer_norm(x + f, (8,), w, b))
    module = nn.LayerNorm(8, dtype=F64, device=DEVICE)
    assert torch.equal(K.residual(x, torch.tanh), module(x + torch.tanh(x)))
    assert torch.equal(K.residual(x, torch.tanh, mode="pre"), x + torch.tanh(module(x)))
    assert torch.equal(K.residual(x, torch.tanh, 2.0, "none"), 2 * x + torch.tanh(x))


def test_module_is_the_function():
    x, f, w, b = inputs((3, 8))
    module = K.DeepNorm(8, alpha=2.5, eps=1e-4).to(DEVICE, F64)
    assert torch.equal(module(x, f), K.deepnorm(x, f, 2.5, module.weight, module.bias, eps=1e-4))
    with torch.no_grad():
        module.weight.copy_(w)
        module.bias.copy_(b)
    assert torch.equal(module(x, f), K.deepnorm(x, f, 2.5, w, b, eps=1e-4))
    bare = K.DeepNorm(8, 2.5, affine=False)
    assert not list(bare.parameters())
    assert torch.equal(bare(x, f), K.deepnorm(x, f, 2.5))
    assert "alpha=2.5" in repr(module)
    copy = K.DeepNorm(8, 2.5).to(DEVICE, F64)
    copy.load_state_dict(module.state_dict())
    assert torch.equal(copy(x, f), K.deepnorm(x, f, 2.5, w, b))


# --- number formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_in_float32_and_rounded_once(half):
    x, f = (randn_(64, 256, seed=k, dtype=half) for k in (1, 2))
    alpha = 40.0  # the branch is below the resolution of αx in bfloat16
    y = K.deepnorm(x, f, alpha)
    assert y.dtype == half
    assert torch.equal(y, K.deepnorm(x.float(), f.float(), alpha).to(half))
    if half == torch.bfloat16:  # the naive sum would have lost it
        naive = F.layer_norm((alpha * x + f).float(), (256,))
        exact = K.deepnorm(x.double(), f.double(), alpha)
        assert (naive - exact).square().mean() > 3 * (K.deepnorm(x.float(), f.float(), alpha) - exact).square().mean()


def test_a_float32_stream_stays_float32_beside_a_half_precision_branch():
    x, f = randn_(4, 8, dtype=torch.float32, grad=True), randn_(4, 8, seed=1, dtype=torch.bfloat16, grad=True)
    y = K.deepnorm(x, f, 2.0)
    assert y.dtype == torch.float32
    assert torch.equal(y, K.deepnorm(x, f.float(), 2.0))
    y.sum().backward()
    assert x.grad.dtype == torch.float32
    assert f.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("mode", ["post", "pre", "none"])
def test_under_autocast_stream_and_statistics_are_float32(mode):
    linear = nn.Linear(16, 16, device=DEVICE)
    seen = []

    def branch(h):
        seen.append(linear(h))
        return seen[-1]

    for dtype in (torch.float32, torch.bfloat16):
        x = randn_(4, 16, dtype=dtype) * 3
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            y = K.residual(x, branch, 2.0, mode)
        assert seen[-1].dtype == torch.bfloat16  # the matrix product did run in half precision
        assert y.dtype == torch.float32
        if mode == "post":
            torch.testing.assert_close(y, K.deepnorm(x.float(), seen[-1].float(), 2.0), rtol=0, atol=0)


def test_autocast_with_half_precision_weights():
    x, f = randn_(4, 16, dtype=torch.bfloat16), randn_(4, 16, seed=1, dtype=torch.bfloat16)
    module = K.DeepNorm(16, 2.0).to(DEVICE, torch.bfloat16)
    assert module(x, f).dtype == torch.bfloat16
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert module(x, f).dtype == torch.float32


# --- compile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["post", "pre", "none"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_in_one_graph(backend, mode):
    x = randn_(3, 8, dtype=torch.float32, grad=True)

    def block(h):
        return K.residual(h, torch.tanh, 1.5, mode)

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), block(x))
    got, want = (torch.autograd.grad(g(x).square().sum(), x)[0] for g in (compiled, block))
    torch.testing.assert_close(got, want)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert compiled(x).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and DEVICE.type == "cpu", reason="inductor needs a C++ compiler")
def test_the_real_backend_agrees():
    x, f, w, b = (v.detach() for v in inputs((16, 64), torch.float32))
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own
        compiled = torch.compile(K.deepnorm, fullgraph=True)
        torch.testing.assert_close(compiled(x, f, 2.5, w, b), K.deepnorm(x, f, 2.5, w, b))


# --- bad input -------------------------------------------------------------------------------------------------------


X = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: K.deepnorm(X, X, 0.0), ValueError, r"alpha=0\.0"),
        (lambda: K.deepnorm(X, X, -1.0), ValueError, r"alpha=-1\.0"),
        (lambda: K.deepnorm(X, X, math.nan), ValueError, "alpha=nan"),
        (lambda: K.deepnorm(X, X, torch.tensor(1.0)), ValueError, "alpha=tensor"),
        (lambda: K.deepnorm(X, X, eps=-1e-5), ValueError, "eps=-1e-05"),
        (lambda: K.deepnorm(X, X[:1]), ValueError, r"\(1, 4\)"),
        (lambda: K.deepnorm(X, 1.0), TypeError, "branch is float"),
        (lambda: K.deepnorm(X.int(), X.int()), TypeError, "int32"),
        (lambda: K.deepnorm(X[0, 0], X[0, 0]), ValueError, "shape"),
        (lambda: K.DeepNorm(0, 1.0), ValueError, "dim=0"),
        (lambda: K.DeepNorm(4.0, 1.0), ValueError, r"dim=4\.0"),
        (lambda: K.DeepNorm(4, 0), ValueError, "alpha=0"),
        (lambda: K.DeepNorm(5, 1.0)(X, X), ValueError, "dim = 5"),
        (lambda: K.residual(X, torch.relu, mode="sandwich"), ValueError, "'sandwich'.*'post'"),
        (lambda: K.residual(X, torch.relu, -1.0, "pre"), ValueError, r"alpha=-1\.0"),
        (lambda: K.residual(X, lambda h: h[:, :2], mode="none"), ValueError, r"\(2, 2\)"),
        (lambda: K.residual([1.0], torch.relu, mode="pre"), TypeError, "list"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_examples_in_the_docstrings():
    result = doctest.testmod(K)
    assert result.attempted > 5
    assert result.failed == 0
