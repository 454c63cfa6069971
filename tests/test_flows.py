"""kexue_lib.flows: parity with plain forms, POT and SciPy, the theorems of the chapter, and what may go wrong."""

from __future__ import annotations

import doctest
import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from tolerances import GRADIENT, OUTPUT, assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import kexue_lib.flows as FL

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64
REAL = (torch.float64, torch.float32)


def spd_(d: int, seed: int, *batch: int, dtype: torch.dtype = F64) -> torch.Tensor:
    """Symmetric positive definite matrices with eigenvalues of the order of one."""
    g = randn_(*batch, d, d, seed=seed)
    return (g @ g.mT / d + 0.3 * torch.eye(d, dtype=F64, device=DEVICE)).to(dtype)


def assert_same(ours, plain, inputs, dtype=F64, slack=1.0):
    """Output and each gradient agree with the plain form in float64; the inputs stay as they were."""
    inputs = [x.detach().to(dtype).requires_grad_() for x in inputs]
    before = [x.detach().clone() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, ref = ours(*inputs), plain(*exact)
    assert out.dtype == dtype
    assert_close("output", out, ref, slack * OUTPUT[dtype])
    weight = randn_(*ref.shape, seed=9)
    grads = torch.autograd.grad((out.double() * weight).sum(), inputs, materialize_grads=True)
    wanted = torch.autograd.grad((ref * weight).sum(), exact, materialize_grads=True)
    for k, (got, want) in enumerate(zip(grads, wanted, strict=True)):
        assert_close(f"gradient {k}", got, want, slack * GRADIENT[dtype])
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


# --- points ---------------------------------------------------------------------------------------------------------


def test_euler_flow_is_the_power_of_one_step_on_a_quadratic():  # D1
    curvature = torch.tensor([0.5, 1.0, 3.0], dtype=F64, device=DEVICE)
    x0 = randn_(4, 3, seed=1)
    path = FL.euler_flow(lambda x: curvature * x, x0, 0.1, 7, return_path=True)
    assert path.shape == (8, 4, 3)
    for k in range(8):
        torch.testing.assert_close(path[k], (1 - 0.1 * curvature) ** k * x0, rtol=1e-14, atol=1e-14)
    assert torch.equal(path[-1], FL.euler_flow(lambda x: curvature * x, x0, 0.1, 7))
    assert torch.equal(FL.euler_flow(lambda x: x, x0, 0.1, 0), x0)


def test_euler_error_is_first_order_and_second_order_for_the_tilted_function():  # D1.8
    a, t = 1.3, 1.0
    one = torch.ones(1, dtype=F64, device=DEVICE)
    gaps = []
    for n in (50, 100):
        h = t / n
        x = FL.euler_flow(lambda x: a * x, one, h, n)
        gaps.append([abs(x - math.exp(-a * t)).item(), abs(x - math.exp(-(a + h / 2 * a * a) * t)).item()])
    (f1, m1), (f2, m2) = gaps
    assert f1 / f2 == pytest.approx(2, abs=0.05)
    assert m1 / m2 == pytest.approx(4, abs=0.1)


def test_descent_stops_at_two_over_the_largest_eigenvalue():  # D2.7
    x0 = torch.tensor([1.0, 1.0], dtype=F64, device=DEVICE)
    eig = torch.tensor([1.0, 4.0], dtype=F64, device=DEVICE)

    def value(x):
        return (eig * x**2).sum() / 2

    assert value(FL.euler_flow(lambda x: eig * x, x0, 0.49, 200)) < 1e-2
    assert value(FL.euler_flow(lambda x: eig * x, x0, 0.51, 40)) > value(x0)


def dual_norm(g, norm):
    if norm == "spectral":
        return torch.linalg.matrix_norm(g, "nuc")
    q = math.inf if norm == 1 else 1.0 if norm == math.inf else norm / (norm - 1)
    return torch.linalg.vector_norm(g, q, dim=-1)


NORMS = [1, 1.1, 1.5, 2, 3, 10.0, math.inf, "spectral"]


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_direction_reaches_the_dual_norm_and_nothing_beats_it(norm):  # D3
    g = randn_(5, 4, 3, seed=2) * 10.0 ** randn_(5, 1, 1, seed=3)
    eps = 0.7
    best = FL.steepest_direction(g, norm, eps)
    axes = (-2, -1) if norm == "spectral" else (-1,)
    length = torch.linalg.matrix_norm(best, 2) if norm == "spectral" else torch.linalg.vector_norm(best, norm, dim=-1)
    torch.testing.assert_close(length, torch.full_like(length, eps), rtol=1e-12, atol=0)
    torch.testing.assert_close((g * best).sum(axes), -eps * dual_norm(g, norm), rtol=1e-12, atol=0)
    for k in range(100):
        other = randn_(*g.shape, seed=100 + k)
        size = (
            torch.linalg.matrix_norm(other, 2)[..., None, None]
            if norm == "spectral"
            else torch.linalg.vector_norm(other, norm, dim=-1, keepdim=True)
        )
        assert ((g * other * eps / size).sum(axes) >= (g * best).sum(axes)).all()


def test_steepest_direction_of_a_metric_is_the_natural_gradient():  # D5
    g, metric = randn_(6, 4, seed=4), spd_(4, 5)
    best = FL.steepest_direction(g, metric=metric, eps=0.3)
    lengths = torch.einsum("ni,ij,nj->n", best, metric, best).sqrt()
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.3), rtol=1e-12, atol=0)
    natural = torch.linalg.solve(metric, g.mT).mT
    won = (g * natural).sum(-1).sqrt()
    torch.testing.assert_close((g * best).sum(-1), -0.3 * won, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        FL.steepest_direction(g, metric=torch.eye(4, dtype=F64, device=DEVICE)), FL.steepest_direction(g)
    )


