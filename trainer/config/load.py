"""From a preset or a YAML file and dotted overrides to a configuration."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer import yaml_text
from trainer.config.explain import explain, in_one_line, nearest
from trainer.config.schema import ConfigError, TrainConfig

DEFAULT_PRESET = "digits-increase-batch"
CONFIG_FILE = "trainer.yaml"

_MOST_BYTES = 1 << 18  # of a file: a hundred times the longest preset
_MOST_VALUES = 10_000  # in a configuration, its aliases written out
_DEEPEST = 32  # sections in sections
_MOST_NAMED = 5  # mistakes in one message
_PLACE = re.compile(r"[0-9]{1,6}")  # in a list


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    files = resources.files("trainer").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_config(source: str | None, overrides: Sequence[str] = (), default: str | None = None) -> TrainConfig:
    """The run that a command line names.

    source is a preset's name or a YAML file; without one it is `default` (what TRAINER_CONFIG names), else
    ./trainer.yaml, else the embedded preset. overrides are "dotted.key=value", the value in YAML.
    Raises ConfigError.
    """
    source = source or default or (CONFIG_FILE if Path(CONFIG_FILE).exists() else DEFAULT_PRESET)
    return parse_config(_read(source), source, overrides)


def parse_config(text: str, source: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The run that a configuration's text describes; source says in messages where it stands. Raises ConfigError."""
    tree = _parse(text, source)
    if not isinstance(tree, dict):
        raise _refusal(f"{source}: a configuration is a list of `key: value` lines, and this is none")
    for override in overrides:
        _apply(tree, override)
    return _validate(tree, source)


def to_yaml(config: TrainConfig) -> str:
    """The whole configuration with every default, as a file that load_config takes back."""
    return yaml_text.to_text(config.model_dump(mode="json"))


def _read(source: str) -> str:
    looks_like_file = source.endswith((".yaml", ".yml")) or os.sep in source
    if looks_like_file:
        try:
            with open(source, "rb") as file:
                content = file.read(_MOST_BYTES + 1)  # no more, whatever lies there
            text = content.decode("utf-8")
        except OSError as error:
            raise _refusal(f"{source}: cannot be read ({error.strerror}): name a YAML file or a preset") from None
        except ValueError:  # also of a NUL in the name
            raise _refusal(f"{source}: cannot be read (not a text file): name a YAML file or a preset") from None
        if len(content) > _MOST_BYTES:
            raise _refusal(f"{source}: is longer than {_MOST_BYTES:,} bytes: name a configuration")
        return text
    if source not in preset_names():
        raise _refusal(
            f"{source!r} is neither a preset nor a .yaml file{nearest(source, preset_names())}; "
            f"presets: {', '.join(preset_names())}"
        )
    return resources.files("trainer").joinpath("presets").joinpath(f"{source}.yaml").read_text(encoding="utf-8")


def _parse(text: str, source: str) -> Any:
    try:
        return yaml_text.parse(text)
    except yaml_text.YamlError as error:
        raise _refusal(f"{source}{error.where}: no YAML: {error.problem}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    """Sets one dotted key in place: `schedule.curve.drops.0.epoch=5`."""
    key, equals, text = override.partition("=")
    shown = in_one_line(override, 100)
    if not equals or not key:
        raise _refusal(f"{shown!r}: an override is key=value, for example schedule.epochs=10")
    value = _parse(text, shown)
    node: Any = tree
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(node, list) and _is_place(parent, node):
            node = node[int(parent)]
        elif isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            raise _refusal(
                f"{shown!r}: {in_one_line(parent, 100)!r} leads nowhere: check the key against --print-config"
            )
        if node is None:
            raise _refusal(f"{shown!r}: {in_one_line(parent, 100)} is null: set it as a whole")
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and _is_place(last, node):
        node[int(last)] = value
    else:
        raise _refusal(f"{shown!r}: {in_one_line(key, 100)} cannot be set: check the key against --print-config")


def _is_place(word: str, items: list[Any]) -> bool:
    return _PLACE.fullmatch(word) is not None and int(word) < len(items)


def _validate(tree: Mapping[str, Any], source: str) -> TrainConfig:
    if (problem := _problem(tree)) is not None:
        raise _refusal(f"{source}: {problem}")
    try:
        # As JSON: strict means JSON's types then, and 3 is a number where a fraction may stand, but "3" is not.
        return TrainConfig.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        details = error.errors()
        told = "; ".join(f"{source}: {explain(detail)}" for detail in details[:_MOST_NAMED])
        more = f"; and {len(details) - _MOST_NAMED} more" if len(details) > _MOST_NAMED else ""
        raise ConfigError(told + more) from None
    except (TypeError, ValueError) as error:
        raise _refusal(f"{source}: {error}: use numbers, texts, lists and sections only") from None


def _problem(tree: Mapping[str, Any]) -> str | None:
    """Why a tree cannot be a configuration's, whatever its keys; looked for before anything copies it.

    A few lines of aliases to aliases can stand for more values than memory holds, or for a list within itself.
    """
    values = 0
    waiting: list[Iterator[Any]] = [iter(tree.items())]
    while waiting:
        for value in waiting[-1]:
            values += 1
            if values > _MOST_VALUES:
                return f"has more than {_MOST_VALUES:,} values: look at its aliases (*name), and shorten it"
            if isinstance(value, str) and (not _is_text(value) or "\0" in value):
                return f"{in_one_line(value, 40)!r} is no text: leave out what cannot be printed"
            if isinstance(value, (dict, list, tuple)):
                waiting.append(iter(value.items() if isinstance(value, dict) else value))
                break
        else:
            waiting.pop()
        if len(waiting) > 2 * _DEEPEST:  # an item of a section is one of the levels
            return f"is nested deeper than {_DEEPEST} sections: look at its brackets and aliases (*name)"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _refusal(text: str) -> ConfigError:
    return ConfigError(in_one_line(text))
