"""The points of a sweep, one process after the other, each noted as it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.sweep.attempts import Recipe, journals_of, left_by, read_attempts, result_text
from trainer.sweep.child import StopRequests, last_words, run_child
from trainer.sweep.errors import SweepError
from trainer.sweep.grid import Point
from trainer.sweep.progress import SweepProgress
from trainer.tracking import FINISHED, RUNNING, RunLog, Tracker, read_journal

RUNNING_LOG = "running.log"  # what the run under way says; it goes into the run's folder afterwards
_LOG = "output.log"
_USER_ERROR = 2


@dataclass(frozen=True, slots=True)
class Task:
    """A point that has been checked. updates: of its plan, None where the data or the fleet are not known yet.
    may_take_more: these are the least, by what the run hears."""

    point: Point
    recipe: Recipe
    updates: int | None
    may_take_more: bool = False


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is to be run where. launcher: the words before each run's command."""

    name: str
    folder: Path
    launcher: tuple[str, ...]
    tasks: tuple[Task, ...]

    def title(self, place: int) -> str:
        """The task at this place of the list, as people count."""
        return f"{place + 1}/{len(self.tasks)} {self.tasks[place].point.label}"


def run_points(
    sweep: Sweep,
    run_uid: str,
    logs: list[RunLog | None],
    tracker: Tracker,
    progress: SweepProgress,
    stop: StopRequests,
) -> None:
    """Runs the points that have no log yet and puts each one's there; ends early where the sweep is told to stop.

    run_uid is the sweep's own. Raises SweepError where a point could not begin: the others would not either.
    """
    for place, task in enumerate(sweep.tasks):
        if logs[place] is not None:
            continue
        if stop.count:
            return
        progress.point_started(place + 1, task.point.label)
        log = _run_point(sweep, task, run_uid, progress, stop)
        if log is None or (stop.count and log.status != FINISHED):
            return
        logs[place] = log
        figures = counts(logs)
        result = log.close.summary if log.status == FINISHED and log.close is not None else {}
        metrics = {f"sweep/{key}": result[key] for key in ("final_top1", "updates", "total_s") if key in result}
        tracker.log(round(figures["sweep/finished"] + figures["sweep/failed"]), figures | metrics)
        fields = {"point": task.point.label, "run_uid": log.run.run_uid, "status": log.status, "error": log.error}
        tracker.event("point", fields | dict(result))
        progress.point_ended(f"{sweep.title(place)}: {result_text(log)}", result.get("final_top1"))


def counts(logs: Sequence[RunLog | None]) -> dict[str, float]:
    """How many points there are, and how many of them have finished and failed."""
    ended = [log.status == FINISHED for log in logs if log is not None]
    return {"sweep/points": len(logs), "sweep/finished": sum(ended), "sweep/failed": len(ended) - sum(ended)}


def _run_point(sweep: Sweep, task: Task, run_uid: str, progress: SweepProgress, stop: StopRequests) -> RunLog | None:
    """Runs one point to its end, from its newest checkpoint where it was broken off; None where it was stopped before
    it had begun."""
    point = task.point
    words = [*([] if point.source is None else [point.source]), *point.overrides]
    own = [f"output={_yaml_text(str(sweep.folder))}", f"tracking.parent={_yaml_text(run_uid)}"]
    left = left_by(read_attempts(sweep.folder).get(task.recipe, []))
    resume = [] if left is None else ["--resume", str(left)]
    command = [*sweep.launcher, sys.executable, "-m", "trainer", "train", *words, *own, *resume]
    before, said = _sizes(sweep.folder), sweep.folder / RUNNING_LOG
    code = run_child(command, said, stop, lambda: progress.say("stopping: the run under way is saved; again kills it"))
    begun = [read_journal(path) for path, size in _sizes(sweep.folder).items() if before.get(path) != size]
    begun = [log for log in begun if log.run.parent == run_uid]
    if not begun:
        if stop.count:
            return None
        anew = "" if left is None else f"; to begin this run anew, remove {left}"
        raise SweepError(f"{point.label}: {last_words(said)} (exit code {code}; all that it said: {said}){anew}")
    (log,) = begun
    folder = Path(log.source).parent
    with open(folder / _LOG, "ab") as log_of_run:  # after what it said before it was broken off
        log_of_run.write(said.read_bytes())
    said.unlink()
    if log.status == RUNNING and not stop.count:
        raise SweepError(f"{point.label}: its launcher ended and {log.source} is still written: end that run")
    if code == _USER_ERROR:
        raise SweepError(f"{point.label}: {log.error}; to repeat this run then, remove {folder}")
    return log


def _sizes(folder: Path) -> dict[Path, int]:
    """How much is in the journals of the sweep's runs."""
    return {path: path.stat().st_size for path in journals_of(folder)}


def _yaml_text(text: str) -> str:
    """The text as YAML that is a text whatever it holds."""
    return json.dumps(text, ensure_ascii=False)
