"""A plain convolutional network of a few MFLOP: experiments on small images in minutes on a CPU."""

from __future__ import annotations

from torch import nn

from trainer.models.initialise import he_normal


def plain_convnet(num_classes: int) -> nn.Module:
    """Five 3x3 convolutions (16, 32, 32, 64, 64 channels) with batch norm, ReLU and three 2x2 poolings.

    Takes (N, 3, H, W) with H, W >= 8, gives (N, num_classes) logits. 70,618 parameters at 10 classes; an image of
    32 x 32 pixels costs 4.0 million multiply-adds. He initialisation (arXiv:1502.01852), no biases before batch norm.
    """
    model = nn.Sequential(
        *_block(3, 16),
        nn.MaxPool2d(2),
        *_block(16, 32),
        nn.MaxPool2d(2),
        *_block(32, 32),
        *_block(32, 64),
        nn.MaxPool2d(2),
        *_block(64, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )
    he_normal(model)
    return model


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
