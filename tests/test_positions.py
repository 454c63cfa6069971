"""kexue_lib.positions: RoPE against its matrices, its defining property, and what may go wrong."""

from __future__ import annotations

import doctest
import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, HALF_AND_UP, randn_
from tolerances import GRADIENT, OUTPUT, assert_close

import kexue_lib.positions as P

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64


def inv_freq_(dim, base=10000.0):
    return P.rope_inv_freq(dim, base, device=DEVICE, dtype=F64)


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize("interleaved", [True, False], ids=["pairs", "halves"])
@pytest.mark.parametrize("shape", [(7, 8), (1, 2), (2, 3, 5, 6), (2, 33, 66)], ids=str)
@pytest.mark.parametrize("rotary", [None, 2], ids=["whole", "partial"])
def test_rope_equals_the_rotation_matrices(shape, interleaved, rotary, dtype):
    x = randn_(*shape, dtype=dtype, grad=True)
    before = x.detach().clone()
    exact = x.detach().double().requires_grad_()
    inv_freq = inv_freq_(rotary or shape[-1])
    positions = torch.arange(shape[-2], device=DEVICE) * 3 - 4
    out = P.apply_rope(x, positions, inv_freq, interleaved=interleaved)
    ref = P.apply_rope_plain(exact, positions, inv_freq, interleaved=interleaved)
    assert out.dtype == dtype
    assert_close("output", out, ref, OUTPUT[dtype])
    weight = randn_(*shape, seed=1)
    got, want = (
        torch.autograd.grad((out.double() * weight).sum(), x)[0],
        torch.autograd.grad((ref * weight).sum(), exact)[0],
    )
    assert_close("gradient", got, want, GRADIENT[dtype])
    assert torch.equal(x, before)


@settings(deadline=None, max_examples=60)
@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(-(10**4), 10**4), st.integers(1, 20), st.booleans())
def test_scores_depend_on_the_distance_only(m, n, shift, pairs, interleaved):
    q, k, inv_freq = randn_(1, 2 * pairs), randn_(1, 2 * pairs, seed=1), inv_freq_(2 * pairs)

    def rope(x, t):
        return P.apply_rope(x, torch.tensor([t], device=DEVICE), inv_freq, interleaved=interleaved)

    score = (rope(q, m) * rope(k, n)).sum()
    torch.testing.assert_close((rope(q, m + shift) * rope(k, n + shift)).sum(), score, rtol=0, atol=1e-9)
    torch.testing.assert_close((q * rope(k, n - m)).sum(), score, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.integers(1, 20), st.booleans())
def test_rotations_compose_and_keep_the_norm(s, t, pairs, interleaved):
    x, inv_freq = randn_(3, 2 * pairs), inv_freq_(2 * pairs)

    def rope(x, t):
        return P.apply_rope(x, torch.full((3,), t, dtype=F64, device=DEVICE), inv_freq, interleaved=interleaved)

    torch.testing.assert_close(rope(rope(x, s), t), rope(x, s + t), rtol=0, atol=1e-10)
    torch.testing.assert_close(rope(rope(x, t), -t), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(rope(x, t).norm(dim=-1), x.norm(dim=-1), rtol=1e-13, atol=0)


def test_the_two_conventions_differ_by_a_permutation():
    x = randn_(5, 12)
    order = torch.arange(12).view(6, 2).T.flatten()  # interleaved -> halves
    turned = P.apply_rope(x, inv_freq=inv_freq_(12))
    assert_close(
        "halves", P.apply_rope(x[:, order], inv_freq=inv_freq_(12), interleaved=False), turned[:, order], OUTPUT[F64]
    )
    assert not torch.allclose(P.apply_rope(x, interleaved=False), turned)


def test_first_pair_turns_one_radian_per_position():
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=F64, device=DEVICE)
    out = P.apply_rope(x, torch.tensor([1], device=DEVICE)).cpu()[0]
    want = torch.tensor([math.cos(1), math.sin(1), math.cos(0.01), math.sin(0.01)], dtype=F64)
    torch.testing.assert_close(out, want, rtol=1e-14, atol=1e-14)


def test_positions_broadcast():
    x = randn_(2, 3, 5, 4)
    own = torch.stack([torch.arange(5), torch.arange(5) + 7]).to(DEVICE)
    out = P.apply_rope(x, own[:, None, :])
    for i in range(2):
        assert_close("sample", out[i], P.apply_rope(x[i], own[i]), OUTPUT[F64])
    same = P.apply_rope(x, torch.tensor([2], device=DEVICE))  # one position for all rows
    assert_close("one position", same, P.apply_rope(x, torch.full((5,), 2, device=DEVICE)), OUTPUT[F64])


