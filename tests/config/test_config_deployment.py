"""The section deployment: what goes together, what doesn't, and what has no effect."""

from __future__ import annotations

import pytest

from tardis_fl.config import parse_config
from tardis_fl.config.checks.consistency import warnings_about
from tardis_fl.errors import ConfigError
from tests.conftest import SMALL, small_config

HARDWARE = "deployment.hardware={devices: [rpi-4b, xeon-8, v100], links: [wifi, 5g-us-2024]}"
LOAD = "deployment.load={num_devices: 5}"


def the_problem(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(SMALL, overrides=overrides)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2, lines
    return lines[1].strip()


def test_a_target_that_an_override_sets_replaces_the_file_s():
    assert small_config("deployment.target_offload_rate=0.2").deployment.targets == [
        "target_offload_rate"
    ]
    assert small_config("deployment.certificate.epsilon=0.05").deployment.targets == ["certificate"]
    assert (
        small_config("deployment.certificate.epsilon=0.05").deployment.certificate.method == "ltt"
    )


def test_two_targets_in_one_place_are_refused():
    assert the_problem(
        "deployment.bytes_budget=10", "deployment.target_offload_rate=0.1"
    ).startswith(
        "deployment: got target_offload_rate and bytes_budget; wanted exactly one of max_accuracy_drop,"
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["deployment.policy=entrpy"],
            "deployment.policy: got the text 'entrpy'; wanted 'max_softmax', 'margin', 'entropy', 'patience', 'gain' or MODULE:FUNCTION; did you mean 'entropy'?",
        ),
        (
            ["deployment.feature_codec=4bits"],
            "deployment.feature_codec: got the text '4bits'; wanted float32, float16, uint8 or 2bit to 7bit, alone or followed by +zlib or +zstd, or MODULE:CLASS; did you mean '4bit'?",
        ),
        (
            ["deployment.mixing=true"],
            "deployment.mixing: got true; wanted a budget to meet: target_offload_rate, latency_budget_ms, energy_budget_mj, bytes_budget",
        ),
        (
            ["deployment.latency_budget_ms=20"],
            "deployment.latency_budget_ms: got 20.0; needs deployment.hardware: which machines and links?",
        ),
        (
            ["deployment.minimise=energy_mj"],
            "deployment.minimise: got 'energy_mj'; needs deployment.hardware: which machines and links?",
        ),
        (
            ["deployment.certificate={epsilon: 1.0}"],
            "deployment.certificate.epsilon: got 1.0; wanted less than 1",
        ),
        (
            ["deployment.certificate={delta: 0.0}"],
            "deployment.certificate.delta: got 0.0; wanted greater than 0",
        ),
        (
            ["deployment.certificate={loss: brier}"],
            "deployment.certificate.loss: got 'brier'; the exact binomial test (method 'ltt') is for losses of 0 and 1; wanted the method 'hoeffding_bentkus'",
        ),
        (
            [HARDWARE, "deployment.hardware.links=[wifi]"],
            "deployment.hardware.links: got 1 entries; wanted 2: one for each boundary between tiers (or deployment.hardware: null)",
        ),
        (
            [HARDWARE, "deployment.hardware.links.0=wify"],
            "deployment.hardware.links.0: got the text 'wify'; wanted one of ",
        ),
        (
            [HARDWARE, "deployment.hardware.radio=lte2"],
            "deployment.hardware.radio: got the text 'lte2'; wanted one of ",
        ),
        (["profiles=nowhere.yaml"], "profiles: got the text 'nowhere.yaml'; "),
        (
            [LOAD],
            "deployment.load: got settings; needs deployment.hardware: which machines and links?",
        ),
        (
            ["deployment.faults=[{kind: outage, tier: device, end_s: 2.0}]"],
            "deployment.faults: got 1 faults; need deployment.load: faults break requests over time",
        ),
        (
            [HARDWARE, LOAD, "deployment.load.arrivals=trace"],
            "deployment.load.trace: got nothing; the arrivals 'trace' want a file of times",
        ),
        (
            [HARDWARE, LOAD, "deployment.load.rate=0.0"],
            "deployment.load.rate: got 0.0; wanted greater than 0",
        ),
        (
            [HARDWARE, LOAD, "deployment.faults=[{kind: outage, tier: cloud, end_s: 2.0}]"],
            "deployment.faults.0.tier: got the text 'cloud'; wanted the sender of a link: device, edge",
        ),
        (
            [
                HARDWARE,
                LOAD,
                "deployment.faults=[{kind: crash, tier: edge, start_s: 3.0, end_s: 2.0}]",
            ],
            "deployment.faults.0.end_s: got 2.0; wanted a time after start_s (3)",
        ),
        (
            [
                HARDWARE,
                LOAD,
                "deployment.faults=[{kind: slow, tier: edge, times_s: [1.0], factors: [0.0]}]",
            ],
            "deployment.faults.0.factors: got [0.0]; the last factor must be above 0, or what waits would wait for ever",
        ),
        (
            [
                HARDWARE,
                LOAD,
                "deployment.faults=[{kind: crash, tier: edge, end_s: 2.0, probability: 0.5}]",
            ],
            "deployment.faults.0.probability: got 0.5; has no effect with the kind 'crash'; remove it",
        ),
        (
            [
                HARDWARE,
                LOAD,
                "deployment.faults=[{kind: loss, tier: edge, probability: 0.1}, {kind: loss, tier: edge, probability: 0.2}]",
            ],
            "deployment.faults.1: got a second loss on the link from 'edge'; wanted at most one for each link",
        ),
        (
            [
                HARDWARE,
                LOAD,
                "deployment.faults=[{kind: loss, tier: edge, probability: 0.1, burst: 0.5}]",
            ],
            "deployment.faults.0.burst: got 0.5; wanted greater than or equal to 1",
        ),
        (
            [
                "federation.calibration=sums",
                "deployment.feature_codec=uint8+zlib",
                "deployment.bytes_budget=100",
            ],
            "federation.calibration: got sums; how much the codec 'uint8+zlib' compresses the clients' images isn't among what they send",
        ),
        (
            [HARDWARE, LOAD, "deployment.faults=[{kind: loss, tier: edge}]"],
            "deployment.faults.0.probability: got nothing; wanted the share of messages that get lost, above 0",
        ),
    ],
)
def test_what_can_t_go_together_is_one_message(overrides, expected):
    assert the_problem(*overrides).startswith(expected)


