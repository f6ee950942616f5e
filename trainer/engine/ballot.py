"""What the workers agree on at every update and every batch of an evaluation, in one sum that travels beside the work.

A signal reaches one worker, a clock runs on one; nobody may act on it alone, or the others wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from trainer.collective.collective import Collective

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Agreed:
    """stop: some worker was asked to end the run. save: a checkpoint is due. tell: some worker has files to tell of,
    which it could not read."""

    stop: bool = False
    save: bool = False
    tell: bool = False


class StopAgreed(Exception):
    """All workers have agreed to stop, here."""


class Ballot:
    """Votes cast on every rank in the same places; counted a little later, so that nobody waits for them."""

    def __init__(
        self,
        collective: Collective,
        wants_stop: Callable[[], bool],
        wants_save: Callable[[], bool] = lambda: False,
        wants_to_tell: Callable[[], bool] = lambda: False,
    ) -> None:
        self._collective, self._wishes = collective, (wants_stop, wants_save, wants_to_tell)
        self._pending: Callable[[], Tensor] | None = None

    def cast(self) -> None:
        """Says what this worker wants now."""
        votes = torch.tensor([wish() for wish in self._wishes], dtype=torch.int64)
        self._pending = self._collective.all_reduce_later(votes)

    def count(self) -> Agreed:
        """What follows from the votes that were cast last; the same on every rank."""
        assert self._pending is not None, "cast() comes before count()"
        votes = self._pending().tolist()
        self._pending = None
        return Agreed(*(vote > 0 for vote in votes))

    def held(self) -> Agreed:
        """A vote by itself."""
        self.cast()
        return self.count()

    def paced(self, items: Iterator[T], rounds: int) -> Iterator[T]:
        """The items, at most `rounds` of them, with a vote beside each and for each that this worker lacks.

        Raises StopAgreed on every rank in the same round.
        """
        for _ in range(rounds):
            self.cast()
            for item in items:
                yield item
                break
            if self.count().stop:
                raise StopAgreed
