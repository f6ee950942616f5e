"""The DALI graphs that turn files into bytes, and the one decision about CPU and GPU.

A graph is fed everything that differs from batch to batch (paths, windows, flips), so one pipeline serves a whole run.
Bytes leave it, not floats: they are a quarter of the memory and of the way to a GPU. On the CPU they leave it as they
were decoded, since DALI's resize takes twice as long there as its decoder does (resizing.py takes over).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.errors import DataError

Decoder = Literal["auto", "cpu", "gpu"]
Nodes = Sequence[Any]  # DALI's data nodes, which have no public type

_ENGINE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Placement:
    """Where images are decoded and where they are delivered.

    hw_decoder_load: the share of a batch that a GPU's JPEG engines get, 0 to 1; None for DALI's own.
    """

    device: torch.device
    decode_on_gpu: bool
    hw_decoder_load: float | None = None

    @property
    def device_id(self) -> int | None:
        """What DALI wants to hear: the GPU's number, or None for work without any GPU."""
        return self.device.index if self.device.type == "cuda" else None


def place(device: torch.device, decoder: Decoder, hw_decoder_load: float | None = None) -> Placement:
    """The one decision about CPU and GPU: "auto" decodes where the images are needed.

    Raises DataError if decoding on a GPU is asked for where there is none, or for a share that is none.
    """
    if decoder not in ("auto", "cpu", "gpu"):
        raise DataError(f"decoder {decoder!r} is unknown: choose one of auto, cpu, gpu")
    if decoder == "gpu" and device.type != "cuda":
        raise DataError(f"decoder 'gpu' needs a GPU, and this worker runs on {device}: choose auto or cpu")
    if hw_decoder_load is not None and not 0 <= hw_decoder_load <= 1:
        raise DataError(f"hw_decoder_load {hw_decoder_load} is no share of a batch: choose 0 to 1")
    assert device.type != "cuda" or device.index is not None, "a GPU is named by its number"
    return Placement(device, device.type == "cuda" and decoder != "cpu", hw_decoder_load)


@dataclass(frozen=True, slots=True)
class Graph:
    """What is done to files: `build` connects one node for each of the columns named `inputs` to one output node, and
    `receive` takes the tensors out of the list that DALI delivers."""

    build: Callable[[Nodes], Any]
    inputs: tuple[str, ...]
    receive: Callable[[Any], Any]


def training_graph(placement: Placement, image_size: int, engine_size: tuple[int, int]) -> Graph:
    """Windows of files. On the CPU as they are, a list of (H, W, 3) uint8 arrays; on a GPU resized to (S, S) and
    mirrored, one (n, S, S, 3) uint8 tensor. engine_size: see size_for_engines."""
    cut = ("paths", "sizes", "corners", "shapes")

    def windows(fed: Nodes) -> Any:
        from nvidia.dali import fn

        paths, sizes, corners, shapes = fed
        options = _decoder_options(placement, engine_size)
        return fn.decoders.image_slice(
            _checked_files(paths, sizes), start=corners, shape=shapes, axes=(0, 1), **options
        )

    def shown(fed: Nodes) -> Any:
        from nvidia.dali import fn

        *cut, mirrored = fed
        return fn.flip(_resized(windows(cut).gpu(), (image_size, image_size)), horizontal=mirrored)

    if placement.device.type == "cuda":
        return Graph(shown, (*cut, "mirrored"), _as_one)
    return Graph(windows, cut, _one_by_one)


def centre_graph(placement: Placement, image_size: int, engine_size: tuple[int, int]) -> Graph:
    """Whole files. On the CPU as they are, as training_graph; on a GPU resized, their (S, S) centres cut out and
    mirrored."""

    def whole(fed: Nodes) -> Any:
        return _whole(fed, **_decoder_options(placement, engine_size))

    def shown(fed: Nodes) -> Any:
        from nvidia.dali import fn, types

        *files, resized, centres, mirrored = fed
        # Resize takes its size as floats, which hold whole numbers of pixels exactly.
        images = _resized(whole(files).gpu(), fn.cast(resized, dtype=types.FLOAT))
        images = fn.slice(images, start=centres, shape=(image_size, image_size), axes=(0, 1))
        return fn.flip(images, horizontal=mirrored)

    if placement.device.type == "cuda":
        return Graph(shown, ("paths", "sizes", "resized", "centres", "mirrored"), _as_one)
    return Graph(whole, ("paths", "sizes"), _one_by_one)


def same_size_graph() -> Graph:
    """Whole files whose images are of one size, decoded on the CPU: one (n, H, W, 3) uint8 tensor."""
    return Graph(lambda fed: _whole(fed, device="cpu"), ("paths", "sizes"), _as_one)


def size_for_engines(sizes: NDArray[np.int32], max_batch: int) -> tuple[int, int]:
    """Height and width for which a GPU's JPEG engines keep memory ready from the start, for a whole batch of images.

    The largest of the data set's, or smaller ones of that shape where a batch of those would take more than a
    gigabyte: then the engines ask for more when they need it. sizes: (n, 2).
    """
    height, width = sizes.max(axis=0).tolist()
    fraction = min(1.0, math.sqrt(_ENGINE_BYTES / (3 * height * width * max_batch)))
    return max(1, int(height * fraction)), max(1, int(width * fraction))


def _whole(files: Nodes, **options: Any) -> Any:
    from nvidia.dali import fn

    return fn.decoders.image(_checked_files(*files), **options)


def _as_one(delivered: Any) -> torch.Tensor:
    return torch.from_dlpack(delivered.as_tensor())


def _one_by_one(delivered: Any) -> list[NDArray[np.uint8]]:
    return [np.asarray(image) for image in delivered]


def _checked_files(paths: Any, sizes: Any) -> Any:
    """The files' bytes; fails where an image has not the size (height, width) that the index knows, or no header.

    DALI's decoders may take the process down with them when the header of one image of a batch is refused, or its
    window lies outside: their threads go on with what has been torn down (seen with DALI 2.4; no harm comes of damage
    behind the header). So such a file must not reach them.
    """
    from nvidia.dali import fn, types

    files = fn.io.file.read(paths)
    shape = fn.peek_image_shape(files, dtype=types.INT32)
    differs = fn.cast(fn.slice(shape, 0, 2, axes=[0]) != sizes, dtype=types.INT32)
    sides_that_differ = fn.reductions.sum(differs, dtype=types.INT32, keep_dims=True)
    # A reshape to more bytes than there are is an error; to as many it is nothing, not even a copy.
    return fn.reshape(files, shape=files.shape(dtype=types.INT32) + sides_that_differ)


def _decoder_options(placement: Placement, engine_size: tuple[int, int]) -> dict[str, Any]:
    if not placement.decode_on_gpu:
        return {"device": "cpu"}
    height, width = engine_size
    options = {"device": "mixed", "preallocate_height_hint": height, "preallocate_width_hint": width}
    return options if placement.hw_decoder_load is None else options | {"hw_decoder_load": placement.hw_decoder_load}


def _resized(images: Any, shape: Any) -> Any:
    from nvidia.dali import fn, types

    # As PIL's bilinear filter, except that the outermost pixels of the result see the image's edge repeated.
    return fn.resize(images, size=shape, interp_type=types.INTERP_LINEAR, antialias=True)
