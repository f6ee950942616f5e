"""What the workers agree on between updates and between batches of an evaluation, in one sum beside the work.

A signal reaches one worker, a clock runs on one; nobody may act on it alone, or the others wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from trainer.collective.collective import Collective

T = TypeVar("T")
_LONGEST_PAUSE = 50  # updates; they may turn out to take longer than those before


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
    """Votes cast on every rank in the same places; counted a little later, so that nobody waits for them.

    Where updates are shorter than between_votes_s, one of several has a vote: rank 0 measures how many fit into that,
    and says so in the vote before. So fast updates lose no time to votes, and slow ones have one each.
    """

    def __init__(
        self,
        collective: Collective,
        wants_stop: Callable[[], bool],
        wants_save: Callable[[], bool] = lambda: False,
        wants_to_tell: Callable[[], bool] = lambda: False,
        between_votes_s: float = 0.0,
    ) -> None:
        self._collective, self._wishes = collective, (wants_stop, wants_save, wants_to_tell)
        self._between_votes_s = between_votes_s
        self._pending: Callable[[], Tensor] | None = None
        self._left = 0  # places without a vote until the next one
        self._places, self._counted_at = 0, time.monotonic()

    def cast(self) -> None:
        """Says what this worker wants now, unless it is too early for a vote."""
        if self._left > 0:
            self._left -= 1
            return
        pause = self._pause() if self._collective.rank == 0 else 0
        votes = torch.tensor([*(wish() for wish in self._wishes), pause], dtype=torch.int64)
        self._pending = self._collective.all_reduce_later(votes)

    def count(self) -> Agreed:
        """What follows from the votes that were cast last, if any were; the same on every rank."""
        self._places += 1
        if self._pending is None:
            return Agreed()
        *votes, self._left = self._pending().tolist()
        self._pending, self._places, self._counted_at = None, 0, time.monotonic()
        return Agreed(*(vote > 0 for vote in votes))

    def held(self) -> Agreed:
        """A vote by itself, after which updates may be longer or shorter than before."""
        self._left = 0
        self.cast()
        agreed = self.count()
        self._left = 0
        return agreed

    def _pause(self) -> int:
        """How many of the next places can do without a vote, if they take as long as those since the last one."""
        each_s = (time.monotonic() - self._counted_at) / max(1, self._places)
        return min(_LONGEST_PAUSE, int(self._between_votes_s / each_s)) if each_s > 0 else 0

    def paced(self, items: Iterator[T], rounds: int) -> Iterator[T]:
        """The items, at most `rounds` of them, with room for a vote beside each, and for each that this worker lacks.

        Raises StopAgreed on every rank in the same round.
        """
        for _ in range(rounds):
            self.cast()
            for item in items:
                yield item
                break
            if self.count().stop:
                raise StopAgreed