def test_slices_with_odd_strides():
    wide = randn_(2, 5, 11)
    even, flat = randn_(2, 5, 12), randn_(41)
    odd_offsets = (even[..., 1:9], flat[1:].view(5, 8))
    for view in (
        *odd_offsets,
        wide[..., 3:],
        wide[..., :8],
        wide[..., 1:9],
        randn_(2, 8, 5).transpose(1, 2),
        wide[:, ::2, 2:4],
    ):
        assert_close(
            "slice", P.apply_rope(view), P.apply_rope(view.clone(memory_format=torch.contiguous_format)), OUTPUT[F64]
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_angles_are_not_computed_in_half_precision(dtype):
    x = randn_(1, 8, dtype=dtype)
    far = torch.tensor([100_001], device=DEVICE)  # in bfloat16 this position is 99 840
    ref = P.apply_rope_plain(x.double(), far, P.rope_inv_freq(8, device=DEVICE).double())
    # float32 angles: off by up to 1e5 · 6e-8 rad
    assert_close("far position", P.apply_rope(x, far), ref, OUTPUT[dtype] + 6e-3)
    assert_close("far position, float64 angles", P.apply_rope(x, far, inv_freq_(8)), ref, OUTPUT[dtype] + 1e-2)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_gradcheck(interleaved):
    x, positions = randn_(2, 3, 6, grad=True), randn_(3, grad=True)
    assert torch.autograd.gradcheck(
        lambda x, t: P.apply_rope(x, t, inv_freq_(4), interleaved=interleaved), (x, positions)
    )


@pytest.mark.parametrize("interleaved", [True, False])
def test_one_graph_serves_every_length(interleaved):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda x: P.apply_rope(x, interleaved=interleaved), fullgraph=True, dynamic=True, backend=backend
    )
    for n in (4, 7, 30):
        x = randn_(2, n, 6)
        assert_close("compiled", compiled(x), P.apply_rope(x, interleaved=interleaved), OUTPUT[F64])
    assert len(graphs) == 1
    operations = " ".join(str(node.target) for node in graphs[0].graph.nodes)
    assert "complex" not in operations  # inductor has no complex kernels
    assert "cos" in operations


def test_gradients_compile():
    torch._dynamo.reset()
    x = randn_(2, 5, 6, grad=True)
    out = torch.compile(P.apply_rope, fullgraph=True, backend="aot_eager")(x)
    weight = randn_(2, 5, 6, seed=1)
    want = torch.autograd.grad((P.apply_rope_plain(x) * weight).sum(), x)[0]
    assert_close("gradient", torch.autograd.grad((out * weight).sum(), x)[0], want, GRADIENT[F64])


def test_autocast_leaves_the_angles_alone():
    x = randn_(4, 8, dtype=torch.bfloat16)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        out = P.apply_rope(x)
    assert torch.equal(out, P.apply_rope(x))


def test_frequencies():
    torch.testing.assert_close(P.rope_inv_freq(64, dtype=F64), 10000.0 ** (-torch.arange(32, dtype=F64) / 32))
    assert P.rope_inv_freq(4).dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: P.rope_inv_freq(7), ValueError, "dim=7.*even"),
        (lambda: P.rope_inv_freq(0), ValueError, "dim=0"),
        (lambda: P.rope_inv_freq(8, 0.0), ValueError, r"base=0\.0"),
        (lambda: P.rope_inv_freq(8, dtype=torch.bfloat16), ValueError, "bfloat16"),
        (lambda: P.apply_rope(torch.ones(3, 5)), ValueError, "dim=5"),
        (lambda: P.apply_rope(torch.ones(4)), ValueError, r"x \(4,\)"),
        (lambda: P.apply_rope([1.0, 2.0]), ValueError, "list"),
        (lambda: P.apply_rope(torch.ones(3, 4), torch.arange(2)), ValueError, r"positions \(2,\).*\(3,\)"),
        (lambda: P.apply_rope(torch.ones(3, 4), torch.tensor(1)), ValueError, r"positions \(\)"),
        (lambda: P.apply_rope(torch.ones(3, 4), torch.ones(2, 3)), ValueError, "positions"),
        (lambda: P.apply_rope(torch.ones(3, 4), inv_freq=torch.ones(3)), ValueError, "6 coordinates.*has 4"),
        (lambda: P.apply_rope(torch.ones(3, 4), inv_freq=torch.ones(1, 2)), ValueError, "inv_freq"),
        (lambda: P.apply_rotary(torch.ones(3, 4), torch.ones(3, 2), torch.ones(3, 1)), ValueError, "one shape"),
        (lambda: P.apply_rotary(torch.ones(3, 4).long(), torch.ones(3, 2), torch.ones(3, 2)), TypeError, "int64"),
    ],
)
def test_rope_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_public_names_and_examples():
    files = ("rotary", "scaling", "radix", "length", "clipped")
    modules = [importlib.import_module(f"kexue_lib.positions.{name}") for name in files]
    public = [name for module in modules for name in module.__all__]
    assert sorted(public) == sorted(P.__all__)
    results = [doctest.testmod(module) for module in modules]
    assert all(result.attempted >= 2 for result in results)
    assert not any(result.failed for result in results)
