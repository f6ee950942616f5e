"""What voting costs: updates of a small network on several workers without votes, with one each, and as in a run.

Started with the library's name:

    torchrun --standalone --nproc-per-node 2 -m benchmarks.votes ddp
    horovodrun -np 2 python -m benchmarks.votes horovod
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from trainer.cli.fleet import open_collective
from trainer.collective.leave import leave
from trainer.engine.ballot import Ballot
from trainer.engine.optimizer import build_optimizer
from trainer.engine.update import run_update
from trainer.environment import detect_launch
from trainer.models import build_model
from trainer.rule import BatchPlan

MICRO_BATCH, UPDATES = 16, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=["ddp", "horovod"])
    parser.add_argument("--rounds", type=int, default=40, help=f"of {UPDATES} updates each way [%(default)s]")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: quartiles need two")
    torch.set_num_threads(1)
    collective = open_collective(args.library, detect_launch())
    model = build_model("small-convnet", 10, None)
    optimizer = build_optimizer("momentum", model, lr=0.01, momentum=0.9, weight_decay=0.0)
    module = collective.wrap(model)
    plan = BatchPlan(MICRO_BATCH, 1, collective.world_size)
    batch = torch.randn(MICRO_BATCH, 3, 16, 16), torch.randint(0, 10, (MICRO_BATCH,))

    def seconds(ballot: Ballot | None) -> float:
        begin = time.perf_counter()
        for _ in range(UPDATES):
            cast: Callable[[], None] = (lambda: None) if ballot is None else ballot.cast
            run_update(module, optimizer, collective, iter([batch]), plan, None, cast)
            if ballot is not None:
                ballot.count()
        return (time.perf_counter() - begin) / UPDATES

    ways = {
        "none": None,
        "at every update": Ballot(collective, lambda: False),
        "as in a run": Ballot(collective, lambda: False, between_votes_s=0.1),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for ballot in ways.values():
        seconds(ballot)
    for _ in range(args.rounds):
        for name, ballot in ways.items():
            taken[name].append(seconds(ballot))
    if collective.rank == 0:
        print(f"| votes, {args.library} on {collective.world_size} workers | ms an update | ratio, round by round |")
        print("|---|---|---|")
        for name, each in taken.items():
            ratios = [here / without for here, without in zip(each, taken["none"], strict=True)]
            first, median, third = statistics.quantiles(ratios, n=4)
            ratio = f"{median:.3f} (quartiles {first:.3f} to {third:.3f})"
            print(f"| {name} | {1e3 * statistics.median(each):.2f} | {ratio} |")
    collective.close()
    leave(0)


if __name__ == "__main__":
    main()
