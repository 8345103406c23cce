"""What a sample may be used for. The four roles never share a sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from tardis_fl.core.randomness import Purpose, numpy_generator
from tardis_fl.errors import DataError

Indices = npt.NDArray[np.int64]


class Role(Enum):
    """train: gradient steps.

    fit: progress and temperatures. calibrate: thresholds. test: the report, nothing else.
    """

    TRAIN = "train"
    FIT = "fit"
    CALIBRATE = "calibrate"
    TEST = "test"


@dataclass(frozen=True)
class Shard:
    """One client's samples, as indices into the training split.

    Attributes:
        client: The client's number, from 0.
        train, fit, calibrate: Disjoint, sorted indices (N,).
    """

    client: int
    train: Indices
    fit: Indices
    calibrate: Indices

    def __len__(self) -> int:
        return len(self.train) + len(self.fit) + len(self.calibrate)

    def indices(self, role: Role) -> Indices:
        """Returns the client's samples of a role; no client holds test samples."""
        return {Role.TRAIN: self.train, Role.FIT: self.fit, Role.CALIBRATE: self.calibrate}[role]


def hold_out(
    client: int,
    indices: Indices,
    *,
    fit_fraction: float,
    calibration_fraction: float,
    seed: int,
    mend: str,
) -> Shard:
    """Deals one client's samples to its roles; the held-out samples get at least one sample each.

    Args:
        client: The client's number.
        indices: Its samples.
        fit_fraction: Share for temperatures and progress.
        calibration_fraction: Share for thresholds.
        seed: The run's seed; the draw depends on it and on the client alone.
        mend: The setting to change when the shard is too small, for the message.

    Raises:
        DataError: Fewer than two samples would be left to train on, or none to hold out.
    """
    count = len(indices)
    num_fit, num_calibrate = (
        max(1, round(fit_fraction * count)),
        max(1, round(calibration_fraction * count)),
    )
    num_train = count - num_fit - num_calibrate
    if num_train < 2:
        raise DataError(
            f"client {client}: its shard of {count} samples is too small: {num_fit} for fit and {num_calibrate} for calibrate "
            f"leave {max(0, num_train)} to train on, wanted at least 2; {mend}, use fewer clients (federation.num_clients) or more data"
        )
    order = numpy_generator(seed, Purpose.HOLD_OUT, client).permutation(indices)
    fit, calibrate, train = np.split(order, [num_fit, num_fit + num_calibrate])
    return Shard(client, np.sort(train), np.sort(fit), np.sort(calibrate))
