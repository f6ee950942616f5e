"""Who is there, who is not, and where everybody stands: what workers pin on the board, and the one line made of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_LONGEST = 200  # characters of a text from the board that get into a message


@dataclass(frozen=True, slots=True)
class Call:
    """Why everybody is asked. is_of_a_loss: a collective has failed; else nothing moves."""

    rank: int
    is_of_a_loss: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Call:
        """Raises ValueError for what is none: the board is open to whoever reaches it."""
        rank, is_of_a_loss = _fields(text, "rank", "is_of_a_loss")
        return Call(_number(rank), is_of_a_loss is True)


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a worker stands. still_s: seconds since it last moved."""

    rank: int
    place: str
    doing: str
    is_meeting: bool
    still_s: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Answer:
        """Raises ValueError for what is none."""
        rank, place, doing, meets, still_s = _fields(text, "rank", "place", "doing", "is_meeting", "still_s")
        return Answer(_number(rank), _clean(place), _clean(doing), meets is True, _number(still_s))


def hang_verdict(answers: Sequence[Answer], own: Answer, world_size: int, limit_s: float) -> str:
    """What is said when nothing moved for limit_s: who does not answer, who stands still, who waits, and where."""
    since = f"nothing moved for {limit_s:g} s (hang_timeout_s)"
    if world_size == 1:
        return f"{since}: {own.doing} in {own.place}"
    if len(answers) == 1 and world_size > 2:
        others = f"none of the other {world_size - 1} workers (they are stopped, or the network is lost)"
        return f"{since}: rank {own.rank} reaches {others}, {own.doing} in {own.place}"
    silent = sorted(set(range(world_size)) - {answer.rank for answer in answers})
    parts = []
    if silent:
        parts.append(f"{ranks(silent)} {_do(silent)} not answer (stopped, or the host or the network is lost)")
    # Whoever moved long after the others began to wait is slow, and does not stand still.
    longest_s = max(answer.still_s for answer in answers)
    alone = [answer for answer in answers if not answer.is_meeting]
    parts += _grouped((answer for answer in alone if answer.still_s < longest_s / 2), "is behind", "are behind")
    parts += _grouped((answer for answer in alone if answer.still_s >= longest_s / 2), "stands still", "stand still")
    if not parts:
        parts.append("nobody is missing and all wait: the network between them is lost, or they are out of step")
    parts += _grouped((a for a in answers if a.is_meeting), "waits", "wait")
    return f"{since}: " + "; ".join(parts)


def lost_verdict(answers: Sequence[Answer], own: Answer, world_size: int) -> str:
    """Who has ended, as far as the others know, and where."""
    silent = sorted(set(range(world_size)) - {answer.rank for answer in answers})
    if not silent:
        return f"every worker answers, and a connection broke, {own.doing} in {own.place}"
    if len(silent) == world_size - 1 > 1:
        return f"rank {own.rank} reaches none of the other workers, {own.doing} in {own.place}"
    return f"{ranks(silent)} {_do(silent)} not answer, {own.doing} in {own.place}"


def ranks(numbers: Sequence[int]) -> str:
    """ "rank 3", "ranks 0, 2-5" """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{'rank' if len(numbers) == 1 else 'ranks'} {text}"


def _grouped(answers: Iterable[Answer], verb: str, verbs: str) -> list[str]:
    """One part of the message for all that do the same at the same place."""
    groups: dict[tuple[str, str], list[int]] = {}
    for answer in answers:
        groups.setdefault((answer.doing, answer.place), []).append(answer.rank)
    return [
        f"{ranks(group)} {verb if len(group) == 1 else verbs}, {doing} in {place}"
        for (doing, place), group in groups.items()
    ]


def _do(who: Sequence[int]) -> str:
    return "does" if len(who) == 1 else "do"


def _fields(text: str, *names: str) -> list[Any]:
    try:
        fields = json.loads(text)
    except RecursionError:
        fields = None
    if not isinstance(fields, dict) or fields.keys() != set(names):
        raise ValueError(f"no notice of a worker: {text[:_LONGEST]!r}")
    return [fields[name] for name in names]


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise ValueError(f"no number: {str(value)[:_LONGEST]!r}")
    return value


def _clean(text: object) -> str:
    """Without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))[:_LONGEST]
