"""The other workers on this host, held so that one that is frozen can be ended.

A launcher asks first and insists after half a minute or a whole one; on a remote host, horovodrun does not insist at
all. A frozen process hears nothing but SIGKILL, and keeps its GPU until then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from pathlib import Path

import torch

from trainer.collective.collective import Collective


def open_neighbours(collective: Collective) -> dict[int, int]:
    """By rank, the pidfd of every other worker on this host (Linux; elsewhere none); all ranks call it together.

    A pidfd stands for that very process, whoever has its number later.
    """
    table = torch.zeros(2, collective.world_size, dtype=torch.int64)
    table[:, collective.rank] = torch.tensor([os.getpid(), _host()])
    pids, hosts = collective.all_reduce(table).tolist()
    neighbours = {}
    for rank, (pid, host) in enumerate(zip(pids, hosts, strict=True)):
        if host == _host() != 0 and pid != os.getpid():
            with contextlib.suppress(OSError):
                neighbours[rank] = os.pidfd_open(pid)
    return neighbours


def end(neighbour: int) -> None:
    """Ends the process that the pidfd stands for, however frozen it is."""
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(neighbour, signal.SIGKILL)


def _host() -> int:
    """A number for this start of this host and its table of processes; 0 where they cannot be told."""
    try:
        boot, table = Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")
    except OSError:
        return 0
    return int.from_bytes(hashlib.sha256((boot + table).encode()).digest()[:7], "big") if _can_hold() else 0


def _can_hold() -> bool:
    return hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")
