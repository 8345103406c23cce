"""Sends requests through a system, stage by stage: all requests pass a stage before the next, since no stage feeds an earlier one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tardis_fl.deployment.queueing.clocks import WorkClock
from tardis_fl.deployment.queueing.energy import RadioUse
from tardis_fl.deployment.queueing.queues import batches, many_servers, one_server, segmented
from tardis_fl.deployment.queueing.results import Result, Spent
from tardis_fl.deployment.queueing.stability import Station, check_stability, stability
from tardis_fl.deployment.queueing.system import Crash, Loss, Outage, Slow, System, Tier
from tardis_fl.deployment.queueing.workload import Workload

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
DROPPED = -1


@dataclass
class _Requests:
    """The requests on their way, in the order in which they reach the next stage.

    Attributes:
        rows: Their numbers (n,).
        times: When they reach it (n,).
    """

    rows: Rows
    times: Floats

    def keep(self, chosen: npt.NDArray[np.bool_] | Rows) -> _Requests:
        return _Requests(self.rows[chosen], self.times[chosen])

    def sorted(self) -> _Requests:
        return self.keep(np.argsort(self.times, kind="stable"))


def simulate(
    system: System, workload: Workload, *, seed: int, allow_unstable: bool = False
) -> Result:
    """Simulates all requests of a workload.

    Args:
        system: Tiers, links and what breaks.
        workload: Requests.
        seed: Of arrivals, samples, service times, losses and jitter.
        allow_unstable: Simulate although a queue grows without end; the figures then depend on the
            number of requests.

    Raises:
        ConfigError: A message doesn't fit into a link's frame, or a trace doesn't fit.
        RunError: A queue would grow without end.
    """
    for boundary, link in enumerate(system.links):
        link.check_payload(workload.largest_bytes(boundary))
    stations = stability(system, workload)
    if not allow_unstable:
        check_stability(stations)
    return _Simulation(system, workload, seed).run(stations)


class _Simulation:
    def __init__(self, system: System, workload: Workload, seed: int) -> None:
        self.system, self.workload = system, workload
        arrivals, samples, self.services, self.losses, self.jitter = (
            np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)
        )
        self.sent, self.devices = workload.arrivals.draw(
            workload.num_requests, workload.num_devices, arrivals
        )
        count = len(self.sent)
        self.samples = samples.integers(0, len(workload.exits), count, dtype=np.int32)
        self.exits = workload.exits.astype(np.int8)[self.samples]
        self.answered_by = np.full(count, DROPPED, np.int8)
        self.latency = np.full(count, np.nan)
        self.num_degraded = 0
        self.spent: list[Spent] = []
        self.busy: list[float] = []
        self.radio = RadioUse(system.radio, workload.num_devices)

    def run(self, stations: list[Station]) -> Result:
        system = self.system
        on_their_way = self._devices()
        for number in range(1, len(system.tiers)):
            on_their_way = self._link(number - 1, on_their_way)
            if number > 1:
                on_their_way = on_their_way.sorted()
            on_their_way = self._reach(number, on_their_way)
            on_their_way = self._tier(number, on_their_way)
        return Result.of(
            system,
            self.workload,
            stations,
            sent=self.sent,
            latency=self.latency,
            answered_by=self.answered_by,
            samples=self.samples,
            num_degraded=self.num_degraded,
            spent=self.spent,
            busy=self.busy,
            radio=self.radio,
        )

    def _devices(self) -> _Requests:
        """Passes the first tier, where each device has a queue of its own; returns what goes on, device by device."""
        order = np.argsort(
            self.devices.astype(np.int16) if self.workload.num_devices < 2**15 else self.devices,
            kind="stable",
        )
        arrived = self.sent[order]
        bounds = np.searchsorted(self.devices[order], np.arange(self.workload.num_devices + 1))
        services = self._services(self.system.tiers[0], len(order))
        done = segmented(arrived, services, bounds)
        self._spend(self.system.tiers[0].name, arrived, done, compute=services)
        return self._answer(0, _Requests(order, done))

    def _tier(self, number: int, reached: _Requests) -> _Requests:
        """Passes a shared tier; returns what goes on, in the order in which it is done."""
        tier = self.system.tiers[number]
        clock = _clock(
            [
                (fault.start_s, fault.end_s)
                for fault in self.system.faults
                if isinstance(fault, Crash) and fault.tier == number
            ],
            [],
        )
        arrived, busy = reached.times if clock is None else clock.work(reached.times), None
        if tier.batch_size > 1:
            begun, done, busy = batches(
                arrived,
                tier.service_s,
                tier.servers,
                size=tier.batch_size,
                wait_s=tier.batch_wait_s,
                cost=tier.batch_cost,
            )
            services: Floats | float = done - begun
        else:
            services = self._services(tier, len(arrived))
            done = many_servers(arrived, services, tier.servers)
        finished = done if clock is None else clock.done(done)
        self._spend(tier.name, reached.times, finished, compute=services, busy=busy)
        going_on = self._answer(number, _Requests(reached.rows, finished))
        return going_on.sorted() if tier.servers > 1 or tier.batch_size > 1 else going_on

    def _link(self, boundary: int, reached: _Requests) -> _Requests:
        """Passes a link; returns what arrives at the next tier: unsorted from the devices' own links."""
        system, link = self.system, self.system.links[boundary]
        outages = [
            (fault.start_s, fault.end_s)
            for fault in system.faults
            if isinstance(fault, Outage) and fault.boundary == boundary
        ]
        slow = [
            fault
            for fault in system.faults
            if isinstance(fault, Slow) and fault.boundary == boundary
        ]
        if outages and system.on_failure != "retry":
            reached = self._give_up(reached, _inside(reached.times, outages), boundary)
        clock = _clock(outages, slow)
        sizes = self.workload.bytes_up[boundary]
        serialise: Floats | float = (
            8 * sizes[self.samples[reached.rows]] / link.up_bit_per_s
            if len(sizes) > 1
            else 8 * float(sizes[0]) / link.up_bit_per_s
        )
        lost = self._lost(boundary, reached)
        services, failed = serialise, None
        if lost is not None:
            attempts, waits = lost + 1, lost
            if system.on_failure != "retry":
                failed = lost >= system.max_attempts
                attempts, waits = (
                    np.where(failed, system.max_attempts, attempts),
                    np.where(failed, system.max_attempts - 1, waits),
                )
            timeout = next(
                fault.timeout_s
                for fault in system.faults
                if isinstance(fault, Loss) and fault.boundary == boundary
            )
            services = serialise * attempts + waits * timeout
        arrived = reached.times if clock is None else clock.work(reached.times)
        if boundary == 0:
            bounds = np.searchsorted(
                self.devices[reached.rows], np.arange(self.workload.num_devices + 1)
            )
            done = segmented(arrived, services, bounds)
        else:
            done = one_server(arrived, services)
        begun, finished, sending = (
            done - services,
            done,
            serialise if lost is None else serialise * attempts,
        )
        retry: Floats | float = services - serialise if lost is not None else 0.0
        if clock is not None:
            stretch = clock.busy_seconds(begun, done) / np.where(services > 0, services, 1.0)
            begun, finished = clock.begun(begun), clock.done(done)
            serialise, sending, retry = serialise * stretch, sending * stretch, retry * stretch
        delay: Floats | float = link.delay_s + (
            link.jitter_s * self.jitter.random(len(finished)) if link.jitter_s else 0.0
        )
        if failed is not None:
            delay = np.where(
                failed, 0.0, delay
            )  # known to have failed when the last attempt is over
        if boundary == 0:
            self.radio.sent(self.devices[reached.rows], begun, finished, sending)
        self._spend(
            link.name, reached.times, finished, serialise=serialise, retry=retry, propagate=delay
        )
        arriving = _Requests(reached.rows, finished + delay)
        if failed is not None and failed.any():
            arriving = self._give_up(arriving, failed, boundary)
        return arriving.sorted() if boundary == 0 else arriving

    def _reach(self, number: int, reached: _Requests) -> _Requests:
        """Turns back what reaches a crashed tier, where requests don't wait for it: the sender knows after the way back."""
        windows = [
            (fault.start_s, fault.end_s)
            for fault in self.system.faults
            if isinstance(fault, Crash) and fault.tier == number
        ]
        if not windows or self.system.on_failure == "retry":
            return reached
        down, delay_s = _inside(reached.times, windows), self.system.links[number - 1].delay_s
        times = np.where(down, reached.times + delay_s, reached.times)
        self.spent[-1].propagate += delay_s * int(down.sum())  # over the link that they came by
        return self._give_up(_Requests(reached.rows, times), down, number - 1)

    def _give_up(self, requests: _Requests, failed: npt.NDArray[np.bool_], tier: int) -> _Requests:
        """Answers by a tier's exit, or drops, what can't go on from there; returns the rest."""
        if self.system.on_failure == "degrade":
            self._answered(requests.keep(failed), tier)
            self.num_degraded += int(failed.sum())
        return requests.keep(~failed)

    def _answer(self, tier: int, requests: _Requests) -> _Requests:
        """Answers what leaves at a tier; returns the rest."""
        here = self.exits[requests.rows] == tier
        self._answered(requests.keep(here), tier)
        return requests.keep(~here)

    def _answered(self, requests: _Requests, tier: int) -> None:
        back = self.system.back_s(tier)
        self.answered_by[requests.rows] = tier
        self.latency[requests.rows] = requests.times - self.sent[requests.rows] + back
        if tier > 0:
            link = self.system.links[0]
            seconds = 8 * self.system.answer_bytes / link.down_bit_per_s
            self.radio.received(
                self.devices[requests.rows], requests.times + back - seconds, seconds
            )

    def _lost(self, boundary: int, reached: _Requests) -> npt.NDArray[np.int64] | None:
        """Draws how many transmissions of each message are lost before one arrives; None without such a fault."""
        found = [
            fault
            for fault in self.system.faults
            if isinstance(fault, Loss) and fault.boundary == boundary
        ]
        if not found or found[0].probability == 0:
            return None
        loss, count = found[0], len(reached.rows)
        if loss.burst is None:
            return self.losses.geometric(1 - loss.probability, count) - 1
        return np.where(
            self.losses.random(count) < loss.hit, self.losses.geometric(loss.escape, count), 0
        )

    def _services(self, tier: Tier, count: int) -> Floats | float:
        return (
            tier.service_s
            if tier.service == "deterministic"
            else self.services.standard_exponential(count) * tier.service_s
        )

    def _spend(
        self,
        stage: str,
        arrived: Floats,
        finished: Floats,
        *,
        compute: Floats | float = 0.0,
        serialise: Floats | float = 0.0,
        retry: Floats | float = 0.0,
        propagate: Floats | float = 0.0,
        busy: float | None = None,
    ) -> None:
        count = len(arrived)
        sums = [
            float(np.sum(part)) if isinstance(part, np.ndarray) else part * count
            for part in (compute, serialise, retry, propagate)
        ]
        inside = float(finished.sum() - arrived.sum())
        self.spent.append(
            Spent(
                stage,
                count,
                compute=sums[0],
                queue=inside - sums[0] - sums[1] - sums[2],
                serialise=sums[1],
                retry=sums[2],
                propagate=sums[3],
            )
        )
        self.busy.append(busy if busy is not None else sums[0] + sums[1] + sums[2])


def _clock(windows: list[tuple[float, float]], slow: list[Slow]) -> WorkClock | None:
    clocks = [WorkClock(fault.times_s, fault.factors) for fault in slow] + (
        [WorkClock.of_windows(windows)] if windows else []
    )
    return WorkClock.product(clocks) if clocks else None


def _inside(times: Floats, windows: list[tuple[float, float]]) -> npt.NDArray[np.bool_]:
    return np.logical_or.reduce([(times >= start) & (times < end) for start, end in windows])
