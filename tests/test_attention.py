"""kexue_lib.attention: parity with the plain forms and with PyTorch, the theorems, and what may go wrong."""

from __future__ import annotations

import doctest
import importlib
import math
import shutil
import warnings
from itertools import product

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, HALF_AND_UP, mask_, randn_
from tolerances import GRADIENT, OUTPUT, assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import kexue_lib.attention as A
from kexue_lib.attention import kernels

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64


def qkv(b=2, h=3, n=7, m=None, d=8, dv=None, dtype=F64, grad=True):
    m, dv = m or n, dv or d
    return (
        randn_(b, h, n, d, seed=1, dtype=dtype, grad=grad),
        randn_(b, h, m, d, seed=2, dtype=dtype, grad=grad),
        randn_(b, h, m, dv, seed=3, dtype=dtype, grad=grad),
    )


MASKS = {
    "none": lambda b, h, n, m: None,
    "padding": lambda b, h, n, m: mask_(b, 1, 1, m, seed=4),
    "rows": lambda b, h, n, m: mask_(n, m, seed=5),
    "heads": lambda b, h, n, m: mask_(h, n, m, seed=6),
    "full": lambda b, h, n, m: mask_(b, h, n, m, seed=7),
    "queries": lambda b, h, n, m: mask_(b, 1, n, 1, seed=8),  # whole rows on or off
    "nothing": lambda b, h, n, m: mask_(1, 1, n, m, keep=0.0),
}
SHAPES = {"square": (7, 7), "more keys": (5, 9), "one query": (1, 6), "one key": (1, 1), "odd": (63, 100)}


def assert_same_function(ours, reference, inputs, dtype, names="qkv"):
    """Output and each gradient agree; the reference gets the same numbers in float64. The inputs stay as they were."""
    before = [x.detach().clone() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, ref = ours(*inputs), reference(*exact)
    assert_close("output", out, ref, OUTPUT[dtype])
    weight = randn_(*ref.shape, seed=9)
    grads = torch.autograd.grad((out.double() * weight).sum(), inputs)
    for name, got, want in zip(names, grads, torch.autograd.grad((ref * weight).sum(), exact), strict=True):
        assert_close(f"gradient of {name}", got, want, GRADIENT[dtype])
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


# --- the scale ------------------------------------------------------------------------------------------------------


def test_scale_is_calibrated_at_the_training_length():  # D9
    for kind, train_len in product(A.SCALE_KINDS, (2, 64, 512, 513.5)):
        n = train_len if isinstance(train_len, int) else None
        if n:
            assert A.attention_scale(n, 64, train_len=train_len, kind=kind) == pytest.approx(1 / 8, rel=1e-15)
    assert A.attention_scale(8, 64) == pytest.approx(math.log(8) / math.log(512) / 8, rel=1e-15)
    assert A.attention_scale(8, 64, kind="sqrt_logn") == pytest.approx(
        math.sqrt(math.log(8) / math.log(512)) / 8, rel=1e-15
    )


def test_scale_of_a_tensor_is_the_scale_of_its_numbers():
    n = torch.tensor([[1, 2, 15], [16, 17, 4096]], device=DEVICE)
    for kind, min_len in product(A.SCALE_KINDS, (1, 16)):
        got = A.attention_scale(n, 24, kind=kind, min_len=min_len, dtype=F64)
        want = [[A.attention_scale(int(x), 24, kind=kind, min_len=min_len) for x in row] for row in n]
        torch.testing.assert_close(got.cpu(), torch.tensor(want, dtype=F64), rtol=1e-15, atol=0)
    assert A.attention_scale(n, 24).dtype == torch.get_default_dtype()
    assert A.attention_scale(torch.tensor([0]), 24, min_len=4).item() == pytest.approx(A.attention_scale(4, 24))
    assert A.attention_scale(np.int64(64), 16) == A.attention_scale(64, 16)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: A.attention_scale(0, 8), ValueError, "n=0"),
        (lambda: A.attention_scale(4, 0), ValueError, "d=0"),
        (lambda: A.attention_scale(4.0, 8), TypeError, r"n=4\.0"),
        (lambda: A.attention_scale(torch.ones(2), 8), TypeError, "float32"),
        (lambda: A.attention_scale(torch.ones(2, dtype=torch.bool), 8), TypeError, "bool"),
        (lambda: A.attention_scale(4, 8, train_len=1), ValueError, "train_len=1"),
        (lambda: A.attention_scale(4, 8, train_len=math.nan), ValueError, "train_len=nan"),
        (lambda: A.attention_scale(4, 8, min_len=0), ValueError, "min_len=0"),
        (lambda: A.attention_scale(4, 8, min_len=1.5), ValueError, r"min_len=1\.5"),
        (lambda: A.attention_scale(4, 8, kind="log"), ValueError, "'log'.*'logn'"),
    ],
)
def test_scale_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- attention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_equals_its_plain_form(shape, mask, is_causal, dtype):
    (n, m), (b, h) = SHAPES[shape], (2, 3)
    options = {"mask": MASKS[mask](b, h, n, m), "is_causal": is_causal, "train_len": 5}
    assert_same_function(
        lambda *x: A.entropy_invariant_attention(*x, **options),
        lambda *x: A.entropy_invariant_attention_plain(*x, **options),
        qkv(b, h, n, m, dtype=dtype),
        dtype,
    )