def test_natural_gradient_does_not_depend_on_the_parameters():  # D5.14
    g, metric, jacobian = randn_(4, seed=6), spd_(4, 7), randn_(4, 4, seed=8)
    step = jacobian @ FL.steepest_direction(jacobian.mT @ g, metric=jacobian.mT @ metric @ jacobian)
    torch.testing.assert_close(step, FL.steepest_direction(g, metric=metric), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_no_step(norm):
    zero = torch.zeros(3, 4, dtype=F64, device=DEVICE, requires_grad=True)
    step = FL.steepest_direction(zero, norm)
    assert torch.equal(step, torch.zeros_like(step))
    if norm != "spectral":
        (slope,) = torch.autograd.grad(step.sum(), zero)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("norm", [1.5, 2, 3])
def test_steepest_direction_gradient(norm):
    torch.autograd.gradcheck(lambda g: FL.steepest_direction(g, norm), randn_(3, 4, seed=11, grad=True))


@settings(max_examples=30, deadline=None)
@given(st.floats(1.05, 20), st.floats(-100, 100), st.integers(1, 6))
def test_steepest_direction_does_not_know_the_size_of_the_gradient(norm, power, d):
    g = randn_(d, seed=d)
    small = FL.steepest_direction(g, norm)
    torch.testing.assert_close(FL.steepest_direction(g * 10.0**power, norm), small, rtol=1e-9, atol=1e-12)


# --- Gaussians ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("d", [1, 2, 5, 16])
def test_gaussian_w2_equals_its_plain_form(d, dtype):
    inputs = (randn_(3, d, seed=1), spd_(d, 2, 3), randn_(d, seed=3), spd_(d, 4))

    def symmetric(f):  # Cholesky reads the lower triangle: compare what both see
        return lambda m1, s1, m2, s2: f(m1, (s1 + s1.mT) / 2, m2, (s2 + s2.mT) / 2, squared=True)

    assert_same(symmetric(FL.gaussian_w2), symmetric(FL.gaussian_w2_plain), inputs, dtype, slack=20)


def test_gaussian_w2_equals_pot():
    ot = importlib.import_module("ot")
    for d in (1, 3, 7):
        m1, s1, m2, s2 = randn_(d, seed=1), spd_(d, 2), randn_(d, seed=3), spd_(d, 4)
        want = ot.gaussian.bures_wasserstein_distance(*(x.cpu().numpy() for x in (m1, m2, s1, s2)))
        assert FL.gaussian_w2(m1, s1, m2, s2).item() == pytest.approx(float(want), rel=1e-10)


def test_gaussian_w2_of_close_gaussians_does_not_cancel():
    cov = spd_(5, 1)
    zero = torch.zeros(5, dtype=F64, device=DEVICE)
    tiny = FL.gaussian_w2(zero, cov, zero, cov * (1 + 2e-9))
    assert tiny.item() == pytest.approx(1e-9 * cov.trace().sqrt().item(), rel=1e-5)
    assert FL.gaussian_w2_plain(zero, cov, zero, cov * (1 + 2e-9)).item() != pytest.approx(tiny.item(), rel=0.1)
    same = cov.clone().requires_grad_()
    (slope,) = torch.autograd.grad(FL.gaussian_w2(zero, same, zero, cov, squared=True), same)
    assert slope.abs().max() < 1e-12


def test_gaussian_w2_refuses_a_second_derivative():
    cov = spd_(2, 1).requires_grad_()
    zero, eye = torch.zeros(2, dtype=F64, device=DEVICE), torch.eye(2, dtype=F64, device=DEVICE)
    value = FL.gaussian_w2(zero, cov, zero, eye)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(value, cov, create_graph=True)


def test_gaussian_kl_equals_torch():
    for d in (1, 3):
        m1, s1, m2, s2 = randn_(4, d, seed=1), spd_(d, 2, 4), randn_(d, seed=3), spd_(d, 4)
        law = torch.distributions.MultivariateNormal
        want = torch.distributions.kl_divergence(law(m1, s1), law(m2.expand(4, d), s2.expand(4, d, d)))
        torch.testing.assert_close(FL.gaussian_kl(m1, s1, m2, s2), want, rtol=1e-12, atol=1e-12)


def test_gaussian_divergences_have_right_gradients():
    def through_root(f):
        return lambda m1, r1, m2, r2: f(m1, r1 @ r1.mT + eye, m2, r2 @ r2.mT + eye)

    eye = torch.eye(3, dtype=F64, device=DEVICE)
    inputs = (
        randn_(3, seed=1, grad=True),
        randn_(3, 3, seed=2, grad=True),
        randn_(3, seed=3, grad=True),
        randn_(3, 3, seed=4, grad=True),
    )
    for f in (FL.gaussian_w2, FL.gaussian_kl, FL.gaussian_relative_fisher):
        torch.autograd.gradcheck(through_root(f), inputs)


def test_the_divergence_falls_at_the_rate_of_the_fisher_information():  # D9.28, in four dimensions
    d = 4
    m0, s0, precision = randn_(d, seed=1), spd_(d, 2), spd_(d, 3)
    target = torch.linalg.inv(precision)
    zero = torch.zeros(d, dtype=F64, device=DEVICE)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=F64, device=DEVICE, requires_grad=True)
    m, cov = FL.ou_moments(m0, s0, precision, t)
    (rate,) = torch.autograd.grad(FL.gaussian_kl(m, cov, zero, target).sum(), t)
    fisher = FL.gaussian_relative_fisher(m, cov, zero, target)
    torch.testing.assert_close(rate, -fisher.detach(), rtol=1e-10, atol=1e-10)
    smallest = torch.linalg.eigvalsh(precision)[0]
    assert (fisher >= 2 * smallest * FL.gaussian_kl(m, cov, zero, target)).all()  # D9.18


