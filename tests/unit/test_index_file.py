"""The index on disk: found again, made again when the folder changes, and never believed when it is damaged."""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_pipelines import index_file
from dali_pipelines.dataset_index import DatasetIndex, build_index
from dali_pipelines.folder_scan import scan_folder
from dali_pipelines.index_file import open_index

pytestmark = pytest.mark.unit


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "images"
    for number, name in enumerate(["ape/1.jpg", "ape/2.jpg", "cat/1.jpg", "cat/deep/2.jpg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5 + number, 7)).save(folder / name)
    return folder


@pytest.fixture
def scans(monkeypatch) -> list[Path]:
    """The folders that were scanned, in order."""
    seen: list[Path] = []

    def counted(root: Path, *args: object, **kwargs: object) -> DatasetIndex:
        seen.append(root)
        return build_index(root, *args, **kwargs)

    monkeypatch.setattr(index_file, "build_index", counted)
    return seen


def same(first: DatasetIndex, second: DatasetIndex) -> bool:
    return (
        first.digest == second.digest
        and first.paths == second.paths
        and first.class_names == second.class_names
        and (first.labels == second.labels).all()
        and (first.sizes == second.sizes).all()
        and (first.offsets == second.offsets).all()
    )


def test_an_index_is_saved_beside_the_images_and_found_again(root, scans):
    built, read = open_index(root), open_index(root)
    assert same(built, read)
    assert len(scans) == 1
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == [".image-index.npz"]


def test_where_images_cannot_be_written_to_the_index_goes_to_the_cache(root, tmp_path, scans):
    # A folder of the index's name stands in for a read-only disk: it cannot be replaced by a file, even by root.
    (root / ".image-index.npz" / "in the way").mkdir(parents=True)
    built, read = open_index(root, cache=tmp_path / "cache"), open_index(root, cache=tmp_path / "cache")
    assert same(built, read)
    assert len(scans) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_where_nothing_can_be_written_the_index_is_built_every_time(root, tmp_path, scans):
    (root / ".image-index.npz" / "in the way").mkdir(parents=True)
    (tmp_path / "cache").write_text("a file, so no folder can be made here")
    assert same(open_index(root, cache=tmp_path / "cache"), open_index(root, cache=tmp_path / "cache"))
    assert len(scans) == 2


def later(path: Path) -> None:
    """Make a change visible even on a file system with coarse times."""
    stamp = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(stamp, stamp))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.new("RGB", (9, 9)).save(root / "cat" / "3.jpg"),
        lambda root: (root / "ape" / "1.jpg").unlink(),
        lambda root: (root / "cat" / "1.jpg").rename(root / "cat" / "0.jpg"),
        lambda root: Image.new("RGB", (9, 9)).save(root / "cat" / "deep" / "3.jpg"),
    ],
    ids=["added", "removed", "renamed", "added below"],
)
def test_a_change_of_the_files_is_noticed(root, scans, change):
    before = open_index(root)
    change(root)
    for folder in ("ape", "cat", "cat/deep"):
        later(root / folder)
    assert open_index(root).digest != before.digest
    assert len(scans) == 2


def test_a_new_class_is_noticed(root, scans):
    open_index(root)
    (root / "bee").mkdir()
    Image.new("RGB", (9, 9)).save(root / "bee" / "1.jpg")
    assert open_index(root).class_names == ("ape", "bee", "cat")


def test_in_a_flat_folder_a_replaced_file_is_noticed(tmp_path):
    for name in "ab":
        Image.new("RGB", (5, 7)).save(tmp_path / f"{name}.png")
    labels = tmp_path / "labels.txt"
    labels.write_text("a ape\nb cat\n")
    before = open_index(tmp_path, labels)
    Image.new("RGB", (6, 7)).save(tmp_path / "b.png")
    later(tmp_path / "b.png")
    assert open_index(tmp_path, labels).sizes.tolist() != before.sizes.tolist()


def test_other_labels_and_other_classes_are_another_index(root, tmp_path, scans):
    labels = tmp_path / "labels.txt"
    text = "ape/1.jpg {}\nape/2.jpg cat\ncat/1.jpg ape\ncat/deep/2.jpg ape\n"
    labels.write_text(text.format("ape"))
    assert open_index(root, labels).labels.tolist() == [0, 1, 0, 0]
    labels.write_text(text.format("cat"))
    assert open_index(root, labels).labels.tolist() == [1, 1, 0, 0]
    assert open_index(root, labels, ["ape", "bee", "cat"]).labels.tolist() == [2, 2, 0, 0]
    assert len(scans) == 3


def test_rebuild_does_not_look_at_the_file(root, scans):
    open_index(root)
    open_index(root, rebuild=True)
    assert len(scans) == 2


def test_a_damaged_file_is_replaced(root):
    expected = open_index(root)
    file = root / ".image-index.npz"
    content = file.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[place] ^= int(generator.integers(1, 256))
        file.write_bytes(damaged)
        assert same(open_index(root), expected)
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert same(open_index(root), expected)


def forged(file: Path, **changes: object) -> None:
    """Rewrite an index file with other arrays, its digest made to fit, as somebody with bad intentions would."""
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(arrays["about"].tobytes())
    arrays |= {name: value for name, value in changes.items() if name in arrays}
    about |= {name: value for name, value in changes.items() if name in about}
    if "digest" not in changes:
        index = index_file.make_index(
            file.parent,
            tuple(about["class_names"]),
            arrays["paths"].tobytes(),
            arrays["labels"],
            arrays["sizes"],
            about["stamps"],
        )
        about["digest"] = index.digest
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    np.savez(file, **arrays)


