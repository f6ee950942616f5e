"""Input that may fail on one worker, without leaving the others waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from dali_pipelines.errors import DataError

T = TypeVar("T")


class GuardedInput:
    """The batches of an iterator; an error of the data is kept instead of raised.

    In training micro-batches of nan stand in for the failed one and all after it, until their gradient stops every
    worker in the same update; in evaluation the batches end. Either way all workers then meet, and `raise_failure`
    tells them.
    """

    def __init__(self, open_batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> None:
        self._failure: DataError | None = None
        try:
            self._batches = open_batches()
        except DataError as error:
            self._failure, self._batches = error, iter(())

    def for_training(self, micro_batch: int, image_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Never ends early: nan images of (micro_batch, 3, image_size, image_size) follow a failure."""
        yield from self.for_evaluation()
        assert self._failure is not None, "the plan takes no more micro-batches than the shard has"
        while True:
            labels = torch.zeros(micro_batch, dtype=torch.int64, device=device)
            yield torch.full((micro_batch, 3, image_size, image_size), torch.nan, device=device), labels

    def for_evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ends at a failure."""
        try:
            yield from self._batches
        except DataError as error:
            self._failure = error

    def raise_failure(self) -> None:
        """Raises the DataError that was kept, if any."""
        if self._failure is not None:
            raise self._failure
