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
    and says so in the vote before. So fast updates lose no time to votes, and slow ones have one each. The first places
    of an epoch and of an evaluation have one each too: nobody knows yet how long they take.
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
        self._start_anew()

    def cast(self) -> None:
        """Says what this worker wants now, unless it is too early for a vote."""
        if self._left > 0:
            self._left -= 1
            return
        now = time.monotonic()
        pause = self._pause(now) if self._collective.rank == 0 else 0
        self._cast_at = now
        votes = torch.tensor([*(wish() for wish in self._wishes), pause], dtype=torch.int64)
        self._pending = self._collective.all_reduce_later(votes)

    def count(self) -> Agreed:
        """What follows from the votes that were cast last, if any were; the same on every rank."""
        if self._pending is None:
            return Agreed()
        *votes, self._paused = self._pending().tolist()
        self._pending, self._left = None, self._paused
        return Agreed(*(vote > 0 for vote in votes))

    def held(self) -> Agreed:
        """A vote by itself, after which updates may be longer or shorter than before."""
        self._start_anew()
        self.cast()
        agreed = self.count()
        self._start_anew()
        return agreed

    def _start_anew(self) -> None:
        """Forgets how long a place took."""
        self._left = 0  # places without a vote until the next one
        self._paused = 0  # places without a vote between the last two
        self._cast_at: float | None = None

    def _pause(self, now: float) -> int:
        """How many of the next places can do without a vote, if they take as long as those since the last one."""
        if self._cast_at is None:
            return 0
        each_s = (now - self._cast_at) / (self._paused + 1)
        # The first updates on a GPU are only queued, in no time: what was measured is believed little by little.
        most = min(_LONGEST_PAUSE, 2 * self._paused + 1)
        return min(most, int(self._between_votes_s / max(each_s, 1e-9)))

    def paced(self, items: Iterator[T], rounds: int) -> Iterator[T]:
        """The items, at most `rounds` of them, with room for a vote beside each, and for each that this worker lacks.

        Raises StopAgreed on every rank in the same round.
        """
        self._start_anew()
        for _ in range(rounds):
            self.cast()
            for item in items:
                yield item
                break
            if self.count().stop:
                raise StopAgreed
