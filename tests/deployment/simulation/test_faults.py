"""What breaks, and what requests do then: by hand, and in the mean."""

from __future__ import annotations

import numpy as np
import pytest

from tardis_fl.deployment.simulation.running import simulate
from tardis_fl.deployment.simulation.system import Crash, Loss, Outage, Slow
from tests.deployment.simulation.systems import at_times, requests, three_tiers

ALONE = 0.02 + 0.008 + 0.005 + 0.004 + 0.005 + 8 * 8 / 4e6  # a request that the edge answers
ON_DEVICE = 0.02


def test_an_outage_by_reaction():
    outage = (Outage(0, 0.0, 1.0),)
    waits = simulate(three_tiers(faults=outage), at_times([0.0, 0.5, 2.0], 1), seed=0)
    assert waits.latency == pytest.approx([ALONE + 0.98, ALONE + 0.98 - 0.5 + 0.008, ALONE])  # both are sent when the link is back, one after the other
    degrades = simulate(three_tiers(faults=outage, on_failure="degrade"), at_times([0.0, 0.5, 2.0], 1), seed=0)
    assert degrades.latency == pytest.approx([ON_DEVICE, ON_DEVICE, ALONE])
    assert (degrades.num_degraded, degrades.answered_by.tolist()) == (2, [0, 0, 1])
    drops = simulate(three_tiers(faults=outage, on_failure="drop"), at_times([0.0, 0.5, 2.0], 1), seed=0)
    assert (drops.num_dropped, drops.answered_by.tolist()) == (2, [-1, -1, 1])
    assert np.isnan(drops.latency[:2]).all()


def test_what_is_under_way_goes_on_after_an_outage():
    found = simulate(three_tiers(faults=(Outage(0, 0.024, 0.124),)), at_times([0.0], 1), seed=0)
    assert found.latency == pytest.approx([ALONE + 0.1])


def test_a_slow_link_takes_longer():
    found = simulate(three_tiers(faults=(Slow(0, (0.0, 10.0), (0.5, 1.0)),)), at_times([1.0, 20.0], 1), seed=0)
    assert found.latency == pytest.approx([ALONE + 0.008, ALONE])


def test_a_crash_by_reaction():
    crash = (Crash(1, 0.0, 1.0),)
    waits = simulate(three_tiers(faults=crash), at_times([0.0], 1), seed=0)
    assert waits.latency == pytest.approx([1.0 + 0.004 + 0.005 + 8 * 8 / 4e6])
    degrades = simulate(three_tiers(faults=crash, on_failure="degrade"), at_times([0.0], 1), seed=0)
    assert degrades.latency == pytest.approx([0.02 + 0.008 + 0.005 + 0.005])  # the device knows after the way there and back
    assert degrades.answered_by.tolist() == [0]
    further = simulate(three_tiers(faults=(Crash(2, 0.0, 1.0),), on_failure="degrade"), at_times([0.0], 2), seed=0)
    assert further.answered_by.tolist() == [1]


@pytest.mark.parametrize("burst", [None, 1.0, 4.0])
@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_lost_messages_are_sent_again(probability, burst):
    """On average 1 / (1 - p) transmissions, each with its time, and a timeout before each but the first."""
    system = three_tiers(faults=(Loss(0, probability, burst, 0.03),))
    found = simulate(system, requests(60_000, rate=2.0, num_devices=20, shares=(0.0, 1.0, 0.0)), seed=4)
    again = probability / (1 - probability)
    retry = next(spent.retry for spent in found.spent if spent.stage == "up") / len(found)
    assert retry == pytest.approx(again * (0.008 + 0.03), rel=0.06)
    assert found.utilisation[1] == pytest.approx(found.stations[1].utilisation, rel=0.06)
    assert found.num_dropped == 0


def test_losses_come_in_bursts():
    """The same share of lost transmissions hits fewer messages, each harder."""
    from tardis_fl.deployment.simulation.running import _Requests, _Simulation

    system = three_tiers(faults=(Loss(0, 0.2, 5.0, 0.03),))
    drawn = _Simulation(system, requests(200_000), 7)._lost(0, _Requests(np.arange(200_000), np.arange(200_000.0)))
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
    found = simulate(three_tiers(faults=(Outage(0, 0.0, 1.0),), on_failure="degrade"), at_times([0.0, 2.0, 3.0, 4.0], 1, correct=correct), seed=0)
    assert found.accuracy == 0.75
