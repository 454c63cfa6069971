"""kexue_lib.crf: parity with all paths one by one and with other packages, the theorems, and what may go wrong."""

from __future__ import annotations

import doctest
import importlib
import math
import warnings
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, HALF_AND_UP, randn_
from tolerances import GRADIENT, OUTPUT, assert_close

import kexue_lib.crf as C

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64
ON_CPU = DEVICE.type == "cpu"
METHODS = [m for m in C.METHODS if ON_CPU or m != "scaled"]


def padding(*lengths, n=None):
    n = n or max(lengths)
    return (torch.arange(n) < torch.tensor(lengths)[:, None]).to(DEVICE)


def problem(b=3, n=5, k=3, *, ends=True, dtype=F64, grad=True, size=1.0, seed=0):
    """h, A, start, end."""
    h = (size * randn_(b, n, k, seed=seed + 1)).to(dtype).requires_grad_(grad)
    A = (size * randn_(k, k, seed=seed + 2)).to(dtype).requires_grad_(grad)
    if not ends:
        return h, A, None, None
    return h, A, randn_(k, seed=seed + 3, dtype=dtype, grad=grad), randn_(k, seed=seed + 4, dtype=dtype, grad=grad)


def tags_(b, n, k, seed=9):
    return torch.randint(k, (b, n), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def present(*tensors):
    return [x for x in tensors if x is not None]


MASKS = {"none": lambda n: None, "padded": lambda n: padding(n, 1, max(1, n // 2), n=n)}
SHAPES = {"one place": (1, 3), "two": (2, 3), "odd": (5, 3), "two to the three, plus one": (9, 2), "one tag": (4, 1)}


# --- the sum over all paths (D1, D9) --------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True], ids=["no ends", "ends"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_log_partition_is_the_sum_over_all_paths(shape, method, mask, ends):
    (n, k), weight = SHAPES[shape], randn_(3, seed=8)
    h, A, a, z = problem(3, n, k, ends=ends)
    before = [x.detach().clone() for x in present(h, A, a, z)]
    mask = MASKS[mask](n)
    want = C.crf_log_partition_plain(h, A, mask, a, z)
    got = C.crf_log_partition(h, A, mask, a, z, method=method)
    assert_close("log Z", got, want, OUTPUT[F64])
    inputs = present(h, A, a, z)
    wanted = torch.autograd.grad(want @ weight, inputs, materialize_grads=True, allow_unused=True)
    grads = torch.autograd.grad(got @ weight, inputs, materialize_grads=True, allow_unused=True)
    for name, x, y in zip(("h", "A", "start", "end"), grads, wanted, strict=False):
        assert_close(f"gradient of {name}", x, y, GRADIENT[F64])
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@pytest.mark.parametrize("dtype", HALF_AND_UP, ids=str)
@pytest.mark.parametrize(("b", "k"), [(3, 4), (70, 5)], ids=["few tags: tree", "many: loop"])
@pytest.mark.parametrize("method", METHODS)
def test_all_methods_agree_with_the_scan_in_float64(method, b, k, dtype):
    n, mask = 37, padding(37, *range(1, b), n=37)[:b] if b < 37 else padding(*[1 + i % 37 for i in range(b)])
    inputs = problem(b, n, k, dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    h, A, a, z = exact
    want = C.crf_log_partition(h, A, mask, a, z, method="scan")
    h, A, a, z = inputs
    got = C.crf_log_partition(h, A, mask, a, z, method=method)
    assert got.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    bound = OUTPUT[got.dtype]
    assert_close("log Z", got, want, bound)
    weight = randn_(b, seed=8)
    grads = torch.autograd.grad((got * weight).sum(), inputs)
    for name, x, y in zip("hAaz", grads, torch.autograd.grad(want @ weight, exact), strict=True):
        # the scan and the tree lose eps |log Z| when they subtract log Z's; relative to a marginal that is n eps
        assert_close(f"gradient of {name}", x, y, n * GRADIENT[dtype] if dtype != F64 else 4 * n * GRADIENT[F64])


@pytest.mark.skipif(not ON_CPU, reason="looks at the data")
def test_the_tree_and_the_loop_of_weights_agree_up_to_the_promised_spread():
    for forbidden, size in product((False, True), (1.0, 40.0, 75.0)):
        h = size * (2 * torch.rand(2, 33, 3, generator=torch.Generator().manual_seed(3), dtype=F64) - 1)
        A = torch.linspace(-5, 5, 9, dtype=F64).view(3, 3)
        if forbidden:
            A = A.masked_fill(torch.eye(3, dtype=torch.bool), C.FORBIDDEN)
        mask, a, z = padding(33, 20), torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64)
        every = C.gradient._interval(h, A, mask, a, z)
        assert bool(every) == (not (forbidden and size > 40))
        if not every:
            continue
        want = C.recursions._scan(h, A, mask, a, z)
        unary = C.recursions._log_marginals(h, A, mask, a, z)[0].exp() * mask[..., None]
        old = C.gradient._SMALL
        for small in (10**9, 0):
            try:
                C.gradient._SMALL = small
                log_z, got, counts = C.gradient._posterior(h, A, mask, a, z, every, True)
                alone = C.gradient._posterior(h, A, mask, a, z, every, False)[0]
            finally:
                C.gradient._SMALL = old
            assert_close("log Z", log_z, want, 1e-14)
            assert_close("log Z alone", alone, want, 1e-14)
            torch.testing.assert_close(got, unary, rtol=1e-9, atol=1e-280)
            torch.testing.assert_close(counts.sum((1, 2)), mask.sum(1).double() - 1, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e8])
def test_any_finite_scores_are_summed(size):
    h, A, a, z = problem(size=size, dtype=torch.float32)
    want = C.crf_log_partition_plain(*(x.double() for x in (h, A)), None, a.double(), z.double())
    for method in ("auto", "scan", "tree"):
        got = C.crf_log_partition(h, A, None, a, z, method=method)
        assert_close(method, got, want, OUTPUT[torch.float32])
        assert all(x.isfinite().all() for x in torch.autograd.grad(got.sum(), (h, A, a, z)))
    if ON_CPU:
        with pytest.raises(ValueError, match="too far apart"):
            C.crf_log_partition(h, A, None, a, z, method="scaled")


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.floats(0, 60), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_partition_property(b, n, k, size, seed, ends):
    h, A, a, z = problem(b, n, k, ends=ends, size=size, seed=seed, grad=False)
    mask = padding(*[1 + (seed + i) % n for i in range(b)], n=n)
    want = C.crf_log_partition_plain(h, A, mask, a, z)
    for method in METHODS:
        try:
            got = C.crf_log_partition(h, A, mask, a, z, method=method)
        except ValueError:
            assert method == "scaled"
            assert size > 5
            continue
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-12)


def test_zero_transitions_are_a_softmax_at_each_place():  # D8
    h = randn_(2, 6, 4)
    for method in METHODS:
        got = C.crf_log_partition(h, torch.zeros(4, 4, dtype=F64, device=DEVICE), method=method)
        assert_close(method, got, torch.logsumexp(h, -1).sum(1), OUTPUT[F64])


def test_padding_is_never_read():
    mask = padding(4, 2, 1, n=7)
    h, A, a, z = problem(3, 7, 3, grad=False)
    clean = [
        C.crf_log_partition(h, A, mask, a, z, method=m) for m in METHODS
    ]  # fmt: skip
    noise = torch.tensor([math.nan, math.inf, -1e12], dtype=F64, device=DEVICE)
    dirty = torch.where(mask[..., None], h, noise).requires_grad_()
    y = torch.where(mask, tags_(3, 7, 3), -100)
    for method, want in zip(METHODS, clean, strict=True):
        got = C.crf_log_partition(dirty, A, mask, a, z, method=method)
        assert torch.equal(got, want)
        (grad,) = torch.autograd.grad(got.sum(), dirty)
        assert not grad[~mask].any()
        assert grad.isfinite().all()
    assert torch.equal(C.crf_viterbi(dirty, A, mask, a, z)[0], C.crf_viterbi(h, A, mask, a, z)[0])
    assert torch.equal(C.crf_score(dirty, A, y, mask, a, z), C.crf_score(h, A, y.clamp(min=0), mask, a, z))
    unary, pairs = C.crf_marginals(dirty.detach(), A, mask, a, z, pairwise=True)
    assert not unary[~mask].any()
    assert not pairs[~mask[:, 1:]].any()


def test_a_batch_is_its_sentences_one_by_one():
    mask = padding(6, 3, 1, 5, n=8)
    h, A, a, z = problem(4, 8, 3, grad=False)
    y = tags_(4, 8, 3)
    together = C.crf_nll(h, A, y, mask, a, z, reduction="none")
    path, score = C.crf_viterbi(h, A, mask, a, z)
    for row, length in enumerate((6, 3, 1, 5)):
        alone = C.crf_nll(h[row : row + 1, :length], A, y[row : row + 1, :length], None, a, z, reduction="none")
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-13, atol=1e-13)
        p, s = C.crf_viterbi(h[row : row + 1, :length], A, None, a, z)
        assert torch.equal(path[row, :length], p[0])
        assert (path[row, length:] == -1).all()
        torch.testing.assert_close(score[row], s[0], rtol=1e-14, atol=0)


# --- gradients (D2) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mask", MASKS)
def test_first_and_second_derivatives(mask, method):
    h, A, a, z = problem(3, 4, 2)
    mask = MASKS[mask](4)

    def f(h, A, a, z):
        return C.crf_log_partition(h, A, mask, a, z, method=method)

    assert torch.autograd.gradcheck(f, (h, A, a, z))
    assert torch.autograd.gradgradcheck(f, (h, A, a, z))


def test_gradients_are_marginals_and_counts():  # D2
    mask, (h, A, a, z) = padding(5, 1, 3), problem()
    unary, pairs = C.crf_marginals_plain(h.detach(), A.detach(), mask, a.detach(), z.detach())
    y = tags_(3, 5, 3)
    nll = C.crf_nll(h, A, y, mask, a, z, reduction="sum")
    of_h, of_A = torch.autograd.grad(nll, (h, A))
    given_tags = torch.nn.functional.one_hot(y, 3) * mask[..., None]
    counted = torch.zeros(3, 3, dtype=F64, device=DEVICE)
    for row, length in enumerate((5, 1, 3)):
        for t in range(1, length):
            counted[y[row, t - 1], y[row, t]] += 1
    assert_close("h", of_h, unary - given_tags, GRADIENT[F64])
    assert_close("A", of_A, pairs.sum((0, 1)) - counted, GRADIENT[F64])


@pytest.mark.parametrize("graph", [False, True], ids=["values", "graph"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_marginals_are_sums_over_paths(shape, mask, graph):
    (n, _), (h, A, a, z) = SHAPES[shape], problem(3, *SHAPES[shape], grad=graph)
    mask = MASKS[mask](n)
    want = C.crf_marginals_plain(*(x.detach() for x in (h, A)), mask, a.detach(), z.detach())
    got = C.crf_marginals(h, A, mask, a, z, pairwise=True)
    assert got[0].requires_grad == graph
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
    assert torch.equal(C.crf_marginals(h, A, mask, a, z), got[0])
    places = torch.ones(3, n, device=DEVICE) if mask is None else mask
    torch.testing.assert_close(got[0].sum(-1), places.double(), rtol=1e-13, atol=0)
    if n > 1:  # a step's marginals add up to those of its ends
        torch.testing.assert_close(got[1].sum(-2), got[0][:, 1:], rtol=1e-12, atol=1e-15)


def test_marginals_have_derivatives():
    mask, (h, A, a, z) = padding(4, 2), problem(2, 4, 2)
    assert torch.autograd.gradcheck(
        lambda *x: C.crf_marginals(x[0], x[1], mask, x[2], x[3], pairwise=True), (h, A, a, z)
    )


def test_only_what_requires_a_gradient_gets_one():
    h, A, a, z = problem(grad=False)
    A.requires_grad_()
    out = C.crf_log_partition(h, A, None, a, z)
    (grad,) = torch.autograd.grad(out.sum(), A)
    assert float(grad.sum()) == pytest.approx(3 * 4)  # 3 sentences, 4 steps each
    assert not C.crf_log_partition(h, A.detach()).requires_grad


@pytest.mark.skipif(not ON_CPU, reason="one device is enough")
def test_vmap_and_jvp_of_the_sum():
    h, A, a, z = problem(grad=False)
    each = torch.func.vmap(lambda x: C.crf_log_partition(x[None], A, None, a, z)[0])(h)
    torch.testing.assert_close(each, C.crf_log_partition(h, A, None, a, z), rtol=1e-13, atol=0)
    with warnings.catch_warnings():  # functorch's own: torch.jit.script is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        hessian = torch.func.hessian(lambda x: C.crf_log_partition(h, x).sum())(A)
    torch.testing.assert_close(hessian, hessian.permute(2, 3, 0, 1), rtol=1e-9, atol=1e-12)


# --- paths (D3) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True], ids=["no ends", "ends"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("by", ["tree", "loop"])
@pytest.mark.parametrize("shape", SHAPES)
def test_viterbi_finds_the_best_of_all_paths(shape, by, mask, ends, monkeypatch):
    monkeypatch.setattr(C.paths, "_SMALL", 10**9 if by == "tree" else 0)
    n, k = SHAPES[shape]
    mask = MASKS[mask](n)
    h, A, a, z = problem(3, n, k, ends=ends, grad=False)
    tags, score = C.crf_viterbi(h, A, mask, a, z)
    want, best = C.crf_viterbi_plain(h, A, mask, a, z)
    assert torch.equal(tags, want)
    torch.testing.assert_close(score, best, rtol=1e-13, atol=1e-14)


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_viterbi_with_ties_gives_a_best_path(n, k, seed, small):
    """Whole-number scores have many ties; a path of the best score is asked for, whichever it is."""
    h, A, a, z = (x.mul(1.5).round() for x in problem(2, n, k, seed=seed, grad=False))
    old, C.paths._SMALL = C.paths._SMALL, 10**9 if small else 0
    try:
        tags, score = C.crf_viterbi(h, A, None, a, z)
    finally:
        C.paths._SMALL = old
    assert torch.equal(score, C.crf_viterbi_plain(h, A, None, a, z)[1])
    assert torch.equal(score, C.crf_score(h, A, tags, None, a, z))


@pytest.mark.parametrize("by", ["tree", "loop"])
def test_samples_have_the_probabilities_of_the_model(by, monkeypatch):
    monkeypatch.setattr(C.paths, "_SMALL", 10**9 if by == "tree" else 0)
    if not ON_CPU and by == "loop":
        pytest.skip("few tags: always the tree")
    mask, (h, A, a, z) = padding(4, 2, 1), problem(3, 4, 3, grad=False)
    draws = 40_000
    y = C.crf_sample(h, A, mask, a, z, samples=draws, generator=torch.Generator().manual_seed(5))
    assert y.shape == (draws, 3, 4)
    assert (y[:, ~mask] == -1).all()
    for row, length in enumerate((4, 2, 1)):  # chi-square over all paths
        paths, scores = C.crf_paths_plain(h[row : row + 1, :length], A, a, z)
        expected = draws * torch.softmax(scores[0], 0)
        base = 3 ** torch.arange(length - 1, -1, -1, device=DEVICE)
        counts = torch.bincount((y[:, row, :length] * base).sum(1), minlength=len(paths))
        chi2 = float(((counts - expected) ** 2 / expected).sum())
        freedom = len(paths) - 1
        assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_samples_follow_their_generator():
    h, A, a, z = problem(grad=False)
    draw = lambda seed: C.crf_sample(h, A, None, a, z, samples=9, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_forbidden_steps_do_not_occur():
    legal, (first, last) = C.legal_transitions("sbme").to(DEVICE), C.legal_start_end("sbme")
    crf = C.LinearChainCRF(4, start_end=True, constraints=(legal.cpu(), first, last)).to(DEVICE).double()
    h, mask = 3 * randn_(5, 9, 4), padding(9, 8, 5, 2, 1)
    drawn = crf.sample(h, mask, samples=50, generator=torch.Generator().manual_seed(0))
    for y in (crf.decode(h, mask)[0], *drawn):
        for row, length in enumerate((9, 8, 5, 2, 1)):
            path = y[row, :length].tolist()
            assert first[path[0]]
            assert last[path[-1]]
            assert all(legal[i, j] for i, j in pairwise(path))
    with torch.no_grad():
        unary, pairs = crf.marginals(h, mask, pairwise=True)
    assert float(pairs[..., ~legal].abs().max()) < 1e-200
    y = crf.decode(h, mask)[0]
    loss = crf(h, y, mask)
    assert loss.isfinite()
    for method in METHODS:
        torch.testing.assert_close(
            crf.log_partition(h, mask, method=method), crf.log_partition(h, mask, method="scan"), rtol=1e-13, atol=0
        )
    assert crf(h, torch.full_like(y, 3), mask) > 1e20  # e never follows e
    torch.testing.assert_close(unary[:, 0, 2:].sum(), torch.zeros((), dtype=F64, device=DEVICE))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "scaled"])
def test_a_sentence_without_a_legal_path_stays_finite(method):
    A = torch.full((3, 3), C.FORBIDDEN, device=DEVICE, requires_grad=True)
    h = torch.zeros(2, 50, 3, device=DEVICE, requires_grad=True)
    out = C.crf_log_partition(h, A, method=method)
    assert (out < -1e31).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (h, A)))


