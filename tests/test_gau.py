"""kexue_lib.gau: the unit against its formulas, its special cases, and what may go wrong."""

from __future__ import annotations

import doctest
import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tensors import DEVICE, HALF_AND_UP, mask_, randn_
from tolerances import GRADIENT, OUTPUT, assert_close

import kexue_lib.attention as A
import kexue_lib.gau as G
from kexue_lib.attention import kernels

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64


def unit(dtype=F64, seed=0, **options):
    options = {"dim": 6, "key_dim": 4, "train_len": 4, **options}
    gau = G.GatedAttentionUnit(generator=torch.Generator().manual_seed(seed), **options)
    with torch.no_grad():  # away from γ = 1, β = 0, so that every parameter is seen
        for i, p in enumerate(gau.parameters()):
            if p.dim() < 2 or p is gau.gamma or p is gau.beta:
                p.add_(0.3 * randn_(*p.shape, seed=10 + i, dtype=torch.float32).cpu())
    return gau.to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize("scale", ["sqrt_d", "logn", "sqrt_logn", 0.7], ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("mask", [None, (2, 1, 9), (5, 9), (2, 5, 9)], ids=str)
def test_gau_attention_equals_its_plain_form(mask, is_causal, scale, dtype):
    shapes = ((2, 5, 8), (2, 9, 8), (2, 9, 12))
    inputs = [randn_(*shape, seed=i, dtype=dtype, grad=True) for i, shape in enumerate(shapes)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    options = {"mask": mask and mask_(*mask), "is_causal": is_causal, "scale": scale, "train_len": 5}
    out, ref = G.gau_attention(*inputs, **options), G.gau_attention_plain(*exact, **options)
    assert_close("output", out, ref, OUTPUT[dtype])
    weight = randn_(*ref.shape, seed=9)
    grads = torch.autograd.grad((out.double() * weight).sum(), inputs)
    for name, got, want in zip("qkv", grads, torch.autograd.grad((ref * weight).sum(), exact), strict=True):
        assert_close(f"gradient of {name}", got, want, GRADIENT[dtype])


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize("scale", ["sqrt_d", "logn", "sqrt_logn", 0.7], ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_as_many_queries_as_keys(is_causal, scale, dtype):  # the short way; an explicit mask goes the long one
    inputs = [
        randn_(*shape, seed=i, dtype=dtype, grad=True) for i, shape in enumerate(2 * ((3, 7, 8),) + ((3, 7, 12),))
    ]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    options = {"scale": scale, "train_len": 5, "min_len": 2}
    ref = G.gau_attention_plain(*exact, is_causal=is_causal, **options)
    weight = randn_(*ref.shape, seed=9)
    wanted = torch.autograd.grad((ref * weight).sum(), exact)
    mask = torch.ones(7, 7, dtype=torch.bool, device=inputs[0].device)
    for more in ({"is_causal": is_causal}, {"mask": mask.tril() if is_causal else mask}):
        out = G.gau_attention(*inputs, **options, **more)
        assert_close("output", out, ref, OUTPUT[dtype])
        grads = torch.autograd.grad((out.double() * weight).sum(), inputs)
        for name, got, want in zip("qkv", grads, wanted, strict=True):
            assert_close(f"gradient of {name}", got, want, GRADIENT[dtype])


@pytest.mark.parametrize("dtype", HALF_AND_UP[:2], ids=str)
@pytest.mark.parametrize(
    ("causal", "rope", "bias", "scale", "activation"),
    [
        (False, True, False, "sqrt_d", "silu"),
        (True, True, True, "logn", "silu"),
        (False, False, True, "logn", "gelu"),
        (True, False, False, 0.5, "relu"),
        (False, True, True, "sqrt_logn", "identity"),
    ],
)
def test_unit_equals_its_formulas(causal, rope, bias, scale, activation, dtype):
    options = {"causal": causal, "rope": rope, "bias": bias, "scale": scale, "activation": activation, "expansion": 1.5}
    gau, exact = unit(dtype, **options), unit(dtype, **options).double()
    x = randn_(3, 7, 6, dtype=dtype, grad=True)
    y = x.detach().double().requires_grad_()
    mask = mask_(3, 7, seed=2)
    out, ref = gau(x, mask), exact.forward_plain(y, mask)
    # Four matrix products, an activation and softmax in a row: four times the bound of one.
    assert_close("output", out, ref, 4 * OUTPUT[dtype])
    weight = randn_(*ref.shape, seed=9)
    names = [name for name, _ in gau.named_parameters()]
    grads = torch.autograd.grad((out.double() * weight).sum(), [x, *gau.parameters()])
    wants = torch.autograd.grad((ref * weight).sum(), [y, *exact.parameters()])
    for name, got, want in zip(["x", *names], grads, wants, strict=True):
        assert want.any(), name
        assert_close(f"gradient of {name}", got, want, 4 * GRADIENT[dtype])


def test_unit_without_mixing_is_a_gated_feed_forward_layer():  # 8934, C1: A = I
    gau = unit(rope=False)
    x = randn_(5, 1, 6)  # one token: its only weight is 1
    u, v, _ = F.silu(gau.in_proj(x)).split((12, 12, 4), dim=-1)
    assert_close("A = I", gau(x), gau.out_proj(u * v), OUTPUT[F64])


def test_unit_with_an_open_gate_is_attention():  # 8934, C1: U = 1
    gau = unit(rope=False, bias=True, activation="identity")
    with torch.no_grad():
        gau.in_proj.weight[:12], gau.in_proj.bias[:12] = 0, 1
    x = randn_(2, 5, 6)
    _, v, z = gau.in_proj(x).split((12, 12, 4), dim=-1)
    q, k = (gau.gamma[i] * z + gau.beta[i] for i in (0, 1))
    weights = torch.softmax(q @ k.transpose(1, 2) / 2, -1)
    assert_close("U = 1", gau(x), gau.out_proj(weights @ v), OUTPUT[F64])


def test_parameter_count():  # 8934, D3: 3de + ds (+ 2s affine)
    d, s = 10, 4
    for e in (10, 20, 15):
        count = sum(p.numel() for p in G.GatedAttentionUnit(d, expansion=e / d, key_dim=s).parameters())
        assert count == 3 * d * e + d * s + 2 * s


def test_shifting_all_positions_changes_nothing():
    gau, x = unit(), randn_(2, 7, 6)
    shifted = gau(x, positions=torch.arange(7, device=DEVICE) + 100)
    torch.testing.assert_close(shifted, gau(x), rtol=1e-10, atol=1e-10)
    own = torch.stack([torch.arange(7), torch.arange(7) + 5]).to(DEVICE)
    torch.testing.assert_close(gau(x, positions=own), gau(x), rtol=1e-10, atol=1e-10)
    stretched = gau(x, positions=2 * torch.arange(7, device=DEVICE))
    assert not torch.allclose(stretched, gau(x))


def test_without_rope_the_order_of_tokens_does_not_matter():
    gau, x = unit(rope=False, scale="logn"), randn_(2, 7, 6)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert_close("permuted", gau(x[:, order]), gau(x)[:, order], OUTPUT[F64])
    assert not torch.allclose(unit()(x[:, order]), unit()(x)[:, order])


def test_causal_unit_does_not_see_later_tokens():
    gau, x = unit(causal=True, scale="logn"), randn_(2, 7, 6)
    changed = x.clone()
    changed[:, 4:] += 1
    assert_close("before", gau(changed)[:, :4], gau(x)[:, :4], OUTPUT[F64])
    assert not torch.allclose(gau(changed)[:, 4:], gau(x)[:, 4:])


def test_padding_equals_the_text_without_it():
    gau, x = unit(scale="logn"), randn_(2, 7, 6)
    mask = torch.ones(2, 7, dtype=torch.bool, device=DEVICE)
    mask[1, 4:] = False
    assert_close("padded", gau(x, mask)[1:, :4], gau(x[1:, :4]), 4 * OUTPUT[F64])


def test_scale_can_be_changed_for_one_call():
    x = randn_(2, 7, 6)
    gau = unit()
    for scale, train_len in product(("logn", "sqrt_logn"), (4, 64)):
        want = unit(scale=scale, train_len=train_len)(x)
        assert torch.equal(gau(x, scale=scale, train_len=train_len), want)
    assert torch.equal(gau(x, scale="logn", train_len=7), gau(x))  # calibrated at n = 7
    torch.testing.assert_close(gau(x, scale=0.5), gau(x), rtol=1e-13, atol=1e-14)  # λ = 1/√s itself
    assert gau.scale == "sqrt_d"
    clamped = gau(x[:, :3], scale="logn", min_len=4, train_len=4)
    assert torch.equal(clamped, gau(x[:, :3]))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", ["logn", 0.3])
def test_entropy_comes_beside_the_same_output(causal, scale):
    gau, x, mask = unit(causal=causal), randn_(2, 7, 6), mask_(2, 7, keep=0.8)
    mask[:, 0] = True
    out, entropy = gau(x, mask, scale=scale, return_entropy=True)
    assert torch.equal(out, gau(x, mask, scale=scale))
    assert entropy.shape == (2, 7)
    z = F.silu(gau.in_proj(x))[..., 24:]
    q, k = (G.apply_rope_plain(gau.gamma[i] * z) for i in (0, 1))
    want = A.query_key_entropy_plain(
        q[:, None],
        k[:, None],
        mask=mask[:, None, None, :],
        is_causal=causal,
        train_len=4,
        **({"kind": scale} if isinstance(scale, str) else {"scale": scale}),
    )[:, 0]
    torch.testing.assert_close(entropy, want, rtol=1e-11, atol=1e-12)
    seen = (mask[:, None] & (kernels.causal_mask(7, 7, DEVICE) if causal else True)).sum(-1)
    assert (entropy <= seen.double().log() + 1e-12).all()


def test_unit_gradcheck():
    gau, x = unit(scale="logn", bias=True, dim=3, key_dim=2), randn_(1, 3, 3, grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: gau(x), (x, *gau.parameters()))
    assert torch.autograd.gradcheck(lambda x: gau(x, return_entropy=True)[1], (x,))


@pytest.mark.parametrize("causal", [False, True])
def test_one_graph_serves_every_length(causal):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    gau = unit(causal=causal, scale="logn")
    compiled = torch.compile(gau, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for n in (4, 7, 30):
            x = randn_(2, n, 6)
            torch.testing.assert_close(compiled(x), gau(x), rtol=1e-12, atol=1e-12)
    assert len(graphs) == 1


def test_gradients_compile():
    torch._dynamo.reset()
    gau, x = unit(scale="logn"), randn_(2, 5, 6, grad=True)
    out = torch.compile(gau, fullgraph=True, backend="aot_eager")(x)
    got, want = torch.autograd.grad(out.sum(), x)[0], torch.autograd.grad(gau.forward_plain(x).sum(), x)[0]
    assert_close("gradient", got, want, 4 * GRADIENT[F64])


def test_half_precision():
    gau, x = unit(torch.float32, scale="logn"), randn_(2, 33, 6, dtype=torch.float32, grad=True)
    ref = unit(torch.float32, scale="logn").double().forward_plain(x.detach().double())
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        out, entropy = gau(x, return_entropy=True)
    assert entropy.dtype == torch.float32
    # Half precision runs through four matrix products in a row.
    assert_close("autocast", out, ref, 4 * OUTPUT[torch.bfloat16])
    assert torch.autograd.grad(out.float().sum(), x)[0].isfinite().all()
    assert_close("module in bfloat16", gau.bfloat16()(x.bfloat16()), ref, 4 * OUTPUT[torch.bfloat16])


def test_weights_come_from_the_generator():
    one, two, other = unit(seed=0), unit(seed=0), unit(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.in_proj.weight, other.in_proj.weight)
    before = torch.random.get_rng_state()
    gau = G.GatedAttentionUnit(64, key_dim=32, generator=torch.Generator().manual_seed(0), init_gain=0.5, bias=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert gau.in_proj.weight.std().item() == pytest.approx(0.5 / 8, rel=0.05)
    assert gau.out_proj.weight.std().item() == pytest.approx(0.5 / math.sqrt(128), rel=0.05)
    assert all(not x.any() for x in (gau.in_proj.bias, gau.out_proj.bias, gau.beta))
    assert (gau.gamma == 1).all()
    generator = torch.Generator().manual_seed(0)
    offset = G.GatedAttentionUnit(8, key_dim=512, bias=True, offset_std=2.0, generator=generator).beta
    assert offset.std().item() == pytest.approx(2.0, rel=0.1)


def test_dropout_only_while_training():
    gau, x = unit(dropout=0.5), randn_(2, 7, 6)
    torch.manual_seed(0)  # dropout draws from the global generator
    assert not torch.equal(gau(x), gau(x))
    gau.eval()
    assert torch.equal(gau(x), unit()(x))


def test_state_survives_and_inputs_stay():
    gau, x = unit(bias=True), randn_(2, 5, 6)
    before = x.clone()
    other = unit(bias=True, seed=3)
    other.load_state_dict(gau.state_dict())
    assert torch.equal(gau(x), other(x))
    assert torch.equal(x, before)
    assert "key_dim=4" in repr(gau)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: G.GatedAttentionUnit(0), "dim=0"),
        (lambda: G.GatedAttentionUnit(8, key_dim=5), "key_dim=5.*even"),
        (lambda: G.GatedAttentionUnit(8, expansion=0.1), "expansion"),
        (lambda: G.GatedAttentionUnit(8, activation="swish"), "'swish'.*'silu'"),
        (lambda: G.GatedAttentionUnit(8, dropout=1.0), r"dropout=1\.0"),
        (lambda: G.GatedAttentionUnit(8, scale="log"), "'log'.*'logn'"),
        (lambda: G.GatedAttentionUnit(8, scale=math.nan), "scale=nan"),
        (lambda: G.GatedAttentionUnit(8, scale=True), "scale=True"),
        (lambda: G.GatedAttentionUnit(8, train_len=1), "train_len=1"),
        (lambda: G.GatedAttentionUnit(8, rope_base=-1.0), "rope_base"),
        (lambda: G.GatedAttentionUnit(8, offset_std=1.0), r"offset_std=1\.0"),
        (lambda: G.GatedAttentionUnit(8, bias=True, offset_std=-1.0), r"offset_std=-1\.0"),
        (lambda: unit()(randn_(2, 5, 7)), r"x \(2, 5, 7\).*6"),
        (lambda: unit()(randn_(5, 6)), r"x \(5, 6\)"),
        (lambda: unit()(randn_(2, 5, 6), mask_(2, 4)), r"mask \(2, 4\).*\(2, 5\)"),
        (lambda: unit()(randn_(2, 5, 6), torch.ones(2, 5)), "float32.*boolean"),
        (lambda: unit()(randn_(2, 5, 6), positions=torch.arange(4)), r"positions \(4,\)"),
        (lambda: unit()(randn_(2, 5, 6), scale="x"), "'x'"),
        (lambda: unit()(randn_(2, 5, 6), scale="logn", train_len=0), "train_len=0"),
        (lambda: G.gau_attention(randn_(5, 6), randn_(5, 6), randn_(5, 6)), r"q \(5, 6\)"),
        (lambda: G.gau_attention(*3 * (randn_(2, 5, 6),), mask=mask_(1, 1, 5, 5)), "mask"),
        (
            lambda: G.gau_attention(randn_(2, 5, 6), randn_(2, 4, 6), randn_(2, 4, 6), is_causal=True, scale=1.0),
            "first 1",
        ),
    ],
)
def test_gau_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_public_names_and_examples():
    assert sorted(G.__all__) == G.__all__
    results = doctest.testmod(G)
    assert results.attempted > 6
    assert results.failed == 0
