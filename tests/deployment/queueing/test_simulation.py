"""The whole system of queues: against simpy, by hand, and by what must hold in every run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tardis_fl.deployment.queueing.results import Latency
from tardis_fl.deployment.queueing.simulation import simulate
from tardis_fl.deployment.queueing.system import Crash, Loss, Outage, Slow, Tier
from tardis_fl.deployment.queueing.without_load import no_load_latency
from tests.deployment.queueing.systems import SIZES, at_times, requests, three_tiers
from tests.reference import queueing as reference

FAULTS = {
    "none": (),
    "loss": (Loss(0, 0.2, None, 0.05), Loss(1, 0.3, 2.0, 0.05)),
    "slow": (Slow(1, (1.0, 3.0), (0.25, 1.0)),),
    "outage": (Outage(0, 1.0, 2.0), Outage(1, 4.0, 4.5)),
    "crash": (Crash(1, 2.0, 3.0), Crash(2, 3.5, 4.0)),
}


def exits_and_sizes(result, workload):
    exits = workload.exits[result.samples]
    sizes = workload.bytes_up
    return exits.tolist(), [
        sizes[boundary][
            result.samples if sizes.shape[1] > 1 else np.zeros(len(exits), int)
        ].tolist()
        for boundary in range(2)
    ]


@pytest.mark.parametrize("servers", [(1, 1), (3, 2)])
@pytest.mark.parametrize("windows", [None, {0: [(0.5, 1.5), (3.0, 3.2)], 1: [(1.0, 2.5)]}])
def test_sample_paths_equal_simpy_s(servers, windows):
    faults = tuple(
        Outage(boundary, *window) for boundary, found in (windows or {}).items() for window in found
    )
    system = three_tiers(servers=servers, service=(0.02, 0.012, 0.009), faults=faults)
    rng = np.random.default_rng(3)
    workload = requests(3000, rate=20.0, num_devices=7)
    workload = replace(
        workload, bytes_up=rng.integers(100, 2500, (2, len(workload.exits))).astype(float)
    )
    found = simulate(system, workload, seed=5, allow_unstable=True)
    exits, sizes = exits_and_sizes(found, workload)
    _, devices = workload.arrivals.draw(
        3000, 7, np.random.default_rng(np.random.SeedSequence(5).spawn(5)[0])
    )
    expected = reference.staged(
        system, found.sent.tolist(), devices.tolist(), exits, sizes, windows=windows
    )
    np.testing.assert_allclose(found.latency, expected, rtol=0, atol=1e-9)


def test_three_requests_by_hand():
    """One device computes in 20 ms and sends 1,000 bytes in 8 ms; the edge takes 4 ms; answers take 5 ms and 16 microseconds."""
    found = simulate(three_tiers(), at_times([0.0, 0.01, 1.0], 1), seed=0)
    back = 0.005 + 8 * 8 / 4e6
    alone = 0.02 + 0.008 + 0.005 + 0.004 + back
    assert found.latency == pytest.approx(
        [alone, alone + 0.01, alone]
    )  # the second waits 10 ms for the device, then finds everything free
    by_stage = {spent.stage: spent for spent in found.spent}
    assert by_stage["device"].queue == pytest.approx(0.01)
    assert by_stage["up"].serialise == pytest.approx(3 * 0.008)
    assert by_stage["edge"].count == 3
    assert by_stage["wan"].count == 0
    assert found.wall_s == pytest.approx(1.0 + alone)
    assert found.utilisation[0] == pytest.approx(3 * 0.02 / found.wall_s)


def test_two_devices_share_the_edge_and_not_their_links():
    found = simulate(three_tiers(), at_times([0.0, 0.0], 1, devices=[0, 1], num_devices=2), seed=0)
    assert sorted(found.latency) == pytest.approx([0.037 + 0.005016, 0.041 + 0.005016])


@pytest.mark.parametrize("exit", [0, 1, 2])
def test_without_load_every_exit_has_its_own_latency(exit):
    system = three_tiers()
    found = simulate(system, at_times(np.arange(10.0), exit), seed=0)
    assert found.latency == pytest.approx(no_load_latency(system, exit, [1000, 500]))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(list(FAULTS)),
    reaction=st.sampled_from(["retry", "degrade", "drop"]),
    servers=st.integers(1, 3),
    batch=st.sampled_from([1, 4]),
)
def test_what_holds_in_every_run(seed, kind, reaction, servers, batch):
    system = three_tiers(
        servers=(servers, 1), faults=FAULTS[kind], on_failure=reaction, max_attempts=2
    )
    if batch > 1:
        edge = Tier("edge", 0.004, servers, batch_size=batch, batch_wait_s=0.002, batch_cost=0.5)
        system = replace(system, tiers=(system.tiers[0], edge, system.tiers[2]))
    correct = np.random.default_rng(seed).random((3, 1000)) < 0.7
    workload = requests(400, correct=correct, deadline_s=0.1)
    found = simulate(system, workload, seed=seed, allow_unstable=True)
    assert found.num_answered + found.num_dropped == len(found) == 400
    assert found.num_dropped == 0 or reaction == "drop"
    assert found.num_degraded == 0 or reaction == "degrade"
    wanted = workload.exits[found.samples]
    assert (found.answered_by <= wanted).all()
    assert (
        int((found.answered_by[found.answered_by >= 0] < wanted[found.answered_by >= 0]).sum())
        == found.num_degraded
    )
    if reaction == "retry":
        least = np.array([no_load_latency(system, exit, SIZES[:, 0]) for exit in range(3)])[wanted]
        assert (found.latency >= least - 1e-9).all()
    assert all(spent.queue >= -1e-6 for spent in found.spent)
    assert all(0 <= share <= 1 + 1e-9 for share in found.utilisation)
    assert found.num_late == (found.latency > 0.1).sum()
    if found.num_dropped == 0 and found.num_degraded == 0:
        assert sum(spent.total for spent in found.spent) == pytest.approx(found.latency.sum())
    answered = found.answered_by >= 0
    assert found.accuracy == pytest.approx(
        correct[found.answered_by[answered], found.samples[answered]].mean()
    )


def test_little_s_law_holds_on_the_device():
    """Requests in the device's station, on average over time, are its arrival rate times the mean time there."""
    found = simulate(
        three_tiers(),
        at_times(np.cumsum(np.random.default_rng(1).exponential(0.04, 20_000)), 0),
        seed=1,
    )
    there = found.latency  # all are answered on the device, which takes no time to tell
    events = np.concatenate(
        [
            np.stack([found.sent, np.ones(len(found))]),
            np.stack([found.sent + there, -np.ones(len(found))]),
        ],
        axis=1,
    )
    events = events[:, np.argsort(events[0], kind="stable")]
    mean_number = float(
        (np.cumsum(events[1])[:-1] * np.diff(events[0])).sum() / (events[0, -1] - events[0, 0])
    )
    rate = len(found) / (events[0, -1] - events[0, 0])
    assert mean_number == pytest.approx(rate * there.mean(), rel=1e-9)


