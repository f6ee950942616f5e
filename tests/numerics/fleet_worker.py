"""One worker of the exactness tests: ten updates on real digits in float64 for each case; rank 0 saves parameters and
statistics as FOLDER/CASE.pt.

usage: fleet_worker.py local|ddp|horovod FOLDER CASE...    CASE: GHOST_BATCH|none:MICRO_BATCH:ACCUMULATION_STEPS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from dali_pipelines.sample_order import Shard, micro_batch_starts, sample_ids
from trainer.cli.fleet import open_collective
from trainer.collective.collective import Collective
from trainer.collective.leave import leave
from trainer.engine.evaluate import average_running_statistics
from trainer.engine.optimizer import build_optimizer
from trainer.engine.update import run_update
from trainer.environment import detect_launch
from trainer.models import build_model
from trainer.rule import BatchPlan

UPDATES = 10
WITHOUT_BATCH_NORM = torch.nn.Sequential


def main(collective_name: str, folder: str, *cases: str) -> None:
    collective = open_collective(collective_name, detect_launch())
    for case in cases:
        ghost_batch, micro_batch, accumulation_steps = case.split(":")
        plan = BatchPlan(int(micro_batch), int(accumulation_steps), collective.world_size)
        make_updates(collective, ghost_batch, plan, Path(folder) / f"{case}.pt")
    collective.close()
    leave(0)


def make_updates(collective: Collective, ghost_batch: str, plan: BatchPlan, out: Path) -> None:
    images, labels = digits()
    torch.manual_seed(0)
    if ghost_batch == "none":
        model = WITHOUT_BATCH_NORM(
            torch.nn.Conv2d(3, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10)
        )
    else:
        model = build_model("small-convnet", 10, int(ghost_batch))
    model = model.double()
    optimizer = build_optimizer("nesterov", model, lr=0.1, momentum=0.9, weight_decay=5e-4)
    shard = Shard(
        collective.rank, plan.world_size, plan.micro_batch, plan.accumulation_steps, 0, UPDATES * plan.global_batch
    )

    def micro_batches():
        for start in micro_batch_starts(shard):
            ids = sample_ids(0, len(labels), np.arange(start, start + plan.micro_batch))
            yield images[ids], labels[ids]

    if collective.rank > 0:  # what rank 0 has is what counts, also of running statistics
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    module = collective.wrap(model)
    batches = micro_batches()
    for _ in range(UPDATES):
        run_update(module, optimizer, collective, batches, plan)
    average_running_statistics(model, collective)
    if collective.rank == 0:
        torch.save(model.state_dict(), out)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits: (1797, 3, 8, 8) float64 in 0..1 and (1797,) int64."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16.0)
    return images[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(bunch.target.astype(np.int64))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
