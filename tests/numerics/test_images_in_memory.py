"""Small images held in memory: the pixels of their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.cifar10 import CLASS_NAMES
from dali_pipelines.errors import DataError
from dali_pipelines.pipeline import open_dataset
from dali_pipelines.sample_order import Shard
from tests.photo_streams import grey_levels, stream, unpacked

pytestmark = pytest.mark.numerics


def test_a_folder_held_in_memory_shows_the_pixels_of_its_files(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 5)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number:02}.png")
    dataset = open_dataset("folder", tmp_path, in_memory=True)
    pipeline = stream(dataset, image_size=12, augmentation=Augmentation(crop="none", flip=False))
    images = torch.cat([images for images, _ in pipeline.evaluation_batches(0, 1, 4)])
    expected = [np.asarray(Image.open(dataset.validation.path(sample))) for sample in range(10)]
    assert np.abs(grey_levels(images) - np.stack(expected)).max() < 1e-3  # float32
    with pytest.raises(DataError, match="the images are 12 x 12 pixels"):
        stream(dataset, augmentation=Augmentation(crop="pad"))


def test_images_of_several_sizes_cannot_be_held_in_memory(photos):
    with pytest.raises(DataError, match="only images of one size can be held in memory"):
        stream(open_dataset("folder", photos, in_memory=True), augmentation=Augmentation(crop="pad"))


def test_cifar10_as_a_folder_of_images_is_held_in_memory(tmp_path):
    unpacked("cifar10-jpeg.tar.gz", lambda name: name.endswith(("/0000.jpg", "/0001.jpg")), tmp_path)
    dataset = open_dataset("cifar10", tmp_path / "cifar10-images")
    assert (dataset.train_size, dataset.validation_size, dataset.class_names) == (20, 20, CLASS_NAMES)
    pipeline = stream(dataset, image_size=32, augmentation=Augmentation(crop="pad"))
    images, _ = next(iter(pipeline.batches(Shard(0, 1, 20, 1, 0, 20))))
    assert images.shape == (20, 3, 32, 32)
