"""Keys that name a plug-in: a registered name, or MODULE:OBJECT of a user.

    backbone: Annotated[str, PluginName(lambda: BACKBONES.names())] = "small_resnet"

Only the form of the name is checked here, and nothing is imported: what is named may need PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from tardis_fl.core.importing import REFERENCE
from tardis_fl.core.problem import did_you_mean, one_of


@dataclass(frozen=True)
class PluginName:
    """Annotation of a text that names a plug-in.

    Attributes:
        known: Returns the registered names, when a configuration is checked.
        form: What else may stand there, as messages ask for it: MODULE:FUNCTION or MODULE:CLASS.
    """

    known: Callable[[], Sequence[str]]
    form: str = "MODULE:FUNCTION"

    def __get_pydantic_core_schema__(
        self, source: type[str], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Checks the name after its type."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Lists the names that are registered now, and the form of the user's own."""
        listed: dict[str, Any] = handler(schema)
        choices = [{"enum": list(self.known())}, {"pattern": REFERENCE.pattern}]
        return {**listed, "anyOf": choices}

    @property
    def wanted(self) -> str:
        """What may stand there, for messages."""
        return one_of(self.known(), self.form)

    def _checked(self, name: str) -> str:
        known = self.known()
        if name in known or REFERENCE.match(name):
            return name
        raise ValueError(f"wanted {self.wanted}{did_you_mean(name, known)}")
