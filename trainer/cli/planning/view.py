"""A plan for people and for programs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from rich.console import Console

from trainer.cli.lasting_output import LastingOutput
from trainer.cli.planning.listening import AT_LEAST, may_take_more, policy_notes, probe_notes
from trainer.cli.planning.table import Column, phase_table, span
from trainer.cli.planning.time import phase_document, print_time, time_document
from trainer.config import TrainConfig
from trainer.rule import Phase, RunPlan
from trainer.rule.adam_scaling import scale_constants
from trainer.rule.coordinator import NOT_LIMITED
from trainer.rule.step_time import RunTime

_COLUMNS: tuple[Column[Phase], ...] = (
    Column("\nepochs", lambda phase: span(phase, phase)),
    Column("global\nbatch", lambda phase: f"{phase.global_batch:,}"),
    Column("micro x steps\nx workers", lambda p: f"{p.micro_batch} x {p.accumulation_steps} x {p.world_size}"),
    Column("\nlr", lambda phase: f"{phase.lr:.5g}"),
    Column("momen-\ntum", lambda phase: f"{phase.momentum:.5g}"),
    Column("noise\nscale g", lambda phase: f"{phase.sgd_noise_scale:.5g}"),
    Column(
        "g\nexact",
        lambda p: "" if p.sgd_noise_scale_exact is None else f"{p.sgd_noise_scale_exact:.5g}",
        is_wide=True,
    ),
    Column("\nupdates", lambda phase: f"{phase.updates:,}"),
    Column("momentum\nepochs", lambda phase: f"{phase.momentum_epochs:.3g}", is_wide=True),
    Column("batch\nlimited by", lambda p: "" if p.limited_by == NOT_LIMITED else p.limited_by, is_text=True),
)
_SLOW_SHARE = 0.1  # of a phase


def plain_console(quiet: bool = False, lasting: bool = False) -> Console:
    """Where text for people goes: as wide as the terminal, or wide enough for a plan where there is none. lasting: also
    when nobody reads it any more."""
    return Console(
        file=LastingOutput(sys.stdout) if lasting else None,
        highlight=False,
        markup=False,
        soft_wrap=True,
        quiet=quiet,
        width=None if sys.stdout.isatty() else 120,
    )


def plan_document(
    name: str, config: TrainConfig, plan: RunPlan, time: RunTime | None = None, price: float | None = None
) -> dict[str, Any]:
    """What `trainer plan --json` prints, and what a run keeps as plan.json.

    may_take_more: totals and times are the least that they may be, by what the run hears. notes: as they are printed.
    time: what the plan is predicted to take; without it predicted_seconds is null, and nothing else is said of time.
    price: of a worker-hour.
    """
    parts = [{}] * len(plan.phases) if time is None else [{"predicted": phase_document(part)} for part in time.phases]
    return {
        "name": name,
        "dataset_size": plan.dataset_size,
        "epochs": plan.epochs,
        "policy": plan.policy,
        "may_take_more": may_take_more(config, plan),
        "world_size": plan.fleet.largest,
        "fleet": [asdict(step) for step in plan.fleet.steps],
        "total_updates": plan.total_updates,
        "total_samples": plan.total_samples,
        "predicted_seconds": None if time is None else time.seconds,
        **({} if time is None else time_document(time, price)),
        "notes": plan_notes(config, plan, time),
        "phases": [{**asdict(phase), **part} for phase, part in zip(plan.phases, parts, strict=True)],
    }


def print_plan(
    config: TrainConfig,
    plan: RunPlan,
    console: Console | None = None,
    time: RunTime | None = None,
    price: float | None = None,
) -> None:
    """The phases as a table, the totals, their time where it is predicted, and what a user should know about them."""
    console = console or plain_console()
    console.print(phase_table(f"{config.name} on {plan.fleet}", _COLUMNS, plan.phases, console.width))
    takes_more = may_take_more(config, plan)
    console.print(
        f"{AT_LEAST if takes_more else ''}{plan.total_updates:,} updates, {plan.total_samples:,} samples: "
        f"{plan.epochs:g} epoch{'' if plan.epochs == 1 else 's'} of {plan.dataset_size:,}"
    )
    for_adam = config.schedule.form == "square_root"
    noise = "g = lr sqrt(N/B)" if for_adam else "g = lr/(1-m) N/B, exact with N/B - 1"
    console.print(f"{noise}; momentum epochs B/(N(1-m)): how long momentum lags behind")
    if time is not None:
        print_time(time, price, console, takes_more)
    for note in plan_notes(config, plan, time):
        console.print(f"note: {note}")


def plan_notes(config: TrainConfig, plan: RunPlan, time: RunTime | None = None) -> list[str]:
    """What the numbers of a plan do not say by themselves, and those of its time where it is predicted."""
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
    notes += [
        f"the run ends before epoch {step.epoch}: it never has the {step.workers} workers of then"
        for step in plan.fleet.steps
        if step.epoch >= plan.epochs
    ]
    if config.schedule.form == "square_root":
        notes.append(_adam_note(config, plan))
    notes += policy_notes(config, plan)
    notes += probe_notes(config, plan)
    warmup = config.schedule.warmup
    if warmup.epochs > 0:
        notes.append(f"lr grows from {warmup.start_factor:g} of itself over the first {warmup.epochs:g} epochs")
    return [*notes, *(time.notes if time else ())]


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
    spans = ", ".join(span(phase, phase) for phase in slow)
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
