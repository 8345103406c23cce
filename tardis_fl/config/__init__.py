"""The YAML file: what it may say (`schema`), how it is read (`loading`), what can't go together (`consistency`)."""

from tardis_fl.config.loading import load_config, parse_config
from tardis_fl.config.schema import Config

__all__ = ["Config", "load_config", "parse_config"]
