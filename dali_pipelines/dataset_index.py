"""The index of a folder of images: one scan finds every path, label and size, once and for all runs.

The index is one value, the same on every host that holds the same files; `digest` says so in one word. It is kept in a
file beside the images (or in a cache folder where they cannot be written to), and made again when the folder changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import DataError
from dali_pipelines.folder_scan import FolderScan, Stamps, scan_folder
from dali_pipelines.image_header import EXTENSIONS, image_size
from dali_pipelines.labels import read_labels

Progress = Callable[[int, int], None]
"""Called now and then with (files done, files in all)."""

_THREADS = 16  # they wait for the disk or the network, not for a core
_FILES_PER_TASK = 256
_NAMED = 10  # at most so many files are named in one message
_BYTES_AT_A_TIME = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class DatasetIndex:
    """Every image of a folder: where it is, what it shows, how big it is.

    paths: the relative paths one after the other, each followed by a NUL byte; path i starts at offsets[i], and
    offsets has n + 1 entries (1.28 million Python strings would take more than twice the memory). labels: (n,) int64 in
    [0, len(class_names)). sizes: (n, 2) int32, height and width in pixels as shown, after EXIF orientation. An array
    may be read-only.
    digest: SHA-256 over all of it but root. stamps: what to compare to notice a change of the folder.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: bytes
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int32]
    digest: str
    stamps: Stamps

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, sample: int) -> Path:
        """The file of one sample."""
        return Path(os.fsdecode(self.path_bytes(sample)))

    def path_bytes(self, sample: int) -> bytes:
        """The file of one sample as the operating system names it."""
        return self.paths_bytes(np.array([sample]))[0]

    def paths_bytes(self, samples: NDArray[np.int64]) -> list[bytes]:
        """The files of some samples, as path_bytes: one look-up for a whole micro-batch."""
        folder = os.fsencode(self.root) + b"/"
        starts, ends = self.offsets[samples].tolist(), self.offsets[samples + 1].tolist()
        return [folder + self.paths[start : end - 1] for start, end in zip(starts, ends, strict=True)]


def build_index(
    root: Path | str,
    label_file: Path | str | None = None,
    class_names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> DatasetIndex:
    """Scan a folder of images and read the size of each.

    Without a label file every folder inside root is a class, in the order of their names, and holds its images at any
    depth. With one (see labels.read_labels) images may lie anywhere below root. class_names are the classes that the
    folder has to have: those of the training images, when root holds the validation images.
    Raises DataError: root missing, empty, or with one class; an empty class; classes other than class_names; a label
    that is none of them; images whose header cannot be read, by name; links that lead out of root.
    """
    root = Path(root).resolve()
    scan = scan_folder(root)
    if not scan.paths:
        raise DataError(f"{root}: there are no images in it: give a folder with files in {', '.join(EXTENSIONS)}")
    if label_file is None:
        labels, names = _labels_by_folder(root, scan, class_names)
    else:
        labels, names = read_labels(Path(label_file), scan.paths, class_names)
    if len(names) < 2:
        raise DataError(f"{root}: it has one class only, {names[0]}: give a folder with at least two class folders")
    sizes = _read_sizes(root, scan.paths, progress)
    paths = b"".join(os.fsencode(path) + b"\0" for path in scan.paths)
    return make_index(root, names, paths, labels, sizes, scan.stamps)


def make_index(
    root: Path,
    class_names: tuple[str, ...],
    paths: bytes,
    labels: NDArray[np.int64],
    sizes: NDArray[np.int32],
    stamps: Stamps,
) -> DatasetIndex:
    """An index from its parts; what follows from them (offsets, digest) is computed here and nowhere else."""
    offsets = _offsets(paths)
    assert len(offsets) - 1 == len(labels) == len(sizes), "an index has one path, label and size for each image"
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for part in (paths, np.ascontiguousarray(labels, "<i8"), np.ascontiguousarray(sizes, "<i4")):
        digest.update(hashlib.sha256(part).digest())
    return DatasetIndex(root, class_names, paths, offsets, labels, sizes, digest.hexdigest(), stamps)


def _offsets(paths: bytes) -> NDArray[np.int64]:
    """Where each path starts, and the end."""
    characters = np.frombuffer(paths, dtype=np.uint8)
    # Part by part: a comparison of all at once would be another array as long as the paths.
    parts = range(0, len(paths), _BYTES_AT_A_TIME)
    ends = [np.flatnonzero(characters[part : part + _BYTES_AT_A_TIME] == 0) + (part + 1) for part in parts]
    return np.concatenate([np.zeros(1, dtype=np.int64), *ends])


def _labels_by_folder(
    root: Path, scan: FolderScan, class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    folders = [path.split("/", 1)[0] for path in scan.paths]
    loose = next((path for path in scan.paths if "/" not in path), None)
    if loose is not None:
        kind = "beside its class folders" if scan.folders else "and no class folders"
        raise DataError(
            f"{root}: it holds images {kind} ({loose}): sort them into class folders, or give a file with their labels"
        )
    if class_names is not None and list(class_names) != scan.folders:
        odd = sorted(set(class_names) ^ set(scan.folders))
        raise DataError(
            f"{root}: its {len(scan.folders)} class folders are not the {len(class_names)} of the training images "
            f"({_some(odd)} {'is' if len(odd) == 1 else 'are'} in one and not in the other): make them agree"
        )
    if class_names is None and (empty := sorted(set(scan.folders) - set(folders))):
        raise DataError(f"{root}: no images in class folder {_some(empty)}: add images, or remove the folder")
    number_of = {name: number for number, name in enumerate(scan.folders)}
    return np.array([number_of[folder] for folder in folders], dtype=np.int64), tuple(scan.folders)


def _read_sizes(root: Path, paths: list[str], progress: Progress | None) -> NDArray[np.int32]:
    unreadable: list[str] = []
    sizes = np.zeros((len(paths), 2), dtype=np.int32)

    def read(start: int) -> int:
        chunk = paths[start : start + _FILES_PER_TASK]
        for place, path in enumerate(chunk, start):
            try:
                sizes[place] = image_size(f"{root}/{path}")
            except DataError as error:
                unreadable.append(f"{path} ({error})")
        return start + len(chunk)

    with ThreadPoolExecutor(_THREADS) as threads:
        for done in threads.map(read, range(0, len(paths), _FILES_PER_TASK)):
            if progress is not None:
                progress(done, len(paths))
    if unreadable:
        raise DataError(
            f"{root}: {len(unreadable)} of {len(paths)} images cannot be read: {_some(sorted(unreadable))}: "
            "repair or remove them"
        )
    return sizes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
