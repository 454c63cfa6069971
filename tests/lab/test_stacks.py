"""lab.stacks: the deep narrow model is what its table says, alone and with many members."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
import torch.nn.functional as F
from tensors import DEVICE, randn_

from kexue_lib import depth
from kexue_lib.lab import stacks, text, training
from kexue_lib.lab.stacks import NORMS, DeepStack
from kexue_lib.norm import deepnorm_plain


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(*shape, seed=0, vocabulary=11):
    return torch.randint(vocabulary, shape, generator=generator(seed)).to(DEVICE)


def make(norm="post", seed=0, dtype=torch.float64, **options):
    options = {"n_layers": 3, "dim": 8, "heads": 2, "max_len": 16} | options
    return DeepStack(11, norm=norm, generator=generator(seed), **options).to(DEVICE, dtype)


def by_hand(model, ids, causal):
    """The model written out for one text of n tokens, with loops over heads."""
    norm = lambda h: deepnorm_plain(torch.zeros_like(h), h)  # noqa: E731
    x = norm(model.embedding[ids] + model.positions[: len(ids)])
    for layer in model.layers:

        def attention(h, layer=layer):
            q, k, v = (h @ w.T for w in (layer.q_proj, layer.k_proj, layer.v_proj))
            out = []
            for a in range(0, h.shape[1], h.shape[1] // layer.heads):
                b = a + h.shape[1] // layer.heads
                scores = q[:, a:b] @ k[:, a:b].T / math.sqrt(b - a)
                if causal:
                    hidden = torch.ones(len(h), len(h), dtype=torch.bool, device=h.device).triu(1)
                    scores = scores.masked_fill(hidden, -math.inf)
                out.append(torch.softmax(scores, -1) @ v[:, a:b])
            return torch.cat(out, -1) @ layer.out_proj.T

        def feed_forward(h, layer=layer):
            return torch.relu(h @ layer.ffn_up.T) @ layer.ffn_down.T

        for branch in (attention, feed_forward):
            x = x + branch(norm(x)) if model.norm == "pre" else norm(model.alpha * x + branch(x))
    return norm(x) if model.norm == "pre" else x


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_model_of_its_table(norm, causal):
    model, ids = make(norm, causal=causal), tokens(2, 5)
    hidden = model(ids)
    for row, want in zip(hidden, ids, strict=True):
        torch.testing.assert_close(row, by_hand(model, want, causal), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.logits(hidden), hidden @ model.head.T)
    assert hidden.square().mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_members_are_networks_of_their_own(norm):
    many, ids = make(norm, members=3), tokens(3, 2, 5)
    hidden = many(ids)
    assert hidden.shape == (3, 2, 5, 8)
    scores = many.logits(hidden)
    for e in range(3):
        one = make(norm)
        one.load_state_dict({name: value[e] for name, value in many.state_dict().items()})
        torch.testing.assert_close(one(ids[e]), hidden[e], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(one.logits(one(ids[e])), scores[e], rtol=1e-10, atol=1e-10)
    grads = torch.autograd.grad(hidden[1].square().mul(randn_(2, 5, 8)).sum(), list(many.layers.parameters()))
    assert all(g[0].abs().sum() == 0 and g[2].abs().sum() == 0 for g in grads)
    assert any(g[1].abs().sum() > 0 for g in grads)


def test_a_causal_model_does_not_look_ahead():
    model, ids = make(causal=True), tokens(2, 9)
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    torch.testing.assert_close(model(ids)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(ids)[:, 6:], model(changed)[:, 6:])
    assert not torch.allclose(make()(ids)[:, :6], make()(changed)[:, :6])


@pytest.mark.parametrize("members", [1, 2])
def test_checkpointing_changes_no_gradient(members):
    ids = tokens(*((2, 5) if members == 1 else (2, 2, 5)))
    plain, saving = (make("deepnorm", members=members, checkpoint=flag) for flag in (False, True))
    grads = [torch.autograd.grad(m(ids).pow(3).sum(), list(m.layers.parameters())) for m in (plain, saving)]
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want)
    with torch.no_grad():
        assert torch.equal(plain(ids), saving(ids))


def test_checkpointing_saves_memory():
    ids = tokens(4, 16)

    def saved(flag):
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        model = make("deepnorm", n_layers=12, checkpoint=flag)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            model(ids).sum()
        return total

    assert saved(True) < saved(False) / 4


@pytest.mark.parametrize("norm", NORMS)
def test_initial_matrices_are_xavier_times_gain(norm):
    model = make(norm, n_layers=2, dim=96, heads=2, gain=0.3)
    for name, weight in model.layers.named_parameters():
        factor = 1.0 if name.split(".")[1] in ("q_proj", "k_proj") else 0.3
        assert weight.std().item() == pytest.approx(factor * math.sqrt(2 / sum(weight.shape)), rel=0.05), name
    chosen = depth.init_deepnorm_(model.layers, 0.3, include=("v_proj", "out_proj", "ffn_up", "ffn_down"))
    assert len(chosen) == 8


def test_constants_are_the_papers_unless_given():
    for layers in (1, 6, 40):
        model = make("deepnorm", n_layers=layers)
        assert (model.alpha, model.gain) == tuple(depth.deepnorm_constants(encoder_layers=layers).encoder)
        assert (make("post", n_layers=layers).alpha, make("pre", n_layers=layers).gain) == (1, 1)
    given = make("deepnorm", alpha=3.0, gain=0.5)
    assert (given.alpha, given.gain, given.layers[0].alpha) == (3.0, 0.5, 3.0)
    same, ids = make("deepnorm", alpha=1.0, gain=1.0), tokens(1, 4)
    assert torch.equal(same(ids), make("post")(ids))


def test_one_seed_gives_one_network():
    ids = tokens(1, 4)
    assert torch.equal(make(seed=3)(ids), make(seed=3)(ids))
    assert not torch.equal(make(seed=3)(ids), make(seed=4)(ids))


def test_gradcheck_of_a_two_layer_deepnorm_stack():
    model, ids = make("deepnorm", n_layers=2, dim=4, heads=2), tokens(1, 3)
    names = [name for name, _ in model.layers.named_parameters()]

    def run(*weights):
        state = {f"layers.{name}": weight for name, weight in zip(names, weights, strict=True)}
        return torch.func.functional_call(model, state, (ids,))

    assert torch.autograd.gradcheck(run, [p.detach().clone().requires_grad_() for p in model.layers.parameters()])


def test_autocast_keeps_the_stream_in_float32():
    for norm in NORMS:
        model = make(norm, dtype=torch.float32)
        seen = []
        model.layers[1].register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            hidden = model(tokens(2, 5))
            loss = F.cross_entropy(model.logits(hidden).float().flatten(0, 1), tokens(10))
        assert seen[0].dtype == hidden.dtype == torch.float32
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_compiles_in_one_graph():
    model, ids = make("deepnorm", dtype=torch.float32, causal=True), tokens(2, 5)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(ids), model(ids))


def test_a_causal_stack_learns():
    words = torch.arange(400, device="cpu") % 7
    model = make("deepnorm", causal=True, dtype=torch.float32, dim=16)
    batches = text.causal_batches(words, batch=4, n=8, generator=generator(1))
    losses = training.train(model, batches, steps=40, lr=1e-2, loss=training.causal_loss)
    assert losses[-1] < 0.3 * losses[0]


# --- the stream, and sublayers in another order ----------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_the_stream_is_what_the_model_computes_on_its_way(norm, members):
    model = make(norm, members=members)
    ids = tokens(*((2, 5) if members == 1 else (members, 2, 5)))
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    hidden = model(ids)
    stream = model.stream(ids)
    assert stream.shape == (7, *ids.shape, 8)
    for layer, after in enumerate(seen, start=1):
        assert torch.equal(stream[2 * layer], after.view(stream[0].shape))
    assert torch.equal(model.finish(stream[-1]), hidden)
    assert torch.equal(stream[0].flatten(), model.embed(ids).flatten())


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_all_merges_of_a_stack_in_one_pass(norm, members):
    model = make(norm, members=members, causal=True)
    ids = tokens(*((3, 5) if members == 1 else (members, 3, 5)))
    x, branches = model.embed(ids), model.branches(5)
    with torch.no_grad():
        got = depth.merge_sublayers(x, branches, alpha=model.alpha, mode=model.mode, axis=int(members > 1))
        want = depth.merge_sublayers_plain(x, branches, alpha=model.alpha, mode=model.mode)
        stream = depth.grouped_stack(x, branches, alpha=model.alpha, mode=model.mode)
        errors = [
            f(stream, branches, mode=model.mode, keep=int(members > 1), axis=int(members > 1))
            for f in (depth.merge_errors, depth.merge_errors_plain)
        ]
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*errors, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(got[0], stream[-1])
    scores = model.logits(model.finish(got[0]))
    assert scores.shape == (*got[0].shape[:-1], 11)
    torch.testing.assert_close(scores, model.finish(got[0]) @ model.head.mT)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_both_orders_are_those_of_pytorchs_encoder_layer(norm):
    """Whole stacks of torch.nn.TransformerEncoderLayer(norm_first=…) with our weights, and their gradients."""
    model, ids = make(norm), tokens(2, 5)
    theirs = torch.nn.ModuleList(
        torch.nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, norm_first=norm == "pre", batch_first=True, bias=False, dtype=torch.float64
        )
        for _ in model.layers
    ).to(DEVICE)
    pairs = []
    for ours, layer in zip(model.layers, theirs, strict=True):
        pairs += [(layer.linear1.weight, ours.ffn_up), (layer.linear2.weight, ours.ffn_down)]
        pairs += [(layer.self_attn.out_proj.weight, ours.out_proj)]
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(torch.cat((ours.q_proj, ours.k_proj, ours.v_proj)))
            for weight, own in pairs[-3:]:
                weight.copy_(own)
    x = model.embed(ids)
    for layer in theirs:
        x = layer(x)
    hidden = model(ids)
    torch.testing.assert_close(model.finish(x), hidden, rtol=1e-10, atol=1e-10)
    weight = randn_(2, 5, 8)
    grads = torch.autograd.grad((model.finish(x) * weight).sum(), [p for p, _ in pairs])
    own = torch.autograd.grad((hidden * weight).sum(), [p for _, p in pairs])
    for got, want in zip(grads, own, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_half_the_layers_at_double_width():
    """Layers merged in pairs, attention with attention, are layers of double width, written out here."""
    model, ids = make("pre", n_layers=2), tokens(1, 5)
    got = depth.grouped_stack(model.embed(ids), model.branches(5), [(0, 2), (1, 3)], mode="pre")[-1]
    norm = lambda h: deepnorm_plain(torch.zeros_like(h), h)  # noqa: E731
    attend, feed = model.branches(5)[0::2], model.branches(5)[1::2]
    x = model.embed(ids)
    x = x + attend[0](norm(x)) + attend[1](norm(x))
    x = x + feed[0](norm(x)) + feed[1](norm(x))
    torch.testing.assert_close(got, x)
    assert not torch.allclose(model.finish(got), model(ids))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "rms"}, "norm='rms'"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"n_layers": True}, "n_layers=True"),
        ({"heads": 3}, "heads=3"),
        ({"dim": 2.0}, r"dim=2\.0"),
        ({"ffn_dim": -1}, "ffn_dim=-1"),
        ({"members": 0}, "members=0"),
        ({"alpha": 0.0}, r"alpha=0\.0"),
        ({"gain": math.nan}, "gain=nan"),
    ],
)
def test_bad_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**({"norm": "post"} | options))


def test_bad_tokens_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 17\).*n <= 16"):
        make()(tokens(1, 17))
    with pytest.raises(ValueError, match=r"\(5,\)"):
        make()(tokens(5))
    with pytest.raises(ValueError, match=r"\(2, batch, n\)"):
        make(members=2)(tokens(3, 1, 4))


def test_examples_in_the_docstrings():
    result = doctest.testmod(stacks)
    assert result.attempted > 2
    assert result.failed == 0
