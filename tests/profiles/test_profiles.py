"""Profiles: what is shipped holds together and names its source, and a user's own file is read strictly."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tardis_fl.errors import ConfigError
from tardis_fl.profiles import load_profiles
from tests.conftest import small_config

RESNET8_MACS = 12_501_632  # of ResNet-8 for CIFAR-10 as in MLPerf Tiny


def test_every_shipped_profile_has_a_source_and_possible_figures():
    found = load_profiles()
    for profile in (*found.devices.values(), *found.links.values(), *found.radios.values()):
        assert profile.source
    assert all(
        0 < device.depthwise_flop_per_s <= device.dense_flop_per_s
        for device in found.devices.values()
    )
    assert all(
        (device.idle_w is None) == (device.active_w is None) for device in found.devices.values()
    )
    assert all(
        device.active_w > device.idle_w >= 0
        for device in found.devices.values()
        if device.active_w is not None
    )
    assert all(
        0 < link.up_bit_per_s <= link.down_bit_per_s and link.delay_s >= 0
        for link in found.links.values()
    )
    assert all(radio.transmit_w > radio.idle_w for radio in found.radios.values())


def test_rates_give_the_measured_times_back():
    devices = load_profiles().devices
    for name, resnet18_ms, mobilenet_ms in (
        ("rpi-4b", 123.1, 61.9),
        ("rpi-zero-2w", 353.5, 147.4),
        ("v100", 1.95, 1.76),
        ("xeon-8", 6.7, 4.3),
    ):
        assert 1000 * devices[name].seconds(1.82e9) == pytest.approx(resnet18_ms, rel=0.01)
        assert 1000 * devices[name].seconds(0.30e9, depthwise=True) == pytest.approx(
            mobilenet_ms, rel=0.01
        )


def test_the_microcontroller_s_profile_gives_mlperf_tiny_s_own_latency_and_energy():
    profile = load_profiles().device("mcu-stm32l4r5")
    seconds = profile.seconds(RESNET8_MACS)
    assert 1000 * seconds == pytest.approx(704.3, rel=0.005)
    assert 1000 * seconds * profile.active_w == pytest.approx(29.2, rel=0.005)


def test_a_user_s_profiles_stand_beside_the_shipped_ones_and_win(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "devices: {board: {dense_gflop_per_s: 2.0}, rpi-4b: {dense_gflop_per_s: 30}}\nlinks: {cable: {up_bit_per_s: 1.0e+9, down_bit_per_s: 1.0e+9, delay_ms: 0.1}}"
    )
    found = load_profiles(own)
    assert found.device("board").seconds(1e9) == 1.0
    assert found.device("rpi-4b").dense_flop_per_s == 30e9
    assert found.link("cable").delay_s == 1e-4
    assert found.radio("lte").transmit_w == 2.08
    assert load_profiles().device("rpi-4b").dense_flop_per_s == 29.6e9


def test_a_user_s_profiles_serve_the_fleet_and_the_deployment(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("devices: {board: {dense_gflop_per_s: 2.0}}")
    config = small_config(
        f"profiles={own}",
        "federation.fleet=[{name: a, share: 1.0, depth: 1, device: board}]",
        "deployment.hardware={devices: [board, board, v100], links: [wifi, dsl]}",
    )
    assert config.deployment.hardware.devices[0] == "board"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "devices: {board: {idle_w: 1.0}}",
            "devices.board.dense_gflop_per_s: is missing; wanted a number above 0",
        ),
        (
            "devices: {board: {dense_gflop_per_s: 0}}",
            "devices.board.dense_gflop_per_s: got 0; wanted greater than 0",
        ),
        (
            "links: {l: {up_bit_per_s: .nan, down_bit_per_s: 1, delay_ms: 1}}",
            "links.l.up_bit_per_s: got nan; wanted",
        ),
        (
            "links: {l: {up_bit_per_s: 1, down_bit_per_s: 1, delay: 1, delay_ms: 1}}",
            "links.l.delay: got an unknown key; wanted source, up_bit_per_s, down_bit_per_s, delay_ms, max_payload_bytes; did you mean 'delay_ms'?",
        ),
        ("radios: {r: 3}", "radios.r: got 3; wanted the keys"),
        (
            "device: {}",
            "device: got an unknown key; wanted devices, links, radios; did you mean 'devices'?",
        ),
        ("[1, 2]", "wanted the keys devices, links, radios, any of them"),
        ("devices: {a: [", "this is not YAML"),
    ],
)
def test_bad_profiles_are_one_message(tmp_path, text, expected):
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profiles(own)
    assert str(caught.value).startswith(f"{own}: ")
    assert expected in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ConfigError,
        match=r"device: got 'rpi-4'; wanted one of mcu-stm32l4r5, .*; did you mean 'rpi-4b'\?",
    ):
        load_profiles().device("rpi-4")


def test_profiles_are_read_without_torch():
    code = "import sys; from tardis_fl.profiles import load_profiles; load_profiles(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


OWN = """
devices:
  board: {dense_gflop_per_s: 10.0, active_w: 3.0, source: mine}
radios:
  slow: {transmit_w: 2.0, receive_w: 1.0, idle_w: 0.1, source: mine, tails: [[1.0, 0.2], [0.5, 5.0]]}
"""


def machines_of(tmp_path, hardware):
    from tardis_fl.deployment.hardware.machines import Machines

    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    config = small_config(f"profiles={path}", f"deployment.hardware={hardware}")
    return Machines.of(config, [10**6, 10**6, 10**6], [1000.0, 500.0])


def test_energy_is_not_known_where_idle_power_is_not(tmp_path):
    machines = machines_of(tmp_path, "{devices: [board, xeon-8, v100], links: [wifi, wifi]}")
    assert machines.energy_mj is None
    assert machines.picture_energy_mj(100.0) is None
    with pytest.raises(ConfigError, match="its profile lacks a power, idle or active"):
        small_config(
            f"profiles={tmp_path / 'own.yaml'}",
            "deployment.hardware={devices: [board, xeon-8, v100], links: [wifi, wifi]}",
            "deployment.energy_budget_mj=5.0",
        )


def test_a_picture_s_energy_has_no_time_of_tiers_that_pass_it_on(tmp_path):
    """By hand: idle until the answer, the radio sending and receiving, and its tails between these and after."""
    machines = machines_of(
        tmp_path,
        "{devices: [rpi-4b, xeon-8, v100], links: [wifi, wifi], radio: slow, overhead_ms: [300.0, 500.0, 0.0]}",
    )
    link, power, size = machines.system.links[0], machines.system.power, 3072.0
    send, receive = (
        8 * size / link.up_bit_per_s,
        8 * machines.system.answer_bytes / link.down_bit_per_s,
    )
    whole = machines.picture_system.tiers[-1].service_s
    wall = 2 * (send + 2 * link.delay_s) + 2 * receive + whole
    between = wall - send - receive
    assert between < 0.2  # else the second state of the tail would begin
    joules = (
        wall * power.idle_w + 2.0 * send + 1.0 * receive + 1.0 * between + 1.0 * 0.2 + 0.5 * 5.0
    )
    assert machines.picture_latency_ms(size) == pytest.approx(1000 * wall)
    assert machines.picture_energy_mj(size) == pytest.approx(1000 * joules)
