"""Policies: what makes it safe to answer at an exit, as a score in [0, 1], higher = safer, one a sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tardis_fl.config.deployment import POLICY_NAMES, USERS_FUNCTION
from tardis_fl.core.importing import import_callable
from tardis_fl.deployment.scoring.gain import fit_gain, gain_score
from tardis_fl.early_exit.evaluation import ExitTable, FitTable
from tardis_fl.early_exit.scoring.confidence import Score, checked_scores
from tardis_fl.early_exit.scoring.scores import PATIENCE, POLICIES, early_scores, score

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GAIN = "gain"
PATIENCE_BYTES = 3  # a class as uint16 and a run length as uint8
BYTES_PER_PROBABILITY = 4


@dataclass(frozen=True)
class ScoringRule:
    """A policy with all that was fitted for it: the same function in calibration, replay, deployment and report.

    Attributes:
        policy: A name of `POLICY_NAMES`, or MODULE:FUNCTION of a user.
        temperatures: One an exit.
        coefficients: Of `gain`, a row for each early exit; None for others.
    """

    policy: str
    temperatures: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICY_NAMES and not USERS_FUNCTION.match(self.policy):
            raise ValueError(
                f"policy: got {self.policy!r}; wanted one of {', '.join(POLICY_NAMES)}, or MODULE:FUNCTION"
            )
        if (self.policy == GAIN) != (self.coefficients is not None):
            raise ValueError(
                f"coefficients: the policy {self.policy!r} {'wants them' if self.policy == GAIN else 'takes none'}"
            )

    @property
    def needs_earlier_exits(self) -> bool:
        """Whether the score depends on what earlier exits said."""
        return self.policy == PATIENCE

    def at(self, exit: int) -> Score:
        """Returns the score of one early exit: logits (B, classes) to (B,) float64.

        Not for patience, which needs all exits.
        """
        temperature = self.temperatures[exit]
        if self.policy in POLICIES:
            return partial(score, self.policy, temperature=temperature)
        if self.policy == GAIN:
            assert self.coefficients is not None
            return partial(
                gain_score, temperature=temperature, coefficients=self.coefficients[exit]
            )
        return partial(_users_score, users_function(self.policy), temperature)

    def scores(self, logits: Tensor | npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Scores the early exits of logits (exits, N, classes): (exits - 1, N)."""
        rows = torch.as_tensor(logits)
        if self.policy in (*POLICIES, PATIENCE):
            return early_scores(self.policy, rows, self.temperatures).numpy()
        return torch.stack([self.at(exit)(row) for exit, row in enumerate(rows[:-1])]).numpy()

    def table_scores(self, table: ExitTable) -> npt.NDArray[np.float64]:
        """Scores the early exits of a table: (exits - 1, N)."""
        return self.scores(table.logits)


def fit_scoring(policy: str, table: FitTable, temperatures: Sequence[float]) -> ScoringRule:
    """Fits what a policy has to learn, on the fit role.

    Raises:
        TypeError: The table is of another role.
        ConfigError: A user's function isn't there.
    """
    fitted = tuple(temperatures)
    if policy not in POLICY_NAMES:
        users_function(policy)
    return ScoringRule(policy, fitted, fit_gain(table, fitted) if policy == GAIN else None)


def extra_bytes(policy: str, ensemble: bool, num_classes: int) -> int:
    """Returns what crosses a boundary beside the features, for one sample: what earlier exits said, where the decision behind it needs that."""
    return (BYTES_PER_PROBABILITY * num_classes if ensemble else 0) + (
        PATIENCE_BYTES if policy == PATIENCE else 0
    )


def table_scores(policy: str, table: ExitTable, temperatures: Sequence[float]) -> Tensor:
    """Scores every exit of a table, the last one too, by a policy of `POLICIES`: (exits, N) float64."""
    return torch.stack(
        [
            score(policy, torch.from_numpy(logits), t)
            for logits, t in zip(table.logits, temperatures, strict=True)
        ]
    )


@lru_cache(maxsize=8)
def users_function(name: str) -> Callable[[Tensor], Any]:
    """Imports a user's policy.

    Raises:
        ConfigError: There is no such function.
    """
    return import_callable(name, "deployment.policy")


def _users_score(function: Callable[[Tensor], Any], temperature: float, logits: Tensor) -> Tensor:
    return (
        checked_scores(
            lambda rows: function(torch.softmax(rows.double() / temperature, -1)), logits
        )
        .double()
        .clamp(0, 1)
    )
