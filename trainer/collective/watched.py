"""A collective that says when its worker waits for the others.

By that a watchdog tells a worker that stands still from those that wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn

from trainer.collective.collective import Collective
from trainer.collective.whereabouts import Whereabouts

_GRADIENTS = "adding up gradients"


class WatchedCollective:
    """Another collective, with its meetings marked in `whereabouts`.

    On a GPU a collective returns before the others have come; the wait is in whatever next needs a number. So there the
    mark stays until the loop makes another.
    """

    def __init__(self, collective: Collective, whereabouts: Whereabouts) -> None:
        self._inner, self._whereabouts = collective, whereabouts
        self.name, self.rank, self.world_size = collective.name, collective.rank, collective.world_size
        self.local_rank, self.gradient_divisor = collective.local_rank, collective.gradient_divisor
        self.overlaps_backward, self.board = collective.overlaps_backward, collective.board
        self._is_last_step = self._is_on_gpu = False

    def wrap(self, model: nn.Module) -> nn.Module:
        self._is_on_gpu = next(model.parameters()).is_cuda
        with self._meeting("comparing parameters", False):
            module = self._inner.wrap(model)
        if self.overlaps_backward:
            module.register_forward_hook(self._forward_is_done)
        return module

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        self._is_last_step = last
        self._whereabouts.mark("computing")
        return self._inner.micro_step(last)

    def finish_gradients(self) -> None:
        with self._meeting(_GRADIENTS, self._is_on_gpu):
            self._inner.finish_gradients()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        with self._meeting("adding up numbers", tensor.is_cuda):
            return self._inner.all_reduce(tensor)

    def broadcast(self, tensor: Tensor, source_rank: int = 0) -> Tensor:
        with self._meeting(f"hearing what rank {source_rank} says", tensor.is_cuda):
            return self._inner.broadcast(tensor, source_rank)

    def is_lost_worker(self, error: Exception) -> bool:
        return self._inner.is_lost_worker(error)

    def close(self) -> None:
        self._inner.close()

    def _forward_is_done(self, *_: object) -> None:
        """In the last micro-batch the backward ends where all have added up their gradients."""
        if self._is_last_step:
            self._whereabouts.mark(_GRADIENTS, is_meeting=True)

    @contextmanager
    def _meeting(self, doing: str, stays: bool) -> Iterator[None]:
        """Marks a meeting. An error leaves the mark: that is where it came from."""
        where = self._whereabouts
        before = ("computing", False) if where.doing == _GRADIENTS else (where.doing, where.is_meeting)
        where.mark(doing, is_meeting=True)
        yield
        if not stays:
            where.mark(*before)
