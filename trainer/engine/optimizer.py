"""Optimizers by name, and how a decision reaches them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from trainer.engine.lars import Lars
from trainer.rule import AdamConstants, EpochDecision


def build_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    decay_norms_and_biases: bool = False,
    adam: AdamConstants | None = None,
    trust_coefficient: float | None = None,
    fused: bool | None = None,
) -> Optimizer:
    """sgd, momentum, nesterov, adam, adamw or lars over the model's parameters.

    lr and momentum (beta1 of Adam) are where it starts; apply_decision sets both before every update. SGD has PyTorch's
    form, which is the paper's: no correction is needed when lr or the batch changes. weight_decay is added to the
    gradient (L2), and by adamw to the weights. Without decay_norms_and_biases it leaves out every parameter of one
    dimension: the scales and offsets of norm layers, and biases. adam and trust_coefficient (of lars): None for the
    usual values. fused: a step is one pass over the parameters, in place of one for each operation; None: where the
    optimizer has such a form, which all but lars have, on a CPU and on a GPU.
    """
    adam = adam or AdamConstants()
    # Not False: then torch would go through the parameters one by one on a GPU too.
    fused = None if fused is False else True
    groups = _groups(model, weight_decay, decay_norms_and_biases)
    match name:
        case "sgd" | "momentum":
            return SGD(groups, lr=lr, momentum=momentum, fused=fused)
        case "nesterov":
            return SGD(groups, lr=lr, momentum=momentum, nesterov=True, fused=fused)
        case "adam":
            return Adam(groups, lr=lr, betas=(momentum, adam.beta2), eps=adam.eps, fused=fused)
        case "adamw":
            return AdamW(groups, lr=lr, betas=(momentum, adam.beta2), eps=adam.eps, fused=fused)
        case "lars":
            return Lars(groups, lr=lr, momentum=momentum, trust_coefficient=trust_coefficient or 0.001)
        case _:
            raise AssertionError(f"the configuration lets no optimizer {name!r} pass")


def apply_decision(optimizer: Optimizer, decision: EpochDecision, warmup_factor: float) -> None:
    """Applies lr, momentum and, where the schedule scales them, Adam's constants to every group.

    lr is multiplied with the warm-up's factor.
    """
    for group in optimizer.param_groups:
        group["lr"] = decision.lr * warmup_factor
        if "betas" not in group:
            group["momentum"] = decision.momentum
        elif decision.adam is None:
            group["betas"] = (decision.momentum, group["betas"][1])
        else:
            group["betas"], group["eps"] = (decision.momentum, decision.adam.beta2), decision.adam.eps


def _groups(model: nn.Module, weight_decay: float, decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if decay_norms_and_biases or parameter.ndim > 1]
    plain = [parameter for parameter in parameters if not (decay_norms_and_biases or parameter.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
