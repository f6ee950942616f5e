"""A fleet as it is written on a command line: 256, or 128,30:256 for one that grows."""

from __future__ import annotations

import re

from trainer.rule import Fleet, FleetStep, PlanError

_STEP = re.compile(r"([0-9]+):([0-9]+)")
_MOST_DIGITS = 12  # beyond them Python itself refuses to read a number, in words of its own


def parse_fleet(text: str) -> Fleet:
    """The fleet that `--workers TEXT` means. Raises PlanError."""
    steps = []
    for place, part in enumerate(text.split(",")):
        step = _STEP.fullmatch(part.strip() if place or ":" in part else f"0:{part.strip()}")
        if step is None or max(map(len, step.groups())) > _MOST_DIGITS:
            raise PlanError(
                f"--workers {text}: {part.strip()!r} is no {'EPOCH:WORKERS' if place else 'number of workers'}: write "
                f"256, or 128,30:256 for 128 workers that are 256 from epoch 30 on"
            )
        steps.append(step.groups())
    try:
        return Fleet(tuple(FleetStep(int(epoch), int(workers)) for epoch, workers in steps))
    except PlanError as error:
        raise PlanError(f"--workers {text}: {error}") from None


def fleet_text(fleet: Fleet) -> str:
    """What parse_fleet reads back."""
    first, *others = fleet.steps
    return ",".join([str(first.workers), *(f"{step.epoch}:{step.workers}" for step in others)])
