"""`trainer sweep`: a grid of runs, one after the other, under one run of MLflow; taken up again where it stopped."""

from __future__ import annotations

import argparse
import platform
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.exit_codes import FAILED, INTERRUPTED
from trainer.cli.plan import plan_for_fleet
from trainer.cli.planning.listening import AT_LEAST, may_take_more
from trainer.config import ConfigError, TrainConfig, flatten, load_config
from trainer.environment import detect_launch, mlflow_tracking_uri, trainer_config
from trainer.rule import PlanError
from trainer.sweep.attempts import Recipe, read_attempts, recipe_of, result_text, settled_by
from trainer.sweep.child import stop_requests
from trainer.sweep.errors import SweepError
from trainer.sweep.grid import Grid, Point, parse_axes, parse_seeds, points_of, sweep_name
from trainer.sweep.launcher import parse_launcher, workers_of
from trainer.sweep.run import RUNNING_LOG, Sweep, Task, counts, run_points
from trainer.tracking import (
    FINISHED,
    KILLED,
    KIND,
    SWEEP,
    SWEEP_FILE_NAME,
    Journal,
    MlflowTracker,
    RunLog,
    RunStart,
    Tracker,
    Trackers,
    TrackingError,
    read_journal,
    resolve_tracking_uri,
    without_password,
)

if TYPE_CHECKING:
    from rich.console import Console

_DESCRIPTION = """Trains every combination of the named presets or files, the values of each --vary, and the seeds, one
after the other: all with the first seed, then all with the next. Every combination is checked before the
first run starts. A run that diverges is noted, and the sweep goes on.

  trainer sweep cifar10-decay-lr cifar10-hybrid cifar10-increase-batch --seeds 3
  trainer sweep digits-increase-batch --vary schedule.reference.lr=0.1,0.2,0.4 --seeds 3 --launcher "horovodrun -np 2"
  trainer sweep digits-hybrid --vary 'model={name: small-convnet, ghost_batch: 8},{name: small-convnet}'

The same command again, also with more seeds, goes on where the sweep was interrupted. Runs that finished
are kept, and so are those that failed of themselves (to repeat one, remove its folder); one that was broken
off goes on from its newest checkpoint.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="train a grid of settings and seeds",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PRESET|FILE.yaml|key.sub=value",
        help="presets and files to compare, and overrides for all of them",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="key.sub=v1,v2,...",
        help="values of a setting, in YAML; commas in brackets or quotes separate nothing; may be repeated",
    )
    parser.add_argument("--seeds", metavar="N|a,b,...", help="how many seeds from the configuration's own on, or which")
    parser.add_argument(
        "--launcher", default="", metavar="WORDS", help='how each run is started, for example "horovodrun -np 2"'
    )
    parser.add_argument("--name", help="of the sweep and its folder (default: made of the presets and the grid)")
    parser.add_argument("--dry-run", action="store_true", help="check the grid, show its points and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from trainer.cli.planning.view import plain_console

    if (launch := detect_launch()).world_size > 1:
        raise SweepError(
            f"a sweep starts its workers itself, and {launch.launcher} started {launch.world_size} sweeps: "
            f'use trainer sweep --launcher "{launch.launcher} ..."'
        )
    overrides = tuple(word for word in args.words if "=" in word)
    sources = tuple(word for word in args.words if "=" not in word) or (None,)
    axes = parse_axes(args.vary, overrides, seeds=args.seeds is not None)
    first = _load(points_of(Grid(sources, overrides, axes))[0])
    seeds = None if args.seeds is None else parse_seeds(args.seeds, first.seed)
    grid, launcher = Grid(sources, overrides, axes, seeds), parse_launcher(args.launcher)
    name = sweep_name(args.name, first.name, grid, launcher)
    sweep = Sweep(name, Path(first.output) / name, launcher, _check(grid, workers_of(launcher)))
    console = plain_console(lasting=True)
    if args.dry_run:
        _show(sweep, console)
        return 0
    if launcher and shutil.which(launcher[0]) is None:
        raise SweepError(f"--launcher {launcher[0]}: there is no such command: check the name and PATH")
    about = {
        "presets": " ".join(source or first.name for source in sources),
        "overrides": without_password(shlex.join(overrides)),  # as the journal has it, with which it is compared
        "launcher": without_password(shlex.join(launcher)),
        **{f"vary.{axis.key}": without_password(",".join(axis.values)) for axis in axes},
    }
    return _run(sweep, first, about, console)


def _load(point: Point) -> TrainConfig:
    try:
        return load_config(point.source, point.overrides, default=trainer_config())
    except ConfigError as error:
        raise SweepError(f"{point.label}: {error}") from None


def _check(grid: Grid, workers: int | None) -> tuple[Task, ...]:
    """Every point's configuration and, where data and fleet are known, its plan. The SweepError names the point."""
    tasks: dict[Recipe, Task] = {}
    for point in points_of(grid):
        config = _load(point)
        size = config.data.train_size
        _check_fleet(point, config, workers)
        try:
            if size is None or workers is None or config.schedule.limits.max_micro_batch == "auto":
                plan = None
            else:
                plan = plan_for_fleet(config, size, workers)
        except PlanError as error:
            raise SweepError(f"{point.label}: {error}") from None
        recipe = recipe_of(flatten(config))
        if recipe in tasks:
            raise SweepError(f"{point.label}: is the same run as {tasks[recipe].point.label}: leave one of them out")
        known = (None, False) if plan is None else (plan.total_updates, may_take_more(config, plan))
        tasks[recipe] = Task(point, recipe, *known)
    return tuple(tasks.values())


