"""What the engine asks of whatever connects the workers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from trainer.collective.board import Board


class Collective(Protocol):
    """A fleet of workers, seen from one of them.

    All ranks call the same methods in the same order. Gradients are to be summed, not averaged: the loss is divided by
    the global batch where it is computed, so the sum over workers is the gradient of the whole batch, whatever the cut.
    gradient_divisor is what the sum is divided by all the same; the loss has to be multiplied by it. largest_gradient:
    an element of one worker's gradient above it arrives as infinite. Both are known after wrap().
    overlaps_backward: whether gradients travel while the last backward still runs; meets_in_backward: whether that ends
    only when all have added them up. board: where workers still find texts of each other when they no longer meet.
    """

    name: str
    rank: int
    world_size: int
    local_rank: int
    gradient_divisor: float
    largest_gradient: float
    overlaps_backward: bool
    meets_in_backward: bool
    board: Board

    def wrap(self, model: nn.Module, wire: torch.dtype | None = None) -> nn.Module:
        """The module to call in training; all ranks hold rank 0's parameters and buffers afterwards.

        wire: the type in which gradients travel, None for their own.
        """
        ...

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        """Encloses forward and backward of one micro-batch; gradients may travel only in the last of an update."""
        ...

    def finish_gradients(self) -> None:
        """After the last micro-batch: every parameter's .grad is complete, and the same on all ranks."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over all workers, in place and returned; integers exactly."""
        ...

    def all_reduce_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begins an all_reduce that travels beside what is done next, at most one at a time; what it returns waits for
        the sum."""
        ...

    def broadcast(self, tensor: Tensor, source_rank: int = 0) -> Tensor:
        """The tensor of source_rank, in place and returned; same shape and dtype on every rank."""
        ...

    def is_lost_worker(self, error: Exception) -> bool:
        """Whether an error that a method above raised means that another worker has ended."""
        ...

    def is_change_announced(self) -> bool:
        """Whether the launcher has told this worker that others will come or go; where it never does, False."""
        ...

    def close(self) -> None:
        """Leaves the fleet; calling it twice is harmless."""
        ...
