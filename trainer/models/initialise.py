"""How convolutions start."""

from __future__ import annotations

from torch import nn


def he_normal(model: nn.Module) -> None:
    """Draws every convolution from N(0, 2 / fan_out), as He et al. (arXiv:1502.01852) and the code of ResNets do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
