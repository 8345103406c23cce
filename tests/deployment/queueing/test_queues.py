"""Single queues: against loops over jobs, and against what queueing theory knows of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.deployment.queueing import queues
from tardis_fl.deployment.queueing.clocks import WorkClock
from tests.reference import queueing as reference

JOBS = 200_000


def some_jobs(seed: int, count: int):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.choice([0.0, 0.1, 1.0, 3.0], count) * rng.random(count)), rng.exponential(
        0.7, count
    )


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    servers=st.integers(1, 4),
    same=st.booleans(),
    chunk=st.sampled_from([1, 2, 7, 1 << 16]),
)
def test_queues_equal_a_loop_over_jobs(seed, count, servers, same, chunk):
    arrivals, services = some_jobs(seed, count)
    usual, queues.CHUNK = queues.CHUNK, chunk
    try:
        done = queues.many_servers(arrivals, 0.4 if same else services, servers)
    finally:
        queues.CHUNK = usual
    np.testing.assert_allclose(
        done,
        reference.one_by_one(arrivals, np.full(count, 0.4) if same else services, servers),
        rtol=1e-12,
        atol=1e-12,
    )


@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    same=st.booleans(),
    long=st.sampled_from([1, 4, 512]),
)
def test_segments_are_queues_of_their_own(seed, lengths, same, long):
    parts = [some_jobs(seed + number, length) for number, length in enumerate(lengths)]
    arrivals, services = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    usual, queues.LONG_SEGMENT = queues.LONG_SEGMENT, long
    try:
        done = queues.segmented(arrivals, 0.3 if same else services, np.cumsum([0, *lengths]))
    finally:
        queues.LONG_SEGMENT = usual
    expected = [
        reference.one_by_one(part[0], np.full(len(part[0]), 0.3) if same else part[1])
        for part in parts
    ]
    np.testing.assert_allclose(
        done, np.concatenate([np.asarray(row) for row in expected]), rtol=1e-12, atol=1e-12
    )


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 40),
    servers=st.integers(1, 3),
    size=st.integers(1, 5),
    wait=st.sampled_from([0.0, 0.3, 2.0]),
    cost=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_batches_equal_asking_at_every_moment(seed, count, servers, size, wait, cost):
    arrivals, _ = some_jobs(seed, count)
    begun, done, busy = queues.batches(arrivals, 0.4, servers, size=size, wait_s=wait, cost=cost)
    np.testing.assert_allclose(
        done,
        reference.batch_by_batch(
            arrivals.tolist(), 0.4, servers, size=size, wait_s=wait, cost=cost
        ),
        rtol=1e-12,
    )
    assert (begun >= arrivals).all()
    if size == 1:
        np.testing.assert_allclose(
            done,
            reference.one_by_one(arrivals + wait, [0.4] * count, servers) if wait == 0 else done,
        )
        assert busy == pytest.approx(0.4 * count)


def test_three_jobs_by_hand():
    assert queues.one_server(np.array([0.0, 1.0, 10.0]), np.array([3.0, 2.0, 1.0])).tolist() == [
        3.0,
        5.0,
        11.0,
    ]
    assert queues.many_servers(
        np.array([0.0, 1.0, 1.5]), np.array([3.0, 2.0, 1.0]), 2
    ).tolist() == [3.0, 3.0, 4.0]
    begun, done, busy = queues.batches(
        np.array([0.0, 1.0, 5.0]), 2.0, 1, size=2, wait_s=3.0, cost=0.5
    )
    assert (begun.tolist(), done.tolist(), busy) == ([1.0, 1.0, 8.0], [4.0, 4.0, 10.0], 5.0)


@given(seed=st.integers(0, 10**6))
def test_work_clocks_turn_back_into_time(seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.1, 2.0, 6))
    clock = WorkClock(times, [*rng.choice([0.0, 0.25, 1.0, 2.0], 5), 1.0])
    moments = np.sort(rng.uniform(0, times[-1] + 2, 50))
    work = clock.work(moments)
    assert (np.diff(work) >= -1e-12).all()
    assert (clock.done(work) <= moments + 1e-9).all()
    assert (clock.begun(work) >= moments - 1e-9).all()
    np.testing.assert_allclose(clock.work(clock.done(work)), work, atol=1e-9)
    np.testing.assert_allclose(clock.work(clock.begun(work)), work, atol=1e-9)


def test_an_outage_by_hand():
    clock = WorkClock.of_windows([(2.0, 5.0)])
    done = clock.done(queues.one_server(clock.work(np.array([0.0, 1.0, 3.0])), 1.5))
    assert done.tolist() == [
        1.5,
        6.0,
        7.5,
    ]  # the second works for half a second, waits three, and works for one more
    half = WorkClock([1.0], [0.5])
    assert half.done(queues.one_server(half.work(np.array([0.0])), 2.0)).tolist() == [3.0]


def waits(load: float, *, servers: int = 1, deterministic: bool = False, seed: int = 0):
    """Returns waiting times and times in the system of a queue with mean service time 1."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.standard_exponential(JOBS) / (load * servers))
    services = np.ones(JOBS) if deterministic else rng.standard_exponential(JOBS)
    done = queues.many_servers(arrivals, 1.0 if deterministic else services, servers)
    return done - arrivals - services, done - arrivals


@pytest.mark.parametrize(
    ("load", "mean_within", "tail_within"),
    [(0.3, 0.04, 0.10), (0.5, 0.04, 0.10), (0.7, 0.05, 0.12)],
)
def test_m_m_1(load, mean_within, tail_within):
    _, times = waits(load)
    assert times.mean() == pytest.approx(1 / (1 - load), rel=mean_within)
    for share in (0.5, 0.9, 0.99):
        assert np.quantile(times, share) == pytest.approx(
            -math.log(1 - share) / (1 - load), rel=tail_within
        )


@pytest.mark.parametrize(("load", "within"), [(0.5, 0.04), (0.7, 0.05)])
def test_m_d_1(load, within):
    waiting, _ = waits(load, deterministic=True)
    assert waiting.mean() == pytest.approx(load / (2 * (1 - load)), rel=within)


@pytest.mark.parametrize("servers", [2, 4, 8])
def test_m_m_c_waits_as_erlang_c_says(servers):
    load = 0.7
    offered = load * servers
    last = offered**servers / math.factorial(servers) / (1 - load)
    probability = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    waiting, _ = waits(load, servers=servers)
    assert (waiting > 1e-6).mean() == pytest.approx(probability, rel=0.05)
    assert waiting.mean() == pytest.approx(probability / (servers * (1 - load)), rel=0.08)


def test_m_g_1_with_two_kinds_of_jobs():
    rng = np.random.default_rng(3)
    arrivals, services = (
        np.cumsum(rng.standard_exponential(JOBS)),
        rng.choice([0.2, 1.0], JOBS, p=[0.75, 0.25]),
    )
    waiting = queues.one_server(arrivals, services) - arrivals - services
    assert waiting.mean() == pytest.approx((0.75 * 0.04 + 0.25) / (2 * (1 - 0.4)), rel=0.04)
