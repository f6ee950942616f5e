"""Our networks against pytorchcv's, with the same weights: other people's reading of the same papers."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from trainer.models import build_model

pytestmark = pytest.mark.numerics

pytest.importorskip("pytorchcv", reason="pytorchcv is not installed: pip install --no-deps pytorchcv")


def pytorchcv(module, function, **arguments):
    return getattr(importlib.import_module(f"pytorchcv.models.{module}"), function)(**arguments)


@pytest.mark.parametrize(
    ("name", "size", "theirs"),
    [
        ("wide-resnet-16-4", 32, ("wrn_cifar", "get_wrn_cifar", {"blocks": 16, "width_factor": 4})),
        ("resnet-50", 224, ("resnet", "resnet50b", {})),
        ("inception-resnet-v2", 299, ("inceptionresnetv2", "inceptionresnetv2", {})),
    ],
)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_same_weights_give_the_same_logits(name, size, theirs, training):
    torch.manual_seed(0)
    ours = build_model(name, 10, None)
    for module in ours.modules():  # as they start, batch norm's parameters and statistics are all alike
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    module, function, arguments = theirs
    other = pytorchcv(module, function, num_classes=10, **arguments)
    other.load_state_dict(dict(zip(other.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        first, second = (model.train(training)(x) for model in (ours, other))
    # float32, sums in another order; relative to the logits, some of which are near 0
    assert (first - second).norm() < 1e-4 * first.norm()


def test_the_door_finds_a_network_by_its_name():
    model = build_model("pytorchcv/resnet50b", 1000, 8, image_size=224)
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
