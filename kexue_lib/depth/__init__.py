"""Scales for deep residual networks: residual weights, initial gains, and probes of what one step does.

* the constants: :func:`deepnorm_constants` (the paper's), :func:`residual_scale` (the post's table, per optimizer),
* the initialisation that goes with them: :func:`init_deepnorm_`,
* the magnitude of a matrix: :func:`weight_magnitude` (and its plain form),
* how deep a network is: :func:`effective_depth`, :func:`path_lengths`, :func:`branch_weights`,
  :func:`stream_statistics`; and with sublayers side by side: :func:`grouped_stack`, :func:`merge_sublayers`,
  :func:`merge_errors`,
* what one step of an optimizer changes: :func:`update_probe` (and its plain form), :func:`update_probes`,
  :func:`member_probes`,
* the weight of a residual branch: :func:`residual_weight`, :func:`residual_growth`,
* what a chain without residuals cannot avoid: :func:`euler_products` (and its plain form), :func:`gradient_bound`,
* how layers stretch a perturbation: :func:`jacobian_growth` (and its plain form),
* the largest stable learning rate: :func:`max_stable_lr` (and its plain form), :func:`member_stable_lrs`.

Sources: Su Jianlin, https://kexue.fm/archives/8978 (2022); Wang et al., *DeepNet*, https://arxiv.org/abs/2203.00555.
The steps D1–D9 are those of the chapter *deepnet-1000-layers*.
"""

from .effective import (
    StreamStatistics,
    branch_weights,
    effective_depth,
    effective_depth_plain,
    path_lengths,
    path_lengths_plain,
    stream_statistics,
    stream_statistics_plain,
)
from .magnitude import weight_magnitude, weight_magnitude_plain
from .merging import grouped_stack, merge_errors, merge_errors_plain, merge_sublayers, merge_sublayers_plain
from .probes import STEP_KINDS, StepEffect, member_probes, update_probe, update_probe_plain, update_probes
from .residual import (
    RESIDUAL_RULES,
    EulerProduct,
    JacobianGrowth,
    euler_products,
    euler_products_plain,
    gradient_bound,
    jacobian_growth,
    jacobian_growth_plain,
    residual_growth,
    residual_weight,
)
from .scales import DeepNormConstants, ResidualScale, deepnorm_constants, init_deepnorm_, residual_scale
from .stability import max_stable_lr, max_stable_lr_plain, member_stable_lrs

__all__ = [
    "RESIDUAL_RULES",
    "STEP_KINDS",
    "DeepNormConstants",
    "EulerProduct",
    "JacobianGrowth",
    "ResidualScale",
    "StepEffect",
    "StreamStatistics",
    "branch_weights",
    "deepnorm_constants",
    "effective_depth",
    "effective_depth_plain",
    "euler_products",
    "euler_products_plain",
    "gradient_bound",
    "grouped_stack",
    "init_deepnorm_",
    "jacobian_growth",
    "jacobian_growth_plain",
    "max_stable_lr",
    "max_stable_lr_plain",
    "member_probes",
    "member_stable_lrs",
    "merge_errors",
    "merge_errors_plain",
    "merge_sublayers",
    "merge_sublayers_plain",
    "path_lengths",
    "path_lengths_plain",
    "residual_growth",
    "residual_scale",
    "residual_weight",
    "stream_statistics",
    "stream_statistics_plain",
    "update_probe",
    "update_probe_plain",
    "update_probes",
    "weight_magnitude",
    "weight_magnitude_plain",
]
