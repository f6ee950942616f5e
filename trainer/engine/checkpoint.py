"""The network on disk: written aside, fsynced, renamed, so that a reader never sees half a file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from torch import nn

from trainer.engine.errors import CheckpointError


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the model's state dict (on the CPU) to path; torch.load(path, weights_only=True) reads it back.

    A file that was there before stays whole until the new one is complete. Raises CheckpointError.
    """
    content = io.BytesIO()  # torch.save itself hides why a disk refused
    torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, content)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot write the weights ({error.strerror}): make room or choose another output"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
