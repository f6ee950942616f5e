"""Checkpoints: all that a run needs to go on, in a folder that is whole or not there.

    checkpoints/<samples seen>/state.json      where the run stands, and what must be the same to go on
                               model.pt        the network's state dict
                               optimizer.pt    the optimizer's
                               SHA256SUMS      of the three; `sha256sum -c` reads it
    checkpoints/best                           a link to the one that was evaluated best

Rank 0 writes and reads; the others hear of it from rank 0, so only its host need have the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from trainer.collective.agreement import broadcast_bytes, together
from trainer.collective.collective import Collective
from trainer.engine.durable import Content, remove_folder, remove_leftovers, write_folder, write_link
from trainer.engine.errors import CheckpointError
from trainer.engine.run_state import RunState, Standing
from trainer.engine.tensors import from_bytes

FOLDER_NAME, BEST = "checkpoints", "best"
STATE, MODEL, OPTIMIZER, _SUMS = "state.json", "model.pt", "optimizer.pt", "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's folder and what its state.json says."""

    path: Path
    identity: Mapping[str, str]
    standing: Standing


def write_checkpoint(folder: Path, samples_seen: int, files: Mapping[str, Content]) -> None:
    """Writes the files of a checkpoint (STATE, MODEL, OPTIMIZER) and their sums. Raises CheckpointError; what was there
    before stays then."""
    path = folder / str(samples_seen)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    try:
        write_folder(path, {**files, _SUMS: sums.encode()})
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot write the checkpoint ({error.strerror}): make room, then resume from the one before it"
        ) from error


def keep_newest_and_best(folder: Path, samples_seen: int, newest: int) -> None:
    """Removes all checkpoints but so many of the newest, and the one that was evaluated best, which BEST then links.

    samples_seen: where the run stands. What is further on could not be used when it was taken up, and counts for
    nothing until the run has come that far again.
    """
    checkpoints = [path for path in checkpoints_in(folder) if int(path.name) <= samples_seen]
    # Among equals the earliest; one in the middle of an epoch has no evaluation of its own.
    evaluated = [(state.last_top1, -state.samples_seen, path) for path in checkpoints if (state := _evaluated(path))]
    best = max(evaluated)[-1] if evaluated else None
    for path in checkpoints[newest:]:
        if path != best:
            with contextlib.suppress(OSError):  # tried again next time
                remove_folder(path)
    if best is not None:
        with contextlib.suppress(OSError):  # a file system without links
            write_link(folder / BEST, best.name)
    remove_leftovers(folder)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, damaged ones too; that which is furthest on comes first."""
    paths = (path for path in folder.glob("*") if path.name.isascii() and path.name.isdigit())
    return sorted(paths, key=lambda path: int(path.name), reverse=True)


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint that is furthest on of those in the folder that are whole; None where there is no checkpoint.

    say is told what is wrong with each that is passed over. Raises CheckpointError where none is whole.
    """
    passed_over: list[CheckpointError] = []
    for path in checkpoints_in(folder):
        try:
            checkpoint = read_checkpoint(path)
            for name in (MODEL, OPTIMIZER):
                _read(path / name)
        except CheckpointError as error:
            passed_over.append(error)
            continue
        for error in passed_over:
            what_is_wrong, _, _ = str(error).rpartition(": ")  # without the advice, which is for where none is whole
            say(f"{what_is_wrong}: going on from {path.name} samples")
        return checkpoint
    if passed_over:
        raise passed_over[0]
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """What a checkpoint's state.json says. Raises CheckpointError if it is damaged."""
    content = _read(path / STATE)
    try:
        saved = json.loads(content)
        return Checkpoint(path, dict(saved["identity"]), Standing.from_fields(saved["standing"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(
            f"{path / STATE}: is none that this version can read: resume with the version that wrote it"
        ) from None


def restore(checkpoint: Checkpoint | None, model: nn.Module, optimizer: Optimizer, collective: Collective) -> None:
    """Puts a checkpoint's tensors into rank 0's model and everybody's optimizer; Collective.wrap takes the model on.

    checkpoint: rank 0's, None on the others. Raises WorkerError on every rank where it is damaged.
    """

    def load_network() -> bytes:
        if checkpoint is None:
            return b""
        network = _read(checkpoint.path / MODEL)
        with _fitting(checkpoint.path / MODEL):
            model.load_state_dict(from_bytes(network))
        return _read(checkpoint.path / OPTIMIZER)

    content = broadcast_bytes(collective, together(collective, load_network))

    def load_optimizer() -> None:
        with _fitting(Path(OPTIMIZER) if checkpoint is None else checkpoint.path / OPTIMIZER):
            optimizer.load_state_dict(from_bytes(content))

    together(collective, load_optimizer)


def _evaluated(path: Path) -> RunState | None:
    with contextlib.suppress(CheckpointError):
        state = read_checkpoint(path).standing.state
        if state.part is None and state.next_epoch > 0:
            return state
    return None


def _read(path: Path) -> bytes:
    """The file, if it is what was written."""
    try:
        content, sums = path.read_bytes(), (path.parent / _SUMS).read_text("ascii", errors="replace")
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}): restore it, or train anew without --resume"
        ) from None
    if f"{hashlib.sha256(content).hexdigest()}  {path.name}" not in sums.splitlines():
        raise CheckpointError(
            f"{path}: is damaged (its SHA-256 is not the one in {_SUMS}): restore it, or train anew without --resume"
        )
    return content


@contextlib.contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of torch's pickle reader, or of a network that differs: many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: does not fit this network and optimizer ({reason}): resume with the version that wrote it"
        ) from error
