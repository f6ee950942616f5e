"""State dicts as bytes, wherever their tensors are."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor


def to_bytes(state: object) -> memoryview:
    """A state dict as torch.save writes it, all tensors on the CPU."""
    content = io.BytesIO()  # written to a disk, torch.save hides why it refused
    torch.save(_on_cpu(state), content)
    return content.getbuffer()


def from_bytes(content: bytes | memoryview) -> Any:
    """The state dict that to_bytes wrote, on the CPU; nothing but tensors and plain values is unpickled."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_on_cpu, value))
    return value
