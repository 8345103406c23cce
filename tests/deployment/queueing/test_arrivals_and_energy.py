"""When requests come, what the device uses, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tardis_fl.deployment.queueing.arrivals import Bursty, Periodic, Poisson, Trace
from tardis_fl.deployment.queueing.simulation import simulate
from tardis_fl.deployment.queueing.system import Link, Power, Radio, System, Tier
from tardis_fl.deployment.queueing.without_load import no_load_energy
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.profiles import load_profiles
from tests.deployment.queueing.systems import at_times, requests, three_tiers

COUNT = 100_000


@pytest.mark.parametrize("arrivals", [Poisson(3.0), Periodic(3.0), Bursty(30.0, 1.0, 9.0)])
def test_requests_come_at_their_rate_in_order_from_all_devices(arrivals):
    times, devices = arrivals.draw(COUNT, 40, np.random.default_rng(0))
    assert len(times) == len(devices) == COUNT
    assert (np.diff(times) >= 0).all()
    assert set(devices.tolist()) == set(range(40))
    assert COUNT / times[-1] / 40 == pytest.approx(arrivals.mean_rate(40), rel=0.05)
    assert arrivals.mean_rate(40) == pytest.approx(3.0)


def test_bursts_are_burstier_than_poisson_and_periods_are_regular():
    def dispersion(arrivals):
        times, devices = arrivals.draw(20_000, 1, np.random.default_rng(1))
        counts = np.bincount(times.astype(int))
        return counts.var() / counts.mean()

    assert dispersion(Poisson(5.0)) == pytest.approx(1.0, abs=0.1)
    assert dispersion(Bursty(50.0, 1.0, 9.0)) > 10
    times, devices = Periodic(5.0).draw(1000, 3, np.random.default_rng(1))
    assert np.diff(times[devices == 1]) == pytest.approx(0.2)


def test_a_trace_is_read_and_passed_on(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text("# seconds, device\n0.0,1\n0.5,0\n\n2.25,1\n")
    trace = Trace.read(file)
    times, devices = trace.draw(10, 2, np.random.default_rng(0))
    assert (times.tolist(), devices.tolist()) == ([0.0, 0.5, 2.25], [1, 0, 1])
    assert trace.mean_rate(2) == pytest.approx(2 / 2.25 / 2)
    file.write_text("1\n2\n3\n")
    assert Trace.read(file).draw(2, 5, np.random.default_rng(0))[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0\n2.0\n1.5\n", r"line 3: time goes back, from 2 to 1.5 s; wanted ascending times"),
        ("0.0\nx\n", r"line 2: got 'x'; wanted seconds, or seconds,device"),
        ("-1\n", r"line 1: got the time -1; wanted a finite number of seconds, at least 0"),
        ("0,1\n1\n", r"line 2: wanted a device in every line, or in none"),
        ("# nothing\n", r"holds no requests; wanted one a line"),
    ],
)
def test_bad_traces_are_one_message_with_the_line(tmp_path, text, expected):
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        Trace.read(file)
    with pytest.raises(ConfigError, match="names the device 3; there are 2"):
        Trace(np.array([0.0]), np.array([3], np.int32)).draw(1, 2, np.random.default_rng(0))


def test_energy_by_hand():
    system = three_tiers(power=Power(1.0, 3.0), radio=Radio(2.0, 1.5, 0.1))
    found = simulate(system, at_times([0.0, 1.0], 1), seed=0)
    wall = found.wall_s
    receive = 2 * 8 * 8 / 4e6
    assert found.device_j == pytest.approx(
        wall * 1.0 + 2 * 0.02 * 2.0 + wall * 0.1 + 2 * 0.008 * 1.9 + receive * 1.4
    )
    assert found.active_j == pytest.approx(2 * 0.02 * 2.0 + 2 * 0.008 * 1.9 + receive * 1.4)
    assert simulate(three_tiers(), at_times([0.0], 1), seed=0).device_j is None


def test_tails_end_where_the_next_activity_begins():
    radio = Radio(2.0, 2.0, 0.0, ((1.0, 0.5), (0.5, 1.0)))
    system = three_tiers(power=Power(0.0, 0.0), radio=radio)
    back = 8 * 8 / 4e6
    between = (
        0.005 + 0.004 + 0.005
    )  # from sending to receiving: the link there, the edge, the link back
    alone = simulate(system, at_times([0.0, 100.0], 1), seed=0)
    once = 2.0 * (0.008 + back) + between * 1.0 + 0.5 * 1.0 + 1.0 * 0.5
    last = 0.5 * 1.0 + 1.0 * 0.5  # the tail after the last answer lies beyond the simulated time
    assert alone.device_j == pytest.approx(2 * once - last, rel=1e-6)
    close = simulate(system, at_times([0.0, 0.8], 1), seed=0)
    answered = 0.02 + 0.008 + between + back
    gap = 0.8 + 0.02 - answered  # from the first answer to the second message
    cut = 2.0 * (0.008 + back) + between * 1.0 + 0.5 * 1.0 + (gap - 0.5) * 0.5
    assert close.device_j == pytest.approx(cut + once - last, rel=1e-6)


@pytest.mark.parametrize("exit", [0, 1, 2])
def test_a_lone_request_uses_what_it_uses_without_load(exit):
    """Up to the radio's tails after the answer, which a lone request's time doesn't hold."""
    system = three_tiers(power=Power(1.0, 3.0), radio=Radio(2.0, 1.5, 0.1))
    found = simulate(system, at_times([0.0], exit), seed=0)
    assert found.device_j == pytest.approx(no_load_energy(system, exit, [1000, 500]))


