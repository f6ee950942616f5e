"""A plan for people and for programs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.config import TrainConfig
from trainer.rule import Phase, RunPlan

_HEADINGS = (
    "epochs",
    "global\nbatch",
    "micro x steps\nx workers",
    "lr",
    "momentum",
    "noise scale\nlr/(1-m) N/B",
    "exact\n(N/B - 1)",
    "updates",
    "momentum\nepochs",
)


def plain_console(quiet: bool = False) -> Console:
    """Where text for people goes: as wide as the terminal, or wide enough for a plan where there is none."""
    return Console(highlight=False, soft_wrap=True, quiet=quiet, width=None if sys.stdout.isatty() else 120)


def plan_document(name: str, plan: RunPlan) -> dict[str, Any]:
    """What `trainer plan --json` prints. predicted_seconds is null until step times are known."""
    return {
        "name": name,
        "dataset_size": plan.dataset_size,
        "epochs": plan.epochs,
        "world_size": plan.world_size,
        "total_updates": plan.total_updates,
        "total_samples": plan.total_samples,
        "predicted_seconds": None,
        "phases": [asdict(phase) for phase in plan.phases],
    }


def print_plan(config: TrainConfig, plan: RunPlan, console: Console | None = None) -> None:
    """The phases as a table, the totals, and what a user should know about them."""
    console = console or plain_console()
    workers = f"{plan.world_size} worker" + ("s" if plan.world_size != 1 else "")
    table = Table(
        title=f"{config.name} on {workers}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("batch\nlimited by", overflow="fold")
    for phase in plan.phases:
        table.add_row(*_cells(phase))
    console.print(table)
    console.print(
        f"{plan.total_updates:,} updates, {plan.total_samples:,} samples: "
        f"{plan.epochs:g} epochs of {plan.dataset_size:,}"
    )
    for note in plan_notes(config, plan):
        console.print(f"note: {note}")


def plan_notes(config: TrainConfig, plan: RunPlan) -> list[str]:
    """What the numbers of a plan do not say by themselves."""
    ghost = config.model.ghost_batch
    notes = []
    cut = sorted({phase.micro_batch for phase in plan.phases if ghost and phase.micro_batch % ghost})
    if ghost and cut:
        sizes = ", ".join(
            f"{micro_batch} as {groups} of about {micro_batch / groups:.3g}"
            for micro_batch in cut
            for groups in [max(1, round(micro_batch / ghost))]
        )
        notes.append(
            f"the ghost batch is {ghost} samples, and micro-batches that are no multiple of it are normalised in "
            f"equal parts: {sizes}"
        )
    warmup = config.schedule.warmup
    if warmup.epochs > 0:
        notes.append(f"lr grows from {warmup.start_factor:g} of itself over the first {warmup.epochs:g} epochs")
    return notes


def _cells(phase: Phase) -> list[str]:
    same = phase.first_epoch == phase.last_epoch
    return [
        f"{phase.first_epoch}" if same else f"{phase.first_epoch}-{phase.last_epoch}",
        f"{phase.global_batch:,}",
        f"{phase.micro_batch} x {phase.accumulation_steps} x {phase.world_size}",
        f"{phase.lr:.6g}",
        f"{phase.momentum:.6g}",
        f"{phase.sgd_noise_scale:.5g}",
        f"{phase.sgd_noise_scale_exact:.5g}",
        f"{phase.updates:,}",
        f"{phase.momentum_epochs:.3g}",
        "" if phase.limited_by == "schedule" else phase.limited_by,
    ]
