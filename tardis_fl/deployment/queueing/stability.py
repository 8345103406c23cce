"""Whether a load can be served at all: the utilisation of every queue, before anything is simulated."""

from __future__ import annotations

from dataclasses import dataclass

from tardis_fl.deployment.queueing.system import Crash, Loss, Slow, System
from tardis_fl.deployment.queueing.workload import Workload
from tardis_fl.errors import RunError


@dataclass(frozen=True)
class Station:
    """One queue under a load.

    Attributes:
        name: Of the tier or link.
        servers: That share the queue.
        utilisation: Arrival rate x mean service time / servers; the queue grows without end from 1
            on.
        max_rate_per_device: Requests a second and device, on average, at which it would be 1; None
            where nothing reaches it.
        may_have_more: Whether machines can stand side by side there.
    """

    name: str
    servers: int
    utilisation: float
    max_rate_per_device: float | None
    may_have_more: bool


def stability(system: System, workload: Workload) -> list[Station]:
    """Returns the stations in the order in which requests pass them: tier, link, tier, ...

    Batches count as full, where a tier has them. Lost messages count with the time their repetition
    takes, and those that are given up don't go on; a link that changes its rate has its last one.
    Outages and crashes aren't counted, since they end.
    """
    attempts = None if system.on_failure == "retry" else system.max_attempts
    rate, reach = workload.rate, workload.reach(len(system.tiers))
    stations = []
    for number, tier in enumerate(system.tiers):
        sources = 1 if number == 0 else workload.num_devices
        load = sources * reach[number] * tier.best_seconds_a_sample / tier.servers
        stations.append(_station(tier.name, tier.servers, load, rate, may_have_more=number > 0))
        if number < len(system.links):
            link = system.links[number]
            seconds, factor = 8 * workload.mean_bytes(number) / link.up_bit_per_s, 1.0
            arriving = 1.0
            for fault in (
                fault
                for fault in system.faults
                if not isinstance(fault, Crash) and fault.boundary == number
            ):
                if isinstance(fault, Loss):
                    seconds += fault.repetitions(attempts) * (seconds + fault.timeout_s)
                    arriving = 1.0 if attempts is None else 1 - fault.failed(attempts)
                elif isinstance(fault, Slow):
                    factor *= fault.factors[-1]
            stations.append(
                _station(
                    link.name,
                    1,
                    sources * reach[number + 1] * seconds / factor,
                    rate,
                    may_have_more=False,
                )
            )
            reach[number + 1 :] *= arriving
    return stations


def _station(name: str, servers: int, load: float, rate: float, *, may_have_more: bool) -> Station:
    return Station(
        name, servers, float(rate * load), float(1 / load) if load > 0 else None, may_have_more
    )


def check_stability(stations: list[Station]) -> None:
    """Refuses a load under which a queue grows without end.

    Raises:
        RunError: Names the queue, its utilisation and what would hold.
    """
    worst = max(stations, key=lambda station: station.utilisation)
    if worst.utilisation >= 1:
        count = int(worst.servers * worst.utilisation) + 1
        more = (
            f"{count} servers (deployment.hardware.servers)"
            if worst.may_have_more
            else "a faster one, or less to do"
        )
        raise RunError(
            f"{worst.name}: would be busy {100 * worst.utilisation:.0f} % of the time, so that its queue grows without end; it holds up to "
            f"{worst.max_rate_per_device:.3g} requests a second and device on average, or wants {more} (load.allow_unstable: true simulates it all the same)"
        )
