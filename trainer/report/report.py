"""A comparison from its runs to its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.report.findings import findings
from trainer.report.groups import Group, common_target, group_runs
from trainer.report.outcome import Outcome, outcome_of
from trainer.report.runs import RunRecord
from trainer.report.table import Table, comparison_table
from trainer.tracking.errors import TrackingError


@dataclass(frozen=True, slots=True)
class Report:
    """Runs taken together and held against each other. target_top1: a fraction, None where no run had a target."""

    title: str
    groups: tuple[Group, ...]
    outcomes: tuple[Outcome, ...]
    target_top1: float | None
    table: Table
    findings: tuple[str, ...]


def compare_runs(runs: Sequence[RunRecord]) -> Report:
    """The comparison of these runs; the first is the baseline."""
    groups = group_runs(runs)
    target = common_target(groups)
    outcomes = tuple(outcome_of(group, target) for group in groups)
    experiments = ", ".join(dict.fromkeys(run.experiment for run in runs))
    return Report(
        title=f"Comparison: {experiments}",
        groups=groups,
        outcomes=outcomes,
        target_top1=target,
        table=comparison_table(outcomes, target),
        findings=findings(outcomes, target),
    )


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes report.html and the figures it shows into the folder; returns the files, the page first.

    Raises TrackingError when the folder cannot be written.
    """
    from trainer.report.figures import draw_figures  # Matplotlib takes a second to import
    from trainer.report.page import page

    figures = draw_figures(report.outcomes, report.target_top1)
    contents = {"report.html": page(report, figures).encode()} | {f.file_name: f.png for f in figures}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise TrackingError(f"{folder}: cannot write the report ({error.strerror}): give --output DIR") from error
    return [folder / name for name in contents]
