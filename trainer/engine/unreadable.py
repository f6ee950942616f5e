"""What all workers know of the files that some of them could not read: each is told once, counted once and recorded.

One file may be met by several workers, in later epochs or as a stand-in for its neighbour, so their numbers must not be
added up: the names are what is shared, and that is so rare that it costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from dali_pipelines.unreadable import UnreadableFiles
from trainer.collective.agreement import WorkerError, broadcast_text, together
from trainer.collective.collective import Collective
from trainer.engine.job import Tracker


class SharedUnreadable:
    """The files that the fleet could not read; own are this worker's, and grow while it reads."""

    def __init__(
        self, collective: Collective, own: UnreadableFiles, tracker: Tracker, warn: Callable[[str], None]
    ) -> None:
        self._collective, self._own, self._tracker, self._warn = collective, own, tracker, warn
        self._known = UnreadableFiles(own.at_most)

    def has_news(self) -> bool:
        """Whether this worker met files that the others have not heard of."""
        return any(path not in self._known.faults for path in self._own.faults)

    def tell(self) -> None:
        """All workers hear of each other's files, and rank 0 records those that are new.

        Called on every rank in the same place. Raises WorkerError on every rank where they are more than are allowed.
        """
        tellers = torch.zeros(self._collective.world_size, dtype=torch.int64)
        tellers[self._collective.rank] = int(self.has_news())
        new: dict[str, str] = {}
        for rank in torch.nonzero(self._collective.all_reduce(tellers)).flatten().tolist():
            new |= json.loads(broadcast_text(self._collective, json.dumps(self._own.faults), rank))
        new = {path: fault for path, fault in new.items() if path not in self._known.faults}
        if not new:
            return
        self._known.faults |= new
        together(self._collective, self._tracker.event, "unreadable", {"files": new})
        if self._known.are_too_many:
            raise WorkerError(str(self._known.too_many()))
        for path, fault in new.items():
            self._warn(f"{path} cannot be decoded ({fault}) and is passed over")
