"""A small convolutional network for small images: trains in seconds on a CPU, so a schedule can be seen at work."""

from __future__ import annotations

from torch import nn


def small_convnet(num_classes: int) -> nn.Module:
    """Three 3x3 convolutions (16, 32, 64 channels) with batch norm, each but the last followed by 2x2 pooling.

    Takes (N, 3, H, W) with H, W >= 4, gives (N, num_classes) logits.
    """
    return nn.Sequential(
        *_block(3, 16),
        nn.MaxPool2d(2),
        *_block(16, 32),
        nn.MaxPool2d(2),
        *_block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
