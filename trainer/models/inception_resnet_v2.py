"""Inception-ResNet-v2, the network of the paper's ImageNet experiments (Szegedy et al., arXiv:1602.07261)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Kernel = int | tuple[int, int]


def inception_resnet_v2(num_classes: int) -> nn.Module:
    """Inception-ResNet-v2 without the auxiliary head.

    Takes (N, 3, H, W) with H, W >= 75 (the authors: 299), gives (N, num_classes) logits. 55,843,464 parameters at 1,000
    classes. Structure, initialisation (Glorot uniform, biases 0) and batch-norm epsilon follow the authors' code in
    TensorFlow's slim; there batch norm has no scale. Their dropout of 20 % before the classifier is left out: its masks
    would depend on how an update is cut into micro-batches and workers, and gradients here do not.
    """
    model = nn.Sequential(
        *_stem(),
        *(_block_35() for _ in range(10)),
        _reduction_a(),
        *(_block_17() for _ in range(20)),
        _reduction_b(),
        *(_block_8(scale=0.2) for _ in range(9)),
        _block_8(scale=1.0, activate=False),
        *_convolution(2080, 1536, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1536, num_classes),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _stem() -> tuple[nn.Module, ...]:
    """3 channels to 320 at an eighth of the resolution: 299 pixels become 35."""
    return (
        *_convolution(3, 32, 3, stride=2),
        *_convolution(32, 32, 3, padded=False),
        *_convolution(32, 64, 3),
        nn.MaxPool2d(3, stride=2),
        *_convolution(64, 80, 1),
        *_convolution(80, 192, 3, padded=False),
        nn.MaxPool2d(3, stride=2),
        Branches(
            _path(192, (96, 1)),
            _path(192, (48, 1), (64, 5)),
            _path(192, (64, 1), (96, 3), (96, 3)),
            nn.Sequential(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), *_convolution(192, 64, 1)),
        ),
    )


def _block_35() -> nn.Module:
    branches = Branches(
        _path(320, (32, 1)), _path(320, (32, 1), (32, 3)), _path(320, (32, 1), (48, 3), (64, 3))
    )  # fmt: skip
    return ResidualBlock(branches, 32 + 32 + 64, 320, scale=0.17)


def _reduction_a() -> nn.Module:
    """320 channels to 384 + 384 + 320 = 1088, at half the resolution."""
    return Branches(
        _path(320, (384, 3), stride=2), _path(320, (256, 1), (256, 3), (384, 3), stride=2), nn.MaxPool2d(3, stride=2)
    )


def _block_17() -> nn.Module:
    branches = Branches(_path(1088, (192, 1)), _path(1088, (128, 1), (160, (1, 7)), (192, (7, 1))))
    return ResidualBlock(branches, 192 + 192, 1088, scale=0.1)


def _reduction_b() -> nn.Module:
    """1088 channels to 384 + 288 + 320 + 1088 = 2080, at half the resolution."""
    return Branches(
        _path(1088, (256, 1), (384, 3), stride=2),
        _path(1088, (256, 1), (288, 3), stride=2),
        _path(1088, (256, 1), (288, 3), (320, 3), stride=2),
        nn.MaxPool2d(3, stride=2),
    )


def _block_8(scale: float, activate: bool = True) -> nn.Module:
    branches = Branches(_path(2080, (192, 1)), _path(2080, (192, 1), (224, (1, 3)), (256, (3, 1))))
    return ResidualBlock(branches, 192 + 256, 2080, scale, activate)


class Branches(nn.Module):
    """Modules side by side on one input; their outputs are joined along the channels."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class ResidualBlock(nn.Module):
    """Adds the branches, brought back to `channels` by a 1x1 convolution with bias and times `scale`, to the input."""

    def __init__(self, branches: Branches, joined: int, channels: int, scale: float, activate: bool = True):
        super().__init__()
        self.branches, self.scale = branches, scale
        self.join = nn.Conv2d(joined, channels, 1)
        self.activate = nn.ReLU(inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(torch.add(x, self.join(self.branches(x)), alpha=self.scale))


def _path(inputs: int, *convolutions: tuple[int, Kernel], stride: int = 1) -> nn.Sequential:
    """Convolutions (output channels, kernel) one after the other; `stride` is the last one's."""
    layers: list[nn.Module] = []
    for index, (outputs, kernel) in enumerate(convolutions, start=1):
        layers += _convolution(inputs, outputs, kernel, stride if index == len(convolutions) else 1)
        inputs = outputs
    return nn.Sequential(*layers)


def _convolution(
    inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padded: bool = True
) -> tuple[nn.Module, ...]:
    """Convolution, batch norm, ReLU; padded to keep the size, except where a stride changes it."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (height // 2, width // 2) if padded and stride == 1 else 0
    convolution = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
    return convolution, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU(inplace=True)
