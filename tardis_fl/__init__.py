"""Federated training and tiered deployment of early-exit networks.

The names below are the Python API, described in docs/api.md. Each is imported when it is first
used, so that `import tardis_fl` costs nothing and needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tardis_fl.api.actions import compare, deploy, frontier, load_config, open_run, run
    from tardis_fl.api.results import Comparison, Deployment, FrontierResult, Run
    from tardis_fl.config import Config
    from tardis_fl.errors import ConfigError, DataError, RunError, TardisError
    from tardis_fl.federation.callbacks.base import Callback, StopTraining

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Comparison",
    "Config",
    "ConfigError",
    "DataError",
    "Deployment",
    "FrontierResult",
    "Run",
    "RunError",
    "StopTraining",
    "TardisError",
    "compare",
    "deploy",
    "frontier",
    "load_config",
    "open_run",
    "run",
]

_HOMES = {
    "tardis_fl.api.actions": ("compare", "deploy", "frontier", "load_config", "open_run", "run"),
    "tardis_fl.api.results": ("Comparison", "Deployment", "FrontierResult", "Run"),
    "tardis_fl.config": ("Config",),
    "tardis_fl.errors": ("ConfigError", "DataError", "RunError", "TardisError"),
    "tardis_fl.federation.callbacks.base": ("Callback", "StopTraining"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns all public names, also those that nobody has used yet."""
    return sorted({*globals(), *__all__})
