"""The networks: what they count, what they take, how they start, and what the door says where there is none."""

from __future__ import annotations

import math
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from trainer.models import ModelError, build_model
from trainer.models.inception_resnet_v2 import ResidualBlock
from trainer.models.resnet import Bottleneck
from trainer.models.wide_resnet import PreActivationBlock

pytestmark = pytest.mark.unit

# The smallest image that each takes, in pixels a side. Inception-ResNet-v2 is heavier: tests/numerics.
SMALLEST = {"small-convnet": 4, "plain-convnet": 8, "wide-resnet-16-4": 1, "resnet-50": 1}


def network(name, ghost_batch=None, **choices):
    torch.manual_seed(0)
    return build_model(name, 10, ghost_batch, **choices)


def images(samples, size):
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        # convolutions 9 (3x16 + 16x32 + 32x32 + 32x64 + 64x64), batch norm 2 (16 + 32 + 32 + 64 + 64), 65 a class
        ("plain-convnet", 10, 69_552 + 416 + 650),
        ("wide-resnet-16-4", 10, 2_748_890),  # pytorchcv's count of the authors' network
        ("resnet-50", 1000, 25_557_032),  # torchvision's and MLPerf's
        ("inception-resnet-v2", 1000, 55_843_464),  # pytorchcv's, without the auxiliary head
    ],
)
def test_a_network_has_the_published_number_of_parameters(name, classes, parameters):
    with torch.device("meta"):  # shapes alone
        model = build_model(name, classes, None)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(("name", "smallest"), SMALLEST.items())
def test_a_network_takes_any_image_from_its_smallest_up(name, smallest):
    model = network(name).eval()
    for height, width in [(smallest, smallest), (33, 40)]:
        assert model(torch.zeros(2, 3, height, width)).shape == (2, 10)


