"""Every network with ghost batch norm against the same network with plain batch norm on each ghost batch alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.models import build_model
from trainer.models.ghost_batch_norm import convert_batch_norm

pytestmark = pytest.mark.numerics

CLASSES, GHOSTS = 5, 2


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("name", "size", "ghost_batch"),
    # Ghost batches of more than two values a channel also in the last stage: of two, batch norm leaves only which is
    # the larger, and blows up the rounding of equals.
    [
        ("small-convnet", 12, 4),
        ("plain-convnet", 16, 4),
        ("wide-resnet-16-4", 16, 4),
        ("resnet-50", 64, 4),
        ("inception-resnet-v2", 75, 6),
    ],
)
def test_each_ghost_batch_gets_what_the_plain_network_gives_it_alone(name, size, ghost_batch, memory_format):
    torch.manual_seed(0)
    plain = build_model(name, CLASSES, None).double()
    ghost = convert_batch_norm(copy.deepcopy(plain), ghost_batch).to(memory_format=memory_format)
    assert not any(isinstance(module, _BatchNorm) for module in ghost.modules())
    x = torch.randn(GHOSTS * ghost_batch, 3, size, size, dtype=torch.float64)
    weights = torch.randn(GHOSTS * ghost_batch, CLASSES, dtype=torch.float64)

    together = ghost(x.to(memory_format=memory_format))
    (together * weights).sum().backward()
    alone = torch.cat([plain(part) for part in x.split(ghost_batch)])
    (alone * weights).sum().backward()

    # float64: in float32 the rounding of the two memory formats sends some values to the other side of a ReLU
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-8)
    whole = torch.nn.utils.get_total_norm([parameter.grad for parameter in plain.parameters()])
    for (key, ours), theirs in zip(ghost.named_parameters(), plain.parameters(), strict=True):
        # a bias whose effect the next batch norm takes away again has rounding for a gradient
        error = (ours.grad - theirs.grad).norm().item()
        assert error < 1e-8 * theirs.grad.norm().item() + 1e-12 * whole.item(), key


@pytest.mark.parametrize("ghost_batch", [None, 4])
def test_inception_resnet_learns_with_all_its_parameters_from_75_pixels(ghost_batch):
    torch.manual_seed(0)
    model = build_model("inception-resnet-v2", CLASSES, ghost_batch, image_size=75)
    logits = model(torch.randn(4, 3, 75, 75))
    assert logits.shape == (4, CLASSES)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, key
