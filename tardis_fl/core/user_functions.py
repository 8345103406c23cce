"""Functions that a user names as MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tardis_fl.errors import ConfigError


def imported(name: str, key: str) -> Callable[..., Any]:
    """Imports a function, from the current folder too.

    Args:
        name: MODULE:FUNCTION.
        key: Where the name stands, for the message.

    Raises:
        ConfigError: There is no such module or function.
    """
    module_name, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}: got {name!r}; wanted MODULE:FUNCTION ({error})") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ConfigError(f"{key}: got {name!r}, which is no function")
    return found
