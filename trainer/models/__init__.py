"""The door to networks: a name in, a module out."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import nn

from trainer.models.errors import ModelError
from trainer.models.ghost_batch_norm import convert_batch_norm
from trainer.models.small_convnet import small_convnet

__all__ = ["ModelError", "build_model"]

_NETWORKS: dict[str, Callable[[int], nn.Module]] = {"small-convnet": small_convnet}


def build_model(name: str, num_classes: int, ghost_batch: int | None) -> nn.Module:
    """The named network with `num_classes` outputs, initialised from torch's current seed.

    ghost_batch (samples) turns its batch norm into ghost batch norm; None leaves it plain. Raises ModelError.
    """
    if name not in _NETWORKS:
        close = difflib.get_close_matches(name, _NETWORKS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ModelError(f"model.name {name!r} is no known network{hint}; known: {', '.join(_NETWORKS)}")
    model = _NETWORKS[name](num_classes)
    return model if ghost_batch is None else convert_batch_norm(model, ghost_batch)