def test_ou_moments_equal_their_plain_form():
    d = 3
    inputs = (randn_(d, seed=1), spd_(d, 2), spd_(d, 3))
    t = torch.tensor([[0.0, 0.3], [2.0, 40.0]], dtype=F64, device=DEVICE)
    for k in (0, 1):
        assert_same(
            lambda m, s, a, k=k: FL.ou_moments(m, s, (a + a.mT) / 2, t)[k],
            lambda m, s, a, k=k: FL.ou_moments_plain(m, s, (a + a.mT) / 2, t)[k],
            inputs,
            slack=50,
        )
    m, cov = FL.ou_moments(*inputs, 1e9)
    torch.testing.assert_close(cov, torch.linalg.inv(inputs[2]), rtol=1e-12, atol=1e-12)
    assert m.shape == (d,)


def test_jko_gaussian_minimises_its_bargain():  # D7.15
    m0, s0, h = randn_(3, seed=1), spd_(3, 2), 0.3
    zero, eye = torch.zeros(3, dtype=F64, device=DEVICE), torch.eye(3, dtype=F64, device=DEVICE)
    m, cov = FL.jko_gaussian(m0, s0, h)

    def bargain(mean, covariance):
        return FL.gaussian_w2(mean, covariance, m0, s0, squared=True) / (2 * h) + FL.gaussian_kl(
            mean, covariance, zero, eye
        )

    m, cov = m.requires_grad_(), cov.requires_grad_()
    for slope in torch.autograd.grad(bargain(m, cov), (m, cov)):
        assert slope.abs().max() < 1e-12
    for k in range(20):
        other = bargain(m + 0.1 * randn_(3, seed=k), cov + 0.05 * spd_(3, k))
        assert other > bargain(m, cov)


def test_jko_gaussian_keeps_the_target_for_every_step():  # D7.17
    eye = torch.eye(2, dtype=F64, device=DEVICE)
    for h in (1e-3, 0.5, 100.0):
        m, cov = FL.jko_gaussian(torch.zeros(2, dtype=F64, device=DEVICE), eye, h)
        torch.testing.assert_close(cov, eye, rtol=1e-13, atol=1e-13)
        assert not m.any()


# --- particles ------------------------------------------------------------------------------------------------------


