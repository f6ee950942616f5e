"""Files and folders that are whole or not there, whatever happens while they are written: aside, fsynced, renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

Content = bytes | memoryview
_LEFTOVER = re.compile(r"\..+\.[0-9]+(\.old)?")


def write_file(path: Path, content: Content) -> None:
    """Writes the file; one that was there before stays until the new one is complete. Raises OSError."""
    aside = _aside(path)
    try:
        _write(aside, content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_folder(path: Path, files: Mapping[str, Content]) -> None:
    """Writes a folder of files (name -> content), with the folders above it; one that was there before is replaced.

    Raises OSError. A process that is killed may leave a folder beside it, for remove_leftovers.
    """
    aside = _aside(path)
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a process with the same number, killed while it wrote
        aside.mkdir(parents=True)
        for name, content in files.items():
            _write(aside / name, content)
        _sync(aside)
        remove_folder(path)
        os.rename(aside, path)
        _sync(path.parent)
        _sync(path.parent.parent)  # path.parent may be new as well
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes the folder, if it is there; nobody sees a part of it under its name."""
    if path.exists():
        aside = path.with_name(f"{_aside(path).name}.old")
        os.rename(path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes the folders that write_folder and remove_folder left in this one when their process was killed."""
    for path in list(folder.iterdir()):
        if _LEFTOVER.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _write(path: Path, content: Content) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Makes the names in the folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
