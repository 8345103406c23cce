"""Queues in the obvious way: simpy processes, and loops over jobs."""

from __future__ import annotations

import simpy


def staged(system, sent, devices, exits, sizes, *, windows=None):
    """Simulates three tiers with simpy; returns each request's latency.

    Args:
        system: Deterministic service, no faults but `windows`.
        sent, devices, exits: One a request.
        sizes: Bytes over each boundary, by request: [boundary][request].
        windows: {boundary: [(start, end), ...]} in which a link stands still.
    """
    env = simpy.Environment()
    own = [simpy.Resource(env) for _ in range(max(devices) + 1)]
    uplinks = [simpy.Resource(env) for _ in own]
    tiers = [simpy.Resource(env, capacity=tier.servers) for tier in system.tiers[1:]]
    links = [simpy.Resource(env) for _ in system.links[1:]]
    latency = [None] * len(sent)

    def hold(resource, seconds, closed=()):
        with resource.request() as turn:
            yield turn
            left = seconds
            for start, end in closed:
                if env.now >= end:
                    continue
                if env.now + left <= start:
                    break
                if env.now < start:
                    left -= start - env.now
                    yield env.timeout(start - env.now)
                yield env.timeout(end - env.now)
            yield env.timeout(left)

    def request(number):
        yield env.timeout(sent[number])
        yield from hold(own[devices[number]], system.tiers[0].service_s)
        for tier in range(1, exits[number] + 1):
            link = system.links[tier - 1]
            way = uplinks[devices[number]] if tier == 1 else links[tier - 2]
            closed = (windows or {}).get(tier - 1, ())
            yield from hold(way, 8 * sizes[tier - 1][number] / link.up_bit_per_s, closed)
            yield env.timeout(link.delay_s)
            yield from hold(tiers[tier - 1], system.tiers[tier].service_s)
        yield env.timeout(system.back_s(exits[number]))
        latency[number] = env.now - sent[number]

    for number in range(len(sent)):
        env.process(request(number))
    env.run()
    return latency


def one_by_one(arrivals, services, num_servers=1):
    """Returns when each job is done: each takes the server that is free first."""
    free, done = [float("-inf")] * num_servers, []
    for came, service in zip(arrivals, services, strict=True):
        server = min(range(num_servers), key=lambda k: free[k])
        free[server] = max(came, free[server]) + service
        done.append(free[server])
    return done


def batch_by_batch(arrivals, service_s, num_servers, *, size, wait_s, cost):
    """Returns when each job's batch is done, by asking at every moment at which something may change."""
    waiting, free, done = (
        list(range(len(arrivals))),
        [float("-inf")] * num_servers,
        [None] * len(arrivals),
    )
    while waiting:
        server = min(range(num_servers), key=lambda k: free[k])
        oldest = arrivals[waiting[0]]
        moments = sorted(
            {free[server], oldest, oldest + wait_s, *(arrivals[job] for job in waiting)}
        )
        for now in moments:
            here = [job for job in waiting if arrivals[job] <= now]
            if now >= free[server] and here and (len(here) >= size or now >= oldest + wait_s):
                break
        batch = here[:size]
        free[server] = now + service_s * (1 + cost * (len(batch) - 1))
        for job in batch:
            done[job] = free[server]
        waiting = waiting[len(batch) :]
    return done
