"""ResNet-50 v1.5 (He et al., arXiv:1512.03385), the network of the fast ImageNet runs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models.initialise import he_normal


def resnet_50(num_classes: int) -> nn.Module:
    """ResNet-50, v1.5: blocks that halve the resolution do it in their 3x3 convolution, not in the first 1x1.

    Takes (N, 3, H, W) of any size (up to 32 pixels the last stage sees a single one), gives (N, num_classes) logits.
    25,557,032 parameters at 1,000 classes. Initialisation of Goyal et al. (arXiv:1706.02677, section 5.1): convolutions
    from N(0, 2 / fan_out), the classifier from N(0, 0.01^2) with bias 0; their start of the blocks is zero_last_scales.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, 64 * 2**stage, stride=2 if stage > 0 and block == 0 else 1))
            channels = 256 * 2**stage
    classifier = nn.Linear(channels, num_classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    he_normal(model)
    return model


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution to `width`, `width` and 4 x `width` channels, added to the shortcut; then ReLU."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


def zero_last_scales(model: nn.Module) -> None:
    """Starts the last batch-norm scale of every block at 0, so that the block starts as its shortcut and a ReLU.

    Goyal et al. (arXiv:1706.02677, section 5.1): it eases the start of training at large batches.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.residual[-1].weight)
