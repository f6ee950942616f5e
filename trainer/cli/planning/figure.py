"""`trainer plan --compare --figure`: time against worker-hours, for fleets of 8 to 4,096 workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.calibration.errors import CalibrationError
from trainer.cli.planning.fleet_argument import fleet_text
from trainer.cli.planning.options import known_dataset_size
from trainer.report.figures.fleets import FleetCurve, write_fleet_figure
from trainer.report.units import listed
from trainer.rule import PlanError
from trainer.rule.fleet_choices import fixed_fleets, growing_fleets

if TYPE_CHECKING:
    from trainer.cli.planning.compare import Contender


def draw(contenders: Sequence[Contender], file: str, price: float | None) -> dict[str, Any]:
    """Writes the figure; says which points it has, and which are left out and why. Raises PlanError."""
    curves: list[FleetCurve] = []
    left_out: list[str] = []
    for number, contender in enumerate(contenders):
        if contender.timing is None:
            left_out.append(f"{contender.label}: has no calibration")
            continue
        try:
            config = contender.timing.fit(contender.config)
            schedule = config.rule_schedule(known_dataset_size(config))
        except (PlanError, CalibrationError) as error:
            left_out.append(f"{contender.label}: {error}")
            continue
        measured = schedule, contender.timing.times, contender.timing.per_node
        for choices, grows in ((fixed_fleets(*measured), False), (growing_fleets(*measured), True)):
            if choices.left_out:
                fleets = listed([fleet_text(fleet) for fleet, _ in choices.left_out])
                left_out.append(f"{contender.label} on {fleets} workers: {choices.left_out[0][1]}")
            if choices.choices:
                curves.append(FleetCurve(contender.label, number, grows, choices.choices))
    if not curves:
        raise PlanError(f"--figure {file}: has nothing to show: {'; '.join(left_out)}")
    try:
        write_fleet_figure(curves, price, file)
    except OSError as error:
        raise PlanError(f"--figure {file}: cannot be written ({error.strerror}): name another file") from None
    return {"file": file, "left_out": left_out}