@pytest.mark.parametrize(("name", "smallest"), [("plain-convnet", 8), ("inception-resnet-v2", 75)])
def test_a_smaller_image_is_refused_with_the_smallest_that_would_do(name, smallest):
    with torch.device("meta"):
        with pytest.raises(
            ModelError, match=rf"takes images from {smallest} pixels a side up, not {smallest - 1}: set"
        ):
            build_model(name, 10, None, image_size=smallest - 1)
        model = build_model(name, 10, None, image_size=smallest).eval()
        assert model(torch.empty(1, 3, smallest, smallest)).shape == (1, 10)
        with pytest.raises(RuntimeError):  # so the limit is no tighter than it has to be
            model(torch.empty(1, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize("name", SMALLEST)
def test_the_gradient_reaches_every_parameter(name):
    model = network(name)
    F.cross_entropy(model(images(2, 32)), torch.tensor([1, 2])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, key


def test_an_image_costs_the_plain_network_eight_million_operations():
    with FlopCounterMode(display=False) as counter:
        network("plain-convnet").eval()(torch.zeros(1, 3, 32, 32))
    # two operations for each weight of a convolution at each of its places, pooled after the 1st, 2nd and 4th
    multiply_adds = 432 * 32**2 + 4608 * 16**2 + 9216 * 8**2 + 18432 * 8**2 + 36864 * 4**2 + 640
    assert counter.get_total_flops() == 2 * multiply_adds


def test_a_wide_residual_blocks_shortcut_starts_after_its_first_activation_where_channels_change():
    blocks = [module for module in network("wide-resnet-16-4").modules() if isinstance(module, PreActivationBlock)]
    assert [block.project is not None for block in blocks] == [True, False] * 3
    for block in blocks:
        nn.init.zeros_(block.residual[-1].weight)  # leaves the shortcut
        x = images(2, 8).repeat(1, 86, 1, 1)[:, : block.residual[0].in_channels]
        expected = x if block.project is None else block.project(F.relu(block.activate[0](x)))
        assert torch.equal(block(x), expected)


def test_resnets_blocks_halve_the_resolution_in_their_3x3_convolution():
    blocks = [module for module in network("resnet-50").modules() if isinstance(module, Bottleneck)]
    strides = [tuple(block.residual[index].stride[0] for index in (0, 3, 6)) for block in blocks]
    halves = [index for index, stride in enumerate(strides) if stride == (1, 2, 1)]
    assert halves == [3, 3 + 4, 3 + 4 + 6]
    assert strides.count((1, 1, 1)) == 16 - 3


def test_inception_resnets_blocks_see_the_authors_maps():
    seen = Counter()
    with torch.device("meta"):
        model = build_model("inception-resnet-v2", 10, None)
        for module in model.modules():
            if isinstance(module, ResidualBlock):
                module.register_forward_hook(lambda block, _, output: seen.update([(block.scale, *output.shape[1:])]))
        model(torch.empty(2, 3, 299, 299))
    assert seen == {
        (0.17, 320, 35, 35): 10,
        (0.1, 1088, 17, 17): 20,
        (0.2, 2080, 8, 8): 9,
        (1.0, 2080, 8, 8): 1,
    }


@pytest.mark.parametrize("ghost_batch", [None, 2])
def test_zero_init_starts_each_block_as_its_shortcut(ghost_batch):
    model = network("resnet-50", ghost_batch, zero_init=True)
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 3 + 4 + 6 + 3
    for block in blocks:
        x = torch.randn(2, block.residual[0].in_channels, 4, 4, generator=torch.Generator().manual_seed(1))
        assert torch.equal(block(x), F.relu(block.shortcut(x)))
        # and the scale that starts at 0 learns
        block(x).square().sum().backward()
        assert block.residual[-1].weight.grad.abs().max() > 0


def test_without_zero_init_blocks_start_with_all_they_have():
    model = network("resnet-50")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones(module.num_features))


@pytest.mark.parametrize("name", ["plain-convnet", "wide-resnet-16-4", "inception-resnet-v2"])
def test_zero_init_is_refused_where_no_block_ends_in_batch_norm(name):
    with pytest.raises(
        ModelError, match=f"{name!r} is not known to have .* set model.zero_init=false, or take 'resnet"
    ):
        network(name, zero_init=True)


def test_a_networks_start_follows_torchs_seed():
    first, second = (network("plain-convnet").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(1)
    assert not torch.equal(build_model("plain-convnet", 10, None)[0].weight, first["0.weight"])


@pytest.mark.parametrize("name", ["plain-convnet", "wide-resnet-16-4", "resnet-50"])
def test_convolutions_start_with_hes_spread(name):
    for module in network(name).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            n = module.weight.numel()
            # the standard deviation of n normal draws is known to 1 / sqrt(2 n); five times that
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=5 / math.sqrt(2 * n))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes a model library into a folder of its own, in place of one that may be installed."""

    def forget():
        for module in [key for key in sys.modules if key.split(".")[0] in ("timm", "pytorchcv")]:
            monkeypatch.delitem(sys.modules, module)

    def write(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

    forget()
    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for module in [key for key in sys.modules if key.split(".")[0] in ("timm", "pytorchcv")]:
        del sys.modules[module]


def test_a_library_that_is_missing_is_named_with_what_to_install(library, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        ModelError, match=r"pytorchcv cannot be imported \(ModuleNotFoundError: .*\): pip install --no-deps"
    ):
        build_model("pytorchcv/resnet50b", 10, None)


def test_a_library_that_fails_in_its_own_way_gives_one_line(library):
    library({"timm/__init__.py": "raise RuntimeError('operator torchvision::nms\\ndoes not exist')"})
    with pytest.raises(
        ModelError, match=r"timm cannot be imported \(RuntimeError: operator torchvision::nms does not exist"
    ):
        build_model("timm/resnet50", 10, None)


PROVIDER = "import torchvision_is_not_here\nfrom .models.tiny import tinynet, tinyseg, tinyvoice\n"
TINY = """
from torch import nn
def tinynet(pretrained, num_classes): return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3, num_classes))
def tinyseg(pretrained, num_classes): return nn.Conv2d(3, num_classes, 1)
def tinyvoice(pretrained): return nn.Linear(3, 3)
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tinynets", "no network of that library: did you mean tinynet "),
        ("", "no network of that library: it has 3, such as tinynet"),
        ("tinyseg", "gives something else than 10 logits"),
        ("tinyvoice", r"cannot be built for 10 classes \(TypeError"),
    ],
)
def test_a_librarys_network_is_found_without_importing_its_catalogue(library, name, says):
    library({"pytorchcv/__init__.py": "", "pytorchcv/model_provider.py": PROVIDER, "pytorchcv/models/tiny.py": TINY})
    assert build_model("pytorchcv/tinynet", 10, None, image_size=8).training
    with pytest.raises(
        ModelError, match=r"takes no images of 16 pixels a side \(RuntimeError.*\): set data.image_size"
    ):
        build_model("pytorchcv/tinynet", 10, None, image_size=16)
    with pytest.raises(ModelError, match=says):
        build_model(f"pytorchcv/{name}", 10, None, image_size=8)