@pytest.mark.parametrize("dtype", HALF_AND_UP[:2], ids=str)
@pytest.mark.parametrize("is_causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("mask", MASKS)
def test_values_of_another_width_equal_the_plain_form(mask, is_causal, dtype):  # no fused kernel on a CPU
    for n, m in SHAPES.values():
        options = {"mask": MASKS[mask](2, 3, n, m), "is_causal": is_causal, "train_len": 5}
        inputs = qkv(2, 3, n, m, dv=5, dtype=dtype)
        assert kernels.in_parts(*inputs, 0.0) == (DEVICE.type == "cpu")
        assert_same_function(
            lambda *x, o=options: A.entropy_invariant_attention(*x, **o),
            lambda *x, o=options: A.entropy_invariant_attention_plain(*x, **o),
            inputs,
            dtype,
        )


def test_parts_and_kernels_compute_the_same(monkeypatch):
    inputs = qkv(n=33, dv=5, dtype=torch.float32)
    mask = mask_(33, 33, seed=5)
    mask[4] = False
    for options in ({}, {"is_causal": True}, {"mask": mask}, {"mask": mask, "is_causal": True}, {"dropout_p": 0.2}):
        results = []
        for parts in (True, False):
            with monkeypatch.context() as patch:
                if not parts:
                    patch.setattr(kernels, "in_parts", lambda *x: False)
                torch.manual_seed(0)  # of dropout
                out = A.entropy_invariant_attention(*inputs, train_len=8, **options)
                results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
        for name, x, y in zip(("output", "dq", "dk", "dv"), *results, strict=True):
            assert_close(f"{name} of {list(options)}", x, y.double(), GRADIENT[torch.float32])


@pytest.mark.parametrize("kind", A.SCALE_KINDS)
@pytest.mark.parametrize("min_len", [1, 4])
@pytest.mark.parametrize("is_causal", [False, True])
def test_every_kind_equals_its_plain_form(kind, min_len, is_causal):
    options = {"kind": kind, "min_len": min_len, "is_causal": is_causal, "train_len": 3}
    assert_same_function(
        lambda *x: A.entropy_invariant_attention(*x, **options),
        lambda *x: A.entropy_invariant_attention_plain(*x, **options),
        qkv(dv=5),
        F64,
    )


def test_attention_equals_pytorch_with_scaled_queries():
    n, train_len = 9, 4

    def peer(q, k, v):
        seen = torch.arange(1, n + 1, device=DEVICE, dtype=F64)[:, None]
        return F.scaled_dot_product_attention(q * (seen.log() / math.log(train_len)), k, v, is_causal=True)

    assert_same_function(
        lambda *x: A.entropy_invariant_attention(*x, is_causal=True, train_len=train_len), peer, qkv(n=n), F64
    )
    assert_same_function(
        lambda *x: A.entropy_invariant_attention(*x, train_len=train_len),
        lambda q, k, v: F.scaled_dot_product_attention(q * (math.log(n) / math.log(train_len)), k, v),
        qkv(n=n),
        F64,
    )
    out = A.entropy_invariant_attention(*qkv(n=n), train_len=n)  # at the training length: nothing but softmax attention
    assert torch.equal(out, F.scaled_dot_product_attention(*qkv(n=n)))


def test_causal_rows_do_not_see_later_keys():
    n, m = 4, 7
    q, k, v = qkv(n=n, m=m, grad=False)
    out = A.entropy_invariant_attention(q, k, v, is_causal=True)
    for row in range(n):
        seen = m - n + row + 1
        k2, v2 = k.clone(), v.clone()
        k2[:, :, seen:], v2[:, :, seen:] = 1e3, -1e3
        changed = A.entropy_invariant_attention(q, k2, v2, is_causal=True)
        assert_close("rows before the change", changed[:, :, : row + 1], out[:, :, : row + 1], OUTPUT[F64])
        alone = A.entropy_invariant_attention(q[:, :, row : row + 1], k[:, :, :seen], v[:, :, :seen])
        assert_close("row alone", out[:, :, row : row + 1], alone, OUTPUT[F64])


def test_blocks_of_rows_join_without_a_seam(monkeypatch):
    inputs = qkv(n=11, m=20)
    whole = A.entropy_invariant_attention(*inputs, is_causal=True)
    monkeypatch.setattr("kexue_lib.attention.kernels.ROWS", 4)
    monkeypatch.setattr("kexue_lib.attention.entropy.ROWS", 4)
    assert_close("blocks", A.entropy_invariant_attention(*inputs, is_causal=True), whole, OUTPUT[F64])
    entropy = A.query_key_entropy(*inputs[:2], is_causal=True)
    monkeypatch.undo()
    assert_close("entropy", entropy, A.query_key_entropy(*inputs[:2], is_causal=True), OUTPUT[F64])


def test_padding_equals_the_text_without_it():
    q, k, v = qkv(n=6, grad=False)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool, device=DEVICE)
    mask[1, ..., 4:] = False
    out = A.entropy_invariant_attention(q, k, v, mask=mask, train_len=4)
    short = A.entropy_invariant_attention(q[1:, :, :4], k[1:, :, :4], v[1:, :, :4], train_len=4)
    assert_close("padded", out[1:, :, :4], short, OUTPUT[F64])


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
def test_a_query_without_keys_gives_zero_and_zero_gradients(dtype):
    mask = torch.ones(7, 7, dtype=torch.bool, device=DEVICE)
    mask[2] = False
    for width in (8, 5):
        q, k, v = qkv(dv=width, dtype=dtype)
        out = A.entropy_invariant_attention(q, k, v, mask=mask)
        assert not out[:, :, 2].any()
        assert out[:, :, 1].any()
        dq, dk, dv = torch.autograd.grad(out.sum(), (q, k, v))
        assert not dq[:, :, 2].any()
        assert all(g.isfinite().all() for g in (dq, dk, dv))