def _check_fleet(point: Point, config: TrainConfig, workers: int | None) -> None:
    if config.fleet is None:
        return
    fleet = config.rule_fleet(1)
    if not fleet.is_constant:
        raise SweepError(
            f"{point.label}: its fleet changes ({fleet}), and a sweep starts each run once: set fleet=null, or one "
            f"number of workers"
        )
    if workers not in (None, fleet.largest):
        raise SweepError(
            f"{point.label}: its fleet has {fleet}, and --launcher starts {workers}: make them agree, or set fleet=null"
        )


def _settled(sweep: Sweep) -> list[RunLog | None]:
    """The runs of earlier sweeps that settle the points; None for those that are left to do."""
    attempts = read_attempts(sweep.folder)
    return [settled_by(attempts.get(task.recipe, [])) for task in sweep.tasks]


def _show(sweep: Sweep, console: Console) -> None:
    """The points, with the updates of their plans, or with what became of them."""
    console.print(f"sweep {sweep.name}: {len(sweep.tasks)} points, in {sweep.folder}")
    for place, (task, log) in enumerate(zip(sweep.tasks, _settled(sweep), strict=True)):
        console.print(f"{sweep.title(place)}: {_planned_text(task) if log is None else result_text(log)}")


def _planned_text(task: Task) -> str:
    if task.updates is None:
        return "updates not known yet"
    return f"{AT_LEAST if task.may_take_more else ''}{task.updates:,} updates"


def _run(sweep: Sweep, first: TrainConfig, about: Mapping[str, str], console: Console) -> int:
    """Runs what is left to do, under the sweep's own record; returns the exit code."""
    from trainer.sweep.progress import open_sweep_progress

    run_uid = _run_uid(sweep, about)
    uri = resolve_tracking_uri(first.tracking.mlflow, Path(first.output), mlflow_tracking_uri())
    journal = Journal(sweep.folder / SWEEP_FILE_NAME)  # locked: no second sweep in this folder
    logs = _settled(sweep)
    before = sum(log is not None for log in logs)
    trackers: list[Tracker] = [journal]
    if uri is not None:
        trackers.append(MlflowTracker(journal.path, uri, warn=lambda text: console.print(f"warning: {text}")))
    tracker = Trackers(trackers)
    console.print(
        f"sweep {sweep.name}: {len(logs)} points, {before} of them done before; MLflow "
        f"{without_password(uri) if uri else 'off'}; what the run under way says: {sweep.folder / RUNNING_LOG}"
    )
    for place, log in enumerate(logs):
        if log is not None and log.status != FINISHED:
            console.print(f"{sweep.title(place)}: {result_text(log)}; to repeat it, remove {Path(log.source).parent}")
    status, error = "FAILED", None
    with stop_requests() as stop:
        progress = open_sweep_progress(console, len(logs), before)
        try:
            tracker.start(RunStart(run_uid, sweep.name, first.experiment, params=about, tags=_tags(), artifacts={}))
            run_points(sweep, run_uid, logs, tracker, progress, stop)
            status, error = _status(logs)
        except Exception as failure:
            error = (str(failure) or type(failure).__name__).splitlines()[0]
            raise
        finally:
            progress.close()
            _close(tracker, status, logs, error)
    console.print(_closing_line(sweep, logs, status))
    return {FINISHED: 0, KILLED: INTERRUPTED}.get(status, FAILED)


def _run_uid(sweep: Sweep, about: Mapping[str, str]) -> str:
    """That of the sweep in this folder, which goes on, or a new one. Raises SweepError where it is another sweep."""
    journal = sweep.folder / SWEEP_FILE_NAME
    if not journal.exists() or journal.stat().st_size == 0:
        return f"{time.strftime('%Y%m%d-%H%M%S')}-{sweep.name}-{secrets.token_hex(2)}"
    earlier = read_journal(journal).run
    for key in {**earlier.params, **about}:
        if earlier.params.get(key) != about.get(key):
            raise SweepError(
                f"{sweep.folder}: holds another sweep, with {key} {earlier.params.get(key, 'unset')!r} and not "
                f"{about.get(key, 'unset')!r}: choose another --name"
            )
    return earlier.run_uid


def _tags() -> dict[str, str]:
    command = shlex.join(["trainer", *sys.argv[1:]])
    return {KIND: SWEEP, "host": platform.node(), "command": without_password(command)}


def _status(logs: list[RunLog | None]) -> tuple[str, str | None]:
    """How a sweep that was not broken off ended, and why it was not well."""
    if None in logs:
        return KILLED, "interrupted"
    failed = round(counts(logs)["sweep/failed"])
    return ("FAILED", f"{failed} of {len(logs)} points failed") if failed else (FINISHED, None)


def _close(tracker: Tracker, status: str, logs: list[RunLog | None], error: str | None) -> None:
    """Ends the record; one that cannot be written says so, and changes nothing else any more."""
    try:
        tracker.close(status, counts(logs), error)
    except TrackingError as unwritten:
        print(f"trainer: {unwritten}", file=sys.stderr, flush=True)


def _closing_line(sweep: Sweep, logs: list[RunLog | None], status: str) -> str:
    figures = counts(logs)
    line = f"sweep {sweep.name}: {figures['sweep/finished']:.0f} of {len(logs)} points finished"
    if failed := figures["sweep/failed"]:
        line += f", {failed:.0f} failed"
    if status == KILLED:
        return f"{line}; interrupted: the same command goes on from here"
    return f"{line}; compare them: trainer compare {shlex.quote(str(sweep.folder))}"
