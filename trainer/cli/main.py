"""The command line: finds the sub-command, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from trainer import __version__
from trainer.cli import calibrate, compare, data, doctor, manifest, plan, sweep, sync, train
from trainer.cli.exit_codes import FAILED, INTERRUPTED, USER_ERROR
from trainer.collective.leave import leave
from trainer.passwords import fit_to_print, without_password
from trainer.user_errors import is_users

_DESCRIPTION = """Large-batch training of image classifiers, scheduled by the noise scale of SGD.
Without a command it trains: what TRAINER_CONFIG names, else ./trainer.yaml, else handwritten digits."""


def command() -> NoReturn:
    """The console script: runs what the command line says and leaves with its exit code."""
    # Who can write to a record, to weights or to a checkpoint decides what others take for trained.
    os.umask(os.umask(0o077) | 0o022)
    try:
        code = main()
    except Exception:
        print(without_password(traceback.format_exc()), end="", file=sys.stderr)
        code = FAILED
    leave(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 the run or check failed, 2 something given was wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parse(arguments or ["train"])
    try:
        code: int = args.run(args)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        code = 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except ValueError as error:
        if not is_users(error):
            raise
        print(f"trainer: {fit_to_print(str(error))}", file=sys.stderr)
        return USER_ERROR
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else the interpreter tries once more, and fails
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    """argparse takes `PRESET --workers 2` and refuses `key=value` after it; here words may stand anywhere."""
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(args, "words") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {fit_to_print(' '.join(rest))}")
    if rest:
        args.words += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainer", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (train, plan, calibrate, sweep, manifest, data, compare, sync, doctor):
        command.add_parser(commands)
    return parser
