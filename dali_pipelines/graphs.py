"""The DALI graphs that turn files into tensors, and the one decision about CPU and GPU.

A graph is fed everything that differs from batch to batch (paths, windows, flips), so one pipeline serves a whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dali_pipelines.errors import DataError

Decoder = Literal["auto", "cpu", "gpu"]
Nodes = Sequence[Any]  # DALI's data nodes, which have no public type


@dataclass(frozen=True, slots=True)
class Placement:
    """Where images are decoded and where they are delivered."""

    device: torch.device
    decode_on_gpu: bool

    @property
    def device_id(self) -> int | None:
        """What DALI wants to hear: the GPU's number, or None for work without any GPU."""
        return self.device.index if self.device.type == "cuda" else None


def place(device: torch.device, decoder: Decoder) -> Placement:
    """The one decision about CPU and GPU: "auto" decodes where the images are needed.

    Raises DataError if decoding on a GPU is asked for where there is none.
    """
    if decoder not in ("auto", "cpu", "gpu"):
        raise DataError(f"decoder {decoder!r} is unknown: choose one of auto, cpu, gpu")
    if decoder == "gpu" and device.type != "cuda":
        raise DataError(f"decoder 'gpu' needs a GPU, and this worker runs on {device}: choose auto or cpu")
    assert device.type != "cuda" or device.index is not None, "a GPU is named by its number"
    return Placement(device, decode_on_gpu=device.type == "cuda" and decoder != "cpu")


@dataclass(frozen=True, slots=True)
class Graph:
    """What is done to files: `build` connects the nodes of `inputs` fed values to one output node."""

    build: Callable[[Placement, Nodes], Any]
    inputs: int


def training_graph(image_size: int, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """Fed paths, sizes of the images, window corners, window shapes and flips: the windows resized to (S, S), mirrored
    and normalised, NCHW float32."""

    def build(placement: Placement, fed: Nodes) -> Any:
        from nvidia.dali import fn

        paths, sizes, corners, shapes, mirror = fed
        files = _checked_files(paths, sizes)
        images = fn.decoders.image_slice(
            files, start=corners, shape=shapes, axes=(0, 1), device=_decoder_device(placement)
        )
        images = _resized(_delivered(placement, images), (image_size, image_size))
        return _normalised(images, mirror, mean, std)

    return Graph(build, inputs=5)


def centre_graph(image_size: int, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """Fed paths, sizes of the images, window corners, shapes and flips: the image resized to its shape, its (S, S)
    window cut out, the rest as in training."""

    def build(placement: Placement, fed: Nodes) -> Any:
        from nvidia.dali import fn, types

        paths, sizes, corners, shapes, mirror = fed
        images = fn.decoders.image(_checked_files(paths, sizes), device=_decoder_device(placement))
        # Resize takes its size as floats, which hold whole numbers of pixels exactly.
        images = _resized(_delivered(placement, images), fn.cast(shapes, dtype=types.FLOAT))
        images = fn.slice(images, start=corners, shape=(image_size, image_size), axes=(0, 1))
        return _normalised(images, mirror, mean, std)

    return Graph(build, inputs=5)


def whole_graph() -> Graph:
    """Fed paths and sizes of the images: the images as they are, NHWC uint8."""

    def build(placement: Placement, fed: Nodes) -> Any:
        from nvidia.dali import fn

        files = _checked_files(*fed)
        return _delivered(placement, fn.decoders.image(files, device=_decoder_device(placement)))

    return Graph(build, inputs=2)


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


def _decoder_device(placement: Placement) -> str:
    return "mixed" if placement.decode_on_gpu else "cpu"


def _delivered(placement: Placement, images: Any) -> Any:
    moves = placement.device.type == "cuda" and not placement.decode_on_gpu
    return images.gpu() if moves else images


def _resized(images: Any, shape: Any) -> Any:
    from nvidia.dali import fn, types

    # As PIL's bilinear filter, except that the outermost pixels of the result see the image's edge repeated.
    return fn.resize(images, size=shape, interp_type=types.INTERP_LINEAR, antialias=True)


def _normalised(images: Any, mirror: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    from nvidia.dali import fn, types

    return fn.crop_mirror_normalize(
        images,
        mirror=mirror,
        mean=[255 * value for value in mean],
        std=[255 * value for value in std],
        dtype=types.FLOAT,
        output_layout="CHW",
    )
