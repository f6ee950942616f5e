"""What became of a sweep's points, read off the journals of its runs: there is no other book.

A point and a run belong together where their whole configurations do, apart from where the record goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.sweep.errors import SweepError
from trainer.tracking import FAILED, FILE_NAME, FINISHED, LOST_WORKER, RUNNING, STOOD_STILL, RunLog, read_journal

Recipe = frozenset[tuple[str, str]]

_CHECKPOINT = "checkpoints/*/state.json"  # as the engine lays it out, for which torch would have to be imported
_WHERE_THE_RECORD_GOES = ("output", "tracking.mlflow", "tracking.parent")


def recipe_of(params: Mapping[str, str]) -> Recipe:
    """What makes two runs the same point: every setting, the seed too, but not where the record goes."""
    return frozenset((key, value) for key, value in params.items() if key not in _WHERE_THE_RECORD_GOES)


def journals_of(folder: Path) -> set[Path]:
    """The journals of the runs in a sweep's folder; an empty one is of a run that was killed as it began."""
    return {path for path in folder.glob(f"*/{FILE_NAME}") if path.stat().st_size > 0}


def read_attempts(folder: Path) -> dict[Recipe, list[RunLog]]:
    """The runs in a sweep's folder by recipe, the oldest first. Raises TrackingError for a damaged journal."""
    attempts: dict[Recipe, list[RunLog]] = {}
    for log in sorted(map(read_journal, journals_of(folder)), key=lambda log: (log.start_time_s, log.source)):
        attempts.setdefault(recipe_of(log.run.params), []).append(log)
    return attempts


def settled_by(attempts: Sequence[RunLog]) -> RunLog | None:
    """The run that settles a point: the last that finished, else the last that failed; None where it is to be run.

    A run that diverged would again, so a failure settles a point. One that was killed, whose workers were, or that
    stood still, does not. Raises SweepError where a run goes on: that of a sweep which died without ending it.
    """
    by_status = {log.status: log for log in attempts if not (log.error or "").startswith((LOST_WORKER, STOOD_STILL))}
    if (running := by_status.get(RUNNING)) is not None:
        raise SweepError(f"{running.source}: this run of the sweep still goes on: wait for its end, or end it")
    return by_status.get(FINISHED) or by_status.get(FAILED)


def left_by(attempts: Sequence[RunLog]) -> Path | None:
    """The folder of the run that an unsettled point goes on with: the last that has a checkpoint, if any."""
    folders = [Path(log.source).parent for log in attempts]
    return next((folder for folder in reversed(folders) if any(folder.glob(_CHECKPOINT))), None)


def result_text(log: RunLog) -> str:
    """How a run ended, in one line."""
    if log.status != FINISHED or log.close is None:
        return f"{log.status.lower()}: {log.error}"
    figures = log.close.summary
    return f"top-1 {100 * figures['final_top1']:.1f} %, {figures['updates']:,.0f} updates, {figures['total_s']:,.0f} s"
