"""The one place where bytes become the floats that a network sees, for files and for images in memory alike."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_VALUES_AT_ONCE = 1 << 17  # a photo, or some forty small images: they stay in a core's cache from step to step
_SPARE_BATCHES = 3
_ALIGNED_TO = 64  # bytes, as PyTorch's own memory: some libraries' sums depend on where an array begins


class Normalisation:
    """(byte / 255 - mean) / std of (S, S) images on a device, in the layout that the network wants."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        assert memory_format in (torch.contiguous_format, torch.channels_last), "images are NCHW or NHWC in memory"
        self._image_size = image_size
        self._device = device
        self._by_rows = memory_format == torch.channels_last
        # By rows of red, green, blue, red, ...: PyTorch's loops are slow over an innermost side of three.
        self._mean, self._scale = (
            values.repeat(image_size) if self._by_rows else values.view(3, 1, 1)
            for values in (255 * torch.tensor(mean, device=device), 1 / (255 * torch.tensor(std, device=device)))
        )
        self._memory = BatchMemory()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(n, S, S, 3) uint8 on the device -> (n, 3, S, S) float32, which belongs to the caller."""
        n, side = len(images), self._image_size
        images = images.reshape(n, side, side * 3) if self._by_rows else images.permute(0, 3, 1, 2)
        floats = self._empty(images.shape)
        at_once = n if self._device.type == "cuda" else max(1, _VALUES_AT_ONCE // (3 * side * side))
        for part, target in zip(images.split(at_once), floats.split(at_once), strict=True):
            torch.sub(part, self._mean, out=target).mul_(self._scale)
        return floats.view(n, side, side, 3).permute(0, 3, 1, 2) if self._by_rows else floats

    def _empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self._device.type == "cuda":  # whose allocator keeps what was freed
            return torch.empty(shape, device=self._device)
        return self._memory.empty(shape)


class BatchMemory:
    """Memory of the CPU for batches, used again once nothing refers to a batch any more.

    What a process gives back and asks for anew comes as empty pages, and filling those in takes longer than the
    arithmetic on a batch.
    """

    def __init__(self) -> None:
        self._spare: list[NDArray[np.float32]] = []

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A float32 tensor of any content."""
        size = math.prod(shape)
        block = self._spare.pop() if self._spare else None
        if block is None or block.size < size + _ALIGNED_TO // 4:
            block = np.empty(size + _ALIGNED_TO // 4, dtype=np.float32)
        start = -block.ctypes.data % _ALIGNED_TO // 4
        view = block[start : start + size]
        # The tensor's storage, which its views share, holds this view: it goes when the last of them does.
        weakref.finalize(view, self._give_back, block).atexit = False
        return torch.from_numpy(view).view(shape)

    def _give_back(self, block: NDArray[np.float32]) -> None:
        if len(self._spare) < _SPARE_BATCHES:
            self._spare.append(block)
