"""When a run is saved, and how: the tensors are copied while the run stands still, and written while it goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.engine.checkpoint import MODEL, OPTIMIZER, STATE, keep_newest_and_best, write_checkpoint
from trainer.engine.durable import Content, remove_leftovers
from trainer.engine.errors import CheckpointError
from trainer.engine.run_state import Standing
from trainer.engine.tensors import to_bytes
from trainer.engine.weights import write_weights


@dataclass(frozen=True, slots=True)
class SavingPlan:
    """When checkpoints are made, beside the one at the run's end, and how many are kept.

    every_epochs: after every so many; every_minutes: also within an epoch, None: not by time. keep: the newest ones
    that stay, beside the best.
    """

    every_epochs: int = 1
    every_minutes: float | None = 10.0
    keep: int = 2


class CheckpointWriter:
    """Writes a run's checkpoints into its folder, and its newest weights to weights_path, in a thread of its own.

    identity: what must be the same to go on from them, name -> value. What goes wrong in the thread is raised by the
    call that comes next, and that is due at once.
    """

    def __init__(self, folder: Path, weights_path: Path, identity: Mapping[str, str], plan: SavingPlan) -> None:
        self._folder, self._weights_path, self._identity, self._plan = folder, weights_path, identity, plan
        self._saved_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None

    def is_due(self) -> bool:
        """Whether it is time for one in the middle of an epoch, or to hear that the last could not be written."""
        minutes = self._plan.every_minutes
        return self._failure is not None or (minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes)

    def save(self, standing: Standing, model: nn.Module, optimizer: Optimizer, averaged: Mapping[str, Tensor]) -> None:
        """Takes a copy of everything and begins to write it; averaged: buffers that are saved in place of the model's.

        Waits for the checkpoint before it. Raises CheckpointError; the older checkpoints stay then.
        """
        self.finish()
        state = json.dumps({"identity": dict(self._identity), "standing": asdict(standing)}, indent=1)
        files: dict[str, Content] = {
            STATE: state.encode(),
            MODEL: to_bytes({**model.state_dict(), **averaged}),
            OPTIMIZER: to_bytes(optimizer.state_dict()),
        }
        self._saved_at = time.monotonic()
        self._thread = threading.Thread(
            target=self._write, args=(standing.state.samples_seen, files), name="checkpoint-writer"
        )
        self._thread.start()

    def finish(self) -> None:
        """Waits until everything is on the disk. Raises CheckpointError if it is not."""
        self.close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits for what is being written; says nothing of failures."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, samples_seen: int, files: Mapping[str, Content]) -> None:
        try:
            write_checkpoint(self._folder, samples_seen, files)
            write_weights(self._weights_path, files[MODEL])
            remove_leftovers(self._weights_path.parent, self._weights_path.name)
            keep_newest_and_best(self._folder, samples_seen, self._plan.keep)
        except CheckpointError as error:
            self._failure = error
        except OSError as error:  # of a folder that is gone
            self._failure = CheckpointError(f"{self._folder}: cannot be tidied up ({error.strerror}): look at its disk")
