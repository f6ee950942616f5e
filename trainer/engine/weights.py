"""The network as users take it along: one file of its newest parameters and statistics."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trainer.engine.durable import write_file
from trainer.engine.errors import CheckpointError
from trainer.engine.tensors import to_bytes


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the model's state dict (on the CPU) to path; torch.load(path, weights_only=True) reads it back.

    A file that was there before stays whole until the new one is complete. Raises CheckpointError.
    """
    content = to_bytes(model.state_dict())
    try:
        write_file(path, content)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot write the weights ({error.strerror}): make room or choose another output"
        ) from error
