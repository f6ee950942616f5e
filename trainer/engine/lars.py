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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        direction = gradient.add(parameter, alpha=group["weight_decay"])
        if parameter.ndim > 1:
            weight_norm = torch.linalg.vector_norm(parameter)
            divisor = torch.linalg.vector_norm(gradient) + group["weight_decay"] * weight_norm
            local_lr = group["trust_coefficient"] * weight_norm / divisor
            # Chosen on the device: a look at the numbers would stop it at every layer.
            direction.mul_(torch.where((weight_norm > 0) & (divisor > 0), local_lr, 1.0))
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity = state["momentum_buffer"]
        velocity.mul_(group["momentum"]).add_(direction, alpha=group["lr"])
        parameter.sub_(velocity)
