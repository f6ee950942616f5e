"""Decoded images of many sizes brought to one size on the CPU.

PyTorch's kernel for bytes computes what PIL's bilinear filter does, in a fifth of the time that DALI's resize takes on
the CPU. On a GPU DALI resizes (graphs.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Resizer:
    """Resizes the images of a micro-batch to one size with some threads, which start when they are first needed."""

    def __init__(self, image_size: int, threads: int) -> None:
        self._image_size = image_size
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._batch = np.empty((0, image_size, image_size, 3), dtype=np.uint8)

    def __call__(self, images: Sequence[Pixels], columns: Mapping[str, NDArray[np.int32]]) -> torch.Tensor:
        """(n, S, S, 3) uint8, which the next call overwrites.

        Each (H, W, 3) image is resized to its row of columns["resized"] (height, width), its (S, S) part with the
        corner columns["centres"] (row, column) cut out, and mirrored where columns["mirrored"] says so.
        """
        shapes, corners = columns["resized"].tolist(), columns["centres"].tolist()
        if len(images) > len(self._batch):
            self._batch = np.empty((len(images), *self._batch.shape[1:]), dtype=np.uint8)
        batch = self._batch[: len(images)]

        def resize(start: int) -> None:
            for place in range(start, len(images), self._threads):
                _show(images[place], shapes[place], corners[place], batch[place])

        self._pool = self._pool or ThreadPoolExecutor(self._threads, "resize")
        list(self._pool.map(resize, range(self._threads)))
        shown = torch.from_numpy(batch)
        # Not in the threads above: an operation that PyTorch spreads over its own threads would start a team for each.
        for place in np.flatnonzero(columns["mirrored"]).tolist():
            shown[place] = shown[place].flip(1)
        return shown

    def close(self) -> None:
        """End the threads; the next call starts new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _show(image: Pixels, shape: list[int], corner: list[int], target: Pixels) -> None:
    if (*shape, 3) == target.shape:
        _resize(image, target)
        return
    resized = np.empty((*shape, 3), dtype=np.uint8)
    _resize(image, resized)
    (top, left), (height, width, _) = corner, target.shape
    np.copyto(target, resized[top : top + height, left : left + width])


def _resize(image: Pixels, target: Pixels) -> None:
    source, result = (torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) for pixels in (image, target))
    # What torch.nn.functional.interpolate calls, into memory that is there; for bytes it keeps to the calling thread.
    torch.ops.aten._upsample_bilinear2d_aa.out(source, list(target.shape[:2]), False, None, None, out=result)
