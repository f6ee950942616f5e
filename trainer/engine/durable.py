"""Files and folders that are whole or not there, whatever happens while they are written: aside, fsynced, renamed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

Content = bytes | memoryview
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9]+(\.old)?")


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
        before = _set_aside(path)
        os.rename(aside, path)
        _sync(path.parent)
        _sync(path.parent.parent)  # path.parent may be new as well
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes the folder, if it is there; nobody sees a part of it under its name."""
    aside = _set_aside(path)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path, *files: str) -> None:
    """Removes what the functions above left in this folder when their process was killed: folders, links, and of files
    those that were to have one of these names."""
    for path in list(folder.iterdir()):
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        if path.is_symlink() or match["name"] in files:
            with contextlib.suppress(OSError):  # tried again next time
                path.unlink()
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def write_link(path: Path, target: str) -> None:
    """Makes path a symbolic link to the target; one that was there before is replaced. Raises OSError."""
    aside = _aside(path)
    aside.unlink(missing_ok=True)
    try:
        os.symlink(target, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _set_aside(path: Path) -> Path | None:
    """Takes the folder out of the way, if it is there; returns where it is now."""
    if not path.exists():
        return None
    aside = path.with_name(f"{_aside(path).name}.old")
    os.rename(path, aside)
    return aside


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _write(path: Path, content: Content) -> None:
    path.unlink(missing_ok=True)  # of a killed process with this number, or a link that somebody put there
    with open(path, "xb") as file:
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
