"""Callbacks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tardis_fl.core.registry import Registry

if TYPE_CHECKING:
    from tardis_fl.federation.callbacks.base import Callback

CALLBACKS: Registry[Callable[..., Callback]] = Registry(
    "callback",
    key="callbacks.use",
    wants="a class derived from tardis_fl.Callback",
    form="MODULE:CLASS",
    options_key="callbacks.options",
)
_ROOM = "tardis_fl.federation.callbacks"
CALLBACKS.register("early_stop", f"{_ROOM}.early_stop:EarlyStop")
CALLBACKS.register("json_lines", f"{_ROOM}.json_lines:JsonLines")
