"""Small systems and workloads for the tests."""

from __future__ import annotations

import numpy as np

from tardis_fl.deployment.queueing.arrivals import Poisson, Trace
from tardis_fl.deployment.queueing.system import Link, System, Tier
from tardis_fl.deployment.queueing.workload import Workload

SIZES = np.array([[1000.0], [500.0]])


def three_tiers(*, servers=(1, 1), service=(0.02, 0.004, 0.003), **others) -> System:
    """Device, edge and cloud; links of 1 and 2 Mbit/s with 5 and 20 ms."""
    tiers = (
        Tier("device", service[0]),
        Tier("edge", service[1], servers[0]),
        Tier("cloud", service[2], servers[1]),
    )
    links = (Link("up", 1e6, 4e6, 0.005), Link("wan", 2e6, 8e6, 0.02))
    return System(tiers, links, **others)


def requests(
    count: int,
    *,
    rate: float = 10.0,
    num_devices: int = 5,
    shares=(0.5, 0.3, 0.2),
    sizes=SIZES,
    **others,
) -> Workload:
    """Poisson requests whose exits have these shares."""
    exits = np.repeat(np.arange(len(shares)), np.round(1000 * np.asarray(shares)).astype(int))
    return Workload(Poisson(rate), num_devices, count, exits, sizes, **others)


def at_times(times, exit: int, *, devices=None, num_devices: int = 1, **others) -> Workload:
    """Requests at given times that all leave at one exit."""
    trace = Trace(
        np.asarray(times, float), np.asarray(devices, np.int32) if devices is not None else None
    )
    return Workload(trace, num_devices, len(times), np.array([exit]), SIZES, **others)