def test_attention_gradcheck():
    inputs = qkv(b=1, h=2, n=3, m=4, d=3, dv=2)
    for options in ({}, {"is_causal": True}, {"mask": MASKS["full"](1, 2, 3, 4)}):
        call = lambda *x, o=options: A.entropy_invariant_attention(*x, train_len=3, **o)  # noqa: E731
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))
def test_attention_does_not_depend_on_the_order_of_keys(n, m, seed):
    q, k, v = randn_(1, 1, n, 4, seed=seed), randn_(1, 1, m, 4, seed=seed + 1), randn_(1, 1, m, 4, seed=seed + 2)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    mask = mask_(n, m, seed=seed)
    out = A.entropy_invariant_attention(q, k, v, mask=mask, train_len=4)
    other = A.entropy_invariant_attention(q, k[:, :, order], v[:, :, order], mask=mask[:, order], train_len=4)
    torch.testing.assert_close(out, other, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 10**6), st.floats(0.1, 1e3))
def test_attention_stays_in_the_hull_of_the_values(m, seed, size):
    q, k, v = size * randn_(1, 1, 3, 4, seed=seed), randn_(1, 1, m, 4, seed=seed + 1), randn_(1, 1, m, 4, seed=seed + 2)
    out = A.entropy_invariant_attention(q, k, v, train_len=4)
    assert (out <= v.amax(2, keepdim=True) + 1e-12).all()
    assert (out >= v.amin(2, keepdim=True) - 1e-12).all()