# --- the gauge (D4) -------------------------------------------------------------------------------------------------


def test_a_change_of_gauge_changes_no_probability():
    mask, (h, A, _, _) = padding(5, 1, 3), problem(ends=False, grad=False)
    row, column = randn_(3, seed=5), randn_(3, seed=6)
    last = padding(5, 1, 3) & ~torch.nn.functional.pad(mask, (0, 1))[:, 1:]
    moved = h - row * (~last)[..., None] - column * (torch.arange(5, device=DEVICE) > 0)[:, None]
    B = A + row[:, None] + column
    torch.testing.assert_close(
        C.crf_log_partition(moved, B, mask), C.crf_log_partition(h, A, mask), rtol=1e-12, atol=1e-13
    )
    y = tags_(3, 5, 3)
    torch.testing.assert_close(C.crf_score(moved, B, y, mask), C.crf_score(h, A, y, mask), rtol=1e-12, atol=1e-13)
    assert_close("D", C.double_center(B), C.double_center(A), 1e-14)


def test_double_centring():
    A = randn_(2, 4, 4)
    D = C.double_center(A)
    assert D.sum(-1).abs().max() < 1e-14
    assert D.sum(-2).abs().max() < 1e-14
    torch.testing.assert_close(C.double_center(D), D)
    contrast = lambda X: X[:, 0, 1] + X[:, 2, 3] - X[:, 0, 3] - X[:, 2, 1]  # noqa: E731
    torch.testing.assert_close(contrast(D), contrast(A))


