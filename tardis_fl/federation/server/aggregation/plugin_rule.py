"""A user's aggregation rule: called, and what it returns is checked before it becomes weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tardis_fl.core.importing import failure_of
from tardis_fl.core.problem import Problem
from tardis_fl.errors import ConfigError, RunError, TardisError
from tardis_fl.federation.server.aggregation.robust import kinds_of
from tardis_fl.federation.server.aggregation.rules import AGGREGATION_RULES


class PluginRule:
    """Guards a round's aggregator of a user's; see `Aggregator`.

    Args:
        rule: The registered name, or MODULE:CLASS.
        options: Its own.

    Attributes:
        num_updates: Updates so far.

    Raises:
        ConfigError: There is no such class, or it makes no aggregator.
    """

    def __init__(self, rule: str, options: Mapping[str, Any]) -> None:
        make = AGGREGATION_RULES.bound(rule, options)
        self._rule = rule
        self._kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}
        self.num_updates = 0
        try:
            self._inner = make()
        except TardisError:
            raise
        except Exception as error:
            raise ConfigError(_refusal(rule, f"which fails with {failure_of(error)}")) from error
        for method in ("add", "result"):
            if not callable(getattr(self._inner, method, None)):
                got = f"which makes a {type(self._inner).__name__} without the method {method}"
                raise ConfigError(_refusal(rule, got))

    def add(self, update: Mapping[str, Tensor], num_samples: float) -> None:
        """Adds one client's update.

        Raises:
            ValueError: The rule refuses this update.
            RunError: The rule fails.
        """
        try:
            self._inner.add(update, num_samples)
        except (ValueError, TardisError):
            raise
        except Exception as error:
            raise RunError(
                _refusal(self._rule, f"whose add fails with {failure_of(error)}")
            ) from error
        self._kinds = {**kinds_of(update), **self._kinds}
        self.num_updates += 1

    def result(self) -> dict[str, Tensor]:
        """Returns the aggregate.

        Raises:
            RunError: The rule fails, or returns other keys, shapes, types or values than weights have.
        """
        try:
            found = self._inner.result()
        except TardisError:
            raise
        except Exception as error:
            got = f"whose result fails with {failure_of(error)}"
            raise RunError(_refusal(self._rule, got)) from error
        problem = aggregate_problem(found, self._kinds)
        if problem is not None:
            raise RunError(_refusal(self._rule, f"whose result returned {problem}"))
        return dict(found)


def aggregate_problem(
    found: object, kinds: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> str | None:
    """Returns what is wrong with what a rule returned, to follow `returned`; None: nothing.

    Args:
        found: Should be tensors by key.
        kinds: Shapes and dtypes of the updates, by key.
    """
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__} instead of a dict of tensors"
    if found.keys() != kinds.keys():
        missing = sorted(kinds.keys() - found.keys())
        surplus = [str(key) for key in found if key not in kinds]
        return f"no {missing[0]!r}" if missing else f"{surplus[0]!r}, which no update held"
    for key, (shape, dtype) in kinds.items():
        value = found[key]
        if not isinstance(value, Tensor):
            return f"a {type(value).__name__} for {key!r} instead of a tensor"
        if value.shape != shape or value.dtype != dtype:
            return (
                f"{value.dtype} of the shape {tuple(value.shape)} for {key!r} "
                f"instead of {dtype} of the shape {tuple(shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            return f"values that aren't finite for {key!r}"
    return None


def _refusal(rule: str, got: str) -> str:
    key = AGGREGATION_RULES.key
    return str(Problem(key, f"{rule!r}, {got}", f"wanted {AGGREGATION_RULES.wants}"))