def test_autocast_accumulates_in_float32():
    inputs = qkv(n=63, dtype=torch.float32)
    exact = [x.detach().to(torch.bfloat16).double() for x in inputs]
    for is_causal in (False, True):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            out = A.entropy_invariant_attention(*inputs, is_causal=is_causal)
            entropy = A.query_key_entropy(*inputs[:2], is_causal=is_causal)
            direct = A.attention_entropy(inputs[0])
        assert out.dtype == torch.bfloat16
        ref = A.entropy_invariant_attention_plain(*exact, is_causal=is_causal)
        assert_close("autocast", out, ref, OUTPUT[torch.bfloat16])
        grads = torch.autograd.grad(out.float().sum(), inputs)
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)
        assert entropy.dtype == direct.dtype == torch.float32
        want = A.query_key_entropy(inputs[0].double(), inputs[1].double(), is_causal=is_causal)
        assert_close("entropy", entropy, want, OUTPUT[torch.float32])


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
def test_row_factors_are_rounded_once(dtype):
    q, k, v = qkv(n=63, dtype=dtype, grad=False)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    rows = torch.arange(1, 64, device=DEVICE)[:, None].to(exact).log() / math.log(512)
    want = F.scaled_dot_product_attention((q.to(exact) * rows).to(dtype), k, v, is_causal=True)
    assert torch.equal(A.entropy_invariant_attention(q, k, v, is_causal=True), want)


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)  # dropout draws from the global generator
    q, k, v = qkv(b=1, h=1, n=4, grad=False)
    big = [x.expand(4000, 1, -1, -1) for x in (q, k, v)]
    out = A.entropy_invariant_attention(*big, dropout_p=0.3)
    want = A.entropy_invariant_attention(q, k, v)
    standard_error = out.std(0, keepdim=True) / math.sqrt(4000)
    assert ((out.mean(0, keepdim=True) - want).abs() < 5 * standard_error).all()
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda q, k, v: A.entropy_invariant_attention(q[0], k, v), ValueError, r"q has shape \(3, 7, 8\)"),
        (lambda q, k, v: A.entropy_invariant_attention(None, k, v), TypeError, "NoneType"),
        (lambda q, k, v: A.entropy_invariant_attention(q.long(), k, v), TypeError, "int64"),
        (lambda q, k, v: A.entropy_invariant_attention(q[..., :4], k, v), ValueError, "width"),
        (lambda q, k, v: A.entropy_invariant_attention(q, k[:, :1], v[:, :1]), ValueError, "heads"),
        (lambda q, k, v: A.entropy_invariant_attention(q, k, v[:, :, :3]), ValueError, r"v \(2, 3, 3, 8\)"),
        (
            lambda q, k, v: A.entropy_invariant_attention(q, k[:, :, :3], v[:, :, :3], is_causal=True),
            ValueError,
            "first 4",
        ),
        (lambda q, k, v: A.entropy_invariant_attention(q, k, v, mask=torch.zeros(7, 7)), TypeError, "float32.*boolean"),
        (lambda q, k, v: A.entropy_invariant_attention(q, k, v, mask=mask_(7, 6)), ValueError, r"\(7, 6\)"),
        (lambda q, k, v: A.entropy_invariant_attention(q, k, v, mask=mask_(1, 2, 3, 7, 7)), ValueError, "broadcast"),
        (lambda q, k, v: A.entropy_invariant_attention(q, k, v, dropout_p=1.0), ValueError, r"dropout_p=1\.0"),
        (lambda q, k, v: A.entropy_invariant_attention(q, k, v, kind="x"), ValueError, "'x'"),
        (lambda q, k, v: A.entropy_invariant_attention(q, k, v, train_len=0.5), ValueError, r"train_len=0\.5"),
        (lambda q, k, v: A.query_key_entropy(q, k, scale=math.inf), ValueError, "scale=inf"),
    ],
)
def test_attention_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call(*qkv(grad=False))


# --- compilation and memory -----------------------------------------------------------------------------------------


def counting_backend():
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    return backend, graphs


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_one_graph_serves_every_length(is_causal, masked):
    torch._dynamo.reset()
    backend, graphs = counting_backend()

    def f(q, k, v, mask):
        return A.entropy_invariant_attention(q, k, v, mask=mask, is_causal=is_causal, train_len=8)

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for n in (6, 9, 17, 64):
        inputs = (*qkv(n=n, grad=False), mask_(2, 1, 1, n) if masked else None)
        torch.testing.assert_close(compiled(*inputs), f(*inputs), rtol=1e-12, atol=1e-12)
    assert len(graphs) == 1
    backend, graphs = counting_backend()
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for n, m in ((3, 6), (5, 9), (6, 17)):  # a continued text
        inputs = (*qkv(n=n, m=m, grad=False), mask_(2, 1, 1, m) if masked else None)
        torch.testing.assert_close(compiled(*inputs), f(*inputs), rtol=1e-12, atol=1e-12)
    assert len(graphs) == 1


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"kind": "sqrt_d"}], ids=str)
def test_gradients_compile(options):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *x: A.entropy_invariant_attention(*x, train_len=4, **options), fullgraph=True, backend="aot_eager"
    )
    assert_same_function(
        compiled, lambda *x: A.entropy_invariant_attention_plain(*x, train_len=4, **options), qkv(), F64
    )


