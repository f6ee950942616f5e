"""What a calibration was measured on, in words."""

from __future__ import annotations

import os
import platform
from importlib.metadata import distributions
from pathlib import Path

import torch

from trainer import __version__

_LIBRARIES = ("horovod", "nvidia-dali")  # the beginnings of their packages' names


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def hardware(device: torch.device) -> dict[str, str]:
    """This worker's device, and its host."""
    cores = f"{_some(len(os.sched_getaffinity(0)), 'core')}, {_some(torch.get_num_threads(), 'thread')} a worker"
    return {"device": device_name(device), "host": cores if device.type == "cpu" else f"{_processor()}, {cores}"}


def versions() -> dict[str, str]:
    """Of what the times depend on."""
    found = {"trainer": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in distributions():
        name = package.metadata["Name"] or ""
        if name.startswith(_LIBRARIES):
            found[name] = package.version
    return found


def _some(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _processor() -> str:
    """The kernel's name for it; the architecture where it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()
