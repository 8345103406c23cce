"""What breaks, and what requests do then: by hand, and in the mean."""

from __future__ import annotations

import numpy as np
import pytest

from tardis_fl.deployment.queueing.simulation import simulate
from tardis_fl.deployment.queueing.system import Crash, Loss, Outage, Power, Radio, Slow
from tardis_fl.errors import ConfigError, RunError
from tests.deployment.queueing.systems import at_times, requests, three_tiers

ALONE = 0.02 + 0.008 + 0.005 + 0.004 + 0.005 + 8 * 8 / 4e6  # a request that the edge answers
ON_DEVICE = 0.02


def test_an_outage_by_reaction():
    outage = (Outage(0, 0.0, 1.0),)
    waits = simulate(three_tiers(faults=outage), at_times([0.0, 0.5, 2.0], 1), seed=0)
    assert waits.latency == pytest.approx(
        [ALONE + 0.98, ALONE + 0.98 - 0.5 + 0.008, ALONE]
    )  # both are sent when the link is back, one after the other
    degrades = simulate(
        three_tiers(faults=outage, on_failure="degrade"), at_times([0.0, 0.5, 2.0], 1), seed=0
    )
    assert degrades.latency == pytest.approx([ON_DEVICE, ON_DEVICE, ALONE])
    assert (degrades.num_degraded, degrades.answered_by.tolist()) == (2, [0, 0, 1])
    drops = simulate(
        three_tiers(faults=outage, on_failure="drop"), at_times([0.0, 0.5, 2.0], 1), seed=0
    )
    assert (drops.num_dropped, drops.answered_by.tolist()) == (2, [-1, -1, 1])
    assert np.isnan(drops.latency[:2]).all()


def test_what_is_under_way_goes_on_after_an_outage():
    found = simulate(three_tiers(faults=(Outage(0, 0.024, 0.124),)), at_times([0.0], 1), seed=0)
    assert found.latency == pytest.approx([ALONE + 0.1])


def test_a_slow_link_takes_longer():
    found = simulate(
        three_tiers(faults=(Slow(0, (0.0, 10.0), (0.5, 1.0)),)), at_times([1.0, 20.0], 1), seed=0
    )
    assert found.latency == pytest.approx([ALONE + 0.008, ALONE])


def test_a_crash_by_reaction():
    crash = (Crash(1, 0.0, 1.0),)
    waits = simulate(three_tiers(faults=crash), at_times([0.0], 1), seed=0)
    assert waits.latency == pytest.approx([1.0 + 0.004 + 0.005 + 8 * 8 / 4e6])
    degrades = simulate(three_tiers(faults=crash, on_failure="degrade"), at_times([0.0], 1), seed=0)
    assert degrades.latency == pytest.approx(
        [0.02 + 0.008 + 0.005 + 0.005]
    )  # the device knows after the way there and back
    assert degrades.answered_by.tolist() == [0]
    further = simulate(
        three_tiers(faults=(Crash(2, 0.0, 1.0),), on_failure="degrade"), at_times([0.0], 2), seed=0
    )
    assert further.answered_by.tolist() == [1]


@pytest.mark.parametrize("burst", [None, 1.0, 4.0])
@pytest.mark.parametrize("probability", [0.1, 0.4, 0.85])
def test_lost_messages_are_sent_again(probability, burst):
    """On average 1 / (1 - p) transmissions, each with its time, and a timeout before each but the first."""
    system = three_tiers(faults=(Loss(0, probability, burst, 0.03),))
    found = simulate(
        system, requests(60_000, rate=2.0, num_devices=20, shares=(0.0, 1.0, 0.0)), seed=4
    )
    again = probability / (1 - probability)
    retry = next(spent.retry for spent in found.spent if spent.stage == "up") / len(found)
    assert retry == pytest.approx(again * (0.008 + 0.03), rel=0.06)
    assert found.utilisation[1] == pytest.approx(found.stations[1].utilisation, rel=0.06)
    assert found.num_dropped == 0


def test_losses_come_in_bursts():
    """The same share of lost transmissions hits fewer messages, each harder."""
    from tardis_fl.deployment.queueing.simulation import _Requests, _Simulation

    system = three_tiers(faults=(Loss(0, 0.2, 5.0, 0.03),))
    drawn = _Simulation(system, requests(200_000), 7)._lost(
        0, _Requests(np.arange(200_000), np.arange(200_000.0))
    )
    assert drawn.sum() / (drawn.sum() + len(drawn)) == pytest.approx(0.2, rel=0.05)
    assert drawn[drawn > 0].mean() == pytest.approx(5.0, rel=0.05)
    assert (drawn > 0).mean() == pytest.approx(1 / 20, rel=0.05)  # bursts of 5 after 20 that arrive


