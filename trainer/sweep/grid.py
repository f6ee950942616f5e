"""A grid of runs as values: what `--vary` and `--seeds` say, the points they make, and what the sweep is called."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.config.explain import in_one_line
from trainer.sweep.errors import SweepError

_SET_BY_THE_SWEEP = ("output", "tracking.parent")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting, as a dotted key, and the values it takes, each in YAML as it was written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of a source, a value of each axis and a seed, with the same overrides.

    sources: presets and files; None is what `trainer train` takes when nothing is named. seeds: None leaves each
    configuration its own.
    """

    sources: tuple[str | None, ...]
    overrides: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a grid. overrides: all of them, the seed's too. label: what sets it apart from the others, in a line
    that is no longer than a message."""

    label: str
    source: str | None
    overrides: tuple[str, ...]


def points_of(grid: Grid) -> tuple[Point, ...]:
    """The grid's points: every setting with the first seed, then with the next, so a sweep that ends early has as many
    seeds of each."""
    return tuple(_points(grid))


def _points(grid: Grid) -> Iterator[Point]:
    for seed in [None] if grid.seeds is None else grid.seeds:
        for source in grid.sources:
            for values in itertools.product(*(axis.values for axis in grid.axes)):
                varied = [f"{axis.key}={value}" for axis, value in zip(grid.axes, values, strict=True)]
                if seed is not None:
                    varied.append(f"seed={seed}")
                name = [source or "the default run"] if len(grid.sources) > 1 or not varied else []
                yield Point(in_one_line(" ".join([*name, *varied])), source, (*grid.overrides, *varied))


def parse_axes(texts: Sequence[str], overrides: Sequence[str], seeds: bool) -> tuple[Axis, ...]:
    """The axes that `--vary key=v1,v2` texts give. seeds: whether `--seeds` varies the seed. Raises SweepError."""
    axes = tuple(_parse_axis(text) for text in texts)
    taken = {override.partition("=")[0] for override in overrides} | ({"seed"} if seeds else set())
    for axis in axes:
        if axis.key in _SET_BY_THE_SWEEP:
            raise SweepError(f"--vary {axis.key}: the sweep sets {axis.key} itself: leave it out")
        if axis.key in taken:
            raise SweepError(f"--vary {axis.key}: {axis.key} is given twice: leave one of them out")
        taken.add(axis.key)
    return axes


def _parse_axis(text: str) -> Axis:
    key, equals, values = text.partition("=")
    if not equals or not key:
        raise SweepError(f"--vary {text!r}: an axis is key=v1,v2, for example schedule.reference.lr=0.1,0.2")
    return Axis(key, _split(values, text))


def _split(values: str, text: str) -> tuple[str, ...]:
    """The values between the commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in values:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "," and depth == 0:
            parts.append("")
            continue
        else:
            depth += _BRACKETS.get(character, 0)
        parts[-1] += character
    if depth != 0 or quote:
        raise SweepError(f"--vary {text!r}: a bracket or a quote is open: close it")
    if not all(part.strip() for part in parts):
        raise SweepError(f"--vary {text!r}: a value between the commas is missing: write it, or '' for an empty text")
    return tuple(part.strip() for part in parts)


def parse_seeds(text: str, first: int) -> tuple[int, ...]:
    """The seeds that `--seeds` means: "3" is first, first + 1 and first + 2, "0,1,5" these. Raises SweepError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] >= 1:
        return tuple(range(first, first + numbers[0]))
    if len(numbers) < 2:
        raise SweepError(f"--seeds {text}: is neither how many (3) nor which (0,1,2): give one of them")
    return tuple(numbers)


def sweep_name(given: str | None, first: str, grid: Grid, launcher: Sequence[str]) -> str:
    """The name of the sweep and of its folder. Raises SweepError for a given name that is none.

    Without one it is made of the first configuration's name and a digest of the grid, so that the same command comes
    back to the same folder, with more seeds too.
    """
    if given is not None:
        if not _NAME.fullmatch(given):
            raise SweepError(
                f"--name {given!r}: a name is letters, digits and . _ -, and begins with one of the first two"
            )
        return given
    axes = [[axis.key, *axis.values] for axis in grid.axes]
    digest = hashlib.sha256(json.dumps([grid.sources, grid.overrides, axes, list(launcher)]).encode()).hexdigest()[:6]
    others = f"-and-{len(grid.sources) - 1}-more" if len(grid.sources) > 1 else ""
    return f"{first[:80]}{others}-{digest}"