def test_the_matrices_of_the_post_in_the_right_gauge():  # the numbers of D4
    bad = [[-0.0517, -0.459, -0.244, 0.707], [-0.564, -0.142, 0.314, 0.613]]
    bad += [[0.196, -0.334, -0.794, 0.672], [0.769, 0.841, -0.683, 0.572]]
    good = [[3.17, 2.16, -3.97, -2.04], [-3.89, -0.451, 1.67, 0.874], [-3.9, -4.41, 3.82, 2.45]]
    good += [[1.88, 0.991, -2.48, -0.247]]
    legal = C.legal_transitions("sbme")
    for matrix, mean, sd, rows in ((bad, 0.15, 0.38, [0, 1, 0, 1]), (good, 2.40, 2.7, [1, 1, 1, 1])):
        D = C.double_center(torch.tensor(matrix, dtype=F64))
        assert float(D[legal].mean()) == pytest.approx(mean, abs=0.006)
        assert float(D.std(unbiased=False)) == pytest.approx(sd, abs=0.02)
        right = [float(D[i][legal[i]].min()) > float(D[i][~legal[i]].max()) for i in range(4)]
        assert right == [bool(x) for x in rows]


@pytest.mark.parametrize(
    ("tags", "scheme", "legal"),
    [
        ("sbme", "bmes", "1100 0011 0011 1100"),
        (("O", "B-X", "I-X", "B-Y", "I-Y"), "bio", "11010 11110 11110 11011 11011"),
        (("S-X", "B-X", "E-X", "S-Y", "B-Y", "E-Y"), "bmes", "110110 001000 110110 110110 000001 110110"),
    ],
)
def test_legal_steps(tags, scheme, legal):
    want = torch.tensor([[c == "1" for c in row] for row in legal.split()])
    assert torch.equal(C.legal_transitions(tags, scheme), want)
    first, last = C.legal_start_end(tags, scheme)
    assert first.shape == last.shape == (len(tags),)


