"""A refused configuration in one sentence: the place, what was given, what would be right."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from trainer.config.schema import TrainConfig
from trainer.passwords import fit_to_print

_LONGEST = 500  # characters of one mistake


def in_one_line(text: str, at_most: int = _LONGEST) -> str:
    """The text as it may stand in a message: no passwords, nothing that moves a terminal's cursor, and no novel."""
    clean = fit_to_print(text)  # before it is cut: half an address would not be known for one
    return clean if len(clean) <= at_most else f"{clean[: at_most - 3]}..."


def explain(detail: Any) -> str:
    """One sentence for one of pydantic's error details."""
    return in_one_line(_sentence(detail))


def _sentence(detail: Any) -> str:
    location, given = detail["loc"], detail.get("input")
    place = ".".join(str(part) for part in location)
    prefix = f"{place}: " if place else ""
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *section, key = location
        known = _known_keys(section)
        return f"{place}: unknown key" + (nearest(str(key), known) or f" (known: {', '.join(known)})")
    if detail["type"] in ("missing", "missing_argument"):
        return f"{place}: is missing: set it"
    if detail["type"] == "value_error":
        return prefix + str(detail["ctx"]["error"])
    if isinstance(given, str) and _is_number(given):
        return f"{place}: {given[:60]!r} is text in YAML, not a number: write {_yaml_number(given[:60])}"
    if detail["type"] in ("model_type", "dataclass_type"):
        needs = f"is a section: give one of its keys ({', '.join(_known_keys(location))})"
    elif detail["type"] in ("bool_type", "bool_parsing"):
        needs = "should be true or false"
    else:
        needs = detail["msg"].removeprefix("Input ")
    return f"{prefix}{in_one_line(json.dumps(given), 60)}: {needs}"


def _known_keys(section: Sequence[object]) -> list[str]:
    """The keys that may stand in the section at this place of the tree."""
    owner: Any = TrainConfig
    for part in section:
        if isinstance(part, int):
            continue
        annotation = _field_types(owner).get(str(part))
        candidates = [annotation, *get_args(annotation)]
        owner = next(
            (c for c in candidates if isinstance(c, type) and (is_dataclass(c) or issubclass(c, BaseModel))), None
        )
        if owner is None:
            return []
    return list(_field_types(owner))


def _field_types(owner: Any) -> dict[str, Any]:
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        return {name: field.annotation for name, field in owner.model_fields.items()}
    hints = get_type_hints(owner)
    return {field.name: hints[field.name] for field in fields(owner)}


def nearest(word: str, known: Sequence[str]) -> str:
    """ " (did you mean X?)" where one of the known words is close, else nothing."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _yaml_number(text: str) -> str:
    """1e-3 as YAML 1.1 wants it: with a point in the mantissa and a sign in the exponent."""
    mantissa, e, exponent = text.lower().partition("e")
    if not e:
        return text
    sign = "" if exponent[:1] in "+-" else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent}"
