"""`trainer data`: index a folder of images before the first run, and find the files that would stop one."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trainer.cli.exit_codes import FAILED
from trainer.environment import cache_folder

if TYPE_CHECKING:
    from dali_pipelines.dataset_index import DatasetIndex


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("data", help="index a folder of images, or check that all of them can be decoded")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, run, words, description in (
        ("index", run_index, "find all images, labels and sizes", "Builds the index that training reads."),
        ("check", run_check, "decode every image", "Names the files that cannot be decoded; exit code 1 if any."),
    ):
        action = actions.add_parser(name, help=words, description=description)
        action.add_argument(
            "folder", type=Path, metavar="DIR", help="folder with train and val folders, or one folder of class folders"
        )
        action.add_argument("--validation", type=Path, metavar="DIR", help="validation images, if not in DIR")
        action.add_argument(
            "--labels", type=Path, metavar="FILE", help="labels, if the images are not in class folders"
        )
        action.set_defaults(run=run)


def run_index(args: argparse.Namespace) -> int:
    """Builds the indexes, whether or not there were some, and says what they hold."""
    started = time.monotonic()
    for index in _indexes(args, rebuild=True):
        print(_summary(index))
    print(f"indexed in {time.monotonic() - started:.1f} s")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Decodes every image from end to end; exit code 1 if one of them cannot be."""
    from dali_pipelines.decode_check import examine

    started = time.monotonic()
    checked, faults = 0, 0
    threads = len(os.sched_getaffinity(0))
    for index in _indexes(args, rebuild=False):
        with _decoders_silenced() as terminal, _progress_bar("decoding", terminal) as progress:
            for sample, fault in examine(index, range(len(index)), threads):
                checked += 1
                progress(sample + 1, len(index))
                if fault:
                    faults += 1
                    print(_printable(f"{index.path(sample)}: {fault}"))
        print(_summary(index))
    verdict = f"{faults:,} cannot be decoded" if faults else "all of them can be decoded"
    print(f"checked {checked:,} images in {time.monotonic() - started:.1f} s: {verdict}")
    return FAILED if faults else 0


def _indexes(args: argparse.Namespace, rebuild: bool) -> list[DatasetIndex]:
    from dali_pipelines.image_folder import open_folder
    from dali_pipelines.index_file import open_index

    options = {"cache": cache_folder(), "rebuild": rebuild}
    with _progress_bar("indexing", sys.stderr) as progress:
        if args.validation is not None or (args.folder / "train").is_dir():
            return list(open_folder(args.folder, args.validation, args.labels, progress=progress, **options))
        return [open_index(args.folder, args.labels, progress=progress, **options)]


def _summary(index: DatasetIndex) -> str:
    height, width = index.sizes.mean(axis=0)
    shorter = index.sizes.min(axis=1)
    return _printable(
        f"{index.root}: {len(index):,} images, {len(index.class_names):,} classes, "
        f"{height:.0f} x {width:.0f} pixels on average, shorter side {shorter.min():,} to {shorter.max():,}"
    )


def _printable(text: str) -> str:
    # File names need not be valid in the terminal's encoding.
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def _progress_bar(words: str, stream: TextIO) -> Iterator[Callable[[int, int], None]]:
    """A bar to call with (done, total); nothing is shown where stream is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=stream), transient=True, disable=not stream.isatty()) as bar:
        task = bar.add_task(words)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _decoders_silenced() -> Iterator[TextIO]:
    """Keep the C libraries' remarks on each damaged file off stderr; yields a stream that still writes there."""
    sys.stderr.flush()
    with open(os.dup(2), "w") as terminal, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield terminal
        finally:
            terminal.flush()
            os.dup2(terminal.fileno(), 2)
