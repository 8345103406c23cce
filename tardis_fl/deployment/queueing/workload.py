"""What the requests ask for: samples of a table, with the exit that answers each and the bytes it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.queueing.arrivals import Arrivals


@dataclass(frozen=True)
class Workload:
    """Requests over time; each is a sample drawn evenly from a table of S samples.

    Attributes:
        arrivals: When they come.
        num_devices: That send them.
        num_requests: In all.
        exits: (S,) tier that answers each sample.
        bytes_up: (boundaries, S) bytes of a sample's message over each boundary; (boundaries, 1)
            where all are alike.
        correct: (tiers, S) whether each tier's exit is right; None: accuracy isn't asked for.
        deadline_s: Latency above which an answer is late; None: none.
    """

    arrivals: Arrivals
    num_devices: int
    num_requests: int
    exits: npt.NDArray[np.int64]
    bytes_up: npt.NDArray[np.number]
    correct: npt.NDArray[np.bool_] | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        samples = len(self.exits)
        if self.num_devices < 1 or self.num_requests < 1 or samples < 1:
            raise ValueError(
                f"workload: got {self.num_devices} devices, {self.num_requests} requests and {samples} samples; wanted at least 1 of each"
            )
        if self.bytes_up.ndim != 2 or self.bytes_up.shape[1] not in (1, samples):
            raise ValueError(
                f"bytes_up: got the shape {self.bytes_up.shape}; wanted (boundaries, {samples}) or (boundaries, 1)"
            )

    @property
    def rate(self) -> float:
        """Mean requests a second and device."""
        return self.arrivals.mean_rate(self.num_devices)

    def reach(self, num_tiers: int) -> npt.NDArray[np.float64]:
        """Returns the share of requests that reach each tier (tiers,), without faults."""
        counts = np.bincount(self.exits, minlength=num_tiers)
        return counts[::-1].cumsum()[::-1] / len(self.exits)

    def mean_bytes(self, boundary: int) -> float:
        """Returns the mean bytes of the messages over a boundary; 0 where none crosses it."""
        crossing = self.exits > boundary
        if not crossing.any():
            return 0.0
        sizes = self.bytes_up[boundary]
        return float(sizes[crossing].mean() if len(sizes) > 1 else sizes[0])

    def largest_bytes(self, boundary: int) -> float:
        """Returns the bytes of the largest message over a boundary; 0 where none crosses it."""
        crossing = self.exits > boundary
        sizes = self.bytes_up[boundary]
        return (
            float((sizes[crossing] if len(sizes) > 1 else sizes).max()) if crossing.any() else 0.0
        )
