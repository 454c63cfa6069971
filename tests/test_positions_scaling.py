"""kexue_lib.positions, the RoPE family: each method against its digits, its identities and its peers."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from tolerances import GRADIENT, assert_close

import kexue_lib.positions as P

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64
RAMPS = ("yarn", "yarn_pairs", "llama3")
POWERS = tuple(m for m in P.ROPE_METHODS if m not in RAMPS)
# (dim, base, trained length): the author's, LLaMA 2, Llama 3, the book's small models
MODELS = ((64, 1e4, 512), (128, 1e4, 4096), (128, 5e5, 8192), (32, 1e4, 64), (16, 1e2, 300))


def theta_(dim, base=10000.0, dtype=F64, grad=False):
    return P.rope_inv_freq(dim, base, device=DEVICE, dtype=dtype).requires_grad_(grad)


def close(x, y, bound=1e-14):
    torch.testing.assert_close(x, y, rtol=bound, atol=0)


# --- against the digits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
@pytest.mark.parametrize("method", P.ROPE_METHODS)
@pytest.mark.parametrize(("dim", "base", "train_len"), [*MODELS, (4, 1e4, 40), (6, 7.0, 1000)], ids=str)
def test_scaled_frequencies_and_their_gradients_equal_the_plain_form(dim, base, train_len, method, dtype):
    weight = randn_(dim // 2)
    for factor in (1.0, 1.5, 8.0):
        results = []
        for f, d in ((P.scale_rope, dtype), (P.scale_rope_plain, F64)):
            theta = theta_(dim, base, d).detach().requires_grad_()
            k = torch.tensor(factor, dtype=d, device=DEVICE, requires_grad=True)
            out = f(theta, k, method, train_len=train_len)
            assert out.dtype == d
            # relative to the frequencies, so that the slow pairs count as well
            gradients = torch.autograd.grad(
                (out.double() / theta_(dim, base) * weight).sum(), (theta, k), materialize_grads=True
            )
            results.append((out / theta.detach(), gradients[0] * theta.detach(), gradients[1]))
        bound = GRADIENT[dtype] * 4  # powers
        for name, got, want in zip(("output", "of theta", "of the factor"), *results, strict=True):
            assert_close(f"{name}, factor {factor}", got, want, bound)


@pytest.mark.parametrize("method", P.ROPE_METHODS)
def test_scaled_frequencies_gradcheck(method):
    theta, k = theta_(10, grad=True), torch.tensor(3.0, dtype=F64, device=DEVICE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, k: P.scale_rope(t, k, method, train_len=300, high=8.0), (theta, k))


def test_one_pair_is_allowed_where_it_has_a_meaning():
    theta = theta_(2)
    for method, want in (("pi", 0.25), ("ntk", 1.0), ("ntk_fixed", 0.25), ("ntk_mixed", 0.25)):
        close(P.scale_rope(theta, 4.0, method), torch.tensor([want], dtype=F64, device=DEVICE))
    close(P.scale_rope(theta, 4.0, "yarn", train_len=1000), theta)
    for method in ("ntk_aware", "yarn_pairs"):
        with pytest.raises(ValueError, match="dim > 2"):
            P.scale_rope(theta, 4.0, method, train_len=1000)


# --- identities -----------------------------------------------------------------------------------------------------

FACTORS = st.floats(1.0, 100.0)
PAIRS = st.integers(2, 64)


@settings(deadline=None, max_examples=60)
@given(PAIRS, FACTORS, st.floats(2.0, 1e6))
def test_ntk_is_a_larger_base(pairs, k, base):  # D4 and D5
    dim = 2 * pairs
    close(P.scale_rope(theta_(dim, base), k, "ntk"), theta_(dim, base * k), 1e-13)
    close(P.scale_rope(theta_(dim, base), k, "ntk_aware"), theta_(dim, base * k ** (dim / (dim - 2))), 1e-13)


@settings(deadline=None, max_examples=60)
@given(PAIRS, FACTORS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_mixed_radix_runs_from_interpolation_to_fixed(pairs, k, b, c):  # D7
    theta = theta_(2 * pairs)
    close(P.scale_rope(theta, k, "ntk_mixed", b=0.0), P.scale_rope(theta, k, "pi"))
    close(P.scale_rope(theta, k, "ntk_mixed", b=1.0), P.scale_rope(theta, k, "ntk_fixed"))
    low, high = (P.scale_rope(theta, k, "ntk_mixed", b=x) for x in sorted((b, c)))
    assert (low <= high * (1 + 1e-14)).all()  # a larger b interpolates less


@settings(deadline=None, max_examples=60)
@given(PAIRS, FACTORS)
def test_fixed_is_one_digit_factor_below_ntk(pairs, k):  # D6: λ = k^{2/d} for every pair
    theta = theta_(2 * pairs)
    ratio = P.scale_rope(theta, k, "ntk_fixed") / P.scale_rope(theta, k, "ntk")
    close(ratio, torch.full_like(theta, k ** (-1 / pairs)), 1e-13)


@settings(deadline=None, max_examples=60)
@given(PAIRS, FACTORS, st.sampled_from(P.ROPE_METHODS), st.floats(0.0, 1.0), st.integers(8, 10**5))
def test_every_method_lies_between_interpolation_and_nothing(pairs, k, method, b, train_len):
    theta = theta_(2 * pairs)
    s = P.scale_rope(theta, k, method, b=b, train_len=train_len) / theta
    assert (s <= 1 + 1e-14).all()
    assert (s >= 1 / k - 1e-14).all()
    assert (s.diff() <= 1e-14).all()  # fast pairs keep more
    if method in ("pi", "ntk_aware", "ntk_fixed", "ntk_mixed"):
        assert s[-1].item() == pytest.approx(1 / k, rel=1e-13)  # the slowest pair is interpolated
    if method in ("ntk", "ntk_aware"):
        assert s[0].item() == 1.0  # the fastest pair is left alone


@pytest.mark.parametrize("method", P.ROPE_METHODS)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_factor_one_changes_no_bit(method, dtype):
    for dim, base, train_len in MODELS:
        theta = theta_(dim, base, dtype)
        before = theta.clone()
        for one in (1, 1.0, torch.tensor(1.0)):
            assert torch.equal(P.scale_rope(theta, one, method, train_len=train_len), before)
        P.scale_rope(theta, 8.0, method, train_len=train_len)
        assert torch.equal(theta, before)


@settings(deadline=None, max_examples=40)
@given(PAIRS, st.floats(1.0, 10.0), st.floats(1.0, 10.0), st.sampled_from(POWERS), st.floats(0.0, 1.0))
def test_factors_multiply(pairs, j, k, method, b):
    theta = theta_(2 * pairs)
    twice = P.scale_rope(P.scale_rope(theta, j, method, b=b), k, method, b=b)
    close(twice, P.scale_rope(theta, j * k, method, b=b), 1e-13)


@settings(deadline=None, max_examples=60)
@given(PAIRS, FACTORS, st.integers(50, 10**5), st.floats(0.5, 4.0), st.floats(5.0, 64.0))
def test_both_ramps_of_yarn_agree_outside_and_only_there(pairs, k, train_len, low, high):
    theta = theta_(2 * pairs)
    paper, code = (P.scale_rope(theta, k, m, train_len=train_len, low=low, high=high) for m in ("yarn", "yarn_pairs"))
    turns = theta * train_len / (2 * math.pi)
    fast, slow = turns > high * (1 + 1e-9), turns < low * (1 - 1e-9)
    for scaled in (paper, code):
        close(scaled[fast], theta[fast])
        if turns[0] > high:  # otherwise the code starts its ramp at the first pair
            close(scaled[slow], theta[slow] / k)
    between = ~(fast | slow)
    r = turns[between]
    close(paper[between] / theta[between], 1 / k + (r - low) / (high - low) * (1 - 1 / k), 1e-7)


def test_the_ramp_of_the_code_keeps_much_more_than_that_of_the_paper():
    theta = theta_(128)
    paper, code = (P.scale_rope(theta, 16.0, m, train_len=4096) for m in ("yarn", "yarn_pairs"))
    ratio = code / paper
    assert ratio.min().item() > 0.95
    assert 2.5 < ratio.max().item() < 3.5
    assert (ratio > 1.01).sum().item() == 24  # of 64 pairs


def test_llama3_is_the_ramp_of_the_paper_up_to_four_turns():
    theta = theta_(128, 5e5)
    want = P.scale_rope(theta, 8.0, "yarn", train_len=8192, low=1.0, high=4.0)
    assert torch.equal(P.scale_rope(theta, 8.0, "llama3", train_len=8192), want)
    assert not torch.allclose(P.scale_rope(theta, 8.0, "yarn", train_len=8192), want, rtol=0.1)


# --- peers: one that is missing fails a test ------------------------------------------------------------------------


def transformers_frequencies(kind, dim, base, longest, seq_len=None, **options):
    llama = importlib.import_module("transformers").LlamaConfig
    functions = importlib.import_module("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    config = llama(
        hidden_size=dim,
        num_attention_heads=1,
        max_position_embeddings=longest,
        rope_parameters={"rope_theta": base, "rope_type": kind, **options},
    )
    frequencies, attention_factor = functions[kind](config, "cpu", seq_len=seq_len)
    return frequencies.to(DEVICE), attention_factor


@pytest.mark.parametrize("k", [2.0, 8.0, 40.0])
@pytest.mark.parametrize(("dim", "base", "train_len"), MODELS, ids=str)
def test_scaled_frequencies_equal_those_of_transformers(dim, base, train_len, k):
    theta = theta_(dim, base, torch.float32)
    longest = int(k * train_len)
    trained = {"factor": k, "original_max_position_embeddings": train_len}

    def same(method, want, factor=k):
        close(P.scale_rope(theta, factor, method, train_len=train_len), want[0], 2e-6)

    linear = transformers_frequencies("linear", dim, base, train_len, factor=k)
    same("pi", linear)
    yarn = transformers_frequencies("yarn", dim, base, longest, **trained)
    same("yarn_pairs", yarn)
    assert yarn[1] == pytest.approx(P.yarn_temperature(k), rel=1e-15)
    bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    same("llama3", transformers_frequencies("llama3", dim, base, longest, **trained, **bounds))
    for n in (train_len // 2, train_len, train_len + 1, 3 * train_len, 20 * train_len):
        dynamic = transformers_frequencies("dynamic", dim, base, train_len, seq_len=n, factor=k)
        same("ntk_aware", dynamic, P.dynamic_ntk_factor(n, train_len, k))
        tensor = P.dynamic_ntk_factor(torch.tensor(n, device=DEVICE), train_len, k)
        same("ntk_aware", dynamic, tensor)
    assert {linear[1], dynamic[1]} == {1.0}


@pytest.mark.parametrize(("low", "high"), [(1.0, 32.0), (0.5, 4.0), (2.0, 3.0)])
def test_ramps_with_other_ends_equal_those_of_transformers(low, high):
    for dim, base, train_len in MODELS:
        theta = theta_(dim, base, torch.float32)
        options = {"factor": 8.0, "original_max_position_embeddings": train_len}
        yarn, _ = transformers_frequencies("yarn", dim, base, 8 * train_len, beta_slow=low, beta_fast=high, **options)
        close(P.scale_rope(theta, 8.0, "yarn_pairs", train_len=train_len, low=low, high=high), yarn, 2e-6)
        llama, _ = transformers_frequencies(
            "llama3", dim, base, 8 * train_len, low_freq_factor=low, high_freq_factor=high, **options
        )
        close(P.scale_rope(theta, 8.0, "llama3", train_len=train_len, low=low, high=high), llama, 2e-6)


def test_transformers_keeps_the_factor_of_the_longest_text_until_a_short_one():
    """Where the peer differs: its module has a state, ours is a function of the length."""
    transformers = importlib.import_module("transformers")
    modeling = importlib.import_module("transformers.models.llama.modeling_llama")
    config = transformers.LlamaConfig(
        hidden_size=8,
        num_attention_heads=1,
        max_position_embeddings=10,
        rope_parameters={"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0},
    )
    module = modeling.LlamaRotaryEmbedding(config)
    theta = P.rope_inv_freq(8, dtype=torch.float32)

    def read(n):
        module(torch.zeros(1), torch.arange(n)[None])
        return module.inv_freq

    def ours(n):
        return P.scale_rope(theta, P.dynamic_ntk_factor(n, 10, 2.0), "ntk_aware")

    close(read(30), ours(30), 1e-6)
    close(read(20), ours(30), 1e-6)  # still those of 30 tokens
    assert not torch.allclose(ours(20), ours(30), rtol=1e-3)
    close(read(5), ours(5), 1e-6)
    close(read(20), ours(20), 1e-6)


@pytest.mark.parametrize("k", [1.0, 2.0, 8.0])
def test_rotation_equals_that_of_rotary_embedding_torch(k):
    peer = importlib.import_module("rotary_embedding_torch").RotaryEmbedding
    x = randn_(2, 3, 50, 16, dtype=torch.float32)
    theta = theta_(16, dtype=torch.float32)
    with torch.no_grad():
        interpolated = peer(16, interpolate_factor=k, cache_if_possible=False).to(DEVICE).rotate_queries_or_keys(x)
        rescaled = peer(16, theta_rescale_factor=k, cache_if_possible=False).to(DEVICE).rotate_queries_or_keys(x)
    torch.testing.assert_close(P.apply_rope(x, inv_freq=P.scale_rope(theta, k, "pi")), interpolated, rtol=0, atol=5e-5)
    torch.testing.assert_close(
        P.apply_rope(x, inv_freq=P.scale_rope(theta, k, "ntk_aware")), rescaled, rtol=0, atol=5e-5
    )


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_rotation_equals_that_of_a_llama(kind):
    transformers = importlib.import_module("transformers")
    modeling = importlib.import_module("transformers.models.llama.modeling_llama")
    options = {"linear": {}, "yarn": {"original_max_position_embeddings": 64}}
    options["llama3"] = {**options["yarn"], "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_attention_heads=1,
        max_position_embeddings=512,
        rope_parameters={"rope_theta": 1e4, "rope_type": kind, "factor": 8.0, **options[kind]},
    )
    q, k = randn_(2, 3, 200, 32, dtype=torch.float32), randn_(2, 3, 200, 32, seed=1, dtype=torch.float32)
    positions = torch.arange(200, device=DEVICE)
    cos, sin = modeling.LlamaRotaryEmbedding(config).to(DEVICE)(q, positions[None])
    want = modeling.apply_rotary_pos_emb(q, k, cos, sin)
    method = {"linear": "pi", "yarn": "yarn_pairs", "llama3": "llama3"}[kind]
    theta = P.scale_rope(theta_(32, dtype=torch.float32), 8.0, method, train_len=64)
    temperature = P.yarn_temperature(8.0) if kind == "yarn" else 1.0
    for x, turned in zip((q, k), want, strict=True):
        got = temperature * P.apply_rope(x, inv_freq=theta, interleaved=False)
        torch.testing.assert_close(got, turned, rtol=0, atol=2e-4)  # float32 angles up to 200


# --- the length of the text -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 10**5), st.integers(1, 10**4), st.floats(1.0, 20.0))
def test_dynamic_factor_is_one_inside_the_trained_length_and_grows_beyond(n, train_len, factor):
    k = P.dynamic_ntk_factor(n, train_len, factor)
    assert k == 1.0 if n <= train_len else k > 1.0
    assert P.dynamic_ntk_factor(n + 1, train_len, factor) >= k
    assert P.dynamic_ntk_factor(n, train_len) == pytest.approx(max(1.0, n / train_len))
    tensor = P.dynamic_ntk_factor(torch.tensor(n, dtype=F64), train_len, factor)
    assert tensor.item() == pytest.approx(k, rel=1e-12)


def test_temperature():
    assert P.yarn_temperature(1.0) == P.yarn_temperature(0.5) == 1.0
    assert P.yarn_temperature(8.0) == pytest.approx(1 + 0.1 * math.log(8), rel=1e-15)


# --- which phases are new (D8) --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "base", "train_len"), MODELS, ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_which_pairs_meet_new_phases(dim, base, train_len, dtype):
    theta, k = theta_(dim, base, dtype), 8.0

    def cover(method, **options):
        return P.phase_coverage(theta, train_len, k, P.scale_rope(theta, k, method, train_len=train_len, **options))

    partial = theta * train_len < 2 * math.pi
    last = torch.arange(dim // 2, device=DEVICE) == dim // 2 - 1
    for method in ("pi", "ntk_mixed"):
        assert not cover(method, b=0.0).new.any()
    assert torch.equal(cover("ntk").new, partial)
    for method in ("ntk_aware", "ntk_fixed", "ntk_mixed"):
        assert torch.equal(cover(method).new, partial & ~last), method
    for method in RAMPS[:2]:
        assert not cover(method).new.any(), method  # all pairs below one turn are interpolated
    unchanged = P.phase_coverage(theta, train_len, k, theta)
    assert torch.equal(unchanged.new, partial)
    m = torch.arange(1, dim // 2 + 1, device=DEVICE, dtype=dtype)
    close(unchanged.ratio, torch.full_like(theta, k), 1e-6)
    close(cover("ntk_fixed").ratio, k ** (1 - 2 * m / dim), 1e-5)
    close(cover("ntk").ratio, k ** (1 - 2 * (m - 1) / dim), 1e-5)
    assert (cover("ntk_mixed").ratio[:-1] < cover("ntk_fixed").ratio[:-1]).all()
    close(unchanged.turns, theta * train_len / (2 * math.pi), 1e-6)


# --- autocast, compiling, bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", P.ROPE_METHODS)
def test_autocast_leaves_frequencies_alone(method):
    theta = theta_(64, dtype=torch.float32)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        scaled = P.scale_rope(theta, 8.0, method, train_len=512)
    assert torch.equal(scaled, P.scale_rope(theta, 8.0, method, train_len=512))


@pytest.mark.parametrize("method", P.ROPE_METHODS)
def test_scaling_compiles(method):
    torch._dynamo.reset()
    theta = theta_(64)
    f = torch.compile(lambda t: P.scale_rope(t, 8.0, method, train_len=512), fullgraph=True, backend="eager")
    close(f(theta), P.scale_rope(theta, 8.0, method, train_len=512))


def test_one_graph_serves_every_length_of_dynamic_ntk():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    def rotate(x, length):
        theta = P.rope_inv_freq(8, dtype=F64, device=x.device)
        return P.apply_rope(x, inv_freq=P.scale_rope(theta, P.dynamic_ntk_factor(length, 10), "ntk_aware"))

    compiled = torch.compile(rotate, fullgraph=True, dynamic=True, backend=backend)
    for n in (5, 12, 40):
        x, length = randn_(2, n, 8), torch.tensor(n, device=DEVICE)
        assert_close("rotated", compiled(x, length), rotate(x, n), 1e-6)  # a float32 length
    assert len(graphs) == 1


THETA = torch.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: P.scale_rope(THETA, 0.5, "pi"), ValueError, r"factor=0\.5.*>= 1"),
        (lambda: P.scale_rope(THETA, math.nan, "pi"), ValueError, "factor=nan"),
        (lambda: P.scale_rope(THETA, math.inf, "pi"), ValueError, "factor=inf"),
        (lambda: P.scale_rope(THETA, True, "pi"), ValueError, "factor=True"),
        (lambda: P.scale_rope(THETA, torch.ones(2), "pi"), ValueError, r"factor \(2,\)"),
        (lambda: P.scale_rope(THETA, torch.tensor(2), "pi"), ValueError, "int64"),
        (lambda: P.scale_rope(THETA, 2.0, "linear"), ValueError, "method='linear'.*'pi'"),
        (lambda: P.scale_rope(THETA, 2.0, "ntk_mixed", b=1.1), ValueError, r"b=1\.1"),
        (lambda: P.scale_rope(THETA, 2.0, "ntk_mixed", b=-0.5), ValueError, r"b=-0\.5"),
        (lambda: P.scale_rope(THETA, 2.0, "ntk_mixed", b=math.nan), ValueError, "b=nan"),
        (lambda: P.scale_rope(THETA, 2.0, "yarn"), ValueError, "'yarn' needs train_len"),
        (lambda: P.scale_rope(THETA, 2.0, "llama3"), ValueError, "'llama3' needs train_len"),
        (lambda: P.scale_rope(THETA, 2.0, "yarn", train_len=0), ValueError, "train_len=0"),
        (lambda: P.scale_rope(THETA, 2.0, "yarn", train_len=64, high=0.5), ValueError, r"high=0\.5"),
        (lambda: P.scale_rope(THETA, 2.0, "yarn", train_len=64, low=0.0), ValueError, r"low=0\.0"),
        (lambda: P.scale_rope(THETA.half(), 2.0, "pi"), ValueError, "float16"),
        (lambda: P.scale_rope(THETA.long(), 2.0, "pi"), ValueError, "int64"),
        (lambda: P.scale_rope(torch.ones(2, 2), 2.0, "pi"), ValueError, r"\(2, 2\)"),
        (lambda: P.scale_rope(torch.ones(0), 2.0, "pi"), ValueError, r"\(0,\)"),
        (lambda: P.scale_rope([1.0], 2.0, "pi"), TypeError, "list"),
        (lambda: P.scale_rope_plain(THETA, 0.5, "pi"), ValueError, "factor"),
        (lambda: P.dynamic_ntk_factor(0, 512), ValueError, "length=0"),
        (lambda: P.dynamic_ntk_factor(5, -1), ValueError, "train_len=-1"),
        (lambda: P.dynamic_ntk_factor(5, 512, 0.5), ValueError, "factor"),
        (lambda: P.dynamic_ntk_factor(5, 512, torch.tensor(2.0)), ValueError, "factor is a tensor"),
        (lambda: P.yarn_temperature(0.0), ValueError, r"factor=0\.0"),
        (lambda: P.yarn_temperature(math.nan), ValueError, "factor=nan"),
        (lambda: P.phase_coverage(THETA, 64, 2.0, torch.ones(3)), ValueError, r"scaled \(3,\)"),
        (lambda: P.phase_coverage(THETA, 64, 2.0, THETA.double()), ValueError, "dtype"),
        (lambda: P.phase_coverage(THETA, 0, 2.0, THETA), ValueError, "train_len"),
        (lambda: P.phase_coverage(THETA, 64, 0.5, THETA), ValueError, "factor"),
        (lambda: P.phase_coverage(THETA, 64, torch.tensor(2.0), THETA), ValueError, "factor is a tensor"),
    ],
)
def test_scaling_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()
