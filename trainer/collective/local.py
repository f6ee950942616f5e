"""One worker alone: agrees with itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from trainer.collective.board import MemoryBoard


class LocalCollective:
    """A fleet of one."""

    name = "local"
    rank = 0
    world_size = 1
    local_rank = 0
    gradient_divisor = 1.0
    largest_gradient = math.inf
    overlaps_backward = False
    meets_in_backward = False

    def __init__(self) -> None:
        self.board = MemoryBoard()

    def wrap(self, model: nn.Module, wire: torch.dtype | None = None) -> nn.Module:
        return model

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        return nullcontext()

    def finish_gradients(self) -> None:
        return None

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_reduce_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor

    def broadcast(self, tensor: Tensor, source_rank: int = 0) -> Tensor:
        return tensor

    def is_lost_worker(self, error: Exception) -> bool:
        return False

    def is_change_announced(self) -> bool:
        return False

    def close(self) -> None:
        return None
