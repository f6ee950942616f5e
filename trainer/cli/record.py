"""The record of a run: its folder, journal, MLflow, and what rank 0 prints. On other ranks it is empty."""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from trainer import __version__
from trainer.cli.planning.view import plan_document, print_plan
from trainer.cli.prepare import Task
from trainer.config import flatten, to_yaml
from trainer.engine.checkpoint import FOLDER_NAME
from trainer.engine.clock import Clock
from trainer.engine.run_state import RunState
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.environment import mlflow_tracking_uri
from trainer.tracking import (
    FILE_NAME,
    Journal,
    MlflowTracker,
    RunStart,
    Tracker,
    Trackers,
    TrackingError,
    resolve_tracking_uri,
    without_password,
)
from trainer.tracking.progress import RunProgress, SilentProgress, open_progress

WEIGHTS_NAME = "weights.pt"


@dataclass(frozen=True, slots=True)
class Record:
    """What the loop writes to. folder is None on ranks other than 0."""

    tracker: Trackers
    progress: RunProgress
    folder: Path | None

    @property
    def weights_path(self) -> Path | None:
        return None if self.folder is None else self.folder / WEIGHTS_NAME

    def checkpoint_writer(self, identity: Mapping[str, str], plan: SavingPlan) -> CheckpointWriter | None:
        """What writes the run's checkpoints, which are of this identity."""
        if self.folder is None:
            return None
        return CheckpointWriter(self.folder / FOLDER_NAME, self.folder / WEIGHTS_NAME, identity, plan)

    def close(self, status: str, figures: Mapping[str, float], error: str | None) -> None:
        """Ends the record; one that cannot be written says so, and changes nothing else any more."""
        self.progress.close()
        try:
            self.tracker.close(status, figures, error)
        except TrackingError as unwritten:
            print(f"trainer: {unwritten}", file=sys.stderr, flush=True)


NO_RECORD = Record(Trackers(()), SilentProgress(), None)


def open_record(task: Task, about: Mapping[str, str], console: Console) -> Record:
    """Prints what is about to run, makes its folder, starts its journal and its MLflow run; a run that is resumed goes
    on in its own. Raises TrackingError."""
    config, plan, resumed = task.given, task.plan, task.resumed
    _print_header(about, console)
    print_plan(config, plan, console, task.time)
    if resumed is None or resumed.folder is None:
        run_uid = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.name}-{secrets.token_hex(2)}"
        folder = Path(config.output) / run_uid
    else:
        run_uid, folder = resumed.run_uid, resumed.folder
    uri = resolve_tracking_uri(config.tracking.mlflow, folder.parent, mlflow_tracking_uri())
    journal = Journal(folder / FILE_NAME)
    trackers: list[Tracker] = [journal]
    if uri is not None:
        trackers.append(MlflowTracker(journal.path, uri, warn=lambda text: console.print(f"warning: {text}")))
    tracker = Trackers(trackers)
    tracker.start(
        RunStart(
            run_uid,
            name=config.name,
            experiment=config.experiment,
            params=flatten(config),
            tags={**about, **_host_tags()},
            artifacts={
                "plan.json": json.dumps(plan_document(config.name, config, plan, task.time), indent=2),
                "config.yaml": to_yaml(config),
            },
            parent=config.tracking.parent,
        )
    )
    console.print(f"run {run_uid}: {folder}, MLflow {without_password(uri) if uri else 'off'}")
    if resumed is not None:
        state = resumed.standing.state
        fields = {"epoch": state.next_epoch, "samples_seen": state.samples_seen, "workers": int(about["world_size"])}
        tracker.event("resume", fields)
        left = "is next" if state.part is None else "goes on"
        console.print(f"resumed after {state.samples_seen:,} samples: epoch {state.next_epoch} {left}")
    return Record(tracker, open_progress(console, config.schedule.epochs, plan.total_samples), folder)


def _print_header(about: Mapping[str, str], console: Console) -> None:
    workers = f"{about['world_size']} worker" + ("" if about["world_size"] == "1" else "s")
    console.print(
        f"trainer {__version__}: {workers} ({about['launcher']}, {about['collective']}) on {about['device']}, "
        f"{about['precision']}"
    )
    console.print(f"data: {about['data']}")
    console.print(f"model: {about['model']}")


def _host_tags() -> dict[str, str]:
    """What the run runs on, as far as the host knows."""
    commit = _git_commit()
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "command": " ".join(Path(word).name if i == 0 else word for i, word in enumerate(sys.argv)),
        "cores": str(len(os.sched_getaffinity(0))),
        **({"git_commit": commit} if commit else {}),
    }


def summary(state: RunState, clock: Clock, target_top1: float | None) -> dict[str, float]:
    """The figures that a run is compared by; time to target only where the target was met."""
    figures = {
        "best_top1": state.best_top1,
        "final_top1": state.last_top1,
        "total_s": clock.elapsed(),
        "updates": state.updates,
        "samples_seen": state.samples_seen,
    }
    if state.target is not None and target_top1 is not None:
        percent = f"{100 * target_top1:.10g}"
        figures |= {
            f"time_to_{percent}_s": state.target.elapsed_s,
            f"train_time_to_{percent}_s": state.target.train_s,
            f"updates_to_{percent}": state.target.updates,
            f"epochs_to_{percent}": state.target.epochs,
        }
    return figures


def closing_line(figures: Mapping[str, float], record: Record) -> str:
    """How a finished run ended, in one line."""
    reached = "".join(
        f"; {key.split('_')[2]} % after {seconds:.1f} s"
        for key, seconds in figures.items()
        if key.startswith("time_to_")
    )
    return (
        f"finished: top-1 {figures['final_top1']:.2%} (best {figures['best_top1']:.2%}) after {figures['updates']:,} "
        f"updates and {figures['total_s']:.1f} s{reached}; weights: {record.weights_path}"
    )


def _git_commit() -> str | None:
    """The commit of the code that runs, where it runs from a checkout."""
    here = Path(__file__).parent
    try:
        git = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.strip()