def test_entropy_compiles():
    torch._dynamo.reset()
    q, k, _ = qkv(n=6, m=9, grad=False)
    compiled = torch.compile(
        lambda q, k: A.query_key_entropy(q, k, is_causal=True), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(q, k), A.query_key_entropy(q, k, is_causal=True), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_attention_through_inductor():
    torch._dynamo.reset()
    for is_causal in (False, True):
        compiled = torch.compile(
            lambda *x, c=is_causal: A.entropy_invariant_attention(*x, is_causal=c, train_len=4), fullgraph=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own
            assert_same_function(
                compiled,
                lambda *x, c=is_causal: A.entropy_invariant_attention_plain(*x, is_causal=c, train_len=4),
                qkv(dtype=torch.float32),
                torch.float32,
            )


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("case", ["all", "causal", "continued", "padding"])
def test_no_tensor_grows_with_the_square_of_the_length(case):
    """Forward and backward; 4 d n is far below n² here."""
    d, m = 8, 4096
    n = m // 2 if case == "continued" else m
    inputs = qkv(b=1, h=1, n=n, m=m, d=d, dtype=torch.float32)
    mask = mask_(1, 1, 1, m) if case == "padding" else None
    with LargestTensor() as seen:
        out = A.entropy_invariant_attention(*inputs, mask=mask, is_causal=case in ("causal", "continued"))
        torch.autograd.grad(out.sum(), inputs)
    bound = kernels.ROWS * m if case == "continued" else 4 * d * m
    assert seen.numel <= bound < n * m
    with LargestTensor() as seen:  # the instrument does see an n×m tensor
        A.entropy_invariant_attention_plain(*(x[:, :, :64] for x in inputs))
    assert seen.numel >= 64 * 64


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


@pytest.mark.skipif(DEVICE.type != "cpu", reason="reads the CPU allocator; test_no_tensor_grows… runs everywhere")
def test_peak_memory_grows_linearly():
    d = 8

    def peak(n, is_causal, attention):
        inputs = qkv(b=1, h=1, n=n, d=d, dtype=torch.float32)
        return peak_bytes(lambda: torch.autograd.grad(attention(*inputs, is_causal=is_causal).sum(), inputs))

    for is_causal in (False, True):
        short, long = (peak(n, is_causal, A.entropy_invariant_attention) for n in (1024, 4096))
        assert long < 6 * short
        assert long < 4 * 4096**2
    assert peak(1024, False, A.entropy_invariant_attention_plain) >= 4 * 1024**2  # the instrument sees the plain form


# --- entropy --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(0, 10**6), st.floats(0, 60), st.floats(-1e6, 1e6))
def test_entropy_lies_between_zero_and_log_n(n, seed, size, offset):
    s = size * randn_(n, seed=seed) + offset
    entropy = A.attention_entropy(s)
    assert -1e-12 <= entropy <= math.log(n) + 1e-12
    torch.testing.assert_close(entropy, A.attention_entropy_plain(s), rtol=1e-9, atol=1e-9)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(A.attention_entropy(s[order]), entropy, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.integers(0, 10**6), st.floats(0.01, 40))
def test_entropy_lower_bound(n, seed, lam):  # D4
    s = randn_(n, seed=seed)
    bound = A.softmax_entropy_lower_bound(s, lam)
    assert A.attention_entropy(lam * s).item() >= bound - 1e-12
    assert bound <= math.log(n)


def test_entropy_lower_bound_is_reached_by_equal_scores_only():
    assert A.softmax_entropy_lower_bound([3.0] * 7, 5.0) == pytest.approx(math.log(7), rel=1e-15)
    assert A.softmax_entropy_lower_bound([1.0, 2.0, 4.0], 0.0) == pytest.approx(math.log(3), rel=1e-15)
    s = np.array([[0.0, 1.0, -np.inf], [2.0, 2.0, 5.0]])
    got = A.softmax_entropy_lower_bound(s, [0.5, 2.0])
    assert got == pytest.approx([math.log(2) - 0.5 * 0.5, math.log(3) - 2.0 * 2.0])
    for bad, lam in (([[-np.inf, -np.inf]], 1.0), ([1.0, 2.0], -1.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match=r"-inf only|lam=-1|last axis"):
            A.softmax_entropy_lower_bound(bad, lam)


def test_entropy_slope_is_minus_lambda_variance():  # D3
    s, lam = randn_(5, 9), torch.tensor(1.7, dtype=F64, device=DEVICE, requires_grad=True)
    slope = torch.autograd.grad(A.attention_entropy(lam * s).sum(), lam)[0]
    p = torch.softmax(lam.detach() * s, -1)
    variance = (p * s**2).sum(-1) - (p * s).sum(-1) ** 2
    torch.testing.assert_close(slope, -(lam.detach() * variance).sum(), rtol=1e-12, atol=0)


def test_hidden_keys_count_as_absent():
    s = randn_(4, 9)
    hidden = torch.cat([s, torch.full((4, 3), -math.inf, dtype=F64, device=DEVICE)], -1).requires_grad_()
    entropy = A.attention_entropy(hidden)
    torch.testing.assert_close(entropy, A.attention_entropy(s), rtol=1e-14, atol=0)
    grad = torch.autograd.grad(entropy.sum(), hidden)[0]
    assert grad.isfinite().all()
    assert not grad[:, 9:].any()
    empty = torch.full((2, 3), -math.inf, dtype=F64, device=DEVICE, requires_grad=True)
    entropy = A.attention_entropy(empty)
    assert torch.equal(entropy, torch.zeros_like(entropy))
    assert not torch.autograd.grad(entropy.sum(), empty)[0].any()


def test_entropy_gradcheck():
    s = randn_(3, 4, grad=True)
    assert torch.autograd.gradcheck(A.attention_entropy, (s,))
    assert torch.autograd.gradgradcheck(A.attention_entropy, (s,))
    assert torch.autograd.gradcheck(
        lambda p: A.attention_entropy(p, from_logits=False), (s.detach().softmax(-1).requires_grad_(),)
    )
    q, k, _ = qkv(b=1, h=1, n=3, m=4, d=2)
    assert torch.autograd.gradcheck(lambda q, k: A.query_key_entropy(q, k, is_causal=True), (q, k))


def test_entropy_of_weights():
    p = torch.softmax(3 * randn_(4, 30), -1)
    torch.testing.assert_close(
        A.attention_entropy(p, from_logits=False), A.attention_entropy(p.log()), rtol=1e-13, atol=1e-14
    )
    p = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=F64, device=DEVICE, requires_grad=True)
    entropy = A.attention_entropy(p, from_logits=False)
    torch.testing.assert_close(entropy.detach().cpu(), torch.tensor([0.0, math.log(2)], dtype=F64))
    assert torch.autograd.grad(entropy.sum(), p)[0].isfinite().all()
    torch.testing.assert_close(A.attention_entropy(p.T, dim=0, from_logits=False), entropy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_entropy_accumulates_in_float32(dtype):
    s = (100 + randn_(3, 5000)).to(dtype)  # a shared offset, where log Z − Σ p s would cancel
    got = A.attention_entropy(s)
    assert got.dtype == torch.float32
    assert_close("entropy", got, A.attention_entropy_plain(s), OUTPUT[torch.float32])
    huge = (1e4 * randn_(3, 50)).to(torch.float32)  # weights underflow
    assert_close("underflow", A.attention_entropy(huge), A.attention_entropy_plain(huge), OUTPUT[torch.float32])


def test_broken_scores_are_not_hidden():
    assert A.attention_entropy(torch.tensor([0.0, math.nan, -math.inf])).isnan()
    assert A.attention_entropy(torch.tensor([0.0, math.inf])).isnan()
    assert A.attention_entropy(torch.tensor([1.5, -0.5]), from_logits=False).item() == -math.inf
    with pytest.raises(TypeError, match="int64"):
        A.attention_entropy(torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no axis"):
        A.attention_entropy(torch.tensor(1.0))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_query_key_entropy_equals_its_plain_form(mask, is_causal):
    (b, h, n, m) = (2, 2, 4, 6)
    options = {"mask": MASKS[mask](b, h, n, m), "is_causal": is_causal, "train_len": 5}
    q, k, _ = qkv(b, h, n, m)
    for kind in ({"kind": "logn"}, {"kind": "sqrt_logn", "min_len": 3}, {"scale": 0.7}):
        got, want = A.query_key_entropy(q, k, **options, **kind), A.query_key_entropy_plain(q, k, **options, **kind)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


# --- laws -----------------------------------------------------------------------------------------------------------


def exact_drop(lam, d):
    """D8 with mpmath's Bessel functions."""
    with mpmath.workdps(50):
        lam, nu = mpmath.mpf(lam), mpmath.mpf(d) / 2 - 1
        a = lam * d
        i0, i1 = mpmath.besseli(nu, a), mpmath.besseli(nu + 1, a)
        return a * i1 / i0 - (mpmath.loggamma(nu + 1) + nu * mpmath.log(2 / a) + mpmath.log(i0))


@pytest.mark.parametrize("d", [2, 2.5, 3, 4, 7, 16, 64, 512, 4096])
def test_sphere_drop_equals_the_bessel_functions(d):
    for lam in (1e-6, 1e-3, 0.05, 0.125, 0.25, 0.5, 0.9, 1, 1.3, 4, 20, 300, 1e4, 1e8):
        want = exact_drop(lam, d)
        assert abs(A.sphere_entropy_drop(lam, d) / want - 1) < 1e-12, (lam, d)


def test_sphere_drop_at_the_seam_and_at_the_ends():
    for d in (2, 64, 1000):
        seam = math.sqrt(2 / d)
        below, above = A.sphere_entropy_drop([seam * (1 - 1e-9), seam * (1 + 1e-9)], d)
        assert above / below - 1 == pytest.approx(0, abs=1e-8)
    assert A.sphere_entropy_drop(0.0, 5) == 0.0
    assert A.sphere_entropy_drop(np.zeros((2, 3)), 5).shape == (2, 3)
    assert A.sphere_entropy_drop(1e-3, 64) == pytest.approx(64 * 1e-6 / 2, rel=1e-4)  # d λ²/2
    for lam, d in ((-1, 8), (math.nan, 8), (math.inf, 8), (1, 1), (1, math.inf)):
        with pytest.raises(ValueError, match=r"lam=|d="):
            A.sphere_entropy_drop(lam, d)


def test_sphere_drop_per_dimension_tends_to_the_rate():  # D8: with rate 1/d
    d = 2.0 ** np.arange(5, 13)
    for lam in (0.125, 1.0, 4.0):
        error = np.array([A.sphere_entropy_drop(lam, x) / x for x in d]) - A.sphere_entropy_rate(lam)
        slope = np.polyfit(np.log(d), np.log(np.abs(error)), 1)[0]
        assert -1.1 < slope < -0.9
    assert A.sphere_entropy_rate(1.0) == pytest.approx(math.log((1 + math.sqrt(5)) / 2) / 2, rel=1e-15)
    assert A.sphere_entropy_rate(1e-8) == pytest.approx(0.5e-16, rel=1e-12)
    assert A.sphere_entropy_rate(1e12) == pytest.approx(math.log(1e12) / 2, rel=1e-12)


def test_sphere_drop_is_the_entropy_of_many_keys():
    d, n = 8, 200_000
    k = randn_(n, d).cpu()
    cosine = k[:, 0] / k.norm(dim=1)
    for lam in (0.1, 0.5, 1.0):
        drop = math.log(n) - A.attention_entropy(lam * d * cosine).item()
        assert drop == pytest.approx(A.sphere_entropy_drop(lam, d), rel=0.02)


def test_sphere_lambda_inverts_the_drop():
    n = np.array([64.0, 4096.0, 1e9])
    for d, h0 in ((2, 1.0), (64, 2.0), (1024, 3.0)):
        lam = A.sphere_lambda(n, d, h0)
        assert A.sphere_entropy_drop(lam, d) == pytest.approx(np.log(n) - h0, rel=1e-12)
    with pytest.raises(ValueError, match="h0=5"):
        A.sphere_lambda(64, 64, 5.0)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 200), st.floats(0.01, 30))
def test_leader_entropy_is_the_entropy_of_one_leader(n, lead):
    s = torch.zeros(n, dtype=F64)
    s[0] = lead
    assert A.leader_entropy(n, lead) == pytest.approx(A.attention_entropy(s).item(), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.floats(2, 1e30), st.floats(1e-6, 0.999))
def test_leader_lambda_inverts_the_entropy(n, share):
    h0 = share * math.log(n)
    assert A.leader_entropy(n, A.leader_lambda(n, h0)) == pytest.approx(h0, rel=1e-9)


def test_leader_lambda_grows_like_log_n():  # D6: L = log n + log log n − log H₀ + o(1)
    n = np.array([2.0**6, 2.0**9, 2.0**12, 1e6, 1e9, 1e15, 1e30])
    lead = A.leader_lambda(n, 1.0)
    assert np.round(lead / np.log(n), 3).tolist() == [1.428, 1.341, 1.285, 1.204, 1.153, 1.105, 1.062]
    rest = lead - np.log(n) - np.log(np.log(n))
    assert (np.diff(rest) < 0).all()
    assert 0 < rest[-1] < 0.061
    for h0 in (0.0, -1.0, math.log(64), 5.0, math.nan):
        with pytest.raises(ValueError, match="h0="):
            A.leader_lambda(64, h0)
    with pytest.raises(ValueError, match="n=1 "):
        A.leader_lambda(1, 0.5)


def test_leader_entropy_at_the_ends():
    assert A.leader_entropy(1, 3.0) == 0.0
    assert A.leader_entropy(64, 0.0) == pytest.approx(math.log(64), rel=1e-15)
    assert A.leader_entropy(64, 1e4) == 0.0
    with pytest.raises(ValueError, match="n=0"):
        A.leader_entropy(0, 1.0)
    with pytest.raises(TypeError, match="str"):
        A.leader_entropy("many", 1.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 400), st.integers(1, 5), st.integers(0, 10**6), st.floats(0.05, 0.95), st.floats(1e-6, 1e6))
def test_invariant_lambda_gives_the_entropy(n, rows, seed, share, size):
    s = size * randn_(rows, n, seed=seed).cpu()
    h0 = share * math.log(n)
    lam = A.invariant_lambda(s, h0)
    assert A.attention_entropy(lam * s).mean().item() == pytest.approx(h0, abs=1e-9)
    each = A.invariant_lambda(s, h0, per_row=True)
    assert each.shape == (rows,)
    assert A.attention_entropy(torch.tensor(each)[:, None] * s).numpy() == pytest.approx(np.full(rows, h0), abs=1e-9)


def test_invariant_lambda_agrees_with_the_leader():
    for n in (4, 64, 1000):
        s = np.zeros(n)
        s[0] = 0.5
        assert A.invariant_lambda(s, 1.0) * 0.5 == pytest.approx(A.leader_lambda(n, 1.0), rel=1e-9)
    s = np.array([[1.0, 0.0, -1.0, -np.inf], [0.3, 0.2, 0.1, 5.0]])  # an absent key does not count
    first = A.invariant_lambda(s, 0.5, per_row=True)[0]
    assert first == pytest.approx(A.invariant_lambda(s[0, :3], 0.5), rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "h0", "words"),
    [
        ([1.0, 2.0], 0.7, "log"),
        ([1.0, 2.0], 0.0, "h0=0"),
        ([1.0, 1.0], 0.5, "all equal"),
        ([1.0, 1.0, 0.0], 0.5, "ties"),
        ([1.0, np.nan], 0.5, "NaN"),
        ([-np.inf, -np.inf], 0.5, "-inf only"),
        ([], 0.5, "at least one row"),
    ],
)
def test_invariant_lambda_refuses(scores, h0, words):
    for per_row in (False, True):
        with pytest.raises(ValueError, match=words):
            A.invariant_lambda(scores, h0, per_row=per_row)


def test_public_names_and_examples():
    assert sorted(A.__all__) == A.__all__
    assert all(getattr(A, name).__doc__ for name in A.__all__)
    files = ("scale", "softmax", "entropy", "laws", "sphere")
    modules = [importlib.import_module(f"kexue_lib.attention.{name}") for name in files]
    assert sorted(name for module in modules for name in module.__all__) == A.__all__
    names = {name: getattr(A, name) for name in A.__all__} | {"np": np, "torch": torch}
    results = [doctest.testmod(module, extraglobs=names) for module in modules]
    assert all(result.attempted >= 3 for result in results)
    assert not any(result.failed for result in results)
