"""How long it takes from a fault until a job has said who it was, and until nothing of it is left.

    python -m benchmarks.hangs [--rounds 5] [--limit 10] [--launchers torchrun,horovodrun] [--network]

Prints Markdown; fails where a job goes on, leaves a process behind or names nobody. --network also takes the link
between two hosts down, which are namespaces of this machine (tests/hosts.py) and take root and an sshd.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.host_fleets import horovod_job, launcher_of, torchrun_job
from tests.hosts import Network, joined_hosts
from tests.launching import REPOSITORY, Launcher, launch_prefix
from tests.live_runs import LiveRun

FAULTS = ("rank 1 is frozen", "rank 0 is frozen", "rank 1 sleeps in Python", "rank 1 is killed", "the link is lost")
LONGEST_S = 1200  # that a launcher is waited for
Seconds = tuple[float, float, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each fault [%(default)s]")
    parser.add_argument("--limit", type=float, default=10.0, help="hang_timeout_s [%(default)s]")
    parser.add_argument("--launchers", default="torchrun,horovodrun", help="[%(default)s]")
    parser.add_argument("--network", action="store_true", help="also take a link down, as root")
    args = parser.parse_args()
    print(f"hang_timeout_s={args.limit:g}, {args.rounds} rounds each; seconds from the fault: median (least - most)\n")
    print("| fault | launcher | it is said | no worker is left | no process is left |\n|---|---|---|---|---|")
    for fault in FAULTS if args.network else FAULTS[:-1]:
        for launcher in args.launchers.split(","):
            rounds = [one_round(fault, launcher, args.limit) for _ in range(args.rounds)]
            cells = " | ".join(_cell([each[column] for each in rounds]) for column in range(3))
            print(f"| {fault} | {launcher} | {cells} |", flush=True)
    return 0


def one_round(fault: str, launcher: Launcher, limit_s: float) -> Seconds:
    """Seconds from the fault until it is said, until no worker is left, until no process is."""
    train = ["train", "digits-decay-lr", "schedule.epochs=1000", "tracking.mlflow=off", f"hang_timeout_s={limit_s:g}"]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if fault == "the link is lost":
            network = stack.enter_context(two_hosts(folder / "hosts"))
            started = (torchrun_job if launcher == "torchrun" else horovod_job)(folder, network, train)
            jobs = [stack.enter_context(job) for job in (started if isinstance(started, list) else [started])]
        elif fault == "rank 1 sleeps in Python":
            prefix = [*launch_prefix(launcher, 2), str(REPOSITORY / "tests" / "sleepy_worker.py")]
            jobs = [stack.enter_context(LiveRun(folder, launcher, 2, train, prefix, {"NAP_S": "0"}))]
        else:
            jobs = [stack.enter_context(LiveRun(folder, launcher, 2, train))]
        (first, *_) = jobs
        first.wait_until((lambda: "asleep" in first.said()) if "sleeps" in fault else first.epochs, 120)
        launchers = {launcher_of(job) if fault == "the link is lost" else job.process.pid for job in jobs}
        begin = time.monotonic()
        if fault == "the link is lost":
            network.hosts[1].set_link(up=False)
        elif "sleeps" not in fault:
            os.kill(
                first.worker(0 if "rank 0" in fault else 1), signal.SIGKILL if "killed" in fault else signal.SIGSTOP
            )
        seconds = []
        for holds in (
            lambda: "nothing moved for" in first.said() or "another worker has ended" in first.said(),
            lambda: not any(workers(job) - launchers for job in jobs),
            lambda: not any(job.pids() for job in jobs),
        ):
            first.wait_until(holds, LONGEST_S)
            seconds.append(time.monotonic() - begin)
        assert all(job.wait() != 0 for job in jobs), "a job that ended badly says so"
        return seconds[0], seconds[1], seconds[2]


def workers(job: LiveRun) -> set[int]:
    """The processes that hold a run's memory, and a GPU's; torchrun's own looks like one."""
    return {pid for pid in job.pids() if "libtorch_cpu" in _mapped(pid)}


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[Network]:
    """Hosts whose TCP gives up after half a minute: torchrun's agent on the far one waits for that, with Linux's 15
    retries a quarter of an hour."""
    with joined_hosts(folder, 2) as network:
        for host in network.hosts:
            host.output_of("sysctl", "-qw", "net.ipv4.tcp_retries2=6")
        yield network


def _mapped(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def _cell(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} - {max(seconds):.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
