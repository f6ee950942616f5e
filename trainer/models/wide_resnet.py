"""Wide ResNet, the network of the CIFAR-10 experiments (Zagoruyko & Komodakis, arXiv:1605.07146)."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.initialise import he_normal


def wide_resnet(num_classes: int, depth: int, width: int) -> nn.Module:
    """Wide ResNet of `depth` layers and `width` times the channels of a ResNet, without dropout.

    Takes (N, 3, H, W) of any size, gives (N, num_classes) logits. Depth is 6n + 4: three stages of n blocks, the second
    and the third at half the resolution of the one before. Depth 16, width 4: 2,748,890 parameters at 10 classes.
    Structure and initialisation follow the authors' code: convolutions from N(0, 2 / fan_out), the classifier's bias 0;
    batch-norm scales start at 1.
    """
    assert depth % 6 == 4, "a wide ResNet has 6n + 4 layers"
    channels = 16
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for stage in range(3):
        for block in range(depth // 6):
            outputs = 16 * width * 2**stage
            layers.append(PreActivationBlock(channels, outputs, stride=2 if stage > 0 and block == 0 else 1))
            channels = outputs
    classifier = nn.Linear(channels, num_classes)
    nn.init.zeros_(classifier.bias)
    pooling = (nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(*layers, *pooling, classifier)
    he_normal(model)
    return model


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions.

    The shortcut is the input, or where channels change a 1x1 convolution of what the first batch norm and ReLU give.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        return self.residual(activated) + (x if self.project is None else self.project(activated))
