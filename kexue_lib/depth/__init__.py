"""Scales for deep residual networks: residual weights, initial gains, and probes of what one step does.

* the constants: :func:`deepnorm_constants` (the paper's), :func:`residual_scale` (the post's table, per optimizer),
* the initialisation that goes with them: :func:`init_deepnorm_`,
* the magnitude of a matrix: :func:`weight_magnitude` (and its plain form),
* what one step of an optimizer changes: :func:`update_probe` (and its plain form), :func:`update_probes`,
  :func:`member_probes`.

Sources: Su Jianlin, https://kexue.fm/archives/8978 (2022); Wang et al., *DeepNet*, https://arxiv.org/abs/2203.00555.
The steps D1–D9 are those of the chapter *deepnet-1000-layers*.
"""

from .magnitude import weight_magnitude, weight_magnitude_plain
from .probes import STEP_KINDS, StepEffect, member_probes, update_probe, update_probe_plain, update_probes
from .scales import DeepNormConstants, ResidualScale, deepnorm_constants, init_deepnorm_, residual_scale

__all__ = [
    "STEP_KINDS",
    "DeepNormConstants",
    "ResidualScale",
    "StepEffect",
    "deepnorm_constants",
    "init_deepnorm_",
    "member_probes",
    "residual_scale",
    "update_probe",
    "update_probe_plain",
    "update_probes",
    "weight_magnitude",
    "weight_magnitude_plain",
]
