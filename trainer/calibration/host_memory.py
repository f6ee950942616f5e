"""What the kernel says about memory: how much this process has held at most, and how much more it may have."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

from trainer.calibration.errors import CalibrationError

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60  # version 1 writes "no limit" as a number near 2^63


def forget_peak(proc: Path = PROC) -> None:
    """Hands freed memory back, and begins a new peak."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another C library than GNU's keeps less
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (proc / "self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        raise _unknown(error.strerror or "refused") from None


def peak_bytes(proc: Path = PROC) -> int:
    """The most resident memory of this process since the last forget_peak. Raises CalibrationError."""
    return _kilobytes(proc / "self/status", "VmHWM")


def obtainable_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """What processes here may still take: the host's available memory, and the control groups' limits.

    Memory that only caches files counts as free. Raises CalibrationError.
    """
    return max(0, min([_kilobytes(proc / "meminfo", "MemAvailable"), *_group_room(proc, cgroups)]))


def _group_room(proc: Path, cgroups: Path) -> list[int]:
    """Bytes below the limit of every control group with one that this process is in. Versions 2 and 1."""
    room = []
    for line in _text(proc / "self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root, limit, used, cache = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = root / path.strip("/")
        # In a container the path may be the host's, and its groups not to be seen: then its own lies at the root.
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(root):
                break
            words = _text(folder / limit).split()
            if words and words[0] != "max" and int(words[0]) < _UNLIMITED:
                held = int(_text(folder / used) or 0) - _cached(_text(folder / "memory.stat"), cache)
                room.append(int(words[0]) - held)
    return room


def _cached(stat: str, name: str) -> int:
    return next((int(line.split()[1]) for line in stat.splitlines() if line.split()[:1] == [name]), 0)


def _kilobytes(file: Path, name: str) -> int:
    """The bytes of a line `name: N kB`."""
    for line in _text(file).splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    raise _unknown(f"{file} says no {name}")


def _unknown(reason: str) -> CalibrationError:
    return CalibrationError(
        f"what a micro-batch takes in memory cannot be measured on this host ({reason}): set "
        f"schedule.limits.max_micro_batch=N"
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""
