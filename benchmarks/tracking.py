"""What logging costs a run: the same small one with and without an MLflow server on PostgreSQL, in turns.

The server is that of `make mlflow-check`, on hosts of its own; the runs are one process on another. As root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hosts import joined_hosts
from tests.launching import REPOSITORY, worker_environment
from tests.mlflow_service import mlflow_service
from trainer.tracking import RunLog, journals_in, read_journal

MEASURED = ("updates a second", "time/record_s", "CPU seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="[%(default)s]")
    parser.add_argument("--preset", default="digits-decay-lr", help="[%(default)s]")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        joined_hosts(Path(name) / "net", 3) as network,
        mlflow_service(network, *network.hosts[:2]) as service,
    ):
        stores = {"off": "off", "MLflow": service.uri}
        taken: dict[str, list[tuple[float, ...]]] = {way: [] for way in stores}
        prefix = network.hosts[2].prefix(REPOSITORY)
        for pair in range(args.pairs + 1):
            for way, store in stores.items():
                figures = one_run(prefix, args.preset, store, Path(name) / f"{way}-{pair}")
                if pair:  # the first of each finds cold files
                    taken[way].append(figures)
    print(f"{args.preset}, {args.pairs} pairs: median (least - most)\n")
    print("| | off | MLflow | MLflow/off |\n|---|---|---|---|")
    for column, title in enumerate(MEASURED):
        off, on = ([figures[column] for figures in taken[way]] for way in stores)
        ratios = [with_it / without for with_it, without in zip(on, off, strict=True)]
        print(f"| {title} | {_spread(off)} | {_spread(on)} | {_spread(ratios)} |")


def one_run(prefix: list[str], preset: str, store: str, output: Path) -> tuple[float, ...]:
    """Trains it; what was MEASURED."""
    train = [sys.executable, "-m", "trainer", "train", preset, f"tracking.mlflow={store}", f"output={output}"]
    before = os.times()
    subprocess.run([*prefix, *train], env=worker_environment(), stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    (journal,) = journals_in(output)
    log: RunLog = read_journal(journal)
    assert log.close is not None, "a run that ended has a closing record"
    last = log.epochs[-1].metrics
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return log.close.summary["updates"] / log.close.summary["total_s"], last["time/record_s"], cpu_s


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} - {max(values):.3g})"


if __name__ == "__main__":
    main()
