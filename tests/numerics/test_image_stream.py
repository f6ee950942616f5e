"""The stream of photos through DALI: the same pixels for every fleet, every sample once."""

from __future__ import annotations

import shutil
import time
import weakref

import numpy as np
import pytest
import torch

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.errors import DataError
from dali_pipelines.pipeline import open_dataset
from dali_pipelines.sample_order import Shard, sample_ids
from tests.photo_streams import SEED, by_position, collected, stream

pytestmark = pytest.mark.numerics


def test_every_sample_comes_once_an_epoch_across_a_change_of_batch(photos):
    pipeline = stream(photos)
    n = pipeline.train_size
    assert n == 80
    labels = {position: label for position, _, label in by_position(pipeline, 2, 8, 1, 0, 64)}
    labels |= {position: label for position, _, label in by_position(pipeline, 3, 8, 2, 64, 160)}
    index = open_dataset("folder", photos).train
    assert [labels[position] for position in range(160)] == index.labels[sample_ids(SEED, n, np.arange(160))].tolist()
    for epoch in (0, 1):
        assert np.bincount([labels[position] for position in range(epoch * n, epoch * n + n)]).tolist() == [40, 40]


@pytest.mark.parametrize(("world_size", "micro_batch", "steps"), [(1, 48, 1), (4, 3, 4), (3, 16, 1)])
def test_every_fleet_sees_the_same_pixels(photos, world_size, micro_batch, steps):
    pipeline = stream(photos)
    expected, expected_labels = collected(pipeline, 2, 12, 2, 50, 146)
    images, labels = collected(pipeline, world_size, micro_batch, steps, 50, 146)
    assert torch.equal(images, expected)
    assert labels == expected_labels


def test_real_photos_are_the_same_for_every_fleet(clothing):
    pipeline = stream(clothing)
    expected, _ = collected(pipeline, 2, 30, 1, 0, 240)
    images, _ = collected(pipeline, 4, 15, 1, 0, 240)
    assert torch.equal(images, expected)


def test_a_run_resumed_in_mid_epoch_on_another_fleet_gets_exactly_the_rest(photos):
    whole, whole_labels = collected(stream(photos), 1, 40, 1, 0, 120)
    pipeline = stream(photos)
    abandoned = pipeline.batches(Shard(0, 2, 20, 1, 0, 120))
    next(abandoned)  # the run dies here; what it had decoded ahead must not show up later
    rest, rest_labels = collected(stream(photos), 4, 10, 2, 40, 120)
    again, _ = collected(pipeline, 4, 10, 2, 40, 120)
    assert torch.equal(rest, whole[40:])
    assert torch.equal(again, whole[40:])
    assert rest_labels == whole_labels[40:]


def test_a_new_stream_ends_the_old_one(photos):
    pipeline = stream(photos)
    old = pipeline.batches(Shard(0, 1, 8, 1, 0, 80))
    next(old)
    new = pipeline.batches(Shard(0, 1, 8, 1, 0, 16))
    with pytest.raises(AssertionError, match="this stream is over"):
        next(old)
    assert len(list(new)) == 2


def test_a_stream_cannot_be_read_on_after_its_pipeline_was_closed(photos):
    pipeline = stream(photos)
    batches = pipeline.batches(Shard(0, 1, 8, 1, 0, 80))
    next(batches)
    pipeline.close()
    pipeline.close()
    with pytest.raises(AssertionError, match="this stream is over"):
        next(batches)


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (4, 3)])
def test_threads_and_prefetching_do_not_change_a_pixel(photos, threads, prefetch):
    expected, _ = collected(stream(photos), 1, 20, 1, 0, 160)
    images, _ = collected(stream(photos, threads=threads, prefetch=prefetch), 1, 20, 1, 0, 160)
    assert torch.equal(images, expected)


