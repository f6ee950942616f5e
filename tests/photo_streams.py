"""Real images, and how tests read them through a pipeline."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.pipeline import Dataset, InputPipeline, open_dataset, open_pipeline
from dali_pipelines.sample_order import Shard

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SEED, SIDE = 11, 96
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def unpacked(archive: str, wanted: Callable[[str], bool], folder: Path) -> Path:
    """The wanted files of an archive of the shared data; skips the test where the archive is not there."""
    path = SHARED / archive
    if not path.is_file():
        pytest.skip(f"needs {archive} in {SHARED}, which is not on this machine")
    with tarfile.open(path) as tar:
        tar.extractall(folder, [member for member in tar if wanted(member.name)], filter="data")
    return folder


def stream(root: Path | Dataset, **changes: object) -> InputPipeline:
    options = {"seed": SEED, "image_size": SIDE, "augmentation": Augmentation(), "mean": MEAN, "std": STD}
    options |= {"max_micro_batch": 64, "device": torch.device("cpu"), "threads": 2}
    dataset = root if isinstance(root, Dataset) else open_dataset("folder", root)
    return open_pipeline(dataset, **options | changes)


def by_position(
    pipeline: InputPipeline, world_size: int, micro_batch: int, steps: int, start: int, end: int
) -> Iterator[tuple[int, torch.Tensor, int]]:
    """(position, image, label) of all that a fleet reads, worker after worker."""
    for rank in range(world_size):
        batches = list(pipeline.batches(Shard(rank, world_size, micro_batch, steps, start, end)))
        for number, (images, labels) in enumerate(batches):
            assert (images.dtype, images.shape) == (torch.float32, (micro_batch, 3, SIDE, SIDE))
            first = start + number * world_size * micro_batch + rank * micro_batch
            yield from zip(range(first, first + micro_batch), images, labels.tolist(), strict=True)


def collected(*arguments: object) -> tuple[torch.Tensor, list[int]]:
    """Images and labels in the order of their positions."""
    _, images, labels = zip(*sorted(by_position(*arguments), key=lambda item: item[0]), strict=True)
    return torch.stack(images), list(labels)


def grey_levels(images: torch.Tensor) -> np.ndarray:
    """Normalisation undone: (n, H, W, 3) in 0 to 255."""
    values = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return (255 * values).permute(0, 2, 3, 1).numpy()
