"""The index on disk: one npz file, written whole, read with suspicion.

A file that is damaged, stale, or made by another version is no error: the index is built again. Nothing is unpickled,
and no array is made larger than the file that claims to hold it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.cache import default_cache, put_in_place
from dali_pipelines.dataset_index import DatasetIndex, Progress, build_index, make_index
from dali_pipelines.errors import DataError
from dali_pipelines.folder_scan import unchanged

_VERSION = 1
_NAME = ".image-index.npz"  # hidden, so that a scan passes it by
_LARGEST_SIDE = 1 << 20  # pixels; no decoder takes more
_UP = (b"/../", b"/..\0", b"\0../", b"\0..\0")


def open_index(
    root: Path | str,
    label_file: Path | str | None = None,
    class_names: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    rebuild: bool = False,
) -> DatasetIndex:
    """The index of a folder: read from its file if that is there and the folder is unchanged, else built and saved.

    The file lies in root, or below cache (default: cache.default_cache) where root cannot be written to; where neither
    can, the index is built every time. rebuild: do not look at the file. Arguments and errors as build_index.
    """
    root = Path(root).resolve()
    made_from = _made_from(label_file, class_names)
    files = _places(root, cache or default_cache())
    for file in files if not rebuild else ():
        index = _load(file, root, made_from)
        if index is not None and unchanged(root, index.stamps):
            return index
    index = build_index(root, label_file, class_names, progress)
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(file, lambda aside: _save(aside, index, made_from))
            break
        except OSError:
            continue  # read-only here: the next place, or no file at all
    return index


def _places(root: Path, cache: Path | None) -> list[Path]:
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return [root / _NAME] + ([cache / f"index-{name}.npz"] if cache is not None else [])


def _made_from(label_file: Path | str | None, class_names: Sequence[str] | None) -> str:
    """What an index depends on besides the folder, as one word."""
    try:
        labels = hashlib.sha256(Path(label_file).read_bytes()).hexdigest() if label_file is not None else None
    except OSError as error:
        raise DataError(f"{label_file}: {error.strerror}: give a label file that can be read") from None
    known = [_VERSION, labels, list(class_names) if class_names is not None else None]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _save(file: Path, index: DatasetIndex, made_from: str) -> None:
    about = {
        "made_from": made_from,
        "class_names": index.class_names,
        "stamps": index.stamps,
        "digest": index.digest,
    }
    with open(file, "xb") as stream:
        np.savez(
            stream,
            about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
            paths=np.frombuffer(index.paths, dtype=np.uint8),
            labels=index.labels,
            sizes=index.sizes,
        )


def _load(file: Path, root: Path, made_from: str) -> DatasetIndex | None:
    """The index in this file; None if there is none, or not one that can be believed."""
    try:
        with zipfile.ZipFile(file) as archive:
            about = json.loads(_read_array(archive, "about", np.dtype(np.uint8)).tobytes())
            paths = _read_array(archive, "paths", np.dtype(np.uint8)).tobytes()
            labels = _read_array(archive, "labels", np.dtype(np.int64)).reshape(-1)
            sizes = _read_array(archive, "sizes", np.dtype(np.int32)).reshape(-1, 2)
        index = make_index(root, tuple(about["class_names"]), paths, labels, sizes, about["stamps"])
        as_saved = about["made_from"] == made_from and about["digest"] == index.digest
        return index if as_saved and _is_believable(index) else None
    except Exception:  # usually it is missing; damage shows itself in any way it likes
        return None


def _is_believable(index: DatasetIndex) -> bool:
    """Whether this can be the index of a folder, whoever wrote it."""
    watched = b"".join(os.fsencode(name) + b"\0" for name in index.stamps)
    return bool(
        0 < len(index.labels) == len(index.sizes) == len(index.offsets) - 1
        and index.paths.endswith(b"\0")
        and not _leaves_root(index.paths)
        and all(isinstance(name, str) for name in index.class_names)
        and all(isinstance(stamp, int) for stamp in index.stamps.values())
        and watched.count(b"\0") == len(index.stamps)
        and not _leaves_root(watched)
        and 0 <= index.labels.min() <= index.labels.max() < len(index.class_names)
        and 0 < index.sizes.min() <= index.sizes.max() <= _LARGEST_SIDE
    )


def _leaves_root(paths: bytes) -> bool:
    """Whether one of these paths, each followed by a NUL byte, is absolute or goes up."""
    # Plain searches, and most paths need two: a regular expression takes ten times as long on 40 MB.
    absolute = paths.startswith(b"/") or b"\0/" in paths
    return absolute or (b".." in paths and (paths.startswith((b"../", b"..\0")) or any(up in paths for up in _UP)))


def _read_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One array of the archive, read-only.

    Raises ValueError unless it is plainly stored and as long as its header says. Ranks of a host could share a mapped
    file in place of this copy, but one that another host of a network file system replaces, or that is cut short, would
    end the runs that touch it (SIGBUS).
    """
    member = archive.getinfo(f"{name}.npy")
    claimed = max(member.file_size, member.compress_size)
    if member.compress_type != zipfile.ZIP_STORED or claimed > os.path.getsize(str(archive.filename)):
        raise ValueError("this could be of any size in memory")
    content = archive.read(member)
    header = io.BytesIO(content)
    np.lib.format.read_magic(header)
    shape, by_columns, stored = np.lib.format.read_array_header_1_0(header)
    if by_columns or stored != dtype or len(shape) > 2:
        raise ValueError("not an array of an index")
    return np.frombuffer(content, dtype=dtype, offset=header.tell()).reshape(shape)
