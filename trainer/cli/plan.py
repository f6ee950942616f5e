"""`trainer plan`: the whole schedule, without data, a GPU or torch; and what it takes, where times were measured.

With --replay, the decisions of a run that was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer.cli.config_arguments import add_config_arguments, load_from_arguments
from trainer.cli.planning.compare import compare
from trainer.cli.planning.fleet_argument import parse_fleet
from trainer.cli.planning.options import add_options, check_options, known_dataset_size, refuse_without_times
from trainer.cli.planning.replay import replay
from trainer.cli.planning.replay_view import show_replay
from trainer.cli.planning.timing import open_timing
from trainer.cli.planning.view import plan_document, print_plan
from trainer.config import ConfigError, TrainConfig, load_config, preset_names
from trainer.rule import Fleet, PlanError, RunPlan, plan_run


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="show the batch, lr and momentum of every epoch, how long it takes and what it costs",
        description="Shows a run before it is started; with --compare, several beside each other; with --replay, what "
        "a run decided, and whether it decides the same again.",
    )
    add_config_arguments(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_options(args)
    if args.replay is not None:
        return show_replay(replay(Path(args.replay)), args.json)
    fleets = [parse_fleet(text) for text in args.workers or ()]
    if args.compare:
        return compare(args, fleets)
    config = load_from_arguments(args)
    timing = open_timing(config, args.calibration, args.per_node)
    if timing is None:
        refuse_without_times(args)
    else:
        config = timing.fit(config)
    plan = plan_for_fleet(config, known_dataset_size(config), fleets[0] if fleets else config.rule_fleet(1))
    time = None if timing is None else timing.predict(plan)
    if args.json:
        json.dump(plan_document(config.name, config, plan, time, args.price), sys.stdout, indent=2)
        print()
    else:
        print_plan(config, plan, time=time, price=args.price)
        if timing is not None:
            print(f"times: {timing}")
    return 0


def plan_for_fleet(config: TrainConfig, dataset_size: int, fleet: Fleet | int) -> RunPlan:
    """The plan of a run; where this fleet cannot share it, the PlanError names the presets that it can share."""
    fleet = Fleet.of(fleet) if isinstance(fleet, int) else fleet
    schedule = config.rule_schedule(dataset_size)
    try:
        return plan_run(schedule, fleet)
    except PlanError as error:
        shareable = [name for name in preset_names() if name != config.name and _can_share(name, fleet)]
        if fleet.largest == 1 or not shareable:
            raise
        raise PlanError(f"{error}; presets that {fleet} can share: {', '.join(shareable)}") from None


def _can_share(preset: str, fleet: Fleet) -> bool:
    config = load_config(preset)
    # A preset for the user's own data fits if its batch does: whoever has so many workers has the images for it.
    dataset_size = config.data.train_size or 10 * max(config.schedule.reference.global_batch, fleet.largest)
    try:
        plan_run(config.rule_schedule(dataset_size), fleet)
    except (PlanError, ConfigError):
        return False
    return True
