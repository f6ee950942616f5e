"""The door to networks: a name in, a module out.

The networks of the experiments are code of ours, one file each, started as their sources say, rather than a library's:
timm cannot be imported without torchvision, and pytorchcv makes pip install it, with a torch of its own choice. Other
networks come through library_networks.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from trainer.models.errors import ModelError
from trainer.models.ghost_batch_norm import convert_batch_norm
from trainer.models.inception_resnet_v2 import inception_resnet_v2
from trainer.models.library_networks import LIBRARIES, library_network, refuse_unless_it_takes
from trainer.models.plain_convnet import plain_convnet
from trainer.models.resnet import resnet_50, zero_last_scales
from trainer.models.small_convnet import small_convnet
from trainer.models.wide_resnet import wide_resnet

__all__ = ["ModelError", "build_model"]


@dataclass(frozen=True, slots=True)
class _Network:
    """How to build a network for a number of classes, and what is known of it.

    smallest_image: pixels a side; None where only trying tells. zero_init: zeroes the last batch-norm scale of each
    residual block; None where blocks do not end in batch norm.
    """

    build: Callable[[int], nn.Module]
    smallest_image: int | None
    zero_init: Callable[[nn.Module], None] | None = None


# No zero_init for the wide ResNet: its blocks end in batch norm, ReLU and a convolution, and with that scale at 0 the
# ReLU would pass no gradient, ever. Blocks of Inception-ResNet-v2 end in a convolution whose output is scaled down.
_NETWORKS = {
    "small-convnet": _Network(small_convnet, smallest_image=4),
    "plain-convnet": _Network(plain_convnet, smallest_image=8),
    "wide-resnet-16-4": _Network(partial(wide_resnet, depth=16, width=4), smallest_image=1),
    "resnet-50": _Network(resnet_50, smallest_image=1, zero_init=zero_last_scales),
    "inception-resnet-v2": _Network(inception_resnet_v2, smallest_image=75),
}


def build_model(
    name: str, num_classes: int, ghost_batch: int | None, *, zero_init: bool = False, image_size: int | None = None
) -> nn.Module:
    """The named network with `num_classes` outputs, initialised from torch's current seed.

    name: one of ours, or timm/NAME or pytorchcv/NAME where that library can be imported. ghost_batch (samples) turns
    batch norm into ghost batch norm; None leaves it plain. zero_init starts the last batch-norm scale of each residual
    block at 0. image_size (pixels a side) is what the network will be given. Raises ModelError for what cannot be.
    """
    network = _find(name)
    if zero_init and network.zero_init is None:
        able = ", ".join(repr(known) for known, other in _NETWORKS.items() if other.zero_init)
        raise ModelError(
            f"model.zero_init: {name!r} is not known to have residual blocks that end in batch norm: set "
            f"model.zero_init=false, or take {able}"
        )
    if image_size is not None and network.smallest_image is not None and image_size < network.smallest_image:
        raise ModelError(
            f"model.name {name!r} takes images from {network.smallest_image} pixels a side up, not {image_size}: set "
            f"data.image_size={network.smallest_image} or more"
        )
    model = network.build(num_classes)
    if image_size is not None and network.smallest_image is None:
        refuse_unless_it_takes(model, name, num_classes, image_size)
    if zero_init and network.zero_init is not None:
        network.zero_init(model)
    return model if ghost_batch is None else convert_batch_norm(model, ghost_batch)


def _find(name: str) -> _Network:
    if name.partition("/")[0] in LIBRARIES:
        return _Network(partial(library_network, name), smallest_image=None)
    if name not in _NETWORKS:
        close = difflib.get_close_matches(name, _NETWORKS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join([*_NETWORKS, *(f"{library}/NAME" for library in LIBRARIES)])
        raise ModelError(f"model.name {name!r} is no known network{hint}; known: {known}")
    return _NETWORKS[name]
