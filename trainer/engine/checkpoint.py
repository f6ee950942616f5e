"""Checkpoints: all that a run needs to go on, in a folder that is whole or not there.

    checkpoints/<samples seen>/state.json      where the run stands, and what must be the same to go on
                               model.pt        the network's state dict
                               optimizer.pt    the optimizer's
                               SHA256SUMS      of the three; `sha256sum -c` reads it

Rank 0 writes and reads; the others hear of it from rank 0, so only its host need have the folder. After an evaluation
the running statistics are the same on all workers (the evaluation has averaged them), so rank 0's are everybody's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from trainer.collective.agreement import broadcast_bytes, together
from trainer.collective.collective import Collective
from trainer.engine.durable import remove_folder, remove_leftovers, write_folder
from trainer.engine.errors import CheckpointError
from trainer.engine.run_state import Standing
from trainer.engine.tensors import from_bytes, to_bytes

FOLDER_NAME = "checkpoints"
_STATE, _MODEL, _OPTIMIZER, _SUMS = "state.json", "model.pt", "optimizer.pt", "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """Where a run keeps its checkpoints. identity: what must be the same to go on from them, name -> value."""

    path: Path
    identity: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's folder and what its state.json says."""

    path: Path
    identity: Mapping[str, str]
    standing: Standing


def save_checkpoint(folder: CheckpointFolder, standing: Standing, model: nn.Module, optimizer: Optimizer) -> None:
    """Writes a checkpoint, and then removes the older ones. Raises CheckpointError; the older ones stay then."""
    path = folder.path / str(standing.state.samples_seen)
    state = json.dumps({"identity": dict(folder.identity), "standing": asdict(standing)}, indent=1)
    files = {
        _STATE: state.encode(),
        _MODEL: to_bytes(model.state_dict()),
        _OPTIMIZER: to_bytes(optimizer.state_dict()),
    }
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    try:
        write_folder(path, {**files, _SUMS: sums.encode()})
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot write the checkpoint ({error.strerror}): make room, then resume from the one before it"
        ) from error
    for older in filter(_is_checkpoint, list(folder.path.iterdir())):
        if older != path:
            with contextlib.suppress(OSError):  # tried again next time
                remove_folder(older)
    remove_leftovers(folder.path)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint that is furthest on of those in the folder, or None. Raises CheckpointError if it is damaged."""
    paths = filter(_is_checkpoint, folder.glob("*"))
    path = max(paths, key=lambda path: int(path.name), default=None)
    if path is None:
        return None
    content = _read(path / _STATE)
    try:
        saved = json.loads(content)
        return Checkpoint(path, saved["identity"], Standing.from_fields(saved["standing"]))
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{path / _STATE}: is none that this version can read: resume with the version that wrote it"
        ) from None


def restore(checkpoint: Checkpoint | None, model: nn.Module, optimizer: Optimizer, collective: Collective) -> None:
    """Puts a checkpoint's tensors into rank 0's model and everybody's optimizer; Collective.wrap takes the model on.

    checkpoint: rank 0's, None on the others. Raises WorkerError on every rank where it is damaged.
    """

    def load_network() -> bytes:
        if checkpoint is None:
            return b""
        network = _read(checkpoint.path / _MODEL)
        with _fitting(checkpoint.path / _MODEL):
            model.load_state_dict(from_bytes(network))
        return _read(checkpoint.path / _OPTIMIZER)

    content = broadcast_bytes(collective, together(collective, load_network))

    def load_optimizer() -> None:
        with _fitting(Path(_OPTIMIZER) if checkpoint is None else checkpoint.path / _OPTIMIZER):
            optimizer.load_state_dict(from_bytes(content))

    together(collective, load_optimizer)


def _is_checkpoint(path: Path) -> bool:
    return path.name.isascii() and path.name.isdigit()


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
