"""What is written before each run's command so that it starts on several workers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from trainer.sweep.errors import SweepError

# launcher: its options for the number of workers
_COUNTS = {
    "horovodrun": ("-np", "--num-proc"),
    "mpirun": ("-np", "-n"),
    "mpiexec": ("-np", "-n"),
    "srun": ("-n", "--ntasks"),
}
_TORCHRUN = ("torchrun", "torch.distributed.run")
_NPROC, _NNODES = ("--nproc-per-node", "--nproc_per_node"), ("--nnodes",)


def parse_launcher(text: str) -> tuple[str, ...]:
    """The words of `--launcher "horovodrun -np 2"`; "" is none. Raises SweepError.

    torchrun takes a command that begins with `python` only where it is told that this is no script.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SweepError(f"--launcher {text!r}: cannot be read ({error}): check its quotes") from None
    if any(Path(word).name in _TORCHRUN for word in words) and not {"--no-python", "--no_python"} & set(words):
        words.append("--no-python")
    return tuple(words)


def workers_of(launcher: Sequence[str]) -> int | None:
    """How many workers the launcher starts; None where its words do not say it. Raises SweepError for none."""
    if not launcher:
        return 1
    for place, word in enumerate(launcher):
        options = launcher[place + 1 :]
        name = Path(word).name
        if name in _TORCHRUN:
            counts = [_option(options, _NPROC, "1"), _option(options, _NNODES, "1")]
        elif name in _COUNTS:
            counts = [_option(options, _COUNTS[name], "?")]
        else:
            continue
        if not all(count.isascii() and count.isdigit() for count in counts):
            return None
        workers = math.prod(map(int, counts))
        if workers < 1:
            raise SweepError(f"--launcher {shlex.join(launcher)!r}: starts no worker: give at least 1")
        return workers
    return None


def _option(words: Sequence[str], names: Sequence[str], default: str) -> str:
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            if not equals and place + 1 == len(words):
                raise SweepError(f"--launcher: {word} has no number: give one, {word} 2 for example")
            return value if equals else words[place + 1]
    return default
