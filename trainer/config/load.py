"""From a preset or a YAML file and dotted overrides to a configuration.

The one file that reads YAML.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trainer.config.explain import explain, nearest
from trainer.config.schema import ConfigError, TrainConfig

DEFAULT_PRESET = "digits-increase-batch"
CONFIG_FILE = "trainer.yaml"


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
        raise ConfigError(f"{source}: a configuration is a list of `key: value` lines, and this is none")
    for override in overrides:
        _apply(tree, override)
    return _validate(tree, source)


def to_yaml(config: TrainConfig) -> str:
    """The whole configuration with every default, as a file that load_config takes back."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _read(source: str) -> str:
    looks_like_file = source.endswith((".yaml", ".yml")) or os.sep in source
    if looks_like_file:
        try:
            return Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise ConfigError(f"{source}: cannot be read ({reason}): name a YAML file or a preset") from None
    if source not in preset_names():
        raise ConfigError(
            f"{source!r} is neither a preset nor a .yaml file{nearest(source, preset_names())}; "
            f"presets: {', '.join(preset_names())}"
        )
    return resources.files("trainer").joinpath("presets").joinpath(f"{source}.yaml").read_text(encoding="utf-8")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source}{where}: no YAML: {problem}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    """Sets one dotted key in place: `schedule.curve.drops.0.epoch=5`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: an override is key=value, for example schedule.epochs=10")
    value = _parse(text, override)
    node: Any = tree
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            node = node[int(parent)]
        elif isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            raise ConfigError(f"{override!r}: {parent!r} leads nowhere in {key}: check the key against --print-config")
        if node is None:
            raise ConfigError(f"{override!r}: {parent} is null: set {parent} as a whole")
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    else:
        raise ConfigError(f"{override!r}: {key} cannot be set: check the key against --print-config")


def _validate(tree: Mapping[str, Any], source: str) -> TrainConfig:
    try:
        # As JSON: strict means JSON's types then, and 3 is a number where a fraction may stand, but "3" is not.
        return TrainConfig.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError("; ".join(f"{source}: {explain(detail)}" for detail in error.errors())) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: {error}: use numbers, texts, lists and sections only") from None
