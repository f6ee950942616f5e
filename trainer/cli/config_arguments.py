"""The arguments that name a run, the same for every command that takes one."""

from __future__ import annotations

import argparse

from trainer.config import TrainConfig, load_config
from trainer.environment import trainer_config


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """[PRESET|FILE.yaml] [key.sub=value ...]"""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PRESET|FILE.yaml|key.sub=value",
        help="a preset or a file (default: TRAINER_CONFIG, ./trainer.yaml, or handwritten digits), and overrides",
    )


def load_from_arguments(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the arguments name. Raises ConfigError."""
    words: list[str] = args.words
    source = words[0] if words and "=" not in words[0] else None
    return load_config(source, words[1:] if source else words, default=trainer_config())