def test_langevin_step_is_its_formula():
    x, noise = randn_(5, 2, seed=1), randn_(5, 2, seed=2)
    got = FL.langevin_step(x, lambda x: -3 * x, 0.1, noise=noise)
    torch.testing.assert_close(got, x - 0.3 * x + math.sqrt(0.2) * noise, rtol=1e-15, atol=1e-15)
    drawn = [FL.langevin_step(x, torch.neg, 0.1, generator=torch.Generator(DEVICE).manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.equal(
        drawn[0], FL.langevin_step(x, torch.neg, 0.1, generator=torch.Generator(DEVICE).manual_seed(4))
    )


@pytest.mark.parametrize(("h", "lam"), [(0.4, 1.0), (0.1, 3.0)])
def test_langevin_has_the_variance_of_step_d12(h, lam):
    n = 40_000
    x, g = torch.zeros(n, dtype=F64, device=DEVICE), torch.Generator(DEVICE).manual_seed(1)
    for _ in range(60):
        x = FL.langevin_step(x, lambda x: -lam * x, h, generator=g)
    exact = 1 / (lam * (1 - lam * h / 2))
    assert abs(x.var().item() - exact) < 4 * math.sqrt(2 / n) * exact
    assert abs(x.var().item() - 1 / lam) > 8 * math.sqrt(2 / n) / lam


@pytest.mark.parametrize("name", FL.DIVERGENCES)
def test_velocity_is_the_gradient_of_the_first_variation(name):  # D7.21, D11
    def first_variation(x):  # f(r) - r f'(r), with r = p/q for two Gaussians
        log_r = -((x - 1) ** 2) / 2 + x**2 / 3
        r = log_r.exp().requires_grad_() if not log_r.requires_grad else log_r.exp()
        f = FL.f_divergence(name, r.log().unsqueeze(-1), torch.ones_like(r).unsqueeze(-1))
        (slope,) = torch.autograd.grad(f.sum(), r, create_graph=True)
        return f - r * slope, log_r

    x = torch.linspace(-2, 2, 9, dtype=F64, device=DEVICE).requires_grad_()
    variation, log_r = first_variation(x)
    (down,) = torch.autograd.grad(variation.sum(), x)
    velocity = FL.wasserstein_velocity(name, log_r.detach(), (-(x - 1) + 2 * x / 3).detach().unsqueeze(-1))
    torch.testing.assert_close(velocity.squeeze(-1), -down, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FL.DIVERGENCES)
def test_divergences_vanish_for_equal_densities_and_only_there(name):
    q = torch.tensor([0.1, 0.2, 0.7], dtype=F64, device=DEVICE)
    p = torch.tensor([0.3, 0.3, 0.4], dtype=F64, device=DEVICE)
    assert FL.f_divergence(name, torch.zeros_like(q), q).abs() < 1e-15
    value = FL.f_divergence(name, (p / q).log(), q)
    want = {
        "reverse_kl": (q * (q / p).log()).sum(),
        "kl": (p * (p / q).log()).sum(),
        "chi2": ((p - q) ** 2 / q).sum(),
        "hellinger": ((p.sqrt() - q.sqrt()) ** 2).sum(),
        "js": (p * (p / ((p + q) / 2)).log() + q * (q / ((p + q) / 2)).log()).sum() / 2,
    }[name]
    torch.testing.assert_close(value, want, rtol=1e-12, atol=1e-14)
    assert value > 0
    drawn = torch.multinomial(q, 200_000, replacement=True, generator=torch.Generator(DEVICE).manual_seed(0))
    torch.testing.assert_close(FL.f_divergence(name, (p / q).log()[drawn]), want, rtol=0.03, atol=0)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("n", "m", "d"), [(7, 5, 1), (33, 100, 2), (1, 1, 3), (64, 63, 8)])
@pytest.mark.parametrize("chunk", [None, 10])
def test_kde_score_equals_its_plain_form(n, m, d, chunk, dtype):
    inputs = (randn_(n, d, seed=1), randn_(m, d, seed=2) + 0.3)
    assert_same(
        lambda x, y: FL.kde_score(x, y, 0.8, chunk), lambda x, y: FL.kde_score_plain(x, y, 0.8), inputs, dtype, slack=10
    )


def test_kde_score_is_the_gradient_of_the_log_density():
    y = randn_(40, 2, seed=1)
    x = randn_(9, 2, seed=2, grad=True)
    log_density = torch.logsumexp(-torch.cdist(x, y).square() / (2 * 0.5**2), dim=1)
    (slope,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(FL.kde_score(x.detach(), y, 0.5), slope, rtol=1e-10, atol=1e-10)


def test_kde_score_far_away_points_at_the_nearest_sample():
    y = torch.tensor([[0.0], [1.0]], dtype=F64, device=DEVICE)
    x = torch.tensor([[1e3]], dtype=F64, device=DEVICE)
    torch.testing.assert_close(FL.kde_score(x, y, 0.1), (1.0 - x) / 0.01, rtol=1e-9, atol=0)


def test_kde_score_does_not_depend_on_the_origin():
    x, y = randn_(20, 2, seed=1), randn_(30, 2, seed=2)
    torch.testing.assert_close(FL.kde_score(x + 1e6, y + 1e6, 0.5), FL.kde_score(x, y, 0.5), rtol=1e-7, atol=1e-7)


class Largest(TorchDispatchMode):
    """The largest tensor that an operation gave."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the fused kernel for float64 is on the CPU")
def test_kde_score_never_holds_all_pairs():
    x = randn_(1500, 2, seed=1)
    with Largest() as ours:
        FL.kde_score(x, x, 0.5)
    with Largest() as plain:
        FL.kde_score_plain(x, x, 0.5)
    assert plain.numel >= 1500 * 1500
    assert ours.numel <= 1500 * 16


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4), (1, 5), (7, 1), (12, 9)])
def test_w2_on_the_line_equals_its_plain_form(n, m, dtype):
    inputs = (randn_(3, n, seed=1), randn_(3, m, seed=2) + 0.5)
    assert_same(FL.wasserstein2_1d, FL.wasserstein2_1d_plain, inputs, dtype)


def test_w2_on_the_line_equals_pot():
    ot = importlib.import_module("ot")
    for n, m in ((50, 50), (50, 37)):
        x, y = randn_(n, seed=1), randn_(m, seed=2) + 1
        want = float(ot.wasserstein_1d(x.cpu().numpy(), y.cpu().numpy(), p=2)) ** 0.5
        assert FL.wasserstein2_1d(x, y).item() == pytest.approx(want, rel=1e-12)


def test_sliced_w2_equals_pot():
    ot = importlib.import_module("ot")
    x, y = randn_(60, 3, seed=1), randn_(45, 3, seed=2) + 0.5
    lines = torch.nn.functional.normalize(randn_(20, 3, seed=3), dim=-1)
    want = ot.sliced_wasserstein_distance(x.cpu().numpy(), y.cpu().numpy(), projections=lines.T.cpu().numpy(), p=2)
    assert FL.sliced_wasserstein2(x, y, projections=lines).item() == pytest.approx(float(want), rel=1e-12)
    drawn = [FL.sliced_wasserstein2(x, y, generator=torch.Generator(DEVICE).manual_seed(1)) for _ in range(2)]
    assert torch.equal(*drawn)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(-50, 50))
def test_w2_on_the_line_is_a_distance_that_knows_shifts(n, m, shift):
    x, y = randn_(n, seed=n), randn_(m, seed=50 + m)
    d = FL.wasserstein2_1d
    assert d(x, y).item() == pytest.approx(d(y, x).item(), abs=1e-12)
    assert d(x, x + shift).item() == pytest.approx(abs(shift), abs=1e-9)
    z = randn_(5, seed=99)
    assert d(x, y) <= d(x, z) + d(z, y) + 1e-12


# --- tridiagonal systems --------------------------------------------------------------------------------------------


def bands_(n, seed, *batch, dtype=F64):
    if dtype.is_complex:
        return tuple(
            torch.complex(a, b) for a, b in zip(bands_(n, seed, *batch), bands_(n, seed + 7, *batch), strict=True)
        )
    lower, upper = randn_(*batch, n - 1, seed=seed), randn_(*batch, n - 1, seed=seed + 1)
    return lower, randn_(*batch, n, seed=seed + 2).abs() + 4, upper, randn_(*batch, n, seed=seed + 3)


@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 63, 100])
def test_tridiagonal_solver_equals_elimination_and_the_dense_solve(n, dtype):
    lower, diag, upper, rhs = bands_(n, n, 2, 3, dtype=dtype)
    x = FL.solve_tridiagonal(lower, diag, upper, rhs)
    torch.testing.assert_close(x, FL.solve_tridiagonal_plain(lower, diag, upper, rhs), rtol=1e-12, atol=1e-12)
    dense = torch.linalg.solve(FL.tridiagonal_dense(lower, diag, upper), rhs)
    torch.testing.assert_close(x, dense, rtol=1e-12, atol=1e-12)


def test_tridiagonal_solver_equals_scipy():
    linalg = importlib.import_module("scipy.linalg")
    lower, diag, upper, rhs = (x.cpu().numpy() for x in bands_(301, 1))
    packed = np.zeros((3, 301))
    packed[0, 1:], packed[1], packed[2, :-1] = upper, diag, lower
    got = FL.solve_tridiagonal(*(torch.from_numpy(x) for x in (lower, diag, upper, rhs)))
    np.testing.assert_allclose(got.numpy(), linalg.solve_banded((1, 1), packed, rhs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=str)
def test_tridiagonal_solver_has_right_first_and_second_gradients(dtype):
    inputs = tuple(x.requires_grad_() for x in bands_(6, 3, dtype=dtype))
    torch.autograd.gradcheck(FL.solve_tridiagonal, inputs)
    torch.autograd.gradgradcheck(FL.solve_tridiagonal, inputs)
    lower, diag, upper, rhs = bands_(6, 3, 4)
    torch.autograd.gradcheck(  # broadcast axes
        FL.solve_tridiagonal,
        (lower[0].requires_grad_(), diag.requires_grad_(), upper[:1].requires_grad_(), rhs[2].requires_grad_()),
    )


# --- densities on a grid --------------------------------------------------------------------------------------------

GRID = torch.linspace(-4, 4, 161, dtype=F64, device=DEVICE)
DX = 8 / 160
WELL = 0.75 * (GRID**2 - 1) ** 2


def bump(centre=1.5, width=0.2):
    q = torch.exp(-((GRID - centre) ** 2) / (2 * width**2))
    return q / (q.sum() * DX)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_generator_conserves_mass_and_keeps_the_target(dtype):
    potential = WELL.to(dtype)
    matrix = FL.tridiagonal_dense(*FL.fokker_planck_generator(potential, DX))
    eps = torch.finfo(dtype).eps
    size = matrix.abs().sum(0).amax()
    assert matrix.sum(0).abs().amax() <= 4 * eps * size
    assert (matrix @ torch.exp(-potential)).abs().amax() <= 8 * eps * size
    off = matrix - torch.diag(matrix.diagonal())
    assert (off >= 0).all()


def test_generator_tends_to_the_equation_with_second_order():  # D7.22
    gaps = []
    for n in (101, 201):
        x = torch.linspace(-3, 3, n, dtype=F64, device=DEVICE)
        dx = 6 / (n - 1)
        potential, q = x**2 / 2 + torch.cos(x), torch.exp(-((x - 0.3) ** 2))
        matrix = FL.tridiagonal_dense(*FL.fokker_planck_generator(potential, dx))
        slope, curve = x - torch.sin(x), 1 - torch.cos(x)
        dq, ddq = -2 * (x - 0.3) * q, (4 * (x - 0.3) ** 2 - 2) * q
        gaps.append((matrix @ q - (dq * slope + q * curve + ddq))[1:-1].abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(4, abs=0.1)


def test_generator_is_smooth_in_the_potential_where_it_is_flat():
    potential = torch.tensor([0.3, 0.3, 0.3005, 0.9, 0.1], dtype=F64, device=DEVICE, requires_grad=True)
    torch.autograd.gradcheck(lambda v: FL.fokker_planck_generator(v, 0.5), potential)


@pytest.mark.parametrize("t", [1e-3, 0.03, 1.0, 30.0])
def test_evolution_equals_the_dense_exponential(t):
    got = FL.fokker_planck_evolve(bump(), WELL, DX, t)
    want = FL.fokker_planck_evolve_plain(bump(), WELL, DX, t)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    assert got.min() > -1e-12
    assert abs(got.sum().item() * DX - 1) < 1e-10


def test_evolution_of_a_much_too_broad_start_keeps_eight_digits():
    wide = torch.full_like(GRID, 1 / 8)
    for t in (1e-3, 0.01, 0.1):
        want = FL.fokker_planck_evolve_plain(wide, WELL, DX, t)
        torch.testing.assert_close(FL.fokker_planck_evolve(wide, WELL, DX, t), want, rtol=0, atol=2e-7)


def test_evolution_of_an_ou_process_is_gaussian():  # D9.6
    x = torch.linspace(-7, 7, 1401, dtype=F64, device=DEVICE)
    start = torch.exp(-((x - 1) ** 2) / (2 * 0.25)) / math.sqrt(2 * math.pi * 0.25)
    times = torch.tensor([0.2, 0.7], dtype=F64, device=DEVICE)
    got = FL.fokker_planck_evolve(start, x**2 / 2, 0.01, times)
    m, cov = FL.ou_moments(
        torch.ones(1, dtype=F64, device=DEVICE),
        0.25 * torch.eye(1, dtype=F64, device=DEVICE),
        torch.eye(1, dtype=F64, device=DEVICE),
        times,
    )
    want = torch.exp(-((x - m) ** 2) / (2 * cov[:, 0])) / torch.sqrt(2 * math.pi * cov[:, 0])
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5)


def test_evolution_composes_and_ends_at_the_target():
    times = torch.tensor([0.4, 1.0], dtype=F64, device=DEVICE)
    both = FL.fokker_planck_evolve(bump(), WELL, DX, times)
    torch.testing.assert_close(FL.fokker_planck_evolve(both[0], WELL, DX, 0.6), both[1], rtol=0, atol=1e-10)
    target = torch.exp(-WELL) / (torch.exp(-WELL).sum() * DX)
    torch.testing.assert_close(FL.fokker_planck_evolve(bump(), WELL, DX, 100.0), target, rtol=0, atol=1e-9)


def test_divergence_never_rises_along_the_evolution():  # C10
    target = torch.exp(-WELL) / (torch.exp(-WELL).sum() * DX)
    q = FL.fokker_planck_evolve(bump(), WELL, DX, torch.linspace(0.01, 3, 60, dtype=F64, device=DEVICE)).clamp(
        min=1e-300
    )
    for name in FL.DIVERGENCES:
        keep = target > 1e-12  # chi2 and KL: rounding in the tails
        values = FL.f_divergence(name, (target / q).log()[:, keep], q[:, keep] * DX)
        assert (values.diff() <= 1e-9).all(), name


def test_evolution_has_right_gradients():
    x = torch.linspace(-2, 2, 9, dtype=F64, device=DEVICE)
    potential, start = (x**2 / 2).requires_grad_(), torch.exp(-(x.detach() ** 2)).requires_grad_()
    t = torch.tensor(0.3, dtype=F64, device=DEVICE, requires_grad=True)
    torch.autograd.gradcheck(lambda q, v, t: FL.fokker_planck_evolve(q, v, 0.5, t), (start, potential, t), atol=1e-6)


# --- JKO ------------------------------------------------------------------------------------------------------------


def quantiles(n, mean=0.0, sd=1.0):
    u = (torch.arange(n, dtype=F64, device=DEVICE) + 0.5) / n
    return mean + sd * math.sqrt(2) * torch.erfinv(2 * u - 1)


@pytest.mark.parametrize("n", [2, 3, 10, 101])
@pytest.mark.parametrize("h", [1e-3, 0.1, 2.0])
def test_jko_step_equals_its_dense_form_and_solves_its_equation(n, h):  # D7.10
    def potential(x):
        return 0.75 * (x**2 - 1) ** 2

    start = quantiles(n, 1.5, 0.2)
    x = FL.jko_quantile(start, potential, h)
    torch.testing.assert_close(x, FL.jko_quantile_plain(start, potential, h), rtol=1e-8, atol=1e-8)
    inverse, none = 1 / x.diff(), torch.zeros(1, dtype=F64, device=DEVICE)
    residual = (x - start) / h + 3 * x * (x**2 - 1) + torch.cat((inverse, none)) - torch.cat((none, inverse))
    scale = 1 / h + inverse.square().max()
    assert residual.abs().max() <= 1e-9 * scale
    assert (x.diff() > 0).all()


def test_jko_step_never_raises_the_energy():  # D4.7
    start = quantiles(50, 1.5, 0.2)

    def energy(x):
        return (x**4 / 4 - x**2).mean() - x.diff().log().sum() / 50

    for h in (0.01, 0.1, 1.0, 10.0):
        x = FL.jko_quantile(start, lambda x: x**4 / 4 - x**2, h)
        assert energy(x) <= energy(start) - (x - start).square().mean() / (2 * h) + 1e-12


def test_jko_of_quantiles_tends_to_the_gaussian_formula():  # D7.15
    h, gaps = 0.2, []
    for n in (200, 800):
        x = FL.jko_quantile(quantiles(n, 1.0, 0.6), lambda x: x**2 / 2, h)
        m, cov = FL.jko_gaussian(torch.ones(1, dtype=F64), 0.36 * torch.eye(1, dtype=F64), h)
        gaps.append(abs(x.std(correction=0).item() - cov.sqrt().item()))
        assert x.mean().item() == pytest.approx(m.item(), abs=1e-9)
    assert gaps[1] < gaps[0] / 2 < 0.01


def test_jko_with_a_linear_or_constant_potential():
    start = quantiles(20)
    falling = FL.jko_quantile(start, lambda x: 3 * x, 0.1)
    flat = FL.jko_quantile(start, lambda x: torch.zeros_like(x), 0.1)
    torch.testing.assert_close(falling, flat - 0.3, rtol=1e-9, atol=1e-9)
    assert flat.std() > start.std()  # the entropy alone spreads the particles: the heat equation


# --- what may go wrong ----------------------------------------------------------------------------------------------

V2, M22, X32 = torch.zeros(2), torch.eye(2), torch.zeros(3, 2)
BAD_MATRIX = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
BAD = [
    (lambda: FL.euler_flow(lambda x: x, V2, 0.0, 1), ValueError, r"step=0\.0"),
    (lambda: FL.euler_flow(lambda x: x, V2, math.nan, 1), ValueError, "step=nan"),
    (lambda: FL.euler_flow(lambda x: x, V2, "1", 1), TypeError, "step='1'"),
    (lambda: FL.euler_flow(lambda x: x, V2, 0.1, -1), ValueError, "num_steps=-1"),
    (lambda: FL.euler_flow(lambda x: x, V2, 0.1, 1.0), TypeError, r"num_steps=1\.0"),
    (lambda: FL.euler_flow(lambda x: x[:1], V2, 0.1, 1), ValueError, r"\(1,\)"),
    (lambda: FL.euler_flow(lambda x: x, torch.ones(2, dtype=torch.int64), 0.1, 1), TypeError, "int64"),
    (lambda: FL.steepest_direction(V2, 0.5), ValueError, r"norm=0\.5"),
    (lambda: FL.steepest_direction(V2, math.nan), ValueError, "norm=nan"),
    (lambda: FL.steepest_direction(V2, "nuclear"), ValueError, "nuclear"),
    (lambda: FL.steepest_direction(V2, "spectral"), ValueError, r"\(2,\)"),
    (lambda: FL.steepest_direction(V2, eps=-1.0), ValueError, r"eps=-1\.0"),
    (lambda: FL.steepest_direction(V2, 3, metric=M22), ValueError, "norm=3"),
    (lambda: FL.steepest_direction(V2, metric=torch.eye(3)), ValueError, r"\(3, 3\)"),
    (lambda: FL.steepest_direction(V2, metric=BAD_MATRIX), ValueError, "not positive definite"),
    (lambda: FL.steepest_direction([1.0]), TypeError, "list"),
    (lambda: FL.gaussian_w2(V2, torch.eye(3), V2, M22), ValueError, r"\(3, 3\)"),
    (lambda: FL.gaussian_w2(V2, M22, V2, BAD_MATRIX), ValueError, "S2 is not positive definite"),
    (lambda: FL.gaussian_kl(V2, BAD_MATRIX, V2, M22), ValueError, "S1 is not positive definite"),
    (lambda: FL.gaussian_relative_fisher(V2, M22, V2, BAD_MATRIX), ValueError, "S2 is not positive definite"),
    (lambda: FL.ou_moments(V2, M22, BAD_MATRIX, 1.0), ValueError, "A is not positive definite"),
    (lambda: FL.ou_moments(V2, M22, torch.eye(3), 1.0), ValueError, r"\(3, 3\)"),
    (lambda: FL.jko_gaussian(V2, BAD_MATRIX, 0.1), ValueError, "S0 is not positive definite"),
    (lambda: FL.jko_gaussian(V2, M22, -0.1), ValueError, r"step=-0\.1"),
    (lambda: FL.langevin_step(X32, lambda x: x[:1], 0.1), ValueError, r"\(1, 2\)"),
    (lambda: FL.langevin_step(X32, torch.neg, 0), ValueError, "step=0"),
    (lambda: FL.langevin_step(X32, torch.neg, 0.1, noise=V2), ValueError, r"\(2,\)"),
    (lambda: FL.wasserstein_velocity("KL", V2, torch.eye(2)), ValueError, "'KL'.*'reverse_kl'"),
    (lambda: FL.wasserstein_velocity("kl", V2, X32), ValueError, r"\(3, 2\)"),
    (lambda: FL.f_divergence("kl", V2, torch.ones(3)), ValueError, r"\(3,\)"),
    (lambda: FL.f_divergence("tv", V2), ValueError, "'tv'"),
    (lambda: FL.kde_score(V2, X32, 1.0), ValueError, r"\(2,\)"),
    (lambda: FL.kde_score(X32, torch.zeros(3, 1), 1.0), ValueError, "2 coordinates, samples have 1"),
    (lambda: FL.kde_score(X32, X32, 0.0), ValueError, r"bandwidth=0\.0"),
    (lambda: FL.kde_score(X32, X32, 1.0, 0), ValueError, "chunk=0"),
    (lambda: FL.wasserstein2_1d(torch.zeros(0), V2), ValueError, "x has shape"),
    (lambda: FL.wasserstein2_1d(torch.zeros(2, 3), V2), ValueError, "leading axes"),
    (lambda: FL.sliced_wasserstein2(X32, torch.zeros(3, 1)), ValueError, "y has 1"),
    (lambda: FL.sliced_wasserstein2(X32, X32, projections=0), ValueError, "projections=0"),
    (lambda: FL.sliced_wasserstein2(X32, X32, projections=torch.zeros(2, 3)), ValueError, r"\(2, 3\)"),
    (lambda: FL.solve_tridiagonal(V2, V2, V2, V2), ValueError, "n - 1, n, n - 1, n"),
    (lambda: FL.fokker_planck_generator(torch.zeros(1), 0.1), ValueError, r"\(1,\)"),
    (lambda: FL.fokker_planck_generator(V2, 0.0), ValueError, r"dx=0\.0"),
    (lambda: FL.fokker_planck_evolve(torch.zeros(3), V2, 0.1, 1.0), ValueError, r"\(3,\)"),
    (lambda: FL.fokker_planck_evolve(V2, V2, 0.1, 0.0), ValueError, r"t=0\.0"),
    (lambda: FL.jko_quantile(torch.tensor([1.0, 1.0]), torch.square, 0.1), ValueError, "strictly increasing"),
    (lambda: FL.jko_quantile(torch.arange(3.0), torch.square, 0.0), ValueError, r"step=0\.0"),
    (lambda: FL.jko_quantile(torch.arange(3.0), torch.sum, 0.1), ValueError, r"\(\)"),
    (lambda: FL.jko_quantile(torch.arange(3.0, dtype=F64), lambda x: -(x**4), 1.0), RuntimeError, "bounded below"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- compiled, half precision, documentation ------------------------------------------------------------------------

COMPILED = {
    "euler_flow": (lambda x: FL.euler_flow(lambda y: y**3, x, 0.1, 3), (5, 2)),
    "steepest p": (lambda x: FL.steepest_direction(x, 3), (5, 2)),
    "steepest 1": (lambda x: FL.steepest_direction(x, 1), (5, 2)),
    "langevin": (lambda x: FL.langevin_step(x, torch.neg, 0.1, noise=x.cos()), (5, 2)),
    "velocity": (lambda x: FL.wasserstein_velocity("js", x[:, 0], x), (5, 2)),
    "f_divergence": (lambda x: FL.f_divergence("js", x), (5, 2)),
    "kde_score": (lambda x: FL.kde_score(x, x + 1, 0.5), (5, 2)),
    "w2": (lambda x: FL.wasserstein2_1d(x, x[:, :3] + 1), (2, 5)),
    "generator": (lambda x: FL.fokker_planck_generator(x, 0.1)[1], (7,)),
    "tridiagonal": (lambda x: FL.solve_tridiagonal(x[:6], x + 9, x[1:], x), (7,)),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_in_one_graph(name):
    f, shape = COMPILED[name]
    x = randn_(*shape, seed=1, grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, f(x), rtol=1e-12, atol=1e-12)
    (got,) = torch.autograd.grad(compiled.sum(), x)
    (want,) = torch.autograd.grad(f(x).sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("module", ["gaussians", "lines", "particles", "points", "tridiagonal"])
def test_examples_in_the_documentation(module):
    found = doctest.testmod(importlib.import_module(f"kexue_lib.flows.{module}"))
    assert found.attempted
    assert not found.failed


def test_everything_public_is_documented():
    for name in FL.__all__:
        thing = getattr(FL, name)
        if callable(thing) and not name.endswith("_plain") and name != "tridiagonal_dense":
            assert "Example:" in thing.__doc__, name
            assert "Source:" in thing.__doc__, name
            assert "kexue.fm" in thing.__doc__ or "chapter" in thing.__doc__, name
