"""A replayed run for people and for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from trainer.cli.exit_codes import FAILED
from trainer.cli.planning.replay import Known, Replay, Replayed
from trainer.cli.planning.table import Column, epochs_text, phase_table
from trainer.cli.planning.view import plain_console
from trainer.config.explain import in_one_line
from trainer.report.units import UNKNOWN
from trainer.rule import EpochDecision, GradientNoise, Policy
from trainer.rule.coordinator import NOT_LIMITED


@dataclass(frozen=True, slots=True)
class _Row:
    """Consecutive epochs that were decided alike, and what was known before the first and before the last of them."""

    first_epoch: int
    last: EpochDecision
    first_known: Known
    last_known: Known


@dataclass(frozen=True, slots=True)
class _Span:
    """Epochs in a row. is_again: decided for another time, in a run that was resumed within them or before."""

    first: int
    last: int
    is_again: bool

    def __str__(self) -> str:
        return f"{epochs_text(self.first, self.last)}{' once more' if self.is_again else ''}"


def show_replay(replay: Replay, as_json: bool) -> int:
    """Prints it; the exit code: 1 where an epoch is decided otherwise than it was."""
    if replay.log.torn_line is not None:
        print(f"{replay.log.source}: line {replay.log.torn_line} is incomplete and was skipped", file=sys.stderr)
    if as_json:
        json.dump(replay_document(replay), sys.stdout, indent=2)
        print()
    else:
        print_replay(replay, plain_console())
    return 0 if replay.is_same else FAILED


def replay_document(replay: Replay) -> dict[str, Any]:
    """What `trainer plan --replay --json` prints."""
    return {
        "name": replay.config.name,
        "run_uid": replay.log.run.run_uid,
        "policy": replay.config.schedule.policy,
        "is_same": replay.is_same,
        "decisions": [_decision_document(decision) for decision in replay.decisions],
    }


def print_replay(replay: Replay, console: Console) -> None:
    """The decisions as a table, and whether they came out the same."""
    policy = replay.config.schedule.policy
    title = f"{replay.config.name}, policy {policy}, as decided in run {replay.log.run.run_uid}"
    console.print(phase_table(title, _columns(policy), _rows(replay), console.width))
    count, others = len(replay.decisions), [decision for decision in replay.decisions if not decision.is_same]
    if not others:
        console.print(
            "1 decision, decided again as it was recorded"
            if count == 1
            else f"{count:,} decisions, all decided again as they were recorded"
        )
        return
    console.print(f"{count:,} decision{'' if count == 1 else 's'}, {len(others):,} not decided again as recorded:")
    for text, spans in _differing(replay.decisions).items():
        is_one = len(spans) == 1 and spans[0].first == spans[0].last
        console.print(f"epoch{'' if is_one else 's'} {', '.join(map(str, spans))}: {text}")


def _differing(decisions: Sequence[Replayed]) -> dict[str, list[_Span]]:
    """What is decided otherwise, and where, both in the order of the journal."""
    differing: dict[str, list[_Span]] = {}
    begun: set[int] = set()
    for decision in decisions:
        epoch = decision.recorded.epoch
        is_again = epoch in begun
        begun.add(epoch)
        if decision.is_same:
            continue
        spans = differing.setdefault(_difference_text(decision), [])
        if spans and (spans[-1].last, spans[-1].is_again) == (epoch - 1, is_again):
            spans[-1] = replace(spans[-1], last=epoch)
        else:
            spans.append(_Span(epoch, epoch, is_again))
    return differing


def _difference_text(decision: Replayed) -> str:
    if decision.decided is None:
        problem = decision.problem.removeprefix(f"epoch {decision.recorded.epoch}: ")
        return f"cannot be decided again: {in_one_line(problem)}"
    return ", ".join(f"{d.field} was {_value(d.recorded)} and is {_value(d.decided)} now" for d in decision.differences)


def _value(value: Any) -> str:
    return "unset" if value is None else in_one_line(str(value), 60)


def _decision_document(decision: Replayed) -> dict[str, Any]:
    noise = decision.known.heard.noise
    return {
        **asdict(decision.recorded),
        **asdict(decision.known),
        "gradient_noise_scale": None if noise is None or math.isinf(noise.scale) else noise.scale,
        "gradient_noise_scale_error": None if noise is None or math.isinf(noise.error) else noise.error,
        "gradient_noise_scale_at_least": None if noise is None or math.isinf(noise.at_least) else noise.at_least,
        "is_same": decision.is_same,
        "differences": [asdict(difference) for difference in decision.differences],
        "problem": decision.problem or None,
    }


def _rows(replay: Replay) -> list[_Row]:
    rows: list[_Row] = []
    for decision in replay.decisions:
        recorded, known = decision.recorded, decision.known
        row = rows[-1] if rows else None
        if row and recorded in (row.last, replace(row.last, epoch=row.last.epoch + 1)):
            rows[-1] = replace(row, last=recorded, last_known=known)
        else:
            rows.append(_Row(recorded.epoch, recorded, known, known))
    return rows


def _columns(policy: Policy) -> list[Column[_Row]]:
    def of(cell: Callable[[EpochDecision], str]) -> Callable[[_Row], str]:
        return lambda row: cell(row.last)

    # What the batch is held against, and does not follow from scale and error.
    of_measured: list[Column[_Row]] = [Column("of which\nat least", _heard(_at_least_text), is_wide=True)]
    of_adascale: list[Column[_Row]] = [
        Column("\ngain", of(lambda d: UNKNOWN if d.gain is None else f"{d.gain:.4g}")),
        Column("schedule's\nepoch", _progress_text, is_wide=True),
    ]
    return [
        Column("\nepochs", lambda row: epochs_text(row.first_epoch, row.last.epoch)),
        Column("global\nbatch", of(lambda d: f"{d.plan.global_batch:,}")),
        Column(
            "micro x steps\nx workers",
            of(lambda d: f"{d.plan.micro_batch} x {d.plan.accumulation_steps} x {d.plan.world_size}"),
        ),
        Column("\nlr", of(lambda d: f"{d.lr:.5g}")),
        Column("momen-\ntum", of(lambda d: f"{d.momentum:.5g}")),
        Column("noise\nscale g", of(lambda d: f"{d.sgd_noise_scale:.5g}")),
        Column("heard: gradient\nnoise scale", _heard(_noise_text)),
        *(of_measured if policy == "measured" else []),
        *(of_adascale if policy == "adascale" else []),
        Column(
            "batch\nlimited by",
            of(lambda d: "" if d.limited_by == NOT_LIMITED else in_one_line(d.limited_by, 40)),
            is_text=True,
        ),
    ]


def _heard(text: Callable[[GradientNoise], str]) -> Callable[[_Row], str]:
    """What was heard before the first epoch of a row, and before its last where that is other; - where nothing was."""

    def cell(row: _Row) -> str:
        noises = row.first_known.heard.noise, row.last_known.heard.noise
        first, last = (UNKNOWN if noise is None else text(noise) for noise in noises)
        return first if first == last else f"{first} to {last}"

    return cell


def _progress_text(row: _Row) -> str:
    """Where on the schedule the first epoch of the row begins."""
    progress = row.first_known.heard.progress
    return f"{row.first_epoch if progress is None else progress / row.first_known.dataset_size:.2f}"


def _noise_text(noise: GradientNoise) -> str:
    """Samples and their standard error; where only noise was seen, what it is above."""
    if math.isinf(noise.scale):
        return _at_least_text(noise) if math.isinf(noise.at_least) else f"over {_at_least_text(noise)}"
    return f"{noise.scale:,.0f} ± {noise.error:,.0f}"


def _at_least_text(noise: GradientNoise) -> str:
    return "no end" if math.isinf(noise.at_least) else f"{noise.at_least:,.0f}"
