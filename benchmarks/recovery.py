"""How long a run stands still when a worker is lost, and until one that comes is used, under elastic launchers.

    python -m benchmarks.recovery --repeats 5

Real workers on this machine train digits; after each change the time is taken until rank 0 records the decision that
its next update follows. Two names of this machine stand for two hosts, two agents for two nodes.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.elastic_fleets import HOSTS, Hosts, horovod_fleet, kill, torchrun_agents
from tests.live_runs import LiveRun
from trainer.tracking.run_log import Event

TRAIN = ["train", "digits-decay-lr", "schedule.epochs=2000", "tracking.mlflow=off", "--resume", "auto"]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
_AS_BY_DEFAULT = "last_call_timeout=30,keep_alive_interval=5,keep_alive_max_attempt=3"


def horovodrun(folder: Path) -> Iterator[tuple[str, float]]:
    """A worker comes, is told to go, comes back, and is killed."""
    hosts = Hosts(folder, HOSTS[:1])
    with horovod_fleet(folder / "runs", hosts, 1, TRAIN, cooldown_s=1) as run:
        run.wait_until(lambda: _has_saved(run))
        hosts.set(HOSTS)
        yield "horovodrun: a host is added, and used", _until_trained_by(run, 2)
        run.wait_until(lambda: _trains_for(run, 3))
        os.kill(run.worker_with("HOROVOD_HOSTNAME", HOSTS[1]), signal.SIGTERM)
        yield "horovodrun: one of two workers gets SIGTERM", _until_trained_by(run, 1)
        begun = time.time()
        run.wait_until(lambda: _workers(run) == 2, 120)
        yield "horovodrun: its host is used again (cool-down of 2 to 3 s)", time.time() - begun
        run.wait_until(lambda: _trains_for(run, 3))
        kill(run.worker_with("HOROVOD_HOSTNAME", HOSTS[1]))
        yield "horovodrun: one of two workers gets SIGKILL", _until_trained_by(run, 1)


def torchrun(folder: Path) -> Iterator[tuple[str, float]]:
    """One of two workers of a node is killed."""
    prefix = [*_TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    env = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with LiveRun(folder / "runs", "torchrun", 2, TRAIN, prefix, env) as run:
        run.wait_until(lambda: _has_saved(run))
        kill(run.worker(1))
        yield "torchrun: one of two workers of a node gets SIGKILL", _until_trained_by(run, 2)


def torchrun_nodes(folder: Path) -> Iterator[tuple[str, float]]:
    """A node comes, and is lost as a whole."""
    with torchrun_agents(folder / "runs", TRAIN, conf=_AS_BY_DEFAULT) as agents:
        run = agents.start()
        run.wait_until(lambda: _has_saved(run))
        begun = time.time()
        second = agents.start()
        yield "torchrun: a node is added, and used", _until_trained_by(run, 2, begun)
        run.wait_until(lambda: _trains_for(run, 3))
        begun = time.time()
        second.kill_all()
        yield "torchrun: one of two nodes is lost", _until_trained_by(run, 1, begun)


def _decisions(run: LiveRun) -> list[Event]:
    log = run.log()
    return [] if log is None else [event for event in log.events if event.kind == "decision"]


def _workers(run: LiveRun) -> int:
    return int(_decisions(run)[-1].fields["plan"]["world_size"])


def _trains_for(run: LiveRun, seconds: float) -> bool:
    """Whether the newest part of the run has gone on for so long."""
    log = run.log()
    resumed = [] if log is None else [event.time_s for event in log.events if event.kind == "resume"]
    return bool(resumed) and time.time() - resumed[-1] > seconds


def _has_saved(run: LiveRun) -> bool:
    return any(run.output.glob("*/checkpoints/[0-9]*/SHA256SUMS"))


def _until_trained_by(run: LiveRun, workers: int, begun: float | None = None) -> float:
    """Seconds from now until a new part of the run has that many workers, by the times in the journal."""
    since = time.time() if begun is None else begun
    found: list[float] = []

    def looks() -> bool:
        log = run.log()
        resumed = [] if log is None else [e.time_s for e in log.events if e.kind == "resume" and e.time_s > since]
        decided = [
            e.time_s
            for e in _decisions(run)
            if resumed and e.time_s >= resumed[0] and e.fields["plan"]["world_size"] == workers
        ]
        found[:] = decided[:1]
        return bool(decided)

    run.wait_until(looks, 120)
    return found[0] - since


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="recovery-") as name:
        yield Path(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    scenarios: list[Callable[[Path], Iterator[tuple[str, float]]]] = [horovodrun, torchrun, torchrun_nodes]
    found: dict[str, list[float]] = {}
    for scenario in scenarios:
        for _ in range(repeats):
            with _folder() as folder:
                for what, seconds in scenario(folder):
                    found.setdefault(what, []).append(seconds)
                    print(f"{what}: {seconds:.1f} s", file=sys.stderr, flush=True)
    print("| what happens | until the next update | n |\n|---|---|---|")
    for what, times in found.items():
        spread = f"{statistics.median(times):.1f} s ({min(times):.1f}-{max(times):.1f})"
        print(f"| {what} | {spread} | {len(times)} |")


if __name__ == "__main__":
    main()
