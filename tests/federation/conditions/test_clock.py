"""The virtual clock, worked out by hand."""

from __future__ import annotations

import pytest

from tardis_fl.federation.conditions.clock import VirtualClock
from tests.conftest import small_config

FLEET = "federation.fleet=[{name: pi, share: 0.5, depth: 2, device: rpi-4b, link: slow-4g}, {name: free, share: 0.5, depth: 1}]"


def clock(*overrides):
    return VirtualClock(small_config(FLEET, *overrides), [1_000_000, 3_000_000, 9_000_000])


def test_receive_compute_send_by_hand():
    group = small_config(FLEET).groups[0]
    seconds = clock().client_seconds(group, num_samples=100, bytes_down=160_000, bytes_up=75_000)
    compute = (
        (1e6 + 3e6) * 2 * 3 * 100 / 29.6e9
    )  # MACs of two segments, 2 FLOP each, forward and backward, 100 samples
    assert seconds == pytest.approx(compute + 160_000 * 8 / 1.6e6 + 75_000 * 8 / 750e3 + 2 * 0.075)


def test_a_straggler_computes_more_slowly_and_sends_as_fast():
    group = small_config(FLEET).groups[0]
    usual, slow = (
        clock().client_seconds(
            group, num_samples=100, bytes_down=1000, bytes_up=1000, slowdown=factor
        )
        for factor in (1.0, 10.0)
    )
    assert slow - usual == pytest.approx(9 * 4e6 * 6 * 100 / 29.6e9)


def test_depthwise_networks_compute_at_the_slower_rate():
    config = small_config(FLEET, "model.backbone=mobilenet_v2")
    fast, slow = (
        VirtualClock(c, [10**6] * 3).client_seconds(
            c.groups[0], num_samples=1, bytes_down=0, bytes_up=0
        )
        for c in (small_config(FLEET), config)
    )
    assert (slow - 0.15) / (fast - 0.15) == pytest.approx(29.6 / 9.7)


def test_every_exchange_of_split_training_waits_for_the_link():
    group = small_config(FLEET).groups[0]
    one, ten = (
        clock().client_seconds(group, num_samples=0, bytes_down=0, bytes_up=0, num_exchanges=count)
        for count in (1, 10)
    )
    assert (one, ten) == pytest.approx((0.15, 1.5))


def test_a_group_without_profile_takes_no_time():
    assert (
        clock().client_seconds(
            small_config(FLEET).groups[1], num_samples=10**6, bytes_down=10**9, bytes_up=10**9
        )
        == 0
    )


def test_deadlines_missed():
    timed = clock("federation.deadline_s=2.0")
    assert [timed.deadlines_missed(seconds) for seconds in (0.0, 1.9, 2.0, 2.1, 4.5)] == [
        0,
        0,
        0,
        1,
        2,
    ]
    assert clock().deadlines_missed(1e9) == 0


def test_the_server_waits_for_the_last_or_for_the_deadline():
    timed = clock("federation.deadline_s=2.0")
    assert timed.round_seconds([0.5, 1.5], someone_is_missing=False) == 1.5
    assert timed.round_seconds([0.5], someone_is_missing=True) == 2.0
    assert clock().round_seconds([0.5, 7.0], someone_is_missing=False) == 7.0
    assert VirtualClock(small_config(), []).round_seconds([0.0], someone_is_missing=False) is None
