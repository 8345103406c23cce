"""What a simulation found."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.queueing.energy import RadioUse
from tardis_fl.deployment.queueing.stability import Station
from tardis_fl.deployment.queueing.system import System
from tardis_fl.deployment.queueing.workload import Workload

Floats = npt.NDArray[np.float64]
FEWEST = {0.5: 1, 0.9: 64, 0.95: 130, 0.99: 662}
"""Samples below which a quantile says nothing (MLPerf Inference: 64 for p90, 662 for p99 at 99 %
confidence; p95 between)."""


@dataclass
class Spent:
    """Seconds that all requests which reached a stage spent there, added up, by what on; count: how many reached it."""

    stage: str
    count: int
    compute: float
    queue: float
    serialise: float
    retry: float
    propagate: float

    @property
    def total(self) -> float:
        return self.compute + self.queue + self.serialise + self.retry + self.propagate


@dataclass(frozen=True)
class Latency:
    """Latencies of some answers, in seconds; None where there are too few to say (see `FEWEST`)."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: Floats) -> Latency:
        """Summarises latencies (n,)."""
        known = (
            {
                share: float(np.quantile(seconds, share)) if len(seconds) >= fewest else None
                for share, fewest in FEWEST.items()
            }
            if len(seconds)
            else {}
        )
        return cls(
            len(seconds),
            float(seconds.mean()) if len(seconds) else None,
            *(known.get(share) for share in FEWEST),
        )


@dataclass(frozen=True)
class Result:
    """Requests and what became of them.

    Attributes:
        sent: (N,) intended send times, ascending.
        latency: (N,) seconds from there to the answer's arrival at the device; NaN where a request
            was dropped.
        answered_by: (N,) tier, -1 where dropped.
        samples: (N,) row of the workload's table.
        num_degraded: Answered by an earlier tier than meant, since what lay behind was broken.
        spent: Stage by stage, in the order in which requests pass them; the last is the answers'
            way back.
        stations: As predicted.
        utilisation: Measured, of each station: share of the time from the first request to the last
            answer that its servers are busy.
        wall_s: That time.
        accuracy: Of the answers; None where it isn't known which are right.
        num_late: Answers after the deadline; None without one.
        device_j: Energy of all devices over the time; None without their power.
        active_j: The part that they would not have used without requests.
        warnings: What a reader must know.
    """

    sent: Floats
    latency: Floats
    answered_by: npt.NDArray[np.int8]
    samples: npt.NDArray[np.int32]
    num_degraded: int
    spent: list[Spent]
    stations: list[Station]
    utilisation: list[float]
    wall_s: float
    accuracy: float | None
    num_late: int | None
    device_j: float | None
    active_j: float | None
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def num_dropped(self) -> int:
        return int((self.answered_by < 0).sum())

    @property
    def num_answered(self) -> int:
        return len(self) - self.num_dropped

    def latencies(self, tier: int | None = None) -> Floats:
        """Returns the latencies of all answers, or of those of one tier."""
        if tier is not None:
            return self.latency[self.answered_by == tier]
        return self.latency if self.num_dropped == 0 else self.latency[self.answered_by >= 0]

    @classmethod
    def of(
        cls,
        system: System,
        workload: Workload,
        stations: list[Station],
        *,
        sent: Floats,
        latency: Floats,
        answered_by: npt.NDArray[np.int8],
        samples: npt.NDArray[np.int32],
        num_degraded: int,
        spent: list[Spent],
        busy: list[float],
        radio: RadioUse,
    ) -> Result:
        """Puts a result together."""
        ends = sent + latency
        end_s = float(max(np.nanmax(ends) if not np.isnan(ends).all() else 0.0, sent[-1]))
        wall_s = end_s - float(sent[0])
        answered = answered_by >= 0
        per_tier = np.bincount(answered_by[answered], minlength=len(system.tiers))
        back = Spent(
            "answers",
            int(answered.sum()),
            0.0,
            0.0,
            0.0,
            0.0,
            float(sum(count * system.back_s(tier) for tier, count in enumerate(per_tier))),
        )
        servers = [
            workload.num_devices if number < 2 else station.servers
            for number, station in enumerate(stations)
        ]
        accuracy = None
        if workload.correct is not None and answered.any():
            accuracy = float(workload.correct[answered_by[answered], samples[answered]].mean())
        device_j = active_j = None
        if system.power is not None:
            radio_j, radio_active = radio.joules(wall_s, end_s)
            active_j = busy[0] * (system.power.active_w - system.power.idle_w) + radio_active
            device_j = (
                busy[0] * (system.power.active_w - system.power.idle_w)
                + system.power.idle_w * wall_s * workload.num_devices
                + radio_j
            )
        unstable = [station for station in stations if station.utilisation >= 1]
        warnings = [
            f"{station.name} would be busy {100 * station.utilisation:.0f} % of the time: its queue grows as long as requests come, and these figures are of "
            f"{len(sent):,} of them"
            for station in unstable
        ]
        return cls(
            sent,
            latency,
            answered_by,
            samples,
            num_degraded,
            [*spent, back],
            stations,
            [
                seconds / (count * wall_s) if wall_s else 0.0
                for seconds, count in zip(busy, servers, strict=True)
            ],
            wall_s,
            accuracy,
            int((latency > workload.deadline_s).sum()) if workload.deadline_s is not None else None,
            device_j,
            active_j,
            warnings,
        )
