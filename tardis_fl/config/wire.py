"""The configuration as requests to clients carry it."""

from __future__ import annotations

from typing import Any

from tardis_fl.config.schema import Config
from tardis_fl.config.section import ADDED, TRUSTED, Section


def wire_json(config: Config) -> str:
    """Returns a configuration as JSON, without the later keys that stand at their defaults.

    Requests carry this text and the ledger counts it. Keys that are marked as `ADDED` would make
    the requests of every older configuration longer, and with them the bytes in its report.
    """
    return config.model_dump_json(exclude=_at_defaults(config))


def read_wire(text: str) -> Config:
    """Returns the configuration of a request, which the server has checked.

    Names of plug-ins aren't looked up, so that a node which lacks one can say so.

    Raises:
        ConfigError: It isn't a configuration of this version.
    """
    return Config.model_validate_json(text, context=TRUSTED)


def _at_defaults(section: Section) -> dict[Any, Any]:
    """Returns the added keys at their defaults as pydantic's `exclude` has them."""
    excluded: dict[Any, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if ADDED in field.metadata and value == field.get_default(call_default_factory=True):
            excluded[name] = True
        elif isinstance(value, Section):
            excluded[name] = _at_defaults(value)
        elif isinstance(value, list):
            entries = {
                number: _at_defaults(entry)
                for number, entry in enumerate(value)
                if isinstance(entry, Section)
            }
            excluded[name] = {number: inner for number, inner in entries.items() if inner}
    return {name: inner for name, inner in excluded.items() if inner}
