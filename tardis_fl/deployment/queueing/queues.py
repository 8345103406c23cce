"""First in, first out: when each job of a queue is done, vectorised where its order allows it.

Times are seconds. Jobs come in the order of their arrival times (N,), ascending.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

CHUNK = (
    1 << 16
)  # jobs whose sums are formed at a time: they stay in the processor's cache, and rounding doesn't grow with the queue's age
LONG_SEGMENT = 512

Floats = npt.NDArray[np.float64]


def one_server(arrivals: Floats, services: Floats | float) -> Floats:
    """Returns when each job is done (N,) at a single server: max(arrival, done before) + service, all at once.

    done_i = max over j <= i of (arrival_j + service_j + ... + service_i), so with C the running sum
    of service times it is C_i + the running maximum of (arrival_j - C_{j-1}) (Lindley 1952).

    Args:
        arrivals: (N,) ascending.
        services: (N,), or one time for all.
    """
    done = np.empty(len(arrivals))
    free = -np.inf
    same = np.isscalar(services)
    steps = services * np.arange(1, CHUNK + 1) if same else None
    for start in range(0, len(arrivals), CHUNK):
        came = arrivals[start : start + CHUNK]
        origin = came[0]
        if same:
            total = steps[: len(came)]  # type: ignore[index]
            before = total - services
        else:
            own = services[start : start + CHUNK]  # type: ignore[index]
            total = np.cumsum(own)
            before = total - own
        latest = came - origin
        latest -= before
        latest[0] = max(latest[0], free - origin)
        np.maximum.accumulate(latest, out=latest)
        latest += total
        latest += origin
        done[start : start + CHUNK] = latest
        free = latest[-1]
    return done


def many_servers(arrivals: Floats, services: Floats | float, num_servers: int) -> Floats:
    """Returns when each job is done (N,) at several servers with one queue.

    With one service time for all, jobs are done in their order, so each server gets every
    num_servers-th job.
    """
    if num_servers == 1:
        return one_server(arrivals, services)
    done = np.empty(len(arrivals))
    if np.isscalar(services):
        for server in range(num_servers):
            done[server::num_servers] = one_server(arrivals[server::num_servers], services)
        return done
    free = [-np.inf] * num_servers
    replace = heapq.heapreplace
    results = []
    for came, service in zip(arrivals.tolist(), np.asarray(services).tolist(), strict=True):
        earliest = free[0]
        end = (came if came > earliest else earliest) + service
        replace(free, end)
        results.append(end)
    done[:] = results
    return done


def batches(
    arrivals: Floats, service_s: float, num_servers: int, *, size: int, wait_s: float, cost: float
) -> tuple[Floats, Floats, float]:
    """Returns when each job's batch begins and is done, (N,) each, and how long the servers are busy, added up.

    A free server takes up to `size` waiting jobs as soon as there are so many, or the oldest has
    waited for `wait_s`. A batch of b takes service_s * (1 + cost * (b - 1)).
    """
    came = arrivals.tolist()
    count, first = len(came), 0
    begun, done = np.empty(count), np.empty(count)
    free, busy = [-np.inf] * num_servers, 0.0
    while first < count:
        full = came[first + size - 1] if first + size <= count else np.inf
        start = max(free[0], min(full, came[first] + wait_s))
        last = min(first + size, bisect_right(came, start, lo=first))
        end = start + service_s * (1 + cost * (last - first - 1))
        heapq.heapreplace(free, end)
        begun[first:last], done[first:last] = start, end
        busy += end - start
        first = last
    return begun, done, busy


def segmented(arrivals: Floats, services: Floats | float, bounds: npt.NDArray[np.int64]) -> Floats:
    """Returns when each job is done (N,) where each segment of the jobs has a server of its own.

    Args:
        arrivals: (N,) ascending within each segment.
        services: (N,), or one time for all.
        bounds: (segments + 1,) where each segment begins, and the end.
    """
    done = np.empty(len(arrivals))
    lengths = np.diff(bounds)
    same = np.isscalar(services)
    for segment in np.flatnonzero(lengths >= LONG_SEGMENT).tolist():
        rows = slice(bounds[segment], bounds[segment + 1])
        done[rows] = one_server(arrivals[rows], services if same else services[rows])  # type: ignore[index]
    width = 1
    while (
        width < LONG_SEGMENT
    ):  # short segments of about the same length, side by side in one padded array
        chosen = np.flatnonzero((lengths >= width) & (lengths < 2 * width))
        if len(chosen):
            _side_by_side(done, arrivals, services, bounds[:-1][chosen], lengths[chosen])
        width *= 2
    return done


def _side_by_side(
    done: Floats,
    arrivals: Floats,
    services: Floats | float,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> None:
    columns = np.arange(lengths.max())
    inside = columns < lengths[:, None]
    rows = (starts[:, None] + columns)[inside]
    origin = arrivals[starts][:, None]
    latest = np.full(inside.shape, -np.inf)
    latest[inside] = arrivals[rows]
    latest -= origin
    own = np.zeros(inside.shape)
    own[inside] = services if np.isscalar(services) else services[rows]  # type: ignore[index]
    total = np.cumsum(own, axis=1)
    latest -= total - own
    np.maximum.accumulate(latest, axis=1, out=latest)
    latest += total
    latest += origin
    done[rows] = latest[inside]
