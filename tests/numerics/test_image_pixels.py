"""What DALI shows of an image: the same as PIL within a stated tolerance, whatever kind of file it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali.data_node import DataNode
from PIL import Image, ImageOps

from dali_pipelines.augmentation import Augmentation, crop_windows, draws_at, flips
from dali_pipelines.decoding_queue import DecodingQueue
from dali_pipelines.graphs import Placement, centre_graph, training_graph
from dali_pipelines.pipeline import open_dataset
from dali_pipelines.sample_order import Shard, sample_ids
from tests.photo_streams import SEED, SIDE, collected, grey_levels, stream, unpacked

pytestmark = pytest.mark.numerics


def test_pixels_agree_with_pil_on_the_same_window(photos):
    pipeline, index = stream(photos), open_dataset("folder", photos).train
    images, _ = collected(pipeline, 1, 40, 1, 0, 80)
    draws = draws_at(SEED, 80, np.arange(80))
    corners, shapes = crop_windows(draws, index.sizes[draws.ids], Augmentation())
    mirrored = flips(draws)
    levels = grey_levels(images)
    for place, sample in enumerate(draws.ids):
        (top, left), (height, width) = corners[place].tolist(), shapes[place].tolist()
        window = Image.open(index.path(int(sample))).crop((left, top, left + width, top + height))
        expected = window.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        expected = ImageOps.mirror(expected) if mirrored[place] else expected
        assert_same_picture(levels[place], expected)


def assert_same_picture(levels: np.ndarray, expected: Image.Image) -> None:
    # Both round to whole levels after each of two passes, with weights of other precision: they differ by one level at
    # most. Of two roundings a quarter of a level each is to be expected on average.
    difference = np.abs(levels - np.asarray(expected.convert("RGB"), dtype=np.float64))
    assert difference.max() <= 1.001
    assert difference.mean() < 0.5


def shown_by_torchvision(file: Path) -> Image.Image:
    """Resize(110) and CenterCrop(96) with PIL, as torchvision computes them; 110 is 96 * 256 / 224 = 109.7, rounded."""
    image = ImageOps.exif_transpose(Image.open(file))
    short = min(image.size)
    image = image.convert("RGB").resize([110 * side // short for side in image.size], Image.Resampling.BILINEAR)
    left, top = (round((side - SIDE) / 2) for side in image.size)
    return image.crop((left, top, left + SIDE, top + SIDE))


@pytest.mark.parametrize("part", ["training without crop", "evaluation"])
def test_centre_crops_agree_with_the_torchvision_recipe(photos, part):
    dataset = open_dataset("folder", photos)
    pipeline = stream(dataset, augmentation=Augmentation(crop="none", flip=False))
    if part == "evaluation":
        index, ids = dataset.validation, np.arange(22)
        images = torch.cat([images for images, _ in pipeline.evaluation_batches(0, 1, 10)])
    else:
        index, ids = dataset.train, sample_ids(SEED, 80, np.arange(80))
        images, _ = collected(pipeline, 1, 40, 1, 0, 80)
    for levels, sample in zip(grey_levels(images), ids, strict=True):
        assert_same_picture(levels, shown_by_torchvision(index.path(int(sample))))


def test_flips_mirror_left_and_right(photos):
    plain, _ = collected(stream(photos, augmentation=Augmentation(crop="none", flip=False)), 1, 40, 1, 0, 80)
    mirrored, _ = collected(stream(photos, augmentation=Augmentation(crop="none", flip=True)), 1, 40, 1, 0, 80)
    chosen = flips(draws_at(SEED, 80, np.arange(80)))
    assert 20 < chosen.sum() < 60
    for one, other, flipped in zip(plain, mirrored, chosen, strict=True):
        assert torch.equal(one.flip(2) if flipped else one, other)


@pytest.mark.parametrize("crop", ["random_resized", "none"])
def test_what_a_gpu_is_asked_to_show_is_what_the_cpu_shows(photos, crop, monkeypatch):
    monkeypatch.setattr(DataNode, "gpu", lambda node: node)  # the GPU's graph, and nothing on one
    pipeline = stream(photos, augmentation=Augmentation(crop=crop))
    make = training_graph if crop == "random_resized" else centre_graph
    graph = make(Placement(torch.device("cuda", 0), decode_on_gpu=False), SIDE, (1, 1))
    here = Placement(torch.device("cpu"), decode_on_gpu=False)
    queue = DecodingQueue(graph, here, max_batch=40, threads=1, prefetch=1)
    ((_, shown),) = queue.start(iter([pipeline._training_request(np.arange(40), {})]))
    ((expected, _),) = pipeline.batches(Shard(0, 1, 40, 1, 0, 40))
    difference = np.abs(shown.numpy() - grey_levels(expected))
    # DALI's filter repeats the image's edge where PIL's ends with it, and rounds once where PIL rounds twice.
    assert difference.mean(axis=(1, 2, 3)).max() < 0.5
    assert difference[:, 1:-1, 1:-1].max() < 2


def one_by_one(tmp_path: Path, files: list[Path]) -> np.ndarray:
    """Grey levels of each file as evaluation shows it, decoded beside two ordinary images that make it a data set."""
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (50, 50)).save(tmp_path / part / name / "filler.jpg")
    for number, file in enumerate(files):
        shutil.copy(file, tmp_path / "val" / "a" / f"{number:03}{file.suffix}")
    images = torch.cat([images for images, _ in stream(tmp_path).evaluation_batches(0, 1, 8)])
    return grey_levels(images[: len(files)])


@pytest.mark.parametrize("kind", ["L", "CMYK", "P", "RGBA", "LA", "I;16", "1"])
def test_images_of_every_mode_become_three_channels(kind, photos, tmp_path):
    photo = Image.open(next(photos.glob("train/flower/*.jpg")))
    file = tmp_path / ("image.jpg" if kind == "CMYK" else "image.png")
    if kind == "I;16":
        Image.fromarray(np.asarray(photo.convert("L"), dtype=np.uint16) * 257).save(file)
        photo.convert("L").save(tmp_path / "expected.png")
    else:
        photo.convert(kind).save(file)
        photo.convert(kind).convert("RGB").save(tmp_path / "expected.png")
    (levels,) = one_by_one(tmp_path / "set", [file])
    # CMYK is a JPEG of its own quality, converted with or without a colour profile; the rest differ by rounding.
    assert np.abs(levels - shown_by_torchvision(tmp_path / "expected.png")).mean() < (8 if kind == "CMYK" else 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["jpg", "png", "webp", "tif"])
def test_the_index_and_the_decoder_agree_on_orientations(orientation, name, photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for part in ("train", "val"):
        for number, label in enumerate("ab"):
            (tmp_path / part / label).mkdir(parents=True)
            photo = Image.open(sorted(photos.glob("train/china/*.jpg"))[number])
            photo.resize((200, 100)).save(tmp_path / part / label / f"1.{name}", exif=exif)
    dataset = open_dataset("folder", tmp_path)
    assert dataset.mean_size == ((200, 100) if orientation >= 5 else (100, 200))
    # Windows as large as the image: one pixel too many and the decoder would refuse.
    whole = Augmentation(min_area=1.0, min_ratio=0.5, max_ratio=2.0, flip=False)
    images, _ = collected(stream(dataset, augmentation=whole), 1, 2, 1, 0, 20)
    draws = draws_at(SEED, 2, np.arange(20))
    corners, shapes = crop_windows(draws, dataset.train.sizes[draws.ids], whole)
    for levels, sample, (top, left), (height, width) in zip(
        grey_levels(images), draws.ids, corners.tolist(), shapes.tolist(), strict=True
    ):
        upright = ImageOps.exif_transpose(Image.open(dataset.train.path(int(sample)))).convert("RGB")
        window = upright.crop((left, top, left + width, top + height))
        assert np.abs(levels - np.asarray(window.resize((SIDE, SIDE), Image.Resampling.BILINEAR))).mean() < 1


def test_real_files_of_all_kinds_are_shown_as_pil_shows_them(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    kinds = ("/orientation/", "/png/", "/webp/lossless/", "/webp/lossy/", "/jpeg/113/", "/jpeg/704/")
    unpacked("dali-jpeg.tar", lambda name: any(kind in name for kind in kinds), root)
    files = [file for file in sorted(root.rglob("*")) if file.suffix in (".jpg", ".png", ".webp")]
    assert len(files) > 40
    for file, levels in zip(files, one_by_one(root / "set", files), strict=True):
        # One level for resizing and one for the decoders' own arithmetic (chroma of WebP and JPEG).
        assert np.abs(levels - shown_by_torchvision(file)).mean() < 2, file
