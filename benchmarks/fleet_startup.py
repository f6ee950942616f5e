"""What grows with the number of workers: start-up, deciding and agreeing, one update, memory of ranks and launcher.

    python -m benchmarks.fleet_startup --workers 1,2,4,8,16 --launchers horovodrun,torchrun

Starts real workers on this machine with a tiny network (they share its cores, so times grow with the ranks also where
the method does not). Each rank joins as `trainer train` does, and hears a decision again and again; then a few updates.
The launcher's memory is the proportional set size of all its processes but the workers. For fleets that no machine
holds: benchmarks/fleet_prediction.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Set
from pathlib import Path

from benchmarks.side_by_side import table

BIN = Path(sys.executable).parent
REPEATS = 20
COLUMNS = (
    ("workers", "{workers}"),
    ("started", "{started_s:.1f} s"),
    ("joined", "{joined_s:.1f} s"),
    ("decide", "{decide_ms:.2f} ms"),
    ("decide + agree", "{agree_ms:.2f} ms"),
    ("update", "{update_ms:.2f} ms"),
    ("memory per rank", "{memory_mib:.0f} MiB"),
    ("the launcher's", "{launcher_mib:.0f} MiB"),
)


def worker(launched_at: float, launcher: int, report: Path) -> None:
    """One rank: joins, agrees, trains; rank 0 writes what was found. Seconds from the launch, by the host's clock."""
    started = time.time() - launched_at
    import torch

    from trainer.cli.fleet import choose_collective, open_collective, share_threads
    from trainer.collective.leave import leave
    from trainer.config import load_config
    from trainer.engine.optimizer import build_optimizer
    from trainer.engine.train import agree_on_decision
    from trainer.engine.update import run_update
    from trainer.environment import detect_launch
    from trainer.models import build_model
    from trainer.rule import BatchPlan, decide

    launch = detect_launch()
    collective = open_collective(choose_collective("auto", launch), launch)
    share_threads(launch)
    collective.all_reduce(torch.zeros(1))  # the first message opens what the library opens late
    joined = time.time() - launched_at
    schedule = load_config("imagenet-rn50-8192-16384").rule_schedule(1_281_167)
    decide_s = _median(lambda: decide(schedule, 45, collective.world_size))
    agree_s = _median(lambda: agree_on_decision(schedule, 45, collective))
    model = build_model("small-convnet", 10, None, image_size=16)
    module = collective.wrap(model)
    optimizer = build_optimizer("momentum", model, lr=0.01, momentum=0.9, weight_decay=0.0)
    batch = torch.randn(2, 3, 16, 16), torch.randint(10, (2,))
    plan = BatchPlan(2, 1, collective.world_size)
    update_s = _median(lambda: run_update(module, optimizer, collective, iter([batch]), plan))
    # Each rank's own figures, side by side.
    figures = torch.zeros(collective.world_size, 3, dtype=torch.float64)
    figures[collective.rank] = torch.tensor([started, _peak_memory_mib(), os.getpid()])
    started_s, memory_mib, _ = collective.all_reduce(figures).max(dim=0).values.tolist()
    if collective.rank == 0:
        found = {
            "workers": collective.world_size,
            "started_s": started_s,
            "joined_s": joined,
            "decide_ms": 1000 * decide_s,
            "agree_ms": 1000 * agree_s,
            "update_ms": 1000 * update_s,
            "memory_mib": memory_mib,
            "launcher_mib": _tree_mib(launcher, without={int(pid) for pid in figures[:, 2]}),
        }
        report.write_text(json.dumps(found))
    collective.all_reduce(torch.zeros(1))
    collective.close()
    leave(0)


def _median(step: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _peak_memory_mib() -> float:
    return _kib(Path("/proc/self/status"), "VmHWM") / 1024


def _tree_mib(pid: int, without: Set[int]) -> float:
    """Proportional set size of a process and its descendants, apart from some and theirs."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    own = _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") / 1024
    return own + sum(_tree_mib(child, without) for child in children if child not in without)


def _kib(file: Path, name: str) -> int:
    return int(next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:")).split()[1])


def launch(launcher: str, workers: int, report: Path) -> dict[str, float]:
    """Starts the workers and returns what rank 0 wrote."""
    me = ["-m", "benchmarks.fleet_startup", "--report", str(report), "--launched-at", str(time.time())]
    command = {
        "horovodrun": [str(BIN / "horovodrun"), "-np", str(workers), sys.executable, *me],
        "torchrun": [str(BIN / "torchrun"), "--nproc-per-node", str(workers), *me],
    }[launcher]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    # The shell becomes the launcher, and so its workers know the launcher's number.
    command = ["sh", "-c", 'exec "$@" --launcher $$', "sh", *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0 or not report.exists():
        raise SystemExit(f"{launcher} -np {workers} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    found: dict[str, float] = json.loads(report.read_text())
    return found


def row(launcher: str, workers: int, rounds: int) -> list[str]:
    """A fleet's cells, launched so many times."""
    with tempfile.TemporaryDirectory() as folder:
        found = [launch(launcher, workers, Path(folder) / f"{n}.json") for n in range(rounds)]
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    medians["workers"] = workers
    return [cell.format(**medians) for _, cell in COLUMNS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--launchers", default="horovodrun,torchrun")
    parser.add_argument("--rounds", type=int, default=3, help="launches of each fleet; medians are shown")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # set for the workers
    parser.add_argument("--launched-at", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--launcher", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.report:
        worker(args.launched_at, args.launcher, args.report)
        return
    for launcher in args.launchers.split(","):
        print(f"\n{launcher}, median of {args.rounds} launches\n")
        fleets = map(int, args.workers.split(","))
        table([heading for heading, _ in COLUMNS], (row(launcher, workers, args.rounds) for workers in fleets))


if __name__ == "__main__":
    main()
