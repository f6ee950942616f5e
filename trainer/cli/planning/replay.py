"""A run's decisions, each decided anew from what its journal says that it knew.

The coordinator is a function, so the record of a run proves itself: whoever has the journal sees that every batch and
lr follows from the configuration and the measurements, or what this version of the rule says in their place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.config import TrainConfig, parse_config
from trainer.config.explain import in_one_line
from trainer.rule import EpochDecision, Heard, PlanError, decide
from trainer.tracking import RunLog, TrackingError, journals_in, read_journal

# More samples or workers are no count, and too many for a float's arithmetic; the square of a measurement is a float.
_MOST, _LARGEST = 10**15, 1e150


@dataclass(frozen=True, slots=True)
class Known:
    """What was known when an epoch was decided, beside the configuration and the workers."""

    heard: Heard
    dataset_size: int
    max_micro_batch: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a decision by its dotted name: as it was recorded, and as it is decided now."""

    field: str
    recorded: Any
    decided: Any


@dataclass(frozen=True, slots=True)
class Replayed:
    """A recorded decision, and the one that its inputs give now: None where they give none, and problem says why."""

    recorded: EpochDecision
    known: Known
    decided: EpochDecision | None
    problem: str = ""

    @property
    def differences(self) -> list[Difference]:
        """Empty where both are the same to the bit, and where nothing is decided."""
        if self.decided is None:
            return []
        then, now = _flat(asdict(self.recorded)), _flat(asdict(self.decided))
        return [
            Difference(key, then.get(key), now.get(key)) for key in {**then, **now} if then.get(key) != now.get(key)
        ]

    @property
    def is_same(self) -> bool:
        return self.decided == self.recorded


@dataclass(frozen=True, slots=True)
class Replay:
    """All decisions of a run in the order of its journal: an epoch that was begun again has one for each time."""

    log: RunLog
    config: TrainConfig
    decisions: tuple[Replayed, ...]

    @property
    def is_same(self) -> bool:
        return all(decision.is_same for decision in self.decisions)


def replay(place: Path) -> Replay:
    """The run in a journal or a folder, decided anew. Raises TrackingError, ConfigError or PlanError."""
    journal, *others = journals_in(place)
    if others:
        raise PlanError(f"--replay {place}: holds {1 + len(others)} runs: name one, {journal.parent} for example")
    log = read_journal(journal)
    recorded = [_recorded(journal, number, fields) for number, fields in enumerate(_decisions(log), 1)]
    if not recorded:
        raise PlanError(f"--replay {journal}: holds no decision: the run ended before its first epoch")
    text = log.run.artifacts.get("config.yaml")
    if text is None:
        raise PlanError(f"--replay {journal}: does not say how its run was configured: only such a journal is replayed")
    config = parse_config(text, f"the configuration in {journal}")
    return Replay(log, config, tuple(_decide(config, decision, known) for decision, known in recorded))


def _decide(config: TrainConfig, recorded: EpochDecision, known: Known) -> Replayed:
    try:
        schedule = config.with_max_micro_batch(known.max_micro_batch).rule_schedule(known.dataset_size)
        progress = known.heard.progress
        if not (recorded.epoch if progress is None else progress / known.dataset_size) < schedule.epochs:
            raise PlanError(f"epoch {recorded.epoch}: begins after the end of the schedule")
        return Replayed(recorded, known, decide(schedule, recorded.epoch, recorded.plan.world_size, known.heard))
    except PlanError as error:
        return Replayed(recorded, known, None, str(error))


def _decisions(log: RunLog) -> list[Mapping[str, Any]]:
    return [event.fields for event in log.events if event.kind == "decision"]


def _recorded(journal: Path, number: int, fields: Mapping[str, Any]) -> tuple[EpochDecision, Known]:
    """The decision in an event's fields. Raises TrackingError for other fields, other types and impossible numbers."""
    if "heard" not in fields:
        raise TrackingError(
            f"{journal}: is of an older version, whose decisions do not say what they heard: replay a run of this one"
        )
    own = {key: value for key, value in fields.items() if key in EpochDecision.__dataclass_fields__}
    inputs = {key: value for key, value in fields.items() if key not in own}
    try:
        # As JSON: strict means JSON's types then.
        decision = _DECISION.validate_json(json.dumps(own, allow_nan=False), strict=True)
        known = _KNOWN.validate_json(json.dumps(inputs, allow_nan=False), strict=True)
        if asdict(decision) | asdict(known) != fields:
            raise ValueError("these are the fields of another version")
        _check(decision, known)
    except (ValueError, RecursionError) as error:
        raise TrackingError(f"{journal}: decision {number} is damaged ({_reason(error)}): restore the file") from None
    return decision, known


def _check(decision: EpochDecision, known: Known) -> None:
    """Raises ValueError for what no run writes down, and decide would not expect."""
    plan, heard = decision.plan, known.heard
    counts = [plan.micro_batch, plan.accumulation_steps, plan.world_size, known.dataset_size, known.max_micro_batch]
    if heard.global_batch is not None:
        counts.append(heard.global_batch)
    if not all(1 <= count <= _MOST for count in counts) or not 0 <= decision.epoch <= _MOST:
        raise ValueError("a count is out of bounds")
    if heard.noise is not None:
        if max(map(abs, astuple(heard.noise))) > _LARGEST:
            raise ValueError("a measurement is out of bounds")
        if min(heard.noise.trace_variance, heard.noise.squared_norm_variance) < 0:
            raise ValueError("a variance is below 0")
    if heard.progress is not None and heard.progress < 0:
        raise ValueError("progress is below 0")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return in_one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 200)
    return in_one_line(str(error), 200)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values; nothing for None, so that None beside a section tells each of its fields."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return {key: value for key, value in flat.items() if value is not None}


_DECISION, _KNOWN = TypeAdapter(EpochDecision), TypeAdapter(Known)
