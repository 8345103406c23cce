"""What the operating point has to be compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.escalation import Outcome
from tardis_fl.early_exit.evaluation import TestTable


@dataclass(frozen=True)
class Baseline:
    """One alternative to the operating point.

    Attributes:
        accuracy: On the test role.
        offload_rate: Share of samples that leave the device.
        bytes_per_sample: Mean bytes over all boundaries.
    """

    accuracy: float
    offload_rate: float
    bytes_per_sample: float


def baselines(table: TestTable, outcome: Outcome, *, boundary_bytes: list[int], image_bytes: int, raw_image_accuracy: float) -> dict[str, Baseline]:
    """Computes the rows that stand beside the operating point.

    - device_only, edge_only: every sample is answered by the first exit, or by the last but one.
    - cloud_only_raw_image: every picture is sent as it is, and the whole network runs in the cloud.
    - random_escalation: as many samples at each exit as at the operating point, but drawn blindly;
      this is the expectation over all draws, sum over exits of fraction x accuracy.
    - oracle: the first exit that is right; the device where none is. No policy can be more accurate.

    Args:
        table: The exit table of the test role.
        outcome: The operating point.
        boundary_bytes: Bytes of one sample's features over each boundary.
        image_bytes: Bytes of one raw image.
        raw_image_accuracy: Of the last exit where features don't go through a codec.
    """
    correct = table.correct()
    accuracies = table.accuracies()
    edge = table.num_exits - 2
    right = np.concatenate([correct, np.ones((1, len(table)), dtype=bool)]).argmax(axis=0)
    oracle_exits = np.where(right == table.num_exits, 0, right)
    fractions = np.asarray(outcome.exit_counts) / len(outcome)
    return {
        "device_only": Baseline(accuracies[0], 0.0, 0.0),
        "edge_only": Baseline(accuracies[edge], float(edge > 0), float(sum(boundary_bytes[:edge]))),
        "cloud_only_raw_image": Baseline(raw_image_accuracy, 1.0, float(image_bytes)),
        "random_escalation": Baseline(float(fractions @ accuracies), 1 - float(fractions[0]), mean_bytes(outcome.exits, boundary_bytes)),
        "oracle": Baseline(float(correct.any(axis=0).mean()), float((oracle_exits > 0).mean()), mean_bytes(oracle_exits, boundary_bytes)),
    }


def mean_bytes(exits: npt.NDArray[np.int64], boundary_bytes: list[int]) -> float:
    """Returns the mean bytes a sample sends over all boundaries, each counted once, at the sender."""
    return float(np.concatenate([[0], np.cumsum(boundary_bytes)])[exits].mean())
