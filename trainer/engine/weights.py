"""The network as users take it along: one file of its newest parameters and statistics."""

from __future__ import annotations

from pathlib import Path

from trainer.engine.durable import Content, write_file
from trainer.engine.errors import CheckpointError


def write_weights(path: Path, content: Content) -> None:
    """Writes a state dict (see tensors.to_bytes) to path; torch.load(path, weights_only=True) reads it back.

    A file that was there before stays whole until the new one is complete. Raises CheckpointError.
    """
    try:
        write_file(path, content)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot write the weights ({error.strerror}): make room or choose another output"
        ) from error