def test_four_tiers_have_no_exact_frontier():
    assert the_problem(
        "deployment.threshold_mode=per_exit",
        "tiers=[{name: a}, {name: b}, {name: c}, {name: d}]",
        "model.backbone=resnet20",
    ).startswith(
        "deployment.threshold_mode: got 'per_exit'; the exact frontier is known for two and three tiers, and here are 4"
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["deployment.bytes_budget=100", "deployment.minimise=macs"],
            "deployment.minimise had no effect without deployment.max_accuracy_drop",
        ),
        (
            ["deployment.certificate={}", "deployment.threshold_mode=per_exit"],
            "deployment.threshold_mode had no effect",
        ),
        (
            ["deployment.on_failure=drop"],
            "deployment.on_failure had no effect without deployment.faults",
        ),
        (
            ["deployment.certificate={method: conformal, delta: 0.2}"],
            "deployment.certificate.delta had no effect with the method 'conformal'",
        ),
        (
            [HARDWARE, "deployment.load={on_seconds: 2.0}"],
            "deployment.load.on_seconds had no effect with the arrivals 'poisson'",
        ),
        (
            [HARDWARE, "deployment.load={batch_wait_ms: 2.0}"],
            "deployment.load.batch_wait_ms had no effect without batches",
        ),
    ],
)
def test_what_has_no_effect_is_a_warning(overrides, expected):
    assert any(warning.startswith(expected) for warning in warnings_about(small_config(*overrides)))
