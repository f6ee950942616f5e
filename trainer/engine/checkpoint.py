"""The network on disk: written aside, fsynced, renamed, so that a reader never sees half a file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the model's state dict (on the CPU) to path; torch.load(path, weights_only=True) reads it back.

    A file that was there before stays whole until the new one is complete. Raises OSError.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