# --- peers ----------------------------------------------------------------------------------------------------------


def test_parity_with_pytorch_crf():
    torchcrf = importlib.import_module("torchcrf")
    mask, (h, A, a, z) = padding(6, 1, 4), problem(3, 6, 4)
    y = tags_(3, 6, 4)
    peer = torchcrf.CRF(4, batch_first=True).to(DEVICE).double()
    with torch.no_grad():
        peer.transitions.copy_(A), peer.start_transitions.copy_(a), peer.end_transitions.copy_(z)
    want = -peer(h, y, mask, reduction="none")
    got = C.crf_nll(h, A, y, mask, a, z, reduction="none")
    assert_close("loss", got, want, OUTPUT[F64])
    wanted = torch.autograd.grad(want.sum(), (h, peer.transitions, peer.start_transitions, peer.end_transitions))
    for x, w in zip(torch.autograd.grad(got.sum(), (h, A, a, z)), wanted, strict=True):
        assert_close("gradient", x, w, GRADIENT[F64])
    tags = C.crf_viterbi(h, A, mask, a, z)[0]
    assert [row[row >= 0].tolist() for row in tags] == peer.decode(h, mask)
    token = -peer(h, y, mask, reduction="token_mean")
    torch.testing.assert_close(C.crf_nll(h, A, y, mask, a, z, reduction="token"), token, rtol=1e-13, atol=0)


