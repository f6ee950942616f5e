"""How memory passes between the host, the device and DALI without the host waiting for it."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

_LENT_BATCHES = 4  # a host that is further ahead of its device than these may wait: the device has enough to do


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array as a tensor on the device; on the CPU it shares the array's memory."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    # From memory that may be paged out the host would wait until the copy, and all that was queued before it, is done.
    return tensor.pin_memory().to(device, non_blocking=True)


class Mark(Protocol):
    """A place in a device's queue of work, as torch.cuda.Event."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


class LentMemory:
    """Keeps tensors in a GPU's memory that DALI owns until the device has read them.

    PyTorch hands such memory back when the tensor goes, while the work on it is only queued, and DALI may write to it
    again in the order of its own stream, which does not wait for the reader's.
    """

    def __init__(self) -> None:
        self._lent: deque[tuple[Mark, torch.Tensor]] = deque()

    def keep(self, tensor: torch.Tensor, read: Mark) -> None:
        """Until `read` is reached, which stands behind the last work on the tensor."""
        self._lent.append((read, tensor))
        if len(self._lent) > _LENT_BATCHES:
            self._lent[0][0].synchronize()
        while self._lent and self._lent[0][0].query():
            self._lent.popleft()
