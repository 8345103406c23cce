"""What is wrong with a configuration: problems, and which keys were changed."""

from __future__ import annotations

from tardis_fl.config.section import Section
from tardis_fl.core.problem import Problem

__all__ = ["Problem", "changed"]


def changed(section: Section, key: str) -> bool:
    """Whether a key was set to something else than its default; a resolved configuration sets them all."""
    return (
        key in section.model_fields_set
        and getattr(section, key) != type(section).model_fields[key].default
    )
