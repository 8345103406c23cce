"""From a simulated load to its part of the report: milliseconds, millijoules and counts."""

from __future__ import annotations

import numpy as np

from tardis_fl.config.schema import Config
from tardis_fl.deployment.hardware.load import LoadResult
from tardis_fl.deployment.hardware.machines import MS
from tardis_fl.deployment.queueing.results import Latency, Spent
from tardis_fl.deployment.queueing.system import Crash, Outage
from tardis_fl.report import deployment_results as parts


def load_latency_ms(load: LoadResult) -> dict[str, float | None]:
    """Returns mean, p50, p95 and p99 of all answers."""
    row = _latency("all", Latency.of(load.result.latencies()))
    return {"mean": row.mean, "p50": row.p50, "p95": row.p95, "p99": row.p99}


def load_energy_mj(load: LoadResult) -> float | None:
    """Returns a request's share of all the devices' energy."""
    return _millijoules(load.result.device_j, len(load.result))


def simulation_result(config: Config, load: LoadResult) -> parts.SimulationResult:
    """Puts the part of the report together."""
    result, names = load.result, [tier.name for tier in config.tiers]
    settings = config.deployment.load
    assert settings is not None
    all_latencies = result.latencies()
    return parts.SimulationResult(
        arrivals=settings.arrivals,
        num_devices=load.workload.num_devices,
        num_requests=len(result),
        simulated_seconds=result.wall_s,
        rate_per_device=load.workload.rate,
        stations=[
            parts.StationResult(
                station.name,
                station.servers,
                measured,
                station.utilisation,
                station.max_rate_per_device,
            )
            for station, measured in zip(result.stations, result.utilisation, strict=True)
        ],
        latency=[
            _latency("all", Latency.of(all_latencies)),
            *(
                _latency(name, Latency.of(result.latencies(tier)))
                for tier, name in enumerate(names)
            ),
        ],
        breakdown=[_stage(spent, len(result)) for spent in result.spent],
        num_answered=result.num_answered,
        num_dropped=result.num_dropped,
        num_degraded=result.num_degraded,
        num_late=result.num_late,
        answer_rate=result.num_answered / len(result),
        accuracy=result.accuracy,
        device_energy_mj=load_energy_mj(load),
        active_energy_mj=_millijoules(result.active_j, len(result)),
        latency_cdf_ms=(MS * np.quantile(all_latencies, np.linspace(0, 1, 101))).tolist()
        if len(all_latencies)
        else [],
        saturation=[
            parts.SaturationPoint(float(rate), MS * mean, _ms(p95))
            for rate, mean, p95 in load.curve
        ],
        faults=load.faults,
        on_failure=config.deployment.on_failure,
        warnings=result.warnings,
        during_outages=_during_outages(load),
    )


def _during_outages(load: LoadResult) -> parts.OutageResult | None:
    """Looks at the requests that were sent while a link or a tier was down; None where none was."""
    result, workload = load.result, load.workload
    windows = [
        (fault.start_s, fault.end_s)
        for fault in load.system.faults
        if isinstance(fault, Outage | Crash)
    ]
    sent = np.zeros(len(result), dtype=bool)
    for start, end in windows:
        sent |= (result.sent >= start) & (result.sent < end)
    if not sent.any():
        return None
    answered_by, samples = result.answered_by[sent], result.samples[sent]
    answered = answered_by >= 0
    correct = (
        workload.correct[answered_by[answered], samples[answered]]
        if workload.correct is not None
        else None
    )
    return parts.OutageResult(
        int(sent.sum()),
        float(answered.mean()),
        int((answered_by[answered] < workload.exits[samples[answered]]).sum()),
        float(correct.mean()) if correct is not None and len(correct) else None,
        MS * float(result.latency[sent][answered].mean()) if answered.any() else None,
    )


def _latency(name: str, found: Latency) -> parts.LatencyResult:
    return parts.LatencyResult(
        name,
        found.count,
        _ms(found.mean),
        _ms(found.p50),
        _ms(found.p90),
        _ms(found.p95),
        _ms(found.p99),
    )


def _stage(spent: Spent, num_requests: int) -> parts.StageResult:
    compute, queue, serialise, propagate, retry = (
        MS * seconds / num_requests
        for seconds in (spent.compute, spent.queue, spent.serialise, spent.propagate, spent.retry)
    )
    return parts.StageResult(spent.stage, compute, queue, serialise, propagate, retry)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else MS * seconds


def _millijoules(joules: float | None, num_requests: int) -> float | None:
    return None if joules is None else MS * joules / num_requests
