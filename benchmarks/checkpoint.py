"""What a checkpoint costs: seconds to save one and to take a run up from it, for networks of several sizes.

python benchmarks/checkpoint.py [--rounds 9] [--folder DIR]     # prints a Markdown table
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer.collective.local import LocalCollective
from trainer.engine.checkpoint import CheckpointFolder, newest_checkpoint, restore, save_checkpoint
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_state import Standing
from trainer.models import build_model

NETWORKS = {"small-convnet": 32, "wide-resnet-16-4": 32, "resnet-50": 224}


def spread(step: Callable[[], object], rounds: int) -> str:
    """Median, least and most of so many calls, in milliseconds."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        step()
        taken.append(1000 * (time.perf_counter() - begin))
    return f"{statistics.median(taken):.1f} ms ({min(taken):.1f} to {max(taken):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="saves and restores of each network [%(default)s]")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: where temporary files go)")
    args = parser.parse_args()
    print("| network with momentum | size | save | restore |")
    print("|---|---|---|---|")
    for name, image_size in NETWORKS.items():
        model = build_model(name, 1000, None, image_size=image_size)
        optimizer = build_optimizer("momentum", model, lr=0.1, momentum=0.9, weight_decay=1e-4)
        model(torch.randn(2, 3, image_size, image_size)).sum().backward()
        optimizer.step()  # from now on it has a buffer for every parameter
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            checkpoints = CheckpointFolder(Path(folder), {})
            saved = spread(
                lambda c=checkpoints, m=model, o=optimizer: save_checkpoint(c, Standing(), m, o), args.rounds
            )
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            newest = newest_checkpoint(checkpoints.path)
            restored = spread(lambda c=newest, m=model, o=optimizer: restore(c, m, o, LocalCollective()), args.rounds)
        print(f"| {name} | {size / 1e6:,.1f} MB | {saved} | {restored} |", flush=True)


if __name__ == "__main__":
    main()
