"""`trainer plan`: the whole schedule, without data, a GPU or torch."""

from __future__ import annotations

import argparse
import json
import sys

from trainer.cli.config_arguments import add_config_arguments, load_from_arguments
from trainer.cli.plan_view import plan_document, print_plan
from trainer.config import ConfigError, TrainConfig, load_config, preset_names
from trainer.rule import PlanError, RunPlan, plan_run


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "plan", help="show the batch, lr and momentum of every epoch", description="Shows a run before it is started."
    )
    add_config_arguments(parser)
    parser.add_argument("--workers", type=int, default=1, metavar="W", help="workers in the fleet (default 1)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = load_from_arguments(args)
    if args.workers < 1:
        raise PlanError(f"--workers {args.workers}: a fleet has at least one worker")
    if config.data.train_size is None:
        raise PlanError(
            f"{config.name}: the number of training images is not known before the data are read: add "
            f"data.train_size=N, as `trainer data index` prints it"
        )
    plan = plan_for_fleet(config, config.data.train_size, args.workers)
    if args.json:
        json.dump(plan_document(config.name, plan), sys.stdout, indent=2)
        print()
    else:
        print_plan(config, plan)
    return 0


def plan_for_fleet(config: TrainConfig, dataset_size: int, world_size: int) -> RunPlan:
    """The plan of a run; where this fleet cannot share it, the PlanError names the presets that it can share."""
    try:
        return plan_run(config.rule_schedule(dataset_size), world_size)
    except PlanError as error:
        shareable = [name for name in preset_names() if name != config.name and _can_share(name, world_size)]
        if world_size == 1 or not shareable:
            raise
        raise PlanError(f"{error}; presets that {world_size} workers can share: {', '.join(shareable)}") from None


def _can_share(preset: str, world_size: int) -> bool:
    config = load_config(preset)
    # A preset for the user's own data fits if its batch does: whoever has so many workers has the images for it.
    dataset_size = config.data.train_size or 10 * max(config.schedule.reference.global_batch, world_size)
    try:
        plan_run(config.rule_schedule(dataset_size), world_size)
    except (PlanError, ConfigError):
        return False
    return True