def test_parity_with_torch_struct():
    torch_struct = importlib.import_module("torch_struct")
    if not ON_CPU:
        pytest.skip("one device is enough")
    h, A, _, _ = problem(3, 6, 4, ends=False, grad=False)
    edges = A.T + h[:, 1:, :, None]  # [next, previous]
    edges[:, 0] += h[:, 0, None, :]
    with warnings.catch_warnings():  # its own
        warnings.simplefilter("ignore")
        peer = torch_struct.LinearChainCRF(edges, lengths=torch.tensor([6, 6, 6]))
        partition, marginals, best = peer.partition, peer.marginals.transpose(2, 3), peer.argmax.transpose(2, 3)
    assert_close("log Z", C.crf_log_partition(h, A), partition, OUTPUT[F64])
    pairs = C.crf_marginals(h, A, pairwise=True)[1]
    assert_close("marginals", pairs, marginals, GRADIENT[F64])
    tags = C.crf_viterbi(h, A)[0]
    assert torch.equal(torch.cat((best[:, :1].sum(3), best.sum(2)), 1).argmax(-1), tags)


# --- numerics, tracing, bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_reach_inside(method):
    h, A, a, z = problem(2, 40, 4, dtype=torch.float32)
    y, mask = tags_(2, 40, 4), padding(40, 17)
    want = C.crf_nll(h, A, y, mask, a, z, method=method)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        got = C.crf_nll(h, A, y, mask, a, z, method=method)
        marginals = C.crf_marginals(h, A, mask, a, z)
    assert torch.equal(got, want)
    assert torch.equal(marginals, C.crf_marginals(h, A, mask, a, z))
    for x, w in zip(torch.autograd.grad(got, (h, A)), torch.autograd.grad(want, (h, A)), strict=True):
        assert torch.equal(x, w)


