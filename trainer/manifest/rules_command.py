"""What a container runs: the launcher's options and the trainer's, read off command and args."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.manifest.rules_view import Container, items, text

_SHELLS = ("sh", "bash", "dash")
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True, slots=True)
class Command:
    """program: horovodrun, mpirun or torchrun; options: its own; trainer: what follows `trainer train`."""

    program: str
    options: tuple[str, ...]
    trainer: tuple[str, ...]

    def value(self, *names: str) -> str | None:
        """Of an option of the launcher; None if it is not given, "" if it has no value."""
        return self.values(1, *names)[0]

    def values(self, count: int, *names: str) -> tuple[str, ...] | tuple[None, ...]:
        """Of an option that takes several; the last one counts, as for the launchers."""
        found: tuple[str, ...] | tuple[None, ...] = (None,) * count
        for place, word in enumerate(self.options):
            name, equals, value = word.partition("=")
            if (name.replace("_", "-") if name.startswith("--") else name) in names:
                rest = self.options[place + 1 : place + 1 + count]
                found = (value,) if equals else rest + ("",) * (count - len(rest))
        return found

    def integer(self, *names: str) -> int | None:
        """Of an option; None if it is not given, or no whole number."""
        return whole_number(self.value(*names))

    @property
    def resumes(self) -> bool:
        return any(word.partition("=")[0] == "--resume" for word in self.trainer)


def launch(container: Container, *programs: str) -> Command | None:
    """The launcher that a container starts, if it is one of the programs. torchrun goes by its module's name too."""
    words = command_words(container)
    for place, word in enumerate(words):
        program = "torchrun" if word == "torch.distributed.run" else PurePosixPath(word).name
        if program in programs:
            rest = words[place + 1 :]
            split = _trainers_place(rest)
            return Command(program, tuple(rest[:split]), tuple(rest[split + 2 :]))
    return None


def trainer_arguments(container: Container) -> tuple[str, ...] | None:
    """What follows `trainer train` in a container, under a launcher or not; None if it does not train."""
    words = command_words(container)
    split = _trainers_place(words)
    return tuple(words[split + 2 :]) if split < len(words) else None


def command_words(container: Container) -> list[str]:
    """Command and args, with the manifest's variables in place; of `sh -c TEXT` the words of the text."""
    given = [*items(container.tree.get("command")), *items(container.tree.get("args"))]
    words = [_expanded(text(word), container.environment) for word in given]
    if len(words) > 2 and PurePosixPath(words[0]).name in _SHELLS and re.fullmatch(r"-[a-z]*c", words[1]):
        try:
            return shlex.split(words[2].replace("\\\n", " "), comments=True)
        except ValueError:  # a quote that is not closed
            return []
    return words


def whole_number(word: str | None) -> int | None:
    return int(word) if word is not None and re.fullmatch(r"[0-9]{1,9}", word) else None


def _trainers_place(words: list[str]) -> int:
    for place, word in enumerate(words[:-1]):
        if PurePosixPath(word).name == "trainer" and words[place + 1] == "train":
            return place
    return len(words)


def _expanded(word: str, environment: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: environment.get(match[1], match[0]), word)
