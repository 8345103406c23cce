"""How a certificate fares on the test role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.thresholds.certificates.certify import Certificate
from tardis_fl.deployment.thresholds.certificates.losses import exit_losses
from tardis_fl.deployment.thresholds.sweep import checked_scores, decide
from tardis_fl.early_exit.evaluation import ExitTable


@dataclass(frozen=True)
class GroupRisk:
    """The risk of one class or client.

    Attributes:
        index: Class index or client id.
        risk: Mean loss of its samples.
        num_samples: Its samples.
    """

    index: int
    risk: float
    num_samples: int


@dataclass(frozen=True)
class Evaluation:
    """A certificate's risk on the test role.

    Attributes:
        test_risk: Mean loss.
        num_samples: Test samples.
        worst_class: The class with the largest risk; None without labels.
        worst_client: The client with the largest risk; None where samples belong to none.
    """

    test_risk: float
    num_samples: int
    worst_class: GroupRisk | None
    worst_client: GroupRisk | None


def evaluate_certificate(
    certificate: Certificate,
    table: ExitTable,
    scores: npt.NDArray[np.float64],
    *,
    temperatures: Sequence[float] | None = None,
) -> Evaluation:
    """Measures the risk of a certified threshold on a table it wasn't chosen on, usually the test role.

    Args:
        certificate: What was certified.
        table: The test role.
        scores: Of its early exits (exits - 1, N).
        temperatures: One an exit, for the loss brier.

    Raises:
        ValueError: The table is empty, scores don't fit it, or the loss needs labels that are
            missing.
    """
    if len(table) == 0:
        raise ValueError("a certificate can't be evaluated on no samples")
    exits = decide(checked_scores(scores, table), [certificate.threshold] * (table.num_exits - 1))
    losses = exit_losses(table, certificate.loss, temperatures)[exits, np.arange(len(table))]
    return Evaluation(
        float(losses.mean()),
        len(table),
        _worst(losses, table.labels),
        _worst(losses, table.client_ids),
    )


def _worst(losses: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> GroupRisk | None:
    """Returns the group with the largest mean loss, the first of equals; samples with a negative group are left out."""
    known = groups >= 0
    if not known.any():
        return None
    members, inverse, counts = np.unique(groups[known], return_inverse=True, return_counts=True)
    risks = np.bincount(inverse, weights=losses[known]) / counts
    worst = int(risks.argmax())
    return GroupRisk(int(members[worst]), float(risks[worst]), int(counts[worst]))