@pytest.mark.parametrize("method", ["auto", "scan", "tree"])
def test_compiled_without_breaks(method):
    h, A, a, z = problem(2, 6, 3)
    y, mask = tags_(2, 6, 3), padding(6, 3)

    def loss(h, A, a, z):
        return C.crf_nll(h, A, y, mask, a, z, method=method)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want, got = loss(h, A, a, z), compiled(h, A, a, z)
    assert_close("loss", got, want, OUTPUT[F64])
    for x, w in zip(torch.autograd.grad(got, (h, A, a, z)), torch.autograd.grad(want, (h, A, a, z)), strict=True):
        assert_close("gradient", x, w, GRADIENT[F64])


def test_compiled_paths():
    h, A, a, z = problem(2, 6, 3, grad=False)
    mask = padding(6, 3)
    compiled = torch.compile(lambda h: C.crf_viterbi(h, A, mask, a, z)[0], fullgraph=True, backend="eager")
    assert torch.equal(compiled(h), C.crf_viterbi(h, A, mask, a, z)[0])


def test_the_tree_has_logarithmic_depth():  # D9
    """The number of products, each of which waits for the one before, is log₂ of the number of steps."""
    for n in (2, 3, 65, 66, 1025):
        steps, _ = C.recursions._steps(
            torch.zeros(1, n, 2, device=DEVICE), torch.zeros(2, 2, device=DEVICE), None, log=True
        )
        assert len(C.recursions._levels(steps, 1, C.recursions._log_product)) - 1 == math.ceil(math.log2(n - 1))


