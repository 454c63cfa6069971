r"""Gradient flows: of points by any norm, of Gaussians, of particles and of densities on a grid.

* Points: :func:`euler_flow`, :func:`steepest_direction`.
* Gaussians: :func:`gaussian_w2`, :func:`gaussian_kl`, :func:`gaussian_relative_fisher`, :func:`ou_moments`,
  :func:`jko_gaussian`.
* Particles: :func:`langevin_step`, :func:`kde_score`, :func:`wasserstein_velocity`, :func:`f_divergence`,
  :func:`wasserstein2_1d`, :func:`sliced_wasserstein2`.
* Densities on the line: :func:`fokker_planck_generator`, :func:`fokker_planck_evolve`, :func:`jko_quantile`, and the
  solver below them, :func:`solve_tridiagonal`.

What has a fast form has its plain form beside it, under the same name with ``_plain``. All functions take the dtype
and the device of their arguments; where numbers matter, give float64.

Source: Su Jianlin, https://kexue.fm/archives/9660 (2023); the steps D1–D12 are those of the chapter *gradient-flow*.
"""

from .gaussians import (
    gaussian_kl,
    gaussian_relative_fisher,
    gaussian_w2,
    gaussian_w2_plain,
    jko_gaussian,
    ou_moments,
    ou_moments_plain,
)
from .lines import (
    fokker_planck_evolve,
    fokker_planck_evolve_plain,
    fokker_planck_generator,
    jko_quantile,
    jko_quantile_plain,
    tridiagonal_dense,
)
from .particles import (
    DIVERGENCES,
    f_divergence,
    kde_score,
    kde_score_plain,
    langevin_step,
    sliced_wasserstein2,
    wasserstein2_1d,
    wasserstein2_1d_plain,
    wasserstein_velocity,
)
from .points import euler_flow, steepest_direction
from .tridiagonal import solve_tridiagonal, solve_tridiagonal_plain

__all__ = [
    "DIVERGENCES",
    "euler_flow",
    "f_divergence",
    "fokker_planck_evolve",
    "fokker_planck_evolve_plain",
    "fokker_planck_generator",
    "gaussian_kl",
    "gaussian_relative_fisher",
    "gaussian_w2",
    "gaussian_w2_plain",
    "jko_gaussian",
    "jko_quantile",
    "jko_quantile_plain",
    "kde_score",
    "kde_score_plain",
    "langevin_step",
    "ou_moments",
    "ou_moments_plain",
    "sliced_wasserstein2",
    "solve_tridiagonal",
    "solve_tridiagonal_plain",
    "steepest_direction",
    "tridiagonal_dense",
    "wasserstein2_1d",
    "wasserstein2_1d_plain",
    "wasserstein_velocity",
]