@pytest.mark.parametrize("crop", ["random_resized", "none"])
def test_both_layouts_hold_the_same_values(photos, crop):
    augmentation = Augmentation(crop=crop)
    formats = torch.contiguous_format, torch.channels_last
    plain, other = (stream(photos, memory_format=form, augmentation=augmentation) for form in formats)
    pairs = [
        *zip(plain.batches(Shard(0, 1, 20, 1, 0, 80)), other.batches(Shard(0, 1, 20, 1, 0, 80)), strict=True),
        *zip(plain.evaluation_batches(0, 1, 8), other.evaluation_batches(0, 1, 8), strict=True),
    ]
    for (images, _), (others, _) in pairs:
        assert torch.equal(images, others)
        assert images.is_contiguous()
        assert others.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_between_two_batches_does_not_disturb_training(photos):
    pipeline = stream(photos)
    training = pipeline.batches(Shard(0, 1, 20, 1, 0, 80))
    images = [next(training)[0]]
    assert sum(len(labels) for _, labels in pipeline.evaluation_batches(0, 1, 10)) == 22
    images += [batch for batch, _ in training]
    assert torch.equal(torch.cat(images), collected(stream(photos), 1, 20, 1, 0, 80)[0])


def test_dali_does_not_write_to_what_it_delivered_while_somebody_holds_it(photos):
    pipeline = stream(photos, prefetch=3)
    positions = (np.arange(start, start + 16) for start in range(0, 480, 16))
    kept = [
        (image, image.copy()) for _, images in pipeline._train_queue.start(positions) for image in images
    ]  # each copied while the next micro-batches are decoded
    assert len({image.ctypes.data for image, _ in kept}) == 480
    assert all(np.array_equal(image, copy) for image, copy in kept)


def test_decoded_images_go_as_soon_as_a_batch_is_made_of_them(photos, monkeypatch):
    pipeline, decoded = stream(photos), []
    resize = pipeline._resizer

    def resized(images, columns):
        decoded.extend(map(weakref.ref, images))
        return resize(images, columns)

    monkeypatch.setattr(pipeline, "_resizer", resized)
    for number, _ in enumerate(pipeline.batches(Shard(0, 1, 8, 1, 0, 24)), 1):
        assert len(decoded) == 8 * number
        assert not any(image() is not None for image in decoded)
    monkeypatch.undo()


def test_images_stay_as_they_are_while_later_ones_are_decoded(photos):
    pipeline = stream(photos)
    # Every third batch alone: the memory of the others is used again.
    batches = enumerate(pipeline.batches(Shard(0, 1, 16, 1, 0, 320)))
    kept = [(images, images.clone()) for number, (images, _) in batches if number % 3 == 0]
    list(pipeline.batches(Shard(0, 1, 16, 1, 0, 160)))
    pipeline.close()
    assert all(torch.equal(images, copy) for images, copy in kept)


def test_decoding_starts_at_the_call_and_not_with_the_first_reading(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    pipeline = stream(root, prefetch=2)
    list(pipeline.batches(Shard(0, 1, 16, 1, 0, 16)))  # the first call builds the graph
    batches = pipeline.batches(Shard(0, 1, 16, 1, 16, 48))
    time.sleep(2)  # two micro-batches of 16 take some 20 ms
    shutil.rmtree(root)
    assert len(list(batches)) == 2


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 30])
def test_evaluation_sees_each_image_once_whatever_the_fleet(photos, world_size):
    dataset = open_dataset("folder", photos)
    pipeline = stream(dataset)
    one = torch.cat([images for images, _ in pipeline.evaluation_batches(0, 1, 64)])
    shares = [list(pipeline.evaluation_batches(rank, world_size, 4)) for rank in range(world_size)]
    assert sum(len(labels) for share in shares for _, labels in share) == 22
    assert torch.equal(torch.cat([images for share in shares for images, _ in share]), one)
    assert torch.cat([labels for share in shares for _, labels in share]).tolist() == dataset.validation.labels.tolist()


def test_a_micro_batch_larger_than_announced_is_a_programmers_error(photos):
    with pytest.raises(AssertionError, match="at most 64"):
        stream(photos).batches(Shard(0, 1, 65, 1, 0, 65))


def test_padding_photos_is_refused(photos):
    with pytest.raises(DataError, match="crop 'pad' works on images of one size held in memory"):
        stream(photos, augmentation=Augmentation(crop="pad"))
