"""What all sections of a configuration share: they are frozen and strict, and refuse in our words."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from tardis_fl.config.keys import in_one_line, key_problem
from tardis_fl.config.problem import ConfigProblems, Problem, touches

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]

Options = dict[str, Any]
"""Keyword arguments of a plug-in, which are checked against its parameters."""

TRUSTED = {"trusted": True}
"""Context of validation for what another process has checked already."""


AnySection = TypeVar("AnySection", bound="Section")


class _Added:
    """Marks a key that wasn't there from the beginning; see `wire.wire_json`."""


ADDED = _Added()

# pydantic doesn't say whether a model is validated as a part of another
_inside: ContextVar[bool] = ContextVar("inside a section", default=False)


def _put_descriptions_in_one_line(schema: dict[str, Any]) -> None:
    """Changes the JSON Schema of one section in place."""
    for described in (schema, *schema.get("properties", {}).values()):
        if "description" in described:
            described["description"] = in_one_line(described["description"])


class Section(BaseModel):
    """A frozen, strict group of keys.

    Whoever makes one by itself, or a whole configuration, gets a `ConfigError` with everything that
    is wrong with it, in the words of the command line.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra=_put_descriptions_in_one_line,
    )

    placeholders: ClassVar[Mapping[str, Any]] = {}
    """What stands for keys without a default while the others are judged."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a copy with some keys replaced, checked as a new one is.

        Raises:
            ConfigError: The changed section is refused.
        """
        if not update:
            return super().model_copy(deep=deep)
        kept = {key: getattr(self, key) for key in self.model_fields_set}
        return type(self).model_validate({**kept, **update})

    def unchecked_copy(self, update: Mapping[str, Any]) -> Self:
        """Returns a copy with some keys replaced by values that may not go together."""
        return super().model_copy(update=update)

    @classmethod
    def prepare(cls, data: Any) -> None:
        """Does what must come before keys are checked, such as learning the names of plug-ins."""

    def combination_problems(self) -> list[Problem]:
        """Returns what is wrong with keys that are right by themselves."""
        return []

    @model_validator(mode="wrap")
    @classmethod
    def _checked(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if _inside.get():
            return handler(data)
        cls.prepare(data)
        token = _inside.set(True)
        try:
            section, problems = _validated(cls, data, handler)
        finally:
            _inside.reset(token)
        if section is not None and info.context != TRUSTED:
            broken = [problem.path for problem in problems]
            found = section.combination_problems()
            problems += [problem for problem in found if not touches(problem, broken)]
        if problems or section is None:
            raise ConfigProblems(problems)
        return section


def _validated(
    cls: type[AnySection], data: Any, handler: ModelWrapValidatorHandler[AnySection]
) -> tuple[AnySection | None, list[Problem]]:
    """Checks every key by itself.

    Returns:
        The section, of those keys that are right; None where a key without a default isn't among
        them. And what is wrong with the others.
    """
    try:
        return handler(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = [key_problem(cls, dict(detail)) for detail in details]
    if not isinstance(data, Mapping):
        return None, problems
    broken = [_broken_part(dict(detail)) for detail in details]
    try:
        return handler({**cls.placeholders, **_without(data, broken)}), problems
    except ValidationError:
        return None, problems


def _broken_part(detail: Mapping[str, Any]) -> list[str]:
    """Returns where the smallest part is that must go so that the rest can be judged.

    A broken entry takes its list with it, and a missing key its section.
    """
    location = list(detail["loc"])
    if detail["type"] == "missing" and len(location) > 1:
        location = location[:-1]
    entries = [number for number, key in enumerate(location) if isinstance(key, int)]
    return [str(key) for key in location[: entries[0] if entries else None]]


def _without(raw: Mapping[str, Any], broken: Iterable[list[str]]) -> dict[str, Any]:
    """Returns keys without the parts at some paths."""
    pruned: dict[str, Any] = copy.deepcopy(dict(raw))
    for keys in broken:
        target: Any = pruned
        for key in keys[:-1]:
            target = target.get(key, {}) if isinstance(target, dict) else {}
        if isinstance(target, dict) and keys:
            target.pop(keys[-1], None)
    return pruned
