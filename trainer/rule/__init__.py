"""The noise-scale rule: pure arithmetic on the standard library, usable without torch.

The whole of it in one call: `plan_run(schedule, workers)` says the batch, the learning rate and the momentum of
every epoch; `decide(schedule, epoch, world_size)` says them for one.
"""

from trainer.rule.adam_scaling import AdamConstants
from trainer.rule.batch_plan import BatchPlan, fit_batch
from trainer.rule.coordinator import EpochDecision, Heard, decide
from trainer.rule.errors import PlanError
from trainer.rule.fleet import Fleet, FleetStep
from trainer.rule.gradient_noise import GradientNoise, NoiseAverages, adascale_gain, measure, worth
from trainer.rule.noise_scale import (
    global_batch_for_sgd_noise_scale,
    lr_for_sgd_noise_scale,
    momentum_epochs,
    momentum_for_sgd_noise_scale,
    sgd_noise_scale,
)
from trainer.rule.recipe import Growth, Limits, Policy, Reference, Schedule, Start
from trainer.rule.run_plan import Phase, RunPlan, plan_run, updates_in_epoch
from trainer.rule.schedule import NoiseCurve, NoiseDrop, Warmup, warmup_factor

__all__ = [
    "AdamConstants",
    "BatchPlan",
    "EpochDecision",
    "Fleet",
    "FleetStep",
    "GradientNoise",
    "Growth",
    "Heard",
    "Limits",
    "NoiseAverages",
    "NoiseCurve",
    "NoiseDrop",
    "Phase",
    "PlanError",
    "Policy",
    "Reference",
    "RunPlan",
    "Schedule",
    "Start",
    "Warmup",
    "adascale_gain",
    "decide",
    "fit_batch",
    "global_batch_for_sgd_noise_scale",
    "lr_for_sgd_noise_scale",
    "measure",
    "momentum_epochs",
    "momentum_for_sgd_noise_scale",
    "plan_run",
    "sgd_noise_scale",
    "updates_in_epoch",
    "warmup_factor",
    "worth",
]
