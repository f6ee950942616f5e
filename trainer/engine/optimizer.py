"""Optimizers, and how a decision reaches them."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, Optimizer

from trainer.rule import EpochDecision


def build_sgd(
    model: nn.Module, lr: float, momentum: float, nesterov: bool, weight_decay: float, decay_norms_and_biases: bool
) -> SGD:
    """SGD in PyTorch's form, which is the paper's: no correction is needed when lr or the batch changes.

    Without decay_norms_and_biases, weight decay leaves out every parameter of one dimension: the scales and offsets of
    norm layers, and biases.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if decay_norms_and_biases or parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if not (decay_norms_and_biases or parameter.ndim > 1)]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return SGD([group for group in groups if group["params"]], lr=lr, momentum=momentum, nesterov=nesterov)


def set_lr_and_momentum(optimizer: Optimizer, decision: EpochDecision, warmup_factor: float) -> None:
    """Applies the decision to every group; lr is multiplied with the warm-up's factor."""
    for group in optimizer.param_groups:
        group["lr"] = decision.lr * warmup_factor
        group["momentum"] = decision.momentum
