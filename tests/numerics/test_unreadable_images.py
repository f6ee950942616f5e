"""Images that cannot be read, and a stream that goes on without them: the same for every fleet and restart."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.errors import DataError
from dali_pipelines.pipeline import open_dataset
from dali_pipelines.sample_order import Shard, sample_ids
from dali_pipelines.unreadable import UNREADABLE
from tests.photo_streams import SEED, collected, stream

pytestmark = pytest.mark.numerics

N, END = 80, 240  # photos, and the positions of three epochs
FIRST, SECOND, LAST = 12, 13, 79  # two neighbours, and the one whose next is the first of all
IDS = sample_ids(SEED, N, np.arange(END))


def file_of(root: Path, sample: int) -> Path:
    return root / "train" / ("china", "flower")[sample // 40] / f"{sample % 40:03}.jpg"


def put_copy(source: Path, target: Path) -> None:
    target.unlink()  # a new file changes its folder, by which an index notices
    shutil.copy(source, target)


@pytest.fixture(scope="module")
def healthy(photos) -> tuple[torch.Tensor, list[int]]:
    return collected(stream(photos), 1, 48, 1, 0, END)


@pytest.fixture(scope="module")
def copies(photos, tmp_path_factory) -> tuple[torch.Tensor, list[int]]:
    """The stream of the same photos where copies of the next readable ones lie in the places of the unreadable."""
    root = shutil.copytree(photos, tmp_path_factory.mktemp("copies") / "photos")
    for sample, shown in ((FIRST, 14), (SECOND, 14), (LAST, 0)):
        put_copy(file_of(photos, shown), file_of(root, sample))
    return collected(stream(root), 1, 48, 1, 0, END)


@pytest.fixture
def spoilt(photos, tmp_path):
    """A data set of which three files cannot be read any more."""
    root = shutil.copytree(photos, tmp_path / "photos")
    dataset = open_dataset("folder", root)
    file_of(root, FIRST).unlink()
    file_of(root, SECOND).write_text("no image any more")
    file_of(root, LAST).unlink()
    return dataset


def test_a_stream_shows_the_next_readable_image_cut_as_was_drawn_for_the_missing_one(spoilt, healthy, copies):
    pipeline = stream(spoilt, max_unreadable=3)
    images, labels = collected(pipeline, 1, 48, 1, 0, END)
    assert torch.equal(images, copies[0])
    missing = np.isin(IDS, (FIRST, SECOND, LAST))
    assert missing.sum() == 9  # three files in three epochs
    assert torch.equal(images[~missing], healthy[0][~missing])
    # The label is that of the image which is seen: 14 is of the first class as its stand-ins are, and so is 0.
    assert labels == np.where(IDS == LAST, 0, healthy[1]).tolist()
    assert healthy[1][int(np.flatnonzero(IDS == LAST)[0])] == 1
    assert {Path(path).name: fault for path, fault in pipeline.unreadable.faults.items()} == {
        "012.jpg": "No such file or directory",
        "013.jpg": "it holds no image of a known format, or a broken one",
        "039.jpg": "No such file or directory",
    }


@pytest.mark.parametrize(("world_size", "micro_batch", "steps"), [(2, 24, 1), (4, 12, 1), (4, 3, 4), (3, 16, 1)])
def test_every_fleet_sees_the_same_stand_ins(spoilt, copies, world_size, micro_batch, steps):
    images, _ = collected(stream(spoilt, max_unreadable=3), world_size, micro_batch, steps, 0, END)
    assert torch.equal(images, copies[0])


@pytest.mark.parametrize("prefetch", [1, 4])
def test_batches_in_flight_are_neither_lost_nor_doubled(spoilt, copies, prefetch):
    images, _ = collected(stream(spoilt, max_unreadable=3, prefetch=prefetch), 1, 5, 1, 0, END)
    assert torch.equal(images, copies[0])


def test_what_a_worker_met_before_changes_nothing(spoilt, copies):
    pipeline = stream(spoilt, max_unreadable=3)
    for start in (0, 96, 0):
        images, _ = collected(pipeline, 2, 24, 1, start, END)
        assert torch.equal(images, copies[0][start:])
    rest, _ = collected(stream(spoilt, max_unreadable=3), 1, 36, 1, 96, END)  # as after a restart
    assert torch.equal(rest, copies[0][96:])


def test_a_file_cut_short_is_shown_where_its_window_can_be_read_whatever_it_is_batched_with(photos, tmp_path):
    victim, shown = 25, 26
    cut, copied = (shutil.copytree(photos, tmp_path / name) for name in ("cut", "copied"))
    dataset = open_dataset("folder", cut)
    file = file_of(cut, victim)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 4 // 5])
    put_copy(file_of(photos, shown), file_of(copied, victim))
    file_of(cut, LAST).unlink()  # fails in batches in which the window of the other can be read
    put_copy(file_of(photos, 0), file_of(copied, LAST))
    end = 6 * N
    whole, _ = collected(stream(photos), 1, 48, 1, 0, end)
    others, _ = collected(stream(copied), 1, 48, 1, 0, end)
    images, _ = collected(stream(dataset, max_unreadable=2), 1, 48, 1, 0, end)
    places = np.flatnonzero(sample_ids(SEED, N, np.arange(end)) == victim).tolist()
    is_whole = [torch.equal(images[place], whole[place]) for place in places]
    is_other = [torch.equal(images[place], others[place]) for place in places]
    assert is_whole == [not other for other in is_other]
    assert any(is_whole)
    assert any(is_other)
    for world_size, micro_batch in ((2, 12), (1, 3)):
        again, _ = collected(stream(dataset, max_unreadable=2), world_size, micro_batch, 1, 0, end)
        assert torch.equal(again, images)


def test_a_file_that_disappears_in_mid_run_is_missed_from_then_on(photos, tmp_path, healthy, copies):
    root = shutil.copytree(photos, tmp_path / "photos")
    batches = stream(root, max_unreadable=1).batches(Shard(0, 1, 8, 1, 0, END))
    place, next_place = np.flatnonzero(IDS == LAST)[1:]
    assert next_place > place + 64  # behind what is read ahead
    seen = [next(batches)[0] for _ in range(place // 8 + 1)]
    file_of(root, LAST).unlink()
    seen += [images for images, _ in batches]
    expected = torch.where(
        torch.from_numpy((IDS == LAST) & (np.arange(END) > place))[:, None, None, None], copies[0], healthy[0]
    )
    assert torch.equal(torch.cat(seen), expected)


def test_one_file_too_many_stops_the_stream_and_names_them(spoilt):
    pipeline = stream(spoilt, max_unreadable=2)
    with pytest.raises(DataError, match=r"data\.max_unreadable allows 2: repair or remove the files") as error:
        collected(pipeline, 1, 16, 1, 0, END)
    assert all(str(spoilt.train.path(sample)) in str(error.value) for sample in (FIRST, SECOND, LAST))


def test_where_no_image_is_left_the_stream_stops_and_names_ten(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    pipeline = stream(root, max_unreadable=1000)
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match=r"and 70 more, and data\.max_unreadable allows 1000") as error:
        next(pipeline.batches(Shard(0, 1, 4, 1, 0, 4)))
    assert str(error.value).count(".jpg") == 10


@pytest.mark.parametrize("at_most", [0, 5])
def test_images_that_fail_only_together_stop_the_stream(photos, tmp_path, at_most):
    root = shutil.copytree(photos, tmp_path / "photos")
    pipeline = stream(root, max_unreadable=at_most)
    list(pipeline.batches(Shard(0, 1, 8, 1, 0, 8)))  # the first call builds the graph
    hidden = root / "train.away"
    (root / "train").rename(hidden)
    batches = pipeline.batches(Shard(0, 1, 8, 1, 8, 80))
    time.sleep(1)  # two micro-batches of 8 fail within milliseconds
    hidden.rename(root / "train")
    with pytest.raises(DataError, match="decoding them together failed"):
        next(batches)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 64), (1, 4), (3, 4)])
def test_an_unreadable_validation_image_keeps_its_place_and_has_no_right_answer(
    photos, tmp_path, world_size, micro_batch
):
    whole, labels = zip(*stream(photos).evaluation_batches(0, 1, 64), strict=True)
    root = shutil.copytree(photos, tmp_path / "photos")
    pipeline = stream(root, max_unreadable=1)
    (root / "val" / "china" / "004.jpg").unlink()
    shares = [
        batch for rank in range(world_size) for batch in pipeline.evaluation_batches(rank, world_size, micro_batch)
    ]
    expected = torch.cat(labels)
    expected[4] = UNREADABLE
    assert torch.equal(torch.cat([labels for _, labels in shares]), expected)
    others = expected != UNREADABLE
    assert torch.equal(torch.cat([images for images, _ in shares])[others], torch.cat(whole)[others])


def small_images(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 5)):
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:02}.png")
    return root


def test_images_held_in_memory_have_the_same_stand_ins(tmp_path):
    root = small_images(tmp_path / "images")
    copied = shutil.copytree(root, tmp_path / "copied")
    put_copy(root / "train" / "a" / "04.png", copied / "train" / "a" / "03.png")
    dataset = open_dataset("folder", root, in_memory=True)
    (root / "train" / "a" / "03.png").unlink()
    Image.new("RGB", (10, 10)).save(root / "val" / "b" / "01.png")
    options = {"image_size": 12, "augmentation": Augmentation(crop="pad", padding=2)}
    with pytest.raises(DataError, match=r"a/03\.png \(No such file or directory\)"):
        stream(dataset, **options)
    with pytest.raises(DataError, match=r"b/01\.png \(it has 10 x 10 pixels, and had 12 x 12 when it was indexed\)"):
        stream(dataset, **options, max_unreadable=1)
    pipeline = stream(dataset, **options, max_unreadable=2)
    expected = stream(open_dataset("folder", copied, in_memory=True), **options)
    shard = Shard(0, 1, 24, 1, 0, 72)
    for (images, labels), (others, other_labels) in zip(pipeline.batches(shard), expected.batches(shard), strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
    labels = torch.cat([labels for _, labels in pipeline.evaluation_batches(0, 1, 4)])
    assert labels.tolist() == [0, 0, 0, 0, 0, 1, UNREADABLE, 1, 1, 1]
    assert len(pipeline.unreadable.faults) == 2


def test_a_stand_in_of_another_class_brings_its_own_label_into_memory(tmp_path):
    root = small_images(tmp_path / "images")
    dataset = open_dataset("folder", root, in_memory=True)
    (root / "train" / "a" / "11.png").unlink()
    pipeline = stream(dataset, image_size=12, augmentation=Augmentation(crop="pad"), max_unreadable=1)
    ((_, labels),) = pipeline.batches(Shard(0, 1, 24, 1, 0, 24))
    assert labels.tolist() == [int(sample >= 11) for sample in sample_ids(SEED, 24, np.arange(24))]
