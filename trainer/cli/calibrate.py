"""`trainer calibrate`: measures what a run's updates, images and epochs take here, and writes it to a small file."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.calibration.calibration import Calibration, check_settings, read_calibration, write_calibration
from trainer.calibration.errors import CalibrationError
from trainer.calibration.sizes import parse_sizes
from trainer.cli.calibration_request import Request
from trainer.cli.calibration_view import print_all_reduce, print_calibration
from trainer.cli.config_arguments import add_config_arguments, load_from_arguments
from trainer.cli.exit_codes import FAILED
from trainer.cli.join import check_same_configuration, run_joined, say
from trainer.environment import Launch

if TYPE_CHECKING:
    from trainer.collective.collective import Collective

_DESCRIPTION = """Measures a run's parts on this hardware: forward and backward at several micro-batches, what an update
costs besides, the input pipeline, evaluation, the ends of an epoch, the largest micro-batch that fits into
memory; and under a launcher the all-reduce of the fleet, all workers at work. Trains nothing.

  trainer calibrate cifar10-increase-batch data.path=DIR
  horovodrun -np 8 trainer calibrate imagenet-rn50-8192 data.path=DIR --output h100.json
  torchrun --nnodes 2 --nproc-per-node 8 ... -m trainer calibrate imagenet-rn50-8192 --add-to h100.json

Then `trainer plan imagenet-rn50-8192 --workers 256 --calibration h100.json` says how long the run takes.
"""
_OUTPUT = "calibration.json"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="measure step times here, to predict how long runs take",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--micro-batches",
        metavar="N,N,...",
        help="sizes to measure (default: powers of two up to the largest that the run can use)",
    )
    parser.add_argument("--output", metavar="FILE", help=f"where to write (default {_OUTPUT})")
    parser.add_argument(
        "--add-to", metavar="FILE", help="measure this fleet's all-reduce only, and add it to that calibration"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.5, metavar="S", help="for each measurement (default 1.5), of about 20"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return run_joined(lambda _: _read(args, reads_file=False).config.collective, partial(_calibrate, args))


def _read(args: argparse.Namespace, reads_file: bool) -> Request:
    """The command line; the calibration to add to only where its file is to be read. Raises ConfigError,
    CalibrationError."""
    config = load_from_arguments(args)
    if not 0 < args.seconds <= 600:
        raise CalibrationError(f"--seconds {args.seconds:g}: a measurement takes more than 0 s and up to 600: give 1.5")
    sizes = None if args.micro_batches is None else parse_sizes(args.micro_batches)
    if args.add_to is None:
        return Request(config, sizes, Path(args.output or _OUTPUT), None, args.seconds)
    if args.output is not None or sizes is not None:
        raise CalibrationError(
            f"--add-to {args.add_to}: measures the all-reduce only and writes to that file: leave out --output and "
            f"--micro-batches"
        )
    existing = read_calibration(Path(args.add_to)) if reads_file else None
    if existing is not None:
        check_settings(existing, config, args.add_to)
    return Request(config, None, Path(args.add_to), existing, args.seconds)


def _calibrate(args: argparse.Namespace, launch: Launch, collective: Collective) -> int:
    """Whatever may go wrong does so on all ranks together; rank 0 speaks and writes."""
    from trainer.cli.calibration_run import measure_fleet, measure_run
    from trainer.cli.fleet import choose_device
    from trainer.cli.planning.view import plain_console
    from trainer.collective.agreement import broadcast_text, together
    from trainer.engine.errors import TrainingError

    console = plain_console(quiet=collective.rank != 0)
    request = together(collective, _read, args, collective.rank == 0)
    together(collective, check_same_configuration, collective, request.config)
    together(collective, lambda: _check_writable(request.file) if collective.rank == 0 else None)
    device = together(collective, choose_device, request.config.device, launch)
    if args.add_to is None:
        try:
            calibration = measure_run(request, launch, collective, device, console)
        except TrainingError as error:
            say(collective, f"{error} for random images: there is something wrong with the network or its precision")
            return FAILED
        print_calibration(calibration, console)
    else:
        # Other hosts need not have the file.
        text = broadcast_text(collective, request.existing.model_dump_json() if request.existing else "")
        existing = Calibration.model_validate_json(text)
        calibration = measure_fleet(request, existing, launch, collective, device, console)
        print_all_reduce(calibration, console)
    together(collective, lambda: write_calibration(calibration, request.file) if collective.rank == 0 else None)
    console.print(f"written to {request.file}")
    return 0


def _check_writable(file: Path) -> None:
    """Raises CalibrationError, before anything is measured."""
    folder = file.parent
    if not folder.is_dir():
        problem = f"there is no folder {folder}"
    elif file.is_dir():
        problem = "this is a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} cannot be written to"
    else:
        return
    raise CalibrationError(f"{file}: {problem}: name a file that can be written with --output")