H, T = torch.zeros(2, 3, 4), torch.zeros(4, 4)
Y = torch.zeros(2, 3, dtype=torch.long)
M = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: C.crf_log_partition(H[0], T), ValueError, r"emissions has shape \(3, 4\)"),
        (lambda: C.crf_log_partition([1.0], T), TypeError, "emissions is a list"),
        (lambda: C.crf_log_partition(H.long(), T), TypeError, "int64"),
        (lambda: C.crf_log_partition(H[:, :0], T), ValueError, "at least one place"),
        (lambda: C.crf_log_partition(H, T[:3]), ValueError, r"transitions has shape \(3, 4\)"),
        (lambda: C.crf_log_partition(H, T, M[:1]), ValueError, r"mask has shape \(1, 3\)"),
        (lambda: C.crf_log_partition(H, T, M.float()), TypeError, "mask has type torch.float32"),
        (lambda: C.crf_log_partition(H, T, start=T), ValueError, r"start has shape \(4, 4\)"),
        (lambda: C.crf_log_partition(H, T, end=0.0), ValueError, "end has shape float"),
        (lambda: C.crf_log_partition(H, T, method="loop"), ValueError, "'loop'.*'scan'"),
        (lambda: C.crf_log_partition(H, T, ~M, validate=True), ValueError, r"mask\[0, 0\] is False"),
        (
            lambda: C.crf_log_partition(H, T, torch.tensor([[1, 1, 1], [1, 0, 1]]).bool(), validate=True),
            ValueError,
            r"mask\[1\] has a place after padding",
        ),
        (lambda: C.crf_score(H, T, Y.float()), TypeError, "tags has type torch.float32"),
        (lambda: C.crf_score(H, T, Y[:, :2]), ValueError, r"tags has shape \(2, 2\)"),
        (lambda: C.crf_score(H, T, Y + 4, validate=True), ValueError, "tags has the value 4"),
        (lambda: C.crf_nll(H, T, Y, reduction="max"), ValueError, "'max'.*'token'"),
        (lambda: C.crf_sample(H, T, samples=0), ValueError, "samples=0"),
        (lambda: C.crf_paths_plain(torch.zeros(1, 21, 2), torch.zeros(2, 2)), ValueError, r"2\^21 paths"),
        (lambda: C.double_center(H), ValueError, r"\(2, 3, 4\)"),
        (lambda: C.legal_transitions("sbmx"), ValueError, "'x'"),
        (lambda: C.legal_transitions("sbme", "iob"), ValueError, "'iob'"),
        (lambda: C.legal_transitions(""), ValueError, "empty"),
        (lambda: C.LinearChainCRF(0), ValueError, "num_tags=0"),
        (lambda: C.LinearChainCRF(4, scale=0), ValueError, "scale=0"),
        (lambda: C.LinearChainCRF(4, init="ones"), ValueError, "'ones'"),
        (lambda: C.LinearChainCRF(4, constraints=T), TypeError, "float32"),
        (lambda: C.LinearChainCRF(4, constraints=T[:3].bool()), ValueError, r"\(3, 4\)"),
        (lambda: C.LinearChainCRF(4, constraints=(None, None)), ValueError, "2 parts"),
    ],
)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_validate_passes_what_is_right():
    tags = Y.masked_fill(~padding(3, 1).cpu(), -100)
    assert C.crf_nll(H, T, tags, padding(3, 1).cpu(), validate=True).isfinite()


