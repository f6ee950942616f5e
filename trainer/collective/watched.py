"""A collective that says when its worker waits for the others.

By that a watchdog tells a worker that stands still from those that wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor, nn

from trainer.collective.collective import Collective
from trainer.collective.whereabouts import Whereabouts

T = TypeVar("T")
_GRADIENTS = "adding up gradients"


class WatchedCollective:
    """Another collective, with its meetings marked in `whereabouts`.

    On a GPU a collective returns before the others have come; the wait is in whatever next needs a number. So there the
    mark stays until the loop makes another.
    """

    def __init__(self, collective: Collective, whereabouts: Whereabouts) -> None:
        self._inner, self._whereabouts = collective, whereabouts
        self.name, self.rank, self.world_size = collective.name, collective.rank, collective.world_size
        self.local_rank, self.board = collective.local_rank, collective.board
        self.overlaps_backward, self.meets_in_backward = collective.overlaps_backward, collective.meets_in_backward
        self._is_last_step = self._is_on_gpu = False

    @property
    def gradient_divisor(self) -> float:
        return self._inner.gradient_divisor

    @property
    def largest_gradient(self) -> float:
        return self._inner.largest_gradient

    def wrap(self, model: nn.Module, wire: torch.dtype | None = None) -> nn.Module:
        self._is_on_gpu = next(model.parameters()).is_cuda
        module = self._meet("comparing parameters", False, self._inner.wrap, model, wire)
        if self.meets_in_backward:
            module.register_forward_hook(self._forward_is_done)
        return module

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        self._is_last_step = last
        self._whereabouts.mark("computing")
        return self._inner.micro_step(last)

    def finish_gradients(self) -> None:
        self._meet(_GRADIENTS, self._is_on_gpu, self._inner.finish_gradients)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return self._meet("adding up numbers", tensor.is_cuda, self._inner.all_reduce, tensor)

    def all_reduce_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        arrived = self._inner.all_reduce_later(tensor)
        return lambda: self._meet("adding up votes", tensor.is_cuda, arrived)

    def broadcast(self, tensor: Tensor, source_rank: int = 0) -> Tensor:
        doing = f"passing on what rank {source_rank} says"
        return self._meet(doing, tensor.is_cuda, self._inner.broadcast, tensor, source_rank)

    def is_lost_worker(self, error: Exception) -> bool:
        return self._inner.is_lost_worker(error)

    def is_change_announced(self) -> bool:
        return self._inner.is_change_announced()

    def close(self) -> None:
        self._inner.close()

    def _forward_is_done(self, *_: object) -> None:
        """In the last micro-batch the backward ends where all have added up their gradients."""
        if self._is_last_step:
            self._whereabouts.mark(_GRADIENTS, is_meeting=True)

    def _meet(self, doing: str, stays: bool, meeting: Callable[..., T], *arguments: object) -> T:
        """Marks a meeting. An error leaves the mark: that is where it came from."""
        where = self._whereabouts
        before = ("computing", False) if where.doing == _GRADIENTS else (where.doing, where.is_meeting)
        where.mark(doing, is_meeting=True)
        result = meeting(*arguments)
        if not stays:
            where.mark(*before)
        return result
