"""What lies in a folder of images, and a cheap way to notice later that it has changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dali_pipelines.errors import DataError
from dali_pipelines.image_header import has_image_name

# Time of last change, in nanoseconds since 1970, of every entry at the top of the folder and of every folder below.
# Adding, removing or renaming a file changes its folder's time, so 1.28 million files need a thousand look-ups.
Stamps = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FolderScan:
    """Image paths relative to the root, sorted by their bytes; top-level folders, sorted; what to compare later."""

    paths: list[str]
    folders: list[str]
    stamps: Stamps


def scan_folder(root: Path) -> FolderScan:
    """List the images below root; hidden entries are left out, and so is everything without an image's extension.

    Raises DataError when root is no readable folder, or when a symbolic link leads out of it, to a folder, or nowhere.
    """
    try:
        stamps = _top_stamps(root)
        paths: list[str] = []
        folders: list[str] = []
        waiting = [""]
        while waiting:
            here = waiting.pop()
            if here:
                stamps[here] = os.stat(root / here).st_mtime_ns  # before listing: a later change must show
            with os.scandir(root / here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    relative = f"{here}/{entry.name}" if here else entry.name
                    if entry.is_symlink():
                        _check_link(root, entry)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(relative)
                        if not here:
                            folders.append(relative)
                    elif has_image_name(entry.name) and entry.is_file():
                        paths.append(relative)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}: give a folder of images that can be read") from None
    return FolderScan(sorted(paths, key=os.fsencode), sorted(folders), stamps)


def unchanged(root: Path, stamps: Stamps) -> bool:
    """Whether the folder still is as it was scanned (a file overwritten in place inside a class is not noticed)."""
    try:
        top = _top_stamps(root)
        below = {name: os.stat(root / name).st_mtime_ns for name in stamps if name not in top}
    except OSError:
        return False
    return {**top, **below} == stamps


def _top_stamps(root: Path) -> dict[str, int]:
    # Entry by entry, and not the root's own time: writing the index file there changes that.
    with os.scandir(root) as entries:
        return {entry.name: entry.stat().st_mtime_ns for entry in entries if not entry.name.startswith(".")}


def _check_link(root: Path, entry: os.DirEntry[str]) -> None:
    target = Path(os.path.realpath(entry.path))
    if not (target.is_relative_to(root) and target.exists()) or target.is_dir():
        raise DataError(
            f"{entry.path}: this symbolic link leads to {target}, and only links to files within {root} are followed: "
            "put the files there themselves (hard links cost no space)"
        )
