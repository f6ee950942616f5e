"""What `--resume` says about a run's configuration: it may be the run's own.

No torch here: a mistake on the command line is answered at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.cli.config_arguments import load_from_arguments
from trainer.config import TrainConfig, load_config, parse_config
from trainer.config.load import DEFAULT_PRESET
from trainer.tracking import FILE_NAME, RunLog, read_journal

AUTO = "auto"


class ResumeError(ValueError):
    """A run that cannot be taken up again; the message says why and what to do."""


def add_resume_argument(parser: argparse.ArgumentParser) -> None:
    """--resume DIR|auto"""
    parser.add_argument(
        "--resume",
        metavar="DIR|auto",
        help="go on with the run in this folder, as it was configured unless a preset or file is named; auto: with the "
        "newest unfinished run of the same configuration in the output folder, or anew if there is none",
    )


def takes_the_runs_own(args: argparse.Namespace) -> bool:
    """Whether the run that is resumed says itself how it was configured: overrides come on top of that."""
    return args.resume not in (None, AUTO) and all("=" in word for word in args.words)


def load_alone(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the command line names, or the resumed run's own.

    Raises ConfigError, ResumeError or TrackingError.
    """
    if takes_the_runs_own(args):
        return with_overrides(own_text(args), args)
    return load_from_arguments(args)


def collective_setting(args: argparse.Namespace) -> str:
    """The setting `collective` of a worker that has met no others, and may not see the resumed run's folder."""
    if takes_the_runs_own(args):
        # of the preset nothing but the default is asked: what lies in ./trainer.yaml may be another run
        return load_config(DEFAULT_PRESET, [word for word in args.words if word.startswith("collective=")]).collective
    return load_from_arguments(args).collective


def own_text(args: argparse.Namespace) -> str:
    """The resumed run's configuration as it was written down. Raises ResumeError or TrackingError."""
    text = journal_of(Path(args.resume)).run.artifacts.get("config.yaml")
    if text is None:
        raise ResumeError(f"{args.resume}: its journal does not say how it was configured: name a preset or a file")
    return text


def with_overrides(text: str, args: argparse.Namespace) -> TrainConfig:
    """The configuration of own_text with the command line's overrides. Raises ConfigError.

    Its `collective` was for the launcher of then; the one of now decides afresh.
    """
    return parse_config(text, f"the configuration of {args.resume}", ["collective=auto", *args.words])


def journal_of(folder: Path) -> RunLog:
    """What was recorded in a run's folder. Raises ResumeError or TrackingError."""
    if not (folder / FILE_NAME).is_file():
        what = "holds no run" if folder.is_dir() else "there is no such folder"
        raise ResumeError(f"{folder}: {what}: give --resume the folder of a run, or auto")
    return read_journal(folder / FILE_NAME)
