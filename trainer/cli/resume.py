"""`trainer train --resume`: which run goes on, whether it may with what was given, and where it stands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from trainer import __version__
from trainer.cli.resume_arguments import (
    AUTO,
    ResumeError,
    journal_of,
    load_alone,
    own_text,
    takes_the_runs_own,
    with_overrides,
)
from trainer.collective.agreement import broadcast_text, together
from trainer.collective.collective import Collective
from trainer.config import TrainConfig, flatten
from trainer.engine.checkpoint import FOLDER_NAME, Checkpoint, checkpoints_in, newest_checkpoint, read_checkpoint
from trainer.engine.errors import CheckpointError
from trainer.engine.run_state import Standing
from trainer.tracking import FILE_NAME, FINISHED, RunLog, TrackingError, read_journal

_DATA, _VERSION = "the data set's digest", "the trainer's version"
# Settings that may differ from one fleet or place to the next; the digest stands for the data's. Those that end with a
# dot mean a section.
_MAY_CHANGE = (
    "output",
    "tracking.",
    "checkpoints.",
    "collective",
    "device",
    "memory_format",
    "compile",
    "hang_timeout_s",
    "fleet",
    "calibration",
    "schedule.limits.max_micro_batch",
    "data.path",
    "data.validation_path",
    "data.validation_labels",
    "data.train_size",
    "data.threads",
    "data.decoder",
    "data.hw_decoder_load",
    "data.max_unreadable",
)


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run that goes on. folder (of its record), run_uid and checkpoint are rank 0's alone."""

    standing: Standing
    is_finished: bool
    folder: Path | None = None
    run_uid: str = ""
    checkpoint: Checkpoint | None = None


def identity_of(config: TrainConfig, dataset_digest: str) -> dict[str, str]:
    """What must be the same for a run to go on: settings by their dotted keys, the images, this program."""
    settings = {
        key: value
        for key, value in flatten(config).items()
        if not any(key.startswith(free) if free.endswith(".") else key == free for free in _MAY_CHANGE)
    }
    return {**settings, _DATA: dataset_digest, _VERSION: __version__}


def load_configuration(args: argparse.Namespace, collective: Collective) -> TrainConfig:
    """As load_alone, on every rank; a resumed run's own configuration is read on rank 0. Raises WorkerError."""
    if not takes_the_runs_own(args):
        return together(collective, load_alone, args)
    text = together(collective, lambda: own_text(args) if collective.rank == 0 else "")
    return together(collective, with_overrides, broadcast_text(collective, text), args)


def find(
    wanted: str, config: TrainConfig, identity: Mapping[str, str], collective: Collective, console: Console
) -> Resumption | None:
    """The run to go on with, as rank 0 finds it: that in the folder, or with "auto" the newest of the same identity in
    the output folder that is not finished; None where there is none.

    Raises WorkerError where the folder's run is another, has no checkpoint, or has one that is damaged.
    """

    def look() -> Resumption | None:
        if collective.rank > 0:
            return None
        if wanted == AUTO:
            return _newest_unfinished(Path(config.output), identity, console)
        return _resumption(Path(wanted), identity, console)

    found = together(collective, look)
    fields = None if found is None else {"standing": asdict(found.standing), "is_finished": found.is_finished}
    heard = json.loads(broadcast_text(collective, json.dumps(fields)))
    if heard is None or found is not None:
        return found
    return Resumption(Standing.from_fields(heard["standing"]), heard["is_finished"])


def _resumption(folder: Path, identity: Mapping[str, str], console: Console) -> Resumption:
    log = journal_of(folder)
    checkpoint = _newest_whole(folder, console)
    if checkpoint is None:
        raise ResumeError(f"{folder}: has no checkpoint, as a run that ended before its first: train anew")
    _check_identity(folder, checkpoint.identity, identity)
    return Resumption(checkpoint.standing, log.status == FINISHED, folder, log.run.run_uid, checkpoint)


def _newest_unfinished(output: Path, identity: Mapping[str, str], console: Console) -> Resumption | None:
    def pass_over(folder: Path, error: ValueError) -> None:
        console.print(f"warning: --resume auto passes over {folder} ({error})")

    unfinished: list[tuple[float, Path, RunLog]] = []
    for folder in sorted(path.parent for path in output.glob(f"*/{FILE_NAME}")):
        try:
            if _is_of(folder, identity) and (log := read_journal(folder / FILE_NAME)).status != FINISHED:
                unfinished.append((log.start_time_s, folder, log))
        except (CheckpointError, TrackingError) as error:
            pass_over(folder, error)
    for _, folder, log in sorted(unfinished, key=lambda run: run[0], reverse=True):
        try:
            checkpoint = _newest_whole(folder, console)
        except CheckpointError as error:
            pass_over(folder, error)
            continue
        assert checkpoint is not None, "one was read a moment ago"
        return Resumption(checkpoint.standing, False, folder, log.run.run_uid, checkpoint)
    console.print(f"--resume auto: {output} holds no unfinished run of this configuration: a new one starts")
    return None


def _is_of(folder: Path, identity: Mapping[str, str]) -> bool:
    """Whether the newest checkpoint whose state can be read is of this identity; False where there is no checkpoint.

    Raises CheckpointError where no state can be read.
    """
    errors = []
    for path in checkpoints_in(folder / FOLDER_NAME):
        try:
            return read_checkpoint(path).identity == identity
        except CheckpointError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return False


def _newest_whole(folder: Path, console: Console) -> Checkpoint | None:
    return newest_checkpoint(folder / FOLDER_NAME, lambda damage: console.print(f"warning: {damage}"))


def _check_identity(folder: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    differing = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if not differing:
        return
    named = ", ".join(f"{key} was {then.get(key, 'unset')} and is {now.get(key, 'unset')} now" for key in differing[:3])
    more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
    advice = {_DATA: "give the same images", _VERSION: "resume with that version"}.get(
        differing[0], f"give the run's own settings (trainer train --resume {folder})"
    )
    raise ResumeError(f"{folder}: cannot go on as another run: {named}{more}: {advice}, or train anew")
