"""The stream of photos through DALI: the same for every fleet, and the same as PIL within a stated tolerance."""

from __future__ import annotations

import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from dali_pipelines.augmentation import Augmentation, crop_windows, draws_at, flips
from dali_pipelines.cifar10 import CLASS_NAMES
from dali_pipelines.errors import DataError
from dali_pipelines.pipeline import Dataset, InputPipeline, open_dataset, open_pipeline
from dali_pipelines.sample_order import Shard, sample_ids

pytestmark = pytest.mark.numerics

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
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


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Two classes of real JPEGs of many sizes: parts of the two photos that scikit-learn brings along."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for part, count in (("train", 40), ("val", 11)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(90, 400, 2)
                top, left = generator.integers(0, 427 - height), generator.integers(0, 640 - width)
                crop = Image.fromarray(pixels[top : top + height, left : left + width])
                crop.save(folder / f"{number:03}.jpg", quality=int(generator.integers(70, 96)))
    return root


@pytest.fixture(scope="session")
def clothing(tmp_path_factory) -> Path:
    """300 real photos of ten classes; the whole validation part, and a training part of the test images."""
    root = tmp_path_factory.mktemp("clothing")
    unpacked("clothing-jpeg.tar", lambda name: "/validation/" in name or "/test/" in name, root)
    data = root / "clothing-dataset-small"
    (data / "test").rename(data / "train")
    for folder in sorted((data / "train").iterdir()):
        for surplus in sorted(folder.iterdir())[30:]:
            surplus.unlink()
    return data


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


def test_evaluation_between_two_batches_does_not_disturb_training(photos):
    pipeline = stream(photos)
    training = pipeline.batches(Shard(0, 1, 20, 1, 0, 80))
    images = [next(training)[0]]
    assert sum(len(labels) for _, labels in pipeline.evaluation_batches(0, 1, 10)) == 22
    images += [batch for batch, _ in training]
    assert torch.equal(torch.cat(images), collected(stream(photos), 1, 20, 1, 0, 80)[0])


def test_images_stay_as_they_are_while_later_ones_are_decoded(photos):
    pipeline = stream(photos)
    kept = [(images, images.clone()) for images, _ in pipeline.batches(Shard(0, 1, 16, 1, 0, 320))]
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
    # PIL rounds to whole levels after each of its two passes, DALI once at the end: they differ by one level at most.
    # Of two roundings a quarter of a level each is to be expected on average.
    difference = np.abs(levels - np.asarray(expected.convert("RGB"), dtype=np.float64))
    # At the edge of the window PIL weighs the pixels that are there, DALI repeats the last one.
    assert difference[1:-1, 1:-1].max() <= 1.001
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


# Kinds of images


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


# Damage


@pytest.fixture
def damaged(photos, tmp_path) -> Callable[[Callable[[Path], None]], tuple[InputPipeline, Path]]:
    """A pipeline on photos of which one is spoilt after it was indexed."""

    def make(spoil: Callable[[Path], None]) -> tuple[InputPipeline, Path]:
        root = shutil.copytree(photos, tmp_path / "photos")
        pipeline = stream(root)
        victim = root / "train" / "flower" / "007.jpg"
        spoil(victim)
        return pipeline, victim

    return make


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.unlink(), "No such file or directory"),
        (lambda file: file.write_bytes(b""), "the file is empty"),
        (lambda file: file.write_text("no image any more"), "it holds no image"),
        (lambda file: file.write_bytes(file.read_bytes()[:800]), "the decoder gives up on it"),
        (lambda file: Image.new("RGB", (10, 10)).save(file), "it has 10 x 10 pixels, and had"),
    ],
    ids=["missing", "empty", "text", "cut short", "replaced by a smaller one"],
)
def test_a_file_that_cannot_be_decoded_is_named(damaged, spoil, reason):
    pipeline, victim = damaged(spoil)
    with pytest.raises(DataError, match=reason) as error:
        list(pipeline.batches(Shard(0, 1, 16, 1, 0, 80)))
    assert str(victim) in str(error.value)
    assert str(error.value).count(".jpg") == 1


def test_after_a_failure_the_pipeline_can_be_used_again(damaged, photos):
    pipeline, victim = damaged(lambda file: file.write_text("no image any more"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"007\.jpg"):
            list(pipeline.batches(Shard(0, 1, 16, 1, 0, 80)))
    shutil.copy(photos / "train" / "flower" / "007.jpg", victim)
    assert len(list(pipeline.batches(Shard(0, 1, 16, 1, 0, 80)))) == 5


def test_damage_in_a_stream_that_was_dropped_does_not_stop_the_next(damaged):
    pipeline, victim = damaged(lambda file: file.write_text("no image any more"))
    ids = sample_ids(SEED, 80, np.arange(80)).tolist()
    met = ids.index(40 + 7)  # class flower follows the 40 images of class china
    assert victim.name == "007.jpg"
    pipeline.batches(Shard(0, 1, 1, 1, met, met + 1))
    assert len(list(pipeline.batches(Shard(0, 1, 1, 1, met + 1, met + 11)))) == 10


# Images held in memory


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