# --- the module -----------------------------------------------------------------------------------------------------


def test_the_module_reads_its_transitions_in_its_scale():
    make = lambda scale: C.LinearChainCRF(4, scale=scale, start_end=True, generator=torch.Generator().manual_seed(0))  # noqa: E731
    plain, scaled = make(1.0), make(100.0)
    torch.testing.assert_close(plain.transitions, scaled.transitions)
    torch.testing.assert_close(plain.start, scaled.start)
    assert float(plain.transitions.detach().abs().max()) <= math.sqrt(3) / 2
    torch.testing.assert_close(100 * scaled.theta, scaled.transitions)
    assert not C.LinearChainCRF(4, init="zeros").transitions.any()
    assert "scale=100" in repr(scaled)
    clone = make(100.0)
    clone.load_state_dict(scaled.state_dict())
    assert set(scaled.state_dict()) == {"theta", "theta_start", "theta_end"}


def test_the_module_is_its_functions():
    crf = C.LinearChainCRF(3, start_end=True, generator=torch.Generator().manual_seed(0)).to(DEVICE).double()
    h, mask, y = randn_(2, 5, 3), padding(5, 2), tags_(2, 5, 3)
    parts = (crf.transitions, mask, crf.start, crf.end)
    assert torch.equal(
        crf(h, y, mask, reduction="token"),
        C.crf_nll(h, parts[0], y, mask, crf.start, crf.end, reduction="token"),
    )
    assert torch.equal(crf.log_partition(h, mask), C.crf_log_partition(h, *parts))
    assert torch.equal(crf.marginals(h, mask), C.crf_marginals(h, *parts))
    assert torch.equal(crf.decode(h, mask)[0], C.crf_viterbi(h, *parts)[0])
    seed = torch.Generator().manual_seed
    assert torch.equal(crf.sample(h, mask, generator=seed(1)), C.crf_sample(h, *parts, generator=seed(1)))


def test_reductions():
    mask, (h, A, a, z) = padding(5, 1, 3), problem(grad=False)
    y = tags_(3, 5, 3)
    each = C.crf_nll(h, A, y, mask, a, z, reduction="none")
    assert each.shape == (3,)
    assert (each > 0).all()
    for reduction, want in (("sum", each.sum()), ("mean", each.mean()), ("token", each.sum() / 9)):
        torch.testing.assert_close(C.crf_nll(h, A, y, mask, a, z, reduction=reduction), want)
    torch.testing.assert_close(C.crf_nll(h, A, y, None, a, z, reduction="token"), C.crf_nll(h, A, y, None, a, z) / 5)


def test_examples_in_the_docstrings():
    results = [doctest.testmod(module) for module in (C.layer, C.paths, C.plain, C.scores, C.transitions)]
    assert all(result.attempted for result in results)
    assert sum(result.attempted for result in results) > 20
    assert not any(result.failed for result in results)
