"""`trainer plan --compare`: schedules and fleets side by side, in a table, as JSON and as a figure."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from trainer.calibration.errors import CalibrationError
from trainer.cli.planning.fleet_argument import fleet_text
from trainer.cli.planning.listening import AT_LEAST, may_take_more, policy_in_short
from trainer.cli.planning.options import known_dataset_size, refuse_without_times
from trainer.cli.planning.time import cost_of, error_text
from trainer.cli.planning.timing import Timing, open_timing
from trainer.cli.planning.view import plain_console, plan_document
from trainer.config import TrainConfig, load_config
from trainer.environment import trainer_config
from trainer.report.table import Table, rich_tables, with_speed_ups
from trainer.report.units import UNKNOWN, count, duration, one, significant, time_unit
from trainer.rule import Fleet, PlanError, RunPlan, plan_run
from trainer.rule.step_time import RunTime


@dataclass(frozen=True, slots=True)
class Contender:
    """A run as the command line names it, and what its time is predicted from."""

    label: str
    config: TrainConfig
    timing: Timing | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender on a fleet: its plan and time, or the problem that kept it from having one."""

    label: str
    config: TrainConfig
    fleet: Fleet
    plan: RunPlan | None = None
    time: RunTime | None = None
    problem: str = ""

    @property
    def may_take_more(self) -> bool:
        """Whether its updates and time are the least that they may be."""
        return self.plan is not None and may_take_more(self.config, self.plan)


def compare(args: argparse.Namespace, fleets: Sequence[Fleet]) -> int:
    """Each configuration on each fleet, or on its own fleet where none is given; an exit code.

    Raises PlanError where not one of them can be planned.
    """
    contenders = _contenders(args)
    if all(contender.timing is None for contender in contenders):
        refuse_without_times(args)
    entries = [entry(c, fleet) for c in contenders for fleet in fleets or [c.config.rule_fleet(1)]]
    if not any(entry.plan for entry in entries):
        raise PlanError("; ".join(f"{_name(entry)}: {entry.problem}" for entry in entries))
    pictured = None
    if args.figure is not None:
        from trainer.cli.planning.figure import draw

        pictured = draw(contenders, args.figure, args.price)
    if args.json:
        figure = {} if pictured is None else {"figure": pictured}
        document = {"runs": [entry_document(entry, args.price) for entry in entries], **figure}
        json.dump(document, sys.stdout, indent=2)
        print()
        return 0
    print_entries(entries, args.price, plain_console())
    for timing in {c.timing.source: c.timing for c in contenders if c.timing is not None}.values():
        print(f"times: {timing}")
    if pictured is not None:
        for left_out in pictured["left_out"]:
            print(f"not in the figure: {left_out}")
        print(f"figure: {args.figure}")
    return 0


def _contenders(args: argparse.Namespace) -> list[Contender]:
    sources: list[str | None] = [word for word in args.words if "=" not in word]
    overrides = [word for word in args.words if "=" in word]
    contenders = []
    for source in sources or [None]:
        config = load_config(source, overrides, default=trainer_config())
        timing = open_timing(config, args.calibration, args.per_node)
        contenders.append(Contender(source or config.name, config, timing))
    return contenders


def entry(contender: Contender, fleet: Fleet) -> Entry:
    """The contender on the fleet, whatever becomes of it."""
    timing = contender.timing
    try:
        config = contender.config if timing is None else timing.fit(contender.config)
        plan = plan_run(config.rule_schedule(known_dataset_size(config)), fleet)
        return Entry(contender.label, config, fleet, plan, None if timing is None else timing.predict(plan))
    except (PlanError, CalibrationError) as error:
        return Entry(contender.label, contender.config, fleet, problem=str(error))


def entry_document(entry: Entry, price: float | None) -> dict[str, Any]:
    """The entry as `trainer plan --json` would print it; name, fleet and error where there is no plan."""
    if entry.plan is not None:
        return plan_document(entry.label, entry.config, entry.plan, entry.time, price)
    steps = [{"epoch": step.epoch, "workers": step.workers} for step in entry.fleet.steps]
    return {"name": entry.label, "fleet": steps, "error": entry.problem}


def print_entries(entries: Sequence[Entry], price: float | None, console: Console) -> None:
    """The table, and in words what it has no room for."""
    for table in rich_tables(entries_table(entries, price), "Plans", console.width):
        console.print(table)
    if len(entries) > 1:
        console.print("(nx): speed-up or saving against the first.")
    if not any(entry.time for entry in entries):
        console.print("Times are not known: they take a calibration (--calibration FILE, from `trainer calibrate`).")
    for entry in entries:
        if entry.problem:
            console.print(f"{_name(entry)} cannot be planned: {entry.problem}")
    for note, names in _notes(entries).items():
        console.print(f"note: {note}" + (f" ({', '.join(names)})" if len(names) < len(entries) else ""))


def entries_table(entries: Sequence[Entry], price: float | None) -> Table:
    """A row an entry; a cost is followed by how many times less it is than the first's."""
    plans, times = [entry.plan for entry in entries], [entry.time for entry in entries]
    columns: dict[str, list[str]] = {
        "schedule on workers": [f"{entry.label} on {fleet_text(entry.fleet)}" for entry in entries],
        "largest batch": [f"{max(p.global_batch for p in plan.phases):,}" if plan else "no plan" for plan in plans],
        "updates": _at_least(
            entries, with_speed_ups([one(plan.total_updates) if plan else None for plan in plans], count)
        ),
    }
    if any(times):
        unit = time_unit([time.seconds for time in times if time])
        seconds = [one(time.seconds) if time else None for time in times]
        hours = [one(time.worker_hours) if time else None for time in times]
        columns |= {
            "time": _at_least(entries, with_speed_ups(seconds, lambda time_s: duration(time_s, unit))),
            "worker-hours": with_speed_ups(hours, lambda each: significant(each.mean) if each else UNKNOWN),
        }
        if price is not None:
            columns["cost"] = [f"{cost_of(time, price):,.2f}" if time else UNKNOWN for time in times]
        columns["error"] = [(error_text(time.error) or "unknown") if time else UNKNOWN for time in times]
    else:
        columns["samples"] = [f"{plan.total_samples:,}" if plan else UNKNOWN for plan in plans]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _at_least(entries: Sequence[Entry], cells: Sequence[str]) -> list[str]:
    """The cells, as the least that they may be in the rows of runs that may take more."""
    return [
        f"{AT_LEAST}{cell}" if entry.may_take_more and cell != UNKNOWN else cell
        for entry, cell in zip(entries, cells, strict=True)
    ]


def _notes(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What may turn out otherwise, how far times lie outside of what was measured, and in whose plans."""
    notes: dict[str, list[str]] = {}
    for entry in entries:
        policy = policy_in_short(entry.config, entry.plan) if entry.plan else None
        for note in [*([policy] if policy else []), *(entry.time.notes if entry.time else ())]:
            notes.setdefault(note, []).append(_name(entry))
    return notes


def _name(entry: Entry) -> str:
    return f"{entry.label} on {entry.fleet}"
