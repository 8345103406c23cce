"""The deployment under its configured load: requests over time, drawn from the test role's samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tardis_fl.config.deployment import DeploymentFaultConfig, LoadConfig
from tardis_fl.config.schema import Config
from tardis_fl.core.randomness import Purpose, integer_seed
from tardis_fl.deployment.hardware.machines import MS, Machines, faults_of
from tardis_fl.deployment.queueing.arrivals import Arrivals, Bursty, Periodic, Poisson, Trace
from tardis_fl.deployment.queueing.results import Result
from tardis_fl.deployment.queueing.simulation import simulate
from tardis_fl.deployment.queueing.stability import stability
from tardis_fl.deployment.queueing.system import System
from tardis_fl.deployment.queueing.workload import Workload

CURVE_REQUESTS = 50_000  # at most so many for each point of the saturation curve


@dataclass(frozen=True)
class LoadResult:
    """A simulated load.

    Attributes:
        system: With faults.
        workload: The requests.
        result: What became of them.
        curve: Mean and p95 latency (s; None where too few) at other rates: (requests a second and
            device, mean, p95).
        faults: In words.
    """

    system: System
    workload: Workload
    result: Result
    curve: list[tuple[float, float, float | None]]
    faults: list[str]


def under_load(
    config: Config,
    machines: Machines,
    exits: npt.NDArray[np.int64],
    correct: npt.NDArray[np.bool_],
    crossing_bytes: npt.NDArray[np.int64],
) -> LoadResult:
    """Simulates the configured load and faults.

    Args:
        config: With `deployment.load`.
        machines: Of the configured hardware.
        exits: (N,) exit that answers each test sample.
        correct: (exits, N) whether each exit is right.
        crossing_bytes: (boundaries, N) bytes of each sample's messages.

    Raises:
        ConfigError: A message doesn't fit into a link's frame, or the trace can't be used.
        RunError: A queue would grow without end.
    """
    load, seed = config.deployment.load, integer_seed(config.seed, Purpose.LOAD)
    assert load is not None
    system = replace(
        machines.system, faults=faults_of(config.deployment, [tier.name for tier in config.tiers])
    )
    workload = Workload(
        arrivals_of(load),
        load.num_devices,
        load.num_requests,
        exits,
        crossing_bytes,
        correct,
        load.deadline_ms / MS if load.deadline_ms is not None else None,
    )
    result = simulate(system, workload, seed=seed, allow_unstable=load.allow_unstable)
    curve = [] if load.arrivals == "trace" else _curve(machines.system, workload, load, seed)
    return LoadResult(
        system, workload, result, curve, [_in_words(fault) for fault in config.deployment.faults]
    )


def arrivals_of(load: LoadConfig, factor: float = 1.0) -> Arrivals:
    """Returns the configured arrivals, at a multiple of their rate."""
    if load.arrivals == "trace":
        assert load.trace is not None
        return Trace.read(Path(load.trace), most=load.num_requests)
    if load.arrivals == "bursty":
        return Bursty(factor * load.rate, load.on_seconds, load.off_seconds)
    return (Poisson if load.arrivals == "poisson" else Periodic)(factor * load.rate)


def _curve(
    system: System, workload: Workload, load: LoadConfig, seed: int
) -> list[tuple[float, float, float | None]]:
    """Simulates other rates without faults; those under which a queue would grow without end are left out."""
    points = []
    for factor in sorted(set(load.saturation)):
        other = replace(
            workload,
            arrivals=arrivals_of(load, factor),
            num_requests=min(CURVE_REQUESTS, workload.num_requests),
        )
        if max(station.utilisation for station in stability(system, other)) >= 1:
            continue
        result = simulate(system, other, seed=seed)
        latencies = result.latencies()
        p95 = float(np.quantile(latencies, 0.95)) if len(latencies) >= 130 else None
        points.append((other.rate, float(latencies.mean()), p95))
    return points


def _in_words(fault: DeploymentFaultConfig) -> str:
    if fault.kind == "loss":
        burst = f", {fault.burst:g} in a row on average" if fault.burst else ""
        return f"{100 * fault.probability:g} % of messages from {fault.tier} get lost{burst}"
    if fault.kind == "slow":
        steps = ", ".join(
            f"{factor:g} from {time:g} s on"
            for time, factor in zip(fault.times_s or (), fault.factors or (), strict=True)
        )
        return f"the link from {fault.tier} has a share of its rate: {steps}"
    what = (
        f"the link from {fault.tier} is down" if fault.kind == "outage" else f"{fault.tier} is down"
    )
    return f"{what} from {fault.start_s:g} to {fault.end_s:g} s"
