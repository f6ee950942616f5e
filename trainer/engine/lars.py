"""LARS: SGD with momentum whose lr is adapted layer by layer, for batches that plain SGD cannot follow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman & Ginsburg, arXiv:1708.03888, algorithm 1).

    For the weights w of a layer with gradient g, weight decay d, trust coefficient t, momentum m and learning rate lr:

        local lr = t |w| / (|g| + d |w|)        1 where |w| or the divisor is 0
        v <- m v + lr * local lr * (g + d w)
        w <- w - v

    Parameters of one dimension (norms' scales and offsets, biases) step with a local lr of 1: their norms say nothing
    about a layer's scale. lr stands inside the momentum, as published: a change of lr reaches v over 1/(1-m) updates.
    That g = lr/(1-m) N/B tells its noise is a convention: the local lr moves with the gradient's norm.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        trust_coefficient: float,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients that the parameters hold."""
        assert closure is None, "LARS needs no closure"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters and parameters[0].is_cpu:  # what one operation wrote is in the cache for the next
                for parameter in parameters:
                    self._step([parameter], group)
            elif parameters:  # one by one would be thousands of launches
                self._step(parameters, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """A step of some of the group's, at least one."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        directions = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        layers = [index for index, parameter in enumerate(parameters) if parameter.ndim > 1]
        if layers:
            weight_norms = torch.stack(torch._foreach_norm([parameters[index] for index in layers]))
            gradient_norms = torch.stack(torch._foreach_norm([gradients[index] for index in layers]))
            divisors = gradient_norms + group["weight_decay"] * weight_norms
            local_lrs = group["trust_coefficient"] * weight_norms / divisors
            # Chosen on the device: a look at the numbers would stop it.
            local_lrs = torch.where((weight_norms > 0) & (divisors > 0), local_lrs, 1.0)
            torch._foreach_mul_([directions[index] for index in layers], list(local_lrs.unbind()))
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        velocities = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, directions, alpha=group["lr"])
        torch._foreach_sub_(parameters, velocities)
