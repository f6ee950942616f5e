"""What the machine gives to this process: cores, memory, shared memory, open files, ssh, disk.

Each finding takes what it judges as plain numbers, so that any machine can be examined in a test; `machine_findings`
reads them here. A container sees the whole host's cores and memory, so the limits of its control group count.
"""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from trainer.doctor.finding import Finding
from trainer.processor import computes_bfloat16

GIB = 2**30
CGROUPS = Path("/sys/fs/cgroup")


def machine_findings(output: Path) -> list[Finding]:
    """All findings about this machine; output is the folder that runs are written to."""
    shared = Path("/dev/shm")
    return [
        cores_finding(len(os.sched_getaffinity(0)), cgroup_cores(CGROUPS)),
        bfloat16_finding(computes_bfloat16()),
        memory_finding(physical_memory_bytes(), cgroup_memory_bytes(CGROUPS)),
        shared_memory_finding(shutil.disk_usage(shared).free if shared.is_dir() else None),
        open_files_finding(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ssh_finding(shutil.which("ssh")),
        output_finding(output),
    ]


def cgroup_cores(cgroups: Path) -> float | None:
    """Cores that the control group may use at once, None if it sets no limit. Versions 2 and 1."""
    words = _words(cgroups / "cpu.max")
    if not words:
        words = [*_words(cgroups / "cpu" / "cpu.cfs_quota_us"), *_words(cgroups / "cpu" / "cpu.cfs_period_us")]
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def cgroup_memory_bytes(cgroups: Path) -> int | None:
    """Memory that the control group may hold, None if it sets no limit. Versions 2 and 1."""
    words = _words(cgroups / "memory.max") or _words(cgroups / "memory" / "memory.limit_in_bytes")
    # Version 1 writes "no limit" as a number near 2^63.
    return None if not words or words[0] == "max" or int(words[0]) >= 2**60 else int(words[0])


def physical_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cores_finding(visible: int, limit: float | None) -> Finding:
    """limit: cores by the control group, None if unlimited."""
    usable = visible if limit is None else min(visible, limit)
    seen = f"{usable:g}" if usable == visible else f"{usable:g} of {visible} (control group)"
    if usable < 2:
        return Finding("Cores", "warn", seen, "two workers on this machine will take turns: give it 2 cores or more")
    return Finding("Cores", "ok", seen)


def bfloat16_finding(is_native: bool) -> Finding:
    """is_native: whether the processor multiplies bfloat16."""
    if is_native:
        return Finding("CPU bfloat16", "ok", "the processor computes it")
    return Finding("CPU bfloat16", "ok", "emulated: precision=bfloat16 would be slow on the CPU, and is not on a GPU")


def memory_finding(physical: int, limit: int | None) -> Finding:
    """Both in bytes; limit: by the control group, None if unlimited."""
    usable = physical if limit is None else min(physical, limit)
    seen = f"{usable / GIB:.1f} GiB" + (" (control group)" if usable < physical else "")
    if usable < 3.5 * GIB:  # two workers, the launcher and MLflow
        return Finding("Memory", "warn", seen, "two workers want about 4 GiB: run one, or give the machine more")
    return Finding("Memory", "ok", seen)


def shared_memory_finding(free: int | None) -> Finding:
    """free: bytes free in /dev/shm, None if there is no such folder."""
    advice = "NCCL and worker processes exchange data there: docker run --shm-size=1g, or mount an emptyDir in memory"
    if free is None:
        return Finding("/dev/shm", "missing", "not there", advice)
    seen = f"{free / GIB:.1f} GiB free"
    if free < GIB // 2:  # a container's default is 64 MiB
        return Finding("/dev/shm", "warn", seen, advice)
    return Finding("/dev/shm", "ok", seen)


def open_files_finding(limit: int) -> Finding:
    """limit: how many files and sockets a process may have open; every worker holds a socket to each other one."""
    if limit == resource.RLIM_INFINITY:
        return Finding("Open files", "ok", "unlimited")
    if limit < 1024:
        return Finding("Open files", "warn", str(limit), "allow more, for jobs of many workers: ulimit -n 4096")
    return Finding("Open files", "ok", str(limit))


def ssh_finding(ssh: str | None) -> Finding:
    """ssh: path of the client, None if there is none."""
    if ssh is None:
        advice = "one machine does without; to start workers on others: apt-get install openssh-client"
        return Finding("ssh", "warn", "no client", advice)
    return Finding("ssh", "ok", ssh)


def output_finding(output: Path) -> Finding:
    """Can runs be written to this folder (or, where it is not there yet, be made in its nearest parent)?"""
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    name, advice = f"Disk ({output})", "name a folder that can be written to, with some GiB free"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, "missing", f"{there} cannot be written to", advice, essential=True)
    free = shutil.disk_usage(there).free
    seen = f"{free / GIB:.1f} GiB free"
    return Finding(name, "warn", seen, advice) if free < GIB else Finding(name, "ok", seen)


def _words(file: Path) -> list[str]:
    """The words in a file of the kernel's; none if it is not there."""
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []
