"""How long it takes from a fault until a job has said who it was, and until nothing of it is left.

    python -m benchmarks.hangs [--rounds 5] [--limit 10] [--launchers torchrun,horovodrun] [--network]

Prints Markdown; fails where a job goes on, leaves a process behind or names nobody. --network also takes the link
between two hosts down: network namespaces on this machine, which takes root and iproute2. ssh to the other host, which
horovodrun needs, is played by a script that runs its words there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.launching import REPOSITORY, Launcher, launch_prefix
from tests.live_runs import LiveRun

FAULTS = ("rank 1 is frozen", "rank 0 is frozen", "rank 1 sleeps in Python", "rank 1 is killed", "the link is lost")
LINK = "eth7"
SSH = """#!/bin/bash
options() {{ n=0; while [[ "$1" == -[opi] ]]; do n=$((n + 2)); shift 2; done; }}
options "$@"; shift $((n + 1))  # and the host
options "$@"; shift $n
exec ip netns exec {host} bash -c "$*"
"""
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
            hosts = stack.enter_context(two_hosts())
            variables = variables_on(folder)
            jobs = [
                stack.enter_context(LiveRun(folder, launcher, 2, train, prefix, variables))
                for prefix in prefixes_on(hosts, launcher, folder)
            ]
        elif fault == "rank 1 sleeps in Python":
            prefix = [*launch_prefix(launcher, 2), str(REPOSITORY / "tests" / "sleepy_worker.py")]
            jobs = [stack.enter_context(LiveRun(folder, launcher, 2, train, prefix, {"NAP_S": "0"}))]
        else:
            jobs = [stack.enter_context(LiveRun(folder, launcher, 2, train))]
        (first, *_) = jobs
        first.wait_until((lambda: "asleep" in first.said()) if "sleeps" in fault else first.epochs, 120)
        begin = time.monotonic()
        if fault == "the link is lost":
            _ip("-n", hosts[0], "link", "set", LINK, "down")
        elif "sleeps" not in fault:
            os.kill(
                first.worker(0 if "rank 0" in fault else 1), signal.SIGKILL if "killed" in fault else signal.SIGSTOP
            )
        seconds = []
        for holds in (
            lambda: "nothing moved for" in first.said() or "another worker has ended" in first.said(),
            lambda: not any(map(workers, jobs)),
            lambda: not any(job.pids() for job in jobs),
        ):
            first.wait_until(holds, LONGEST_S)
            seconds.append(time.monotonic() - begin)
        assert all(job.wait() != 0 for job in jobs), "a job that ended badly says so"
        return seconds[0], seconds[1], seconds[2]


def workers(job: LiveRun) -> list[int]:
    """The processes that hold a run's memory, and a GPU's."""
    return [pid for pid in job.pids() if "libtorch_cpu" in _mapped(pid) and pid != job.process.pid]


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a link between them: 10.77.0.1 and 10.77.0.2."""
    hosts = f"trainer-a-{os.getpid()}", f"trainer-b-{os.getpid()}"
    try:
        for host in hosts:
            _ip("netns", "add", host)
        _ip("link", "add", LINK, "netns", hosts[0], "type", "veth", "peer", "name", LINK, "netns", hosts[1])
        for number, host in enumerate(hosts, 1):
            _ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", LINK)
            _ip("-n", host, "link", "set", LINK, "up")
            _ip("-n", host, "link", "set", "lo", "up")
            # torchrun's agent on the far host waits until TCP gives up: with Linux's 15 retries, a quarter of an hour.
            _ip("netns", "exec", host, "sysctl", "-qw", "net.ipv4.tcp_retries2=6")
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host], check=False)


def prefixes_on(hosts: tuple[str, str], launcher: str, folder: Path) -> list[list[str]]:
    """What starts Python once on each host."""
    if launcher == "horovodrun":
        (folder / "bin").mkdir()
        ssh = folder / "bin" / "ssh"
        ssh.write_text(SSH.format(host=hosts[1]))
        ssh.chmod(0o755)
        job = ["-np", "2", "--network-interfaces", LINK, "-H", "10.77.0.1:1,10.77.0.2:1", sys.executable]
        return [["ip", "netns", "exec", hosts[0], str(Path(sys.executable).parent / "horovodrun"), *job]]
    node = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29400"]
    return [
        ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", *node,
         f"--rdzv-conf=is_host={int(number == 1)}", f"--local-addr=10.77.0.{number}"]
        for number, host in enumerate(hosts, 1)
    ]  # fmt: skip


def variables_on(folder: Path) -> dict[str, str]:
    """Which interface the libraries take, and where ssh is found."""
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"GLOO_SOCKET_IFNAME": LINK, "PATH": path, "PYTHONPATH": str(REPOSITORY)}


def _mapped(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _cell(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} - {max(seconds):.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
