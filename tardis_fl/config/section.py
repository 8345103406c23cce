"""What all sections of a configuration share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]

Options = dict[str, Any]
"""Of a plug-in: keyword arguments of its function or class, against whose parameters they are checked."""


class _Added:
    """Marks a key that wasn't there from the beginning; see `wire.wire_json`."""


ADDED = _Added()


class Section(BaseModel):
    """A frozen, strict group of keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )
