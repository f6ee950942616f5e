"""Images held in memory: each batch is what slicing the padded images by hand would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dali_pipelines.augmentation import Augmentation, draws_at, flips, pad_offsets
from dali_pipelines.errors import DataError
from dali_pipelines.image_arrays import labelled_images
from dali_pipelines.pipeline import Dataset, InputPipeline, open_dataset, open_pipeline
from dali_pipelines.sample_order import Shard, sample_ids

pytestmark = pytest.mark.unit

SIDE, TRAIN, VALIDATION = 6, 50, 23
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = np.random.default_rng(0)

    def part(n: int):
        images = generator.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
        return labelled_images(images, generator.integers(0, 3, n), ("a", "b", "c"))

    return Dataset(part(TRAIN), part(VALIDATION), in_memory=True)


def stream(dataset: Dataset, crop: str = "pad", **changes: object) -> InputPipeline:
    options = {"seed": 5, "image_size": SIDE, "augmentation": Augmentation(crop=crop, padding=2), "mean": MEAN}
    options |= {"std": STD, "max_micro_batch": 32, "device": torch.device("cpu")}
    return open_pipeline(dataset, **options | changes)


def fleet(pipeline: InputPipeline, world_size: int, micro_batch: int, steps: int, start: int, end: int):
    """(images, labels) by position, from all workers."""
    by_position = {}
    for rank in range(world_size):
        batches = list(pipeline.batches(Shard(rank, world_size, micro_batch, steps, start, end)))
        for number, (images, labels) in enumerate(batches):
            update, step = divmod(number, steps)
            first = start + (update * steps + step) * world_size * micro_batch + rank * micro_batch
            by_position |= {first + place: (images[place], labels[place]) for place in range(micro_batch)}
    positions = sorted(by_position)
    assert positions == list(range(start, end))
    images, labels = zip(*(by_position[position] for position in positions), strict=True)
    return torch.stack(images), torch.stack(labels)


def test_a_batch_is_the_padded_image_cut_flipped_and_normalised(dataset):
    images, labels = next(iter(stream(dataset).batches(Shard(0, 1, 32, 1, 40, 72))))
    positions = np.arange(40, 72)  # across the border of two epochs of 50
    ids = sample_ids(5, TRAIN, positions)
    draws = draws_at(5, TRAIN, positions)
    corners, mirrored = pad_offsets(draws, 2), flips(draws)
    assert mirrored.any()
    assert not mirrored.all()
    for place, sample in enumerate(ids):
        padded = np.zeros((SIDE + 4, SIDE + 4, 3))
        padded[2:-2, 2:-2] = dataset.train.images[sample]
        top, left = corners[place]
        window = padded[top : top + SIDE, left : left + SIDE]
        window = window[:, ::-1] if mirrored[place] else window
        expected = ((window / 255 - MEAN) / STD).transpose(2, 0, 1)
        assert np.abs(images[place].numpy() - expected).max() < 1e-5  # float32 of numbers up to 5
        assert labels[place] == dataset.train.labels[sample]
    assert (images.shape, images.dtype, labels.dtype) == ((32, 3, SIDE, SIDE), torch.float32, torch.int64)
    assert images.is_contiguous()


@pytest.mark.parametrize(("world_size", "micro_batch", "steps"), [(2, 15, 1), (1, 10, 3), (3, 5, 2), (5, 2, 3)])
def test_every_fleet_sees_the_same_pixels(dataset, world_size, micro_batch, steps):
    pipeline = stream(dataset)
    expected = fleet(pipeline, 1, 30, 1, 0, 120)
    for one, other in zip(fleet(pipeline, world_size, micro_batch, steps, 0, 120), expected, strict=True):
        assert torch.equal(one, other)


def test_without_crop_and_flip_the_images_come_as_they_are(dataset):
    augmentation = Augmentation(crop="none", flip=False)
    images, labels = fleet(stream(dataset, augmentation=augmentation), 1, 10, 1, 0, TRAIN)
    ids = sample_ids(5, TRAIN, np.arange(TRAIN))
    expected = ((dataset.train.images[ids] / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert np.abs(images.numpy() - expected).max() < 1e-5
    assert labels.tolist() == dataset.train.labels[ids].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 40])
def test_evaluation_sees_each_image_once_and_unchanged(dataset, world_size):
    pipeline = stream(dataset)
    batches = [batch for rank in range(world_size) for batch in pipeline.evaluation_batches(rank, world_size, 4)]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = ((dataset.validation.images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert np.abs(images.numpy() - expected).max() < 1e-5
    assert labels.tolist() == dataset.validation.labels.tolist()


def test_both_layouts_hold_the_same_values(dataset):
    plain, other = (stream(dataset, memory_format=form) for form in (torch.contiguous_format, torch.channels_last))
    pairs = [
        *zip(plain.batches(Shard(0, 1, 10, 1, 0, 60)), other.batches(Shard(0, 1, 10, 1, 0, 60)), strict=True),
        *zip(plain.evaluation_batches(0, 1, 8), other.evaluation_batches(0, 1, 8), strict=True),
    ]
    for (images, labels), (others, same_labels) in pairs:
        assert torch.equal(images, others)
        assert torch.equal(labels, same_labels)
        assert images.is_contiguous()
        assert others.is_contiguous(memory_format=torch.channels_last)


def test_batches_stay_as_they_are_while_later_ones_are_made(dataset):
    pipeline = stream(dataset)
    kept = [(images[2:], images[2:].clone()) for images, _ in pipeline.batches(Shard(0, 1, 8, 1, 0, 160))]
    assert all(torch.equal(images, copy) for images, copy in kept)


def test_a_batch_belongs_to_its_reader(dataset):
    pipeline = stream(dataset)
    before = [images.clone() for images, _ in pipeline.evaluation_batches(0, 1, 8)]
    for images, labels in pipeline.evaluation_batches(0, 1, 8):
        images.zero_()
        labels += 100
    for images, _ in pipeline.batches(Shard(0, 1, 8, 1, 0, 16)):
        images.zero_()
    assert all(
        torch.equal(one, other) for one, (other, _) in zip(before, pipeline.evaluation_batches(0, 1, 8), strict=True)
    )
    assert max(labels.max() for _, labels in pipeline.evaluation_batches(0, 1, 8)) < 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 32}, "image_size is 32, and the images are 6 x 6 pixels.*set image_size to 6"),
        ({"crop": "random_resized"}, "choose crop 'pad' or 'none', or do not hold them in memory"),
        ({"decoder": "gpu"}, "decoder 'gpu' needs a GPU, and this worker runs on cpu"),
        ({"decoder": "fpga"}, "decoder 'fpga' is unknown"),
    ],
)
def test_what_does_not_fit_images_in_memory_is_refused(dataset, changes, message):
    with pytest.raises(DataError, match=message):
        stream(dataset, **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist", "x"), "data format 'mnist' is unknown: choose one of digits, folder, cifar10"),
        (("folder",), "data format 'folder' needs a path"),
        (("folder", "/nowhere/at/all"), "/nowhere/at/all: there is no such folder"),
        (("cifar10", "/nowhere/at/all"), "/nowhere/at/all: there is no such folder"),
    ],
)
def test_a_data_set_that_is_not_there_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        open_dataset(*arguments)