def test_jackson_tandem_with_bernoulli_exits():
    """Exponential tiers that requests leave at random are M/M/1 queues of their own."""
    system = three_tiers()
    tiers = tuple(
        Tier(name, service, service="exponential")
        for name, service in (("device", 0.05), ("edge", 0.01), ("cloud", 0.02))
    )
    system = replace(
        system, tiers=tiers, links=tuple(replace(link, up_bit_per_s=1e12) for link in system.links)
    )
    workload = requests(300_000, rate=10.0, num_devices=6, shares=(0.4, 0.2, 0.4))
    found = simulate(system, workload, seed=2)
    reach, rates = (1.0, 0.6, 0.4), (10.0, 36.0, 24.0)
    times = [1 / (1 / tier.service_s - rate) for tier, rate in zip(tiers, rates, strict=True)]
    expected = (
        sum(share * time for share, time in zip(reach, times, strict=True))
        + 0.6 * 0.005
        + 0.4 * 0.02
    )
    expected += sum(share * system.back_s(tier) for tier, share in ((1, 0.2), (2, 0.4)))
    assert found.latency.mean() == pytest.approx(expected, rel=0.04)
    assert found.utilisation == pytest.approx(
        [station.utilisation for station in found.stations], rel=0.05, abs=1e-6
    )


def test_measured_utilisation_is_the_predicted_one():
    found = simulate(
        three_tiers(servers=(2, 1)), requests(100_000, rate=20.0, num_devices=8), seed=3
    )
    assert found.utilisation == pytest.approx(
        [station.utilisation for station in found.stations], rel=0.03
    )


def test_the_same_seed_gives_the_same_run_and_another_one_does_not():
    first, again, other = (simulate(three_tiers(), requests(500), seed=seed) for seed in (1, 1, 2))
    assert first.latency.tolist() == again.latency.tolist()
    assert first.latency.tolist() != other.latency.tolist()


@pytest.mark.parametrize(
    ("count", "known"),
    [(661, ["p50", "p90", "p95"]), (662, ["p50", "p90", "p95", "p99"]), (63, ["p50"]), (0, [])],
)
def test_quantiles_of_too_few_samples_are_not_given(count, known):
    found = Latency.of(np.linspace(0, 1, count))
    assert [
        name for name in ("p50", "p90", "p95", "p99") if getattr(found, name) is not None
    ] == known
    assert (found.mean is None) == (count == 0)
