"""A comparison from its runs to its files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.report.agreement import agreement_note, agreement_table
from trainer.report.difference import differences
from trainer.report.findings import broken_off, findings, sweep_findings
from trainer.report.groups import Group, broken_groups, common_target, group_runs
from trainer.report.noise_findings import noise_findings
from trainer.report.outcome import Outcome, outcome_of
from trainer.report.prediction import prediction_table
from trainer.report.runs import RunRecord
from trainer.report.sweep import sweep_of
from trainer.report.table import Table, comparison_table
from trainer.tracking.errors import TrackingError


@dataclass(frozen=True, slots=True)
class Report:
    """Runs taken together and held against each other. target_top1: a fraction, None where no run had a target.

    agreement: whether the others end where the first does (in a sweep: where the best does), and agreement_note: the
    test behind it; None and empty where seeds were too few for any test. prediction: what runs were predicted to take,
    beside what they took; None where none was predicted.
    """

    title: str
    groups: tuple[Group, ...]
    outcomes: tuple[Outcome, ...]
    target_top1: float | None
    table: Table
    findings: tuple[str, ...]
    agreement: Table | None
    agreement_note: str
    prediction: Table | None


def compare_runs(runs: Sequence[RunRecord]) -> Report:
    """The comparison of these runs; the first is the baseline."""
    groups = group_runs(runs)
    target = common_target(groups)
    outcomes = tuple(outcome_of(group, target) for group in groups)
    experiments = ", ".join(dict.fromkeys(run.experiment for run in runs))
    finals = [outcome.final_top1 if outcome.group.is_finished else None for outcome in outcomes]
    sweep = sweep_of(groups) if any(finals) else None
    means = [-math.inf if final is None else final.mean for final in finals]
    baseline = means.index(max(means)) if sweep is not None else 0
    apart = differences(finals, baseline)
    said = findings(outcomes, target, apart) if sweep is None else sweep_findings(outcomes, sweep, baseline, apart)
    return Report(
        title=f"Comparison: {experiments}",
        groups=groups,
        outcomes=outcomes,
        target_top1=target,
        table=comparison_table(outcomes, target),
        findings=(*said, *noise_findings(groups), *map(broken_off, broken_groups(runs))),
        agreement=agreement_table(outcomes, apart, baseline) if any(apart) else None,
        agreement_note=agreement_note(apart, groups[baseline].label, is_the_best=sweep is not None),
        prediction=prediction_table(groups),
    )


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes report.html and the figures it shows into the folder; returns the files, the page first.

    Raises TrackingError when the folder cannot be written.
    """
    from trainer.report.figures.gallery import draw_figures  # Matplotlib takes a second to import
    from trainer.report.page import page

    try:
        folder.mkdir(parents=True, exist_ok=True)
        figures = draw_figures(report.outcomes, report.target_top1)
        contents = {"report.html": page(report, figures).encode()} | {f.file_name: f.png for f in figures}
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise TrackingError(f"{folder}: cannot write the report ({error.strerror}): give --output DIR") from error
    return [folder / name for name in contents]
