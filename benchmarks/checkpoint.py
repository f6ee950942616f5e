"""What a checkpoint costs: how long a run stands still, until when it is written, and how long going on from it takes.

python benchmarks/checkpoint.py [--rounds 9] [--folder DIR]     # prints a Markdown table
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from trainer.collective.local import LocalCollective
from trainer.engine.checkpoint import newest_checkpoint, restore
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_state import Standing
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.models import build_model

NETWORKS = {"small-convnet": 32, "wide-resnet-16-4": 32, "resnet-50": 224}


def spread(taken: Sequence[float]) -> str:
    """Median, least and most, in milliseconds."""
    taken = [1000 * seconds for seconds in taken]
    return f"{statistics.median(taken):.1f} ms ({min(taken):.1f} to {max(taken):.1f})"


def seconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="saves and restores of each network [%(default)s]")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: where temporary files go)")
    args = parser.parse_args()
    print("| network with momentum | size | the run stands still | until it is on the disk | going on from it |")
    print("|---|---|---|---|---|")
    for name, image_size in NETWORKS.items():
        model = build_model(name, 1000, None, image_size=image_size)
        optimizer = build_optimizer("momentum", model, lr=0.1, momentum=0.9, weight_decay=1e-4)
        model(torch.randn(2, 3, image_size, image_size)).sum().backward()
        optimizer.step()  # from now on it has a buffer for every parameter
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            checkpoints = Path(folder) / "checkpoints"
            writer = CheckpointWriter(checkpoints, Path(folder) / "weights.pt", {}, SavingPlan(keep=1))
            still, written, restored = [], [], []
            for _ in range(args.rounds):
                still.append(seconds(lambda w=writer, m=model, o=optimizer: w.save(Standing(), m, o, {})))
                written.append(still[-1] + seconds(writer.finish))
            size = sum(file.stat().st_size for file in checkpoints.rglob("*") if file.is_file())
            for _ in range(args.rounds):
                restored.append(seconds(lambda f=checkpoints, m=model, o=optimizer: go_on(f, m, o)))
        print(
            f"| {name} | {size / 1e6:,.1f} MB | {spread(still)} | {spread(written)} | {spread(restored)} |", flush=True
        )


def go_on(checkpoints: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Checks the newest checkpoint and loads it."""
    restore(newest_checkpoint(checkpoints, print), model, optimizer, LocalCollective())


if __name__ == "__main__":
    main()