def peak_memory_of(check: Callable[[], bool]) -> int:
    """In bytes; the check has to hold."""
    tracemalloc.start()
    assert check()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def path_array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def test_an_index_that_is_only_rewritten_is_believed(root, scans):
    open_index(root)
    forged(root / ".image-index.npz", labels=np.array([1, 0, 1, 0]))
    assert open_index(root).labels.tolist() == [1, 0, 1, 0]
    assert len(scans) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": path_array("../../etc/passwd\0ape/2.jpg\0cat/1.jpg\0cat/deep/2.jpg\0")},
        {"paths": path_array("ape/../../2.jpg\0ape/2.jpg\0cat/1.jpg\0cat/deep/2.jpg\0")},
        {"paths": path_array("ape/1.jpg\0/etc/passwd\0cat/1.jpg\0cat/deep/2.jpg\0")},
        {"paths": path_array("ape/1.jpg\0ape/2.jpg\0cat/1.jpg\0..\0")},
        {"paths": path_array("ape/1.jpg\0ape/2.jpg\0cat/1.jpg\0cat/deep/2.jpg\0cat")},
        {"labels": np.array([0, 0, 1, 2])},
        {"labels": np.array([0, 0, 1, -1])},
        {"labels": np.array([0.0, 0.0, 1.0, 1.0])},
        {"sizes": np.array([[7, 5], [7, 6], [7, 7], [0, 8]], dtype=np.int32)},
        {"sizes": np.array([[7, 5], [7, 6], [7, 7], [7, 2**30]], dtype=np.int32)},
        {"digest": "0" * 64},
        {"made_from": "0" * 64},
        {"stamps": {"../elsewhere": 1}},
        {"stamps": {"ape\0": 1}},
        {"class_names": [1, 2]},
    ],
)
def test_an_index_that_cannot_be_right_is_built_again(root, scans, changes):
    expected = open_index(root)
    forged(root / ".image-index.npz", **changes)
    assert same(open_index(root), expected)
    assert len(scans) == 2


def test_an_index_that_watches_another_folder_is_built_again(root, scans):
    expected = open_index(root)
    forged(root / ".image-index.npz", stamps={**expected.stamps, "..": root.parent.stat().st_mtime_ns})
    assert same(open_index(root), expected)
    assert len(scans) == 2


PARTS_OF_PATHS = ["", ".", "..", "a", "..a", "a..", "..."]
PATHS = ["/".join(parts) for length in (1, 2, 3) for parts in itertools.product(PARTS_OF_PATHS, repeat=length)]


@pytest.mark.parametrize("neighbours", ["{}\0", "a\0{}\0", "{}\0a\0", "a..b/.\0{}\0"])
def test_paths_that_lead_out_of_the_folder_are_found_wherever_they_stand(neighbours):
    leads_out = [path.startswith("/") or ".." in path.split("/") for path in PATHS]
    assert [index_file._leaves_root(neighbours.format(path).encode()) for path in PATHS] == leads_out


def test_names_with_two_dots_are_names_like_others(root, scans):
    Image.new("RGB", (5, 7)).save(root / "cat" / "deep" / "a..b..jpg")
    built, read = open_index(root), open_index(root)
    assert same(built, read)
    assert len(scans) == 1


def test_a_saved_index_needs_little_more_memory_than_its_paths(tmp_path, monkeypatch):
    images = 100_000
    for name in ("ape", "cat"):
        (tmp_path / name).mkdir()
    names = sorted(f"{'ape' if number % 2 else 'cat'}/{number:06}.jpg" for number in range(images))
    paths = "".join(f"{name}\0" for name in names).encode()
    labels = np.repeat(np.arange(2), images // 2)
    sizes = np.full((images, 2), 300, dtype=np.int32)
    index = index_file.make_index(tmp_path, ("ape", "cat"), paths, labels, sizes, scan_folder(tmp_path).stamps)
    monkeypatch.setattr(index_file, "build_index", lambda *_: index)
    built = open_index(tmp_path)
    tracemalloc.start()
    read = open_index(tmp_path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read is not built
    assert same(built, read)
    assert read.paths_bytes(np.arange(images)) == [os.fsencode(tmp_path / name) for name in names]
    # Beside its path 8 bytes each for an image's label, its height and width, and where its path starts.
    assert held / images < len(paths) / images + 24 + 1
    # The starts twice for a moment, or the paths.
    assert peak / images < held / images + max(len(paths) / images, 8) + 2 * 1_000_000 / images


@pytest.mark.parametrize("fields", [(20, 24), (20,), (24,)], ids=["both", "compressed", "uncompressed"])
def test_a_table_of_contents_that_claims_a_huge_array_costs_no_memory(root, fields):
    expected = open_index(root)
    file = root / ".image-index.npz"
    content = bytearray(file.read_bytes())
    entry = content.rindex(b"PK\1\2")  # of the last array
    for field in fields:
        content[entry + field : entry + field + 4] = struct.pack("<I", 2**31)
    file.write_bytes(content)
    assert peak_memory_of(lambda: same(open_index(root), expected)) < 10_000_000


def test_a_header_that_claims_a_huge_array_costs_no_memory(root):
    expected = open_index(root)
    file = root / ".image-index.npz"
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    members["labels.npy"] = header.getvalue() + bytes(8)
    members["paths.npy"] = members["paths.npy"] + bytes(100_000_000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # a hundred megabytes of nothing pack well
        for name, content in members.items():
            archive.writestr(name, content)
    del members
    assert peak_memory_of(lambda: same(open_index(root), expected)) < 10_000_000
