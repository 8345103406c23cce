"""Differences of configurations: by key, with both values."""

from __future__ import annotations

from tardis_fl.config.differences import differences
from tests.conftest import small_config


def texts(here, *overrides):
    return [str(found) for found in differences(here, small_config(*overrides))]


def test_equal_configurations_and_other_names_are_no_difference():
    assert texts(small_config(), "name=other") == []


def test_a_key_that_is_left_out_is_the_same_as_its_default():
    assert texts(small_config(), "federation.evaluate_every=1", "plugins=[]") == []


def test_values_are_written_as_in_yaml():
    other = small_config("data.augment=false", "federation.rounds=3", "tiers.1.name=box")
    assert texts(other) == [
        "data.augment: false there, true here",
        "tiers.1.name: box there, edge here",
        "federation.rounds: 3 there, 2 here",
    ]


def test_lists_and_sections_that_come_and_go_are_told_apart():
    hardware = "deployment.hardware={devices: [v100, v100, v100], links: [wifi, wifi]}"
    found = texts(small_config(hardware), "deployment.measure_codecs=[uint8]")
    assert "deployment.hardware: nothing there, null here" in found
    assert "deployment.hardware.links.1: wifi there, nothing here" in found
    assert "deployment.measure_codecs: [] there, nothing here" in found
    assert "deployment.measure_codecs.0: nothing there, uint8 here" in found
