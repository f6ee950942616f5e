"""What `trainer plan` may be asked, and what of it makes no sense."""

from __future__ import annotations

import argparse
import math

from trainer.config import TrainConfig
from trainer.rule import PlanError

# What to do where one of these is given and no time can be predicted.
_NEED_TIMES = {
    "per_node": "how workers share nodes matters to the time of a run",
    "price": "what a run costs follows from its time",
    "figure": "it shows times",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """All but the words that name a run."""
    parser.add_argument(
        "--workers",
        action="append",
        metavar="W",
        help="workers in the fleet: 256, or 128,30:256 for 128 that are 256 from epoch 30 on (default: the "
        "configuration's fleet, else 1); with --compare it may be given more than once",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="predict the time by this file of `trainer calibrate` (default: the configuration's calibration)",
    )
    parser.add_argument("--per-node", type=int, metavar="N", help="workers of a node (default: as it was measured)")
    parser.add_argument("--price", type=float, metavar="P", help="of a worker-hour: says what the run costs")
    parser.add_argument(
        "--compare", action="store_true", help="several presets or files, each on each fleet, held against the first"
    )
    parser.add_argument(
        "--figure", metavar="FILE.png", help="with --compare: draw time against worker-hours for 8 to 4,096 workers"
    )
    parser.add_argument(
        "--replay",
        metavar="JOURNAL",
        help="a run's journal or folder: decide its epochs anew from what was recorded, and say whether all come out "
        "as they were (exit code 1 where not)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def check_options(args: argparse.Namespace) -> None:
    """Raises PlanError where an option makes no sense by itself or beside the others."""
    if args.replay is not None:
        _check_replay(args)
    if args.price is not None and not 0 <= args.price < math.inf:
        raise PlanError(f"--price {args.price:g}: is no price of a worker-hour: give 0 or more")
    if args.per_node is not None and args.per_node < 1:
        raise PlanError(f"--per-node {args.per_node}: a node has at least one worker")
    if args.figure is not None and not args.figure.endswith(".png"):
        raise PlanError(f"--figure {args.figure}: is drawn as a PNG: name a file that ends in .png")
    if args.figure is not None and not args.compare:
        raise PlanError(f"--figure {args.figure}: shows schedules beside each other: add --compare")
    if len(args.workers or ()) > 1 and not args.compare:
        given = " ".join(f"--workers {text}" for text in args.workers)
        raise PlanError(f"{given}: a plan has one fleet: give one, or add --compare")


def _check_replay(args: argparse.Namespace) -> None:
    """A replay says what one run decided: nothing but its journal has a say in that."""
    options = ("workers", "calibration", "per_node", "price", "compare", "figure")
    values = {f"--{option.replace('_', '-')}": getattr(args, option) for option in options}
    beside = [*args.words, *(option for option, value in values.items() if value is not None and value is not False)]
    if beside:
        raise PlanError(
            f"--replay {args.replay}: takes all from the run's journal, and {beside[0]} stands beside it: leave it out"
        )


def refuse_without_times(args: argparse.Namespace) -> None:
    """Raises PlanError where an option asks for times, and no calibration says any."""
    for option, reason in _NEED_TIMES.items():
        value = getattr(args, option)
        if value is not None:
            shown = value if isinstance(value, str) else f"{value:g}"
            raise PlanError(f"--{option.replace('_', '-')} {shown}: {reason}: give --calibration FILE")


def known_dataset_size(config: TrainConfig) -> int:
    """The number of training images as the configuration says it. Raises PlanError where it says none."""
    if config.data.train_size is None:
        raise PlanError(
            f"{config.name}: the number of training images is not known before the data are read: add "
            f"data.train_size=N, as `trainer data index` prints it"
        )
    return config.data.train_size
