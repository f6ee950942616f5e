"""Label files: which class each image of a folder belongs to, when its folder does not say."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import DataError

_MOST_BYTES = 1 << 29  # of a label file; ten times those of ImageNet
_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_SHOWN = 80  # characters of a name or a label in a message
_HEADERS = ("imageid,predictionstring", "filename,label", "image,label", "name,label")


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    name: str | None  # of the image; None where the line holds a label alone
    label: str


def read_labels(
    label_file: Path, paths: Sequence[str], class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of the images at the given relative paths, (n,) int64, and the names of the classes they count.

    Each line holds an image's name and its label, apart by a tab, a comma or the last blank; or every line holds a
    class name alone, for the images in the order of their names. An image is named by its path below the folder or
    by its file name, with or without extension. A label is a class name, of which only the first word counts where no
    class has such a long name (LOC_val_solution.csv of ImageNet adds boxes); or, if no label of the file is a class
    name, a number that counts class_names from 0. Without class_names the labels that occur are the classes.
    Raises DataError naming the line.
    """
    lines = _read_lines(label_file)
    if all(line.name is None for line in lines):
        lines = _lines_in_order(label_file, lines, len(paths))
    else:
        lines = _lines_by_name(label_file, lines, paths)
    names = tuple(class_names) if class_names is not None else tuple(sorted({_word(line.label) for line in lines}))
    return _class_numbers(label_file, lines, names, invented=class_names is None), names


def _read_lines(label_file: Path) -> list[_Line]:
    try:
        with open(label_file, "rb") as file:
            content = file.read(_MOST_BYTES + 1)  # no more, whatever lies there
        if len(content) > _MOST_BYTES:
            raise DataError(f"{label_file}: is longer than {_MOST_BYTES:,} bytes: give one line for each image")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{label_file}: {error.strerror}: give a label file that can be read") from None
    except UnicodeDecodeError:
        raise DataError(f"{label_file}: this is not text: give a file with one line for each image") from None
    lines = [_split(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and f"{lines[0].name},{lines[0].label}".lower() in _HEADERS:
        del lines[0]
    if not lines:
        raise DataError(f"{label_file}: the label file is empty: give one line for each image")
    return lines


def _split(number: int, line: str) -> _Line:
    for parts in (line.split("\t", 1), line.split(",", 1), line.rsplit(None, 1)):
        if len(parts) == 2:
            return _Line(number, parts[0].strip(), parts[1].strip())
    return _Line(number, None, line)


def _lines_in_order(label_file: Path, lines: list[_Line], images: int) -> list[_Line]:
    if len(lines) != images:
        raise DataError(
            f"{label_file}: {len(lines)} labels without names for {images} images: give one line for each image"
        )
    if all(line.label.isdecimal() for line in lines):
        # ILSVRC2012_validation_ground_truth.txt: its numbers count from 1 in the order of the devkit's meta.mat, which
        # is not the order of the class folders. Guessing would train on wrong labels without a sign of it.
        raise DataError(
            f"{label_file}: numbers without image names do not say in which order they count the classes: give "
            "lines with an image name and a class name (ImageNet: LOC_val_solution.csv), or class names alone"
        )
    return lines


def _lines_by_name(label_file: Path, lines: list[_Line], paths: Sequence[str]) -> list[_Line]:
    """The line of each path, in the order of the paths."""
    by_name: dict[str, _Line] = {}
    for line in lines:
        if line.name is None:
            raise DataError(
                f"{label_file}, line {line.number}: {line.label[:_SHOWN]!r} is not an image name and a label"
            )
        if line.name in by_name:
            before = by_name[line.name].number
            raise DataError(
                f"{label_file}, line {line.number}: {line.name[:_SHOWN]} was named in line {before} already"
            )
        by_name[line.name] = line
    found = []
    used: dict[int, str] = {}
    for path in paths:
        candidates = (path, os.path.basename(path), os.path.splitext(path)[0])
        match = next((by_name[name] for name in candidates if name in by_name), None)
        match = match or by_name.get(os.path.splitext(os.path.basename(path))[0])
        if match is None:
            raise DataError(f"{label_file}: no line names the image {path}: add its label, or remove the image")
        if match.number in used:
            raise DataError(
                f"{label_file}, line {match.number}: {match.name} could be {used[match.number]} or {path}: "
                "name images by their path"
            )
        used[match.number] = path
        found.append(match)
    for line in lines:
        if line.number not in used:
            name = (line.name or "")[:_SHOWN]
            raise DataError(f"{label_file}, line {line.number}: there is no image {name}: remove the line")
    return found


def _class_numbers(
    label_file: Path, lines: list[_Line], class_names: tuple[str, ...], invented: bool
) -> NDArray[np.int64]:
    number_of = {name: number for number, name in enumerate(class_names)}
    numbers = [number_of.get(line.label, number_of.get(_word(line.label), -1)) for line in lines]
    unknown = [line for line, number in zip(lines, numbers, strict=True) if number < 0]
    integers = all(_NUMBER.fullmatch(_word(line.label)) for line in lines)
    if integers and (invented or unknown):
        if invented:
            raise DataError(
                f"{label_file}: its labels are numbers, which say nothing without the class folders they count: "
                "give the data set's folder with its train folder inside, or use class names"
            )
        for line in lines:
            if not 0 <= int(_word(line.label)) < len(class_names):
                raise DataError(
                    f"{label_file}, line {line.number}: label {_word(line.label)} is outside 0 to "
                    f"{len(class_names) - 1}, the numbers of the {len(class_names)} classes: correct the line"
                )
        numbers = [int(_word(line.label)) for line in lines]
    elif unknown:
        word = _word(unknown[0].label)[:_SHOWN]
        raise DataError(
            f"{label_file}, line {unknown[0].number}: {word} is none of the {len(class_names)} "
            f"classes ({', '.join(class_names[:3])}, ...): correct the line"
        )
    return np.array(numbers, dtype=np.int64)


def _word(label: str) -> str:
    return label.split(maxsplit=1)[0] if label else label
