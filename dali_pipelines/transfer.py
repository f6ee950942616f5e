"""How small arrays reach the device without the host waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array as a tensor on the device; on the CPU it shares the array's memory."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    # From memory that may be paged out the host would wait until the copy, and all that was queued before it, is done.
    return tensor.pin_memory().to(device, non_blocking=True)
