"""Journals of runs that decided and trained nothing, for `trainer plan --replay`; and what may be wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from trainer.cli.main import main
from trainer.config import load_config, to_yaml
from trainer.rule import GradientNoise, Heard, decide
from trainer.tracking import Journal, RunStart

GROW = "digits-increase-batch"  # g / 3 at epochs 10, 15 and 20 by the batch: 16, 48, 144
Edit = Callable[[dict[str, Any]], object]


def measured_at(epoch: int) -> GradientNoise | None:
    """From the third epoch on; a scale of 20 samples an epoch."""
    return None if epoch < 2 else GradientNoise(20.0 * epoch, 1.0, 4.0, 0.01, -0.1)


def record(
    folder: Path,
    *overrides: str,
    epochs: Sequence[tuple[int, int]] = tuple((epoch, 1) for epoch in range(14)),
    edit: Edit = lambda fields: None,
    artifacts: dict[str, str] | None = None,
) -> Path:
    """The journal of a run that decided so many (epoch, workers), each on what it had heard; edit: of every event."""
    config = load_config(GROW, overrides)
    schedule = config.with_max_micro_batch(72).rule_schedule(1440)
    journal = Journal(folder / "run-1" / "journal.jsonl")
    about = {"config.yaml": to_yaml(config)} if artifacts is None else artifacts
    journal.start(RunStart("run-1", config.name, "digits", {}, {}, about))
    batch, progress = None, 0.0
    for epoch, workers in epochs:
        along = progress if config.schedule.policy == "adascale" and epoch > 0 else None
        heard = Heard(measured_at(epoch), batch, along)
        decision = decide(schedule, epoch, workers, heard)
        batch = decision.plan.global_batch
        progress += 1440 // batch * decision.advance(schedule)
        fields = {**asdict(decision), "heard": asdict(heard), "dataset_size": 1440, "max_micro_batch": 72}
        edit(fields)
        journal.event("decision", fields)
    journal.close("KILLED", {})
    return journal.path


def replayed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", "--replay", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def drop(*path: str) -> Edit:
    def edit(fields: dict[str, Any]) -> None:
        for key in path[:-1]:
            fields = fields[key]
        del fields[path[-1]]

    return edit


def put(value: object, *path: str) -> Edit:
    def edit(fields: dict[str, Any]) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return edit