def test_the_microcontroller_s_inference_costs_what_mlperf_tiny_measured():
    profile = load_profiles().device("mcu-stm32l4r5")
    system = System(
        (Tier("mcu", profile.seconds(12_501_632)), Tier("edge", 0.001)),
        (Link("up", 1e6, 1e6, 0.0),),
        Power(profile.idle_w, profile.active_w),
    )
    assert 1000 * no_load_energy(system, 0, [0]) == pytest.approx(29.2, rel=0.005)


def test_stability_names_the_server_and_what_would_hold():
    with pytest.raises(
        RunError,
        match=r"edge: would be busy 120 % of the time.*holds up to 50 requests a second and device on average, or wants 2 servers \(deployment",
    ) as caught:
        simulate(
            three_tiers(service=(0.001, 0.004, 0.003)),
            requests(100, rate=60.0, num_devices=10),
            seed=0,
        )
    assert "\n" not in str(caught.value)
    found = simulate(
        three_tiers(service=(0.001, 0.004, 0.003)),
        requests(5000, rate=60.0, num_devices=10),
        seed=0,
        allow_unstable=True,
    )
    assert len(found) == 5000
    assert found.warnings == [
        "edge would be busy 120 % of the time: its queue grows as long as requests come, and these figures are of 5,000 of them"
    ]
    assert not simulate(three_tiers(), requests(10), seed=0).warnings


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: Tier("edge", 0.0),
            "edge: got a service time of 0.0 s; wanted a finite time above 0",
        ),
        (lambda: Tier("edge", math.nan), "edge: got a service time of nan s"),
        (lambda: Tier("edge", 1.0, 0), "edge: got 0 servers"),
        (
            lambda: Link("up", 0.0, 1.0, 0.0),
            "up: got 0.0 bit/s up and 1.0 down; wanted finite rates above 0",
        ),
        (lambda: Link("up", 1.0, 1.0, -1.0), "up: got a delay of -1.0 s"),
        (
            lambda: System((Tier("a", 1.0),), ()),
            "a system of 1 tiers and 0 links; wanted at least two tiers",
        ),
        (
            lambda: System((Tier("a", 1.0, 2), Tier("b", 1.0)), (Link("up", 1.0, 1.0, 0.0),)),
            "a: got 2 servers and batches of 1; a device has one machine",
        ),
        (lambda: Poisson(0.0), "arrivals: got the rate 0.0; wanted a finite number above 0"),
        (lambda: Bursty(1.0, 0.0, 1.0), "arrivals: got a mean burst of 0.0"),
    ],
)
def test_what_no_system_can_be_is_one_message(make, expected):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(expected)


def test_a_message_that_no_frame_carries_is_refused():
    from dataclasses import replace

    system = three_tiers()
    small = replace(
        system, links=(replace(system.links[0], max_payload_bytes=222), system.links[1])
    )
    with pytest.raises(
        ConfigError,
        match="up: a message of 1,000 bytes doesn't fit into a frame of 222; wanted a codec or a cut with smaller features",
    ):
        simulate(small, requests(10), seed=0)
    simulate(small, requests(10, shares=(1.0, 0.0, 0.0)), seed=0)
    fragments = replace(small, links=(replace(small.links[0], fragments=True), small.links[1]))
    assert simulate(fragments, requests(10), seed=0).num_answered == 10


def test_a_link_can_t_have_more_servers():
    with pytest.raises(
        RunError,
        match=r"^up: would be busy .* or wants a faster one, or less to do \(load.allow_unstable",
    ):
        simulate(
            three_tiers(service=(0.001, 0.0001, 0.0001)),
            requests(100, rate=500.0, num_devices=2),
            seed=0,
        )


def test_a_recording_that_begins_late_uses_no_energy_before_it_began():
    system = three_tiers(power=Power(1.0, 3.0), radio=Radio(2.0, 1.5, 0.1, ((1.0, 0.5),)))
    times = np.array([0.0, 0.3, 2.0])
    early, late = (simulate(system, at_times(times + start, 1), seed=0) for start in (0.0, 1.7e6))
    assert late.device_j == pytest.approx(early.device_j, rel=1e-6)
    assert late.utilisation == pytest.approx(early.utilisation, rel=1e-6)
    assert late.wall_s == pytest.approx(early.wall_s)


def test_a_long_recording_is_read_as_far_as_it_is_simulated(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text("0\n1\n2\n" + "".join(f"{2 + 0.001 * number}\n" for number in range(1, 1000)))
    assert Trace.read(file, most=3).mean_rate(1) == pytest.approx(1.0)
    assert len(Trace.read(file).times) == 1002
