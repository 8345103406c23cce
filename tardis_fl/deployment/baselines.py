"""What the operating point has to be compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.escalation import Outcome
from tardis_fl.deployment.hardware.machines import Machines
from tardis_fl.early_exit.evaluation import TestTable


@dataclass(frozen=True)
class Baseline:
    """One alternative to the operating point.

    Attributes:
        accuracy: On the test role.
        offload_rate: Share of samples that leave the device.
        bytes_per_sample: Mean bytes over all boundaries.
        latency_ms: Mean of requests that wait for nobody; None without hardware, or where a link
            doesn't carry a message.
        energy_mj: Of the device, likewise; None without its power.
    """

    accuracy: float
    offload_rate: float
    bytes_per_sample: float
    latency_ms: float | None = None
    energy_mj: float | None = None


def baselines(
    table: TestTable,
    outcome: Outcome,
    *,
    crossing_bytes: npt.NDArray[np.int64],
    image_bytes: int,
    png_bytes: float,
    raw_image_accuracy: float,
    machines: Machines | None = None,
) -> dict[str, Baseline]:
    """Computes the rows that stand beside the operating point.

    - device_only, edge_only: every sample is answered by the first exit, or by the last but one.
    - cloud_only_raw_image, cloud_only_png: every picture is sent as it is, or as PNG, and the whole
      network runs in the cloud.
    - random_escalation: as many samples at each exit as at the operating point, but drawn blindly;
      this is the expectation over all draws, sum over exits of fraction x accuracy.
    - oracle: the first exit that is right; the device where none is. No policy can be more
      accurate.

    Args:
        table: The exit table of the test role.
        outcome: The operating point.
        crossing_bytes: (boundaries, N) that each sample would send over each boundary.
        image_bytes: Bytes of one raw image.
        png_bytes: Mean bytes of a picture as PNG.
        raw_image_accuracy: Of the last exit where features don't go through a codec.
        machines: For latency and energy.
    """
    correct, accuracies = table.correct(), table.accuracies()
    edge = table.num_exits - 2
    right = np.concatenate([correct, np.ones((1, len(table)), dtype=bool)]).argmax(axis=0)
    oracle_exits = np.where(right == table.num_exits, 0, right)
    fractions = np.asarray(outcome.exit_counts) / len(outcome)
    everywhere = [np.full(len(table), exit) for exit in range(table.num_exits)]
    bytes_of = [mean_bytes(exits, crossing_bytes) for exits in everywhere]

    def answered(
        accuracy: float, shares: npt.NDArray[np.float64], sent: float, exits: npt.NDArray[np.int64]
    ) -> Baseline:
        row = Baseline(float(accuracy), 1 - float(shares[0]), sent)
        if machines is None or not machines.carry(largest_crossing(exits, crossing_bytes)):
            return row
        return replace(
            row,
            latency_ms=machines.mean_latency_ms(shares),
            energy_mj=machines.mean_energy_mj(shares),
        )

    def pictures(size: float) -> Baseline:
        row = Baseline(raw_image_accuracy, 1.0, float(size))
        return (
            replace(
                row,
                latency_ms=machines.picture_latency_ms(size),
                energy_mj=machines.picture_energy_mj(size),
            )
            if machines
            else row
        )

    certain = np.eye(table.num_exits)
    oracle_shares = np.bincount(oracle_exits, minlength=table.num_exits) / len(table)
    return {
        "device_only": answered(accuracies[0], certain[0], 0.0, everywhere[0]),
        "edge_only": answered(accuracies[edge], certain[edge], bytes_of[edge], everywhere[edge]),
        "cloud_only_raw_image": pictures(image_bytes),
        "cloud_only_png": pictures(png_bytes),
        "random_escalation": answered(
            fractions @ accuracies,
            fractions,
            float(fractions @ bytes_of),
            everywhere[int(fractions.nonzero()[0].max())],
        ),
        "oracle": answered(
            correct.any(axis=0).mean(),
            oracle_shares,
            mean_bytes(oracle_exits, crossing_bytes),
            oracle_exits,
        ),
    }


def largest_crossing(
    exits: npt.NDArray[np.int64], crossing_bytes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Returns the bytes of the largest message over each boundary, (boundaries,); 0 where none crosses. Arguments as of `mean_bytes`."""
    return (crossing_bytes * (exits > np.arange(len(crossing_bytes))[:, None])).max(axis=1)


def mean_bytes(exits: npt.NDArray[np.int64], crossing_bytes: npt.NDArray[np.int64]) -> float:
    """Returns the mean bytes a sample sends over all boundaries, each counted once, at the sender.

    Args:
        exits: (N,) exit that answers each sample.
        crossing_bytes: (boundaries, N) that each sample would send.
    """
    crosses = exits > np.arange(len(crossing_bytes))[:, None]
    return float((crossing_bytes * crosses).sum() / len(exits))
