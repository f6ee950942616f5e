"""A plan for people and for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from trainer.config import TrainConfig
from trainer.rule import Phase, RunPlan
from trainer.rule.adam_scaling import scale_constants
from trainer.rule.coordinator import NOT_LIMITED

# heading, a phase's cell, and whether a narrow terminal does without it
_COLUMNS: tuple[tuple[str, Callable[[Phase], str], bool], ...] = (
    ("\nepochs", lambda phase: _span(phase.first_epoch, phase.last_epoch), False),
    ("global\nbatch", lambda phase: f"{phase.global_batch:,}", False),
    ("micro x steps\nx workers", lambda p: f"{p.micro_batch} x {p.accumulation_steps} x {p.world_size}", False),
    ("\nlr", lambda phase: f"{phase.lr:.5g}", False),
    ("momen-\ntum", lambda phase: f"{phase.momentum:.5g}", False),
    ("noise\nscale g", lambda phase: f"{phase.sgd_noise_scale:.5g}", False),
    ("g\nexact", lambda p: "" if p.sgd_noise_scale_exact is None else f"{p.sgd_noise_scale_exact:.5g}", True),
    ("\nupdates", lambda phase: f"{phase.updates:,}", False),
    ("momentum\nepochs", lambda phase: f"{phase.momentum_epochs:.3g}", True),
    ("batch\nlimited by", lambda phase: "" if phase.limited_by == NOT_LIMITED else phase.limited_by, False),
)
_WIDE = 96
_SLOW_SHARE = 0.1  # of a phase


def plain_console(quiet: bool = False) -> Console:
    """Where text for people goes: as wide as the terminal, or wide enough for a plan where there is none."""
    return Console(
        highlight=False, markup=False, soft_wrap=True, quiet=quiet, width=None if sys.stdout.isatty() else 120
    )


def plan_document(name: str, plan: RunPlan) -> dict[str, Any]:
    """What `trainer plan --json` prints. predicted_seconds is null until step times are known."""
    return {
        "name": name,
        "dataset_size": plan.dataset_size,
        "epochs": plan.epochs,
        "world_size": plan.fleet.largest,
        "total_updates": plan.total_updates,
        "total_samples": plan.total_samples,
        "predicted_seconds": None,
        "phases": [asdict(phase) for phase in plan.phases],
    }


def print_plan(config: TrainConfig, plan: RunPlan, console: Console | None = None) -> None:
    """The phases as a table, the totals, and what a user should know about them."""
    console = console or plain_console()
    title = f"{config.name} on {plan.fleet}"
    columns = [column for column in _COLUMNS if console.width >= _WIDE or not column[2]]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for heading, *_ in columns:
        is_text = heading.startswith("batch")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for phase in plan.phases:
        table.add_row(*(cell(phase) for _, cell, _ in columns))
    console.print(table)
    console.print(
        f"{plan.total_updates:,} updates, {plan.total_samples:,} samples: "
        f"{plan.epochs:g} epochs of {plan.dataset_size:,}"
    )
    for_adam = config.schedule.form == "square_root"
    noise = "g = lr sqrt(N/B)" if for_adam else "g = lr/(1-m) N/B, exact with N/B - 1"
    console.print(f"{noise}; momentum epochs B/(N(1-m)): how long momentum lags behind")
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
    notes += _momentum_notes(plan)
    if config.schedule.form == "square_root":
        notes.append(_adam_note(config, plan))
    warmup = config.schedule.warmup
    if warmup.epochs > 0:
        notes.append(f"lr grows from {warmup.start_factor:g} of itself over the first {warmup.epochs:g} epochs")
    return notes


def _momentum_notes(plan: RunPlan) -> list[str]:
    """Where the momentum buffer follows a change so slowly that it costs epochs (arXiv:1711.00489, equation 8)."""
    slow = [
        phase
        for phase in plan.phases
        if phase.momentum_epochs > (1 + 1e-9) * min(1.0, _SLOW_SHARE * (phase.last_epoch + 1 - phase.first_epoch))
    ]
    if not slow:
        return []
    worst = max(slow, key=lambda phase: phase.momentum_epochs)
    epochs = f"{worst.momentum_epochs:.3g}"
    spans = ", ".join(_span(phase.first_epoch, phase.last_epoch) for phase in slow)
    return [
        f"momentum {worst.momentum:.5g} at batch {worst.global_batch:,} follows a change over {epochs} "
        f"epoch{'s' if epochs != '1' else ''}, which may cost accuracy (slow in epochs {spans}): a lower momentum or "
        f"batch is faster"
    ]


def _adam_note(config: TrainConfig, plan: RunPlan) -> str:
    """The constants that the square-root rule moves and the table has no room for."""
    reference = config.schedule.reference
    sizes = sorted({phase.global_batch for phase in plan.phases})
    scaled = [scale_constants(config.optimizer.adam_constants, size / reference.global_batch) for size in sizes]
    each = "; ".join(f"{b:,}: {c.beta2:.6g}, {c.eps:.3g}" for b, c in zip(sizes, scaled, strict=True))
    return f"square-root rule: momentum is Adam's beta1; beta2 and eps at batch {each}"


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"