def test_after_so_many_attempts_a_message_is_given_up():
    system = three_tiers(faults=(Loss(0, 0.9, None, 0.03),), on_failure="degrade", max_attempts=3)
    found = simulate(system, at_times(np.arange(2000.0), 1), seed=1)
    assert found.num_degraded / len(found) == pytest.approx(0.9**3, abs=0.03)
    given_up = found.answered_by == 0
    assert found.latency[given_up] == pytest.approx(0.02 + 3 * 0.008 + 2 * 0.03)


def test_accuracy_counts_who_answers():
    correct = np.array([[False], [True], [True]])
    found = simulate(
        three_tiers(faults=(Outage(0, 0.0, 1.0),), on_failure="degrade"),
        at_times([0.0, 2.0, 3.0, 4.0], 1, correct=correct),
        seed=0,
    )
    assert found.accuracy == 0.75


@pytest.mark.parametrize(
    ("burst", "probability"),
    [(None, 0.3), (2.0, 0.3), (1.0, 0.6), (2.0, 0.8), (4.0, 0.8), (2.0, 0.9)],
)
def test_the_share_of_lost_transmissions_is_the_configured_one(burst, probability):
    """Also where a good run is shorter than one message, so that bad runs join."""
    from tardis_fl.deployment.queueing.simulation import _Requests, _Simulation

    loss = Loss(0, probability, burst, 0.03)
    drawn = _Simulation(three_tiers(faults=(loss,)), requests(200_000), 7)._lost(
        0, _Requests(np.arange(200_000), np.arange(200_000.0))
    )
    assert drawn.sum() / (drawn.sum() + len(drawn)) == pytest.approx(probability, rel=0.02)
    assert loss.repetitions() == pytest.approx(probability / (1 - probability))
    assert loss.repetitions(4) == pytest.approx(np.minimum(drawn, 3).mean(), rel=0.02)
    assert loss.failed(4) == pytest.approx((drawn >= 4).mean(), rel=0.05, abs=1e-3)


def test_a_burst_shorter_than_one_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"loss: got the probability 0.5 in bursts of 0.5; wanted one in \[0, 1\), and bursts of at least 1",
    ):
        Loss(0, 0.5, 0.5)


@pytest.mark.parametrize("boundary", [0, 1])
def test_a_link_that_stays_slow_is_as_busy_as_predicted(boundary):
    """Its transmissions take longer, which is neither waiting nor free of energy."""
    parts = {"power": Power(1.0, 1.0), "radio": Radio(2.0, 1.0, 0.0)}
    workload = requests(20_000, rate=1.0, num_devices=10, shares=(0.0, 0.0, 1.0))
    full, slow = (
        simulate(three_tiers(faults=faults, **parts), workload, seed=2)
        for faults in ((), (Slow(boundary, (0.0,), (0.2,)),))
    )
    station = 1 + 2 * boundary
    assert slow.stations[station].utilisation == pytest.approx(
        5 * full.stations[station].utilisation
    )
    assert slow.utilisation[station] == pytest.approx(slow.stations[station].utilisation, rel=0.03)
    serialise = [found.spent[station].serialise for found in (full, slow)]
    assert serialise[1] == pytest.approx(5 * serialise[0])
    if boundary == 0:
        assert slow.active_j - full.active_j == pytest.approx(2.0 * (serialise[1] - serialise[0]))
    with pytest.raises(RunError, match=r"would be busy \d+ % of the time"):
        simulate(three_tiers(faults=(Slow(boundary, (0.0,), (0.001,)),)), workload, seed=2)


def test_an_outage_is_no_work():
    found = simulate(three_tiers(faults=(Outage(0, 0.024, 0.124),)), at_times([0.0], 1), seed=0)
    up = found.spent[1]
    assert (up.serialise, up.queue) == (pytest.approx(0.008), pytest.approx(0.1))


def test_what_is_given_up_leaves_the_queue_as_predicted():
    """Nine of ten transmissions get lost and each message is sent twice at most: that load holds, and few reach the edge."""
    system = three_tiers(faults=(Loss(0, 0.9, None, 0.03),), on_failure="drop", max_attempts=2)
    found = simulate(
        system, requests(40_000, rate=5.0, num_devices=20, shares=(0.0, 0.5, 0.5)), seed=3
    )
    for predicted, measured in zip(found.stations, found.utilisation, strict=True):
        assert measured == pytest.approx(predicted.utilisation, rel=0.06), predicted.name


@pytest.mark.parametrize(
    "faults",
    [
        (Crash(1, 2.0, 30.0), Crash(2, 20.0, 40.0)),
        (Loss(0, 0.5, None, 0.03), Loss(1, 0.6, 2.0, 0.02)),
        (Outage(1, 2.0, 30.0),),
    ],
)
def test_what_the_time_is_spent_on_adds_up_where_requests_turn_back(faults):
    found = simulate(
        three_tiers(faults=faults, on_failure="degrade", max_attempts=2), requests(3000), seed=1
    )
    assert found.num_degraded > 50
    assert sum(spent.total for spent in found.spent) == pytest.approx(found.latency.sum())
