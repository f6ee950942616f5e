"""What a profile of a loop says: how long the GPU stood idle, and how often the host waited for it.

Read from the trace that torch.profiler exports, whose categories and names are CUDA's own and differ little from one
version of torch to the next.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Event = Mapping[str, Any]

# What makes the calling thread wait for the device. cudaMemcpy is the blocking copy; cudaMemcpyAsync is none of these.
_WAITS = re.compile(r"cuda(Stream|Device|Event)Synchronize|cu(Stream|Ctx|Event)Synchronize|cudaMemcpy")


@dataclass(frozen=True, slots=True)
class Profile:
    """idle: share (0 to 1) of the time from the first kernel to the end of the last in which none ran. waits: how often
    the loop's own thread asked to wait for the device, per update, also for what had long been done. None where there
    were no kernels, or none of that thread's."""

    idle: float | None
    waits: float | None


def profiler(device: torch.device) -> profile:
    """A profiler of what this needs."""
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return profile(activities=[ProfilerActivity.CPU, *gpu])


def read_profile(finished: profile, updates: int) -> Profile:
    """What a profiler saw of so many updates."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        finished.export_chrome_trace(str(path))
        return summary(json.loads(path.read_text())["traceEvents"], updates)


def summary(events: Sequence[Event], updates: int) -> Profile:
    """The same of the events of a trace; times in any one unit."""
    timed = [event for event in events if "dur" in event]
    kernels = [(event["ts"], event["ts"] + event["dur"]) for event in timed if event.get("cat") == "kernel"]
    if not kernels:
        return Profile(None, None)
    first, last = min(begin for begin, _ in kernels), max(end for _, end in kernels)
    waits = _waits(timed)
    return Profile(1 - covered(kernels) / (last - first), None if waits is None else waits / updates)


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of the intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _waits(timed: Sequence[Event]) -> int | None:
    # Threads of DALI wait by themselves.
    calls = [e for e in timed if e.get("cat") in ("cuda_runtime", "cuda_driver") and e["tid"] == e["pid"]]
    launches = [event["ts"] for event in calls if "LaunchKernel" in event["name"]]
    if not launches:
        return None
    # The profiler waits too, before the first launch and after the last.
    first, last = min(launches), max(launches)
    return sum(1 for event in calls if first < event["ts"] < last and _WAITS.fullmatch(event["name"]))
