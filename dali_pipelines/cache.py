"""Where this package may write: a user's cache folder, and files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def default_cache() -> Path | None:
    """The folder for what can be made again at any time, ~/.cache/dali_pipelines; None for a user without a home."""
    try:
        return Path.home() / ".cache" / "dali_pipelines"
    except RuntimeError:
        return None


def put_in_place(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file or folder beside target, then give it target's name in one step.

    Whoever looks sees the old state or the new one; of two processes that do this at once either may win. Raises
    OSError when the place cannot be written to, or when target is a folder that is already there.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        write(aside)
        os.replace(aside, target)
    finally:
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                (Path(folder) / name).unlink()
            Path(folder).rmdir()
    else:
        path.unlink(missing_ok=True)
