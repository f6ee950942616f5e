"""The configuration of a run: typed, strict, from YAML with dotted overrides."""

from trainer.config.load import load_config, parse_config, preset_names, to_yaml
from trainer.config.schema import ConfigError, TrainConfig, flatten

__all__ = ["ConfigError", "TrainConfig", "flatten", "load_config", "parse_config", "preset_names", "to_yaml"]
