"""Temperatures from sums, beside those from all samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tardis_fl.deployment.scoring.temperatures import fit_temperature
from tardis_fl.early_exit.scoring.temperature_sums import (
    POINTS,
    Brackets,
    TemperatureSums,
    temperature_sums,
)


def fitted(parts, num_exits):
    """Temperatures from the sums of several clients, and how often they were asked."""
    brackets, asked = Brackets.whole(num_exits), 0
    while not brackets.is_narrow:
        total = sum(
            (temperature_sums(*part, brackets.inverse_temperatures) for part in parts),
            TemperatureSums.zero(num_exits),
        )
        brackets, asked = brackets.narrowed(total), asked + 1
    return brackets.temperatures, asked


def test_sums_computed_by_hand():
    logits = torch.tensor(
        [[[0.0, math.log(3)], [math.log(3), 0.0]]]
    )  # one exit, two samples of class 1: p = 3/4 and 1/4
    sums = temperature_sums(logits, torch.tensor([1, 1]), [[1.0, 0.0]])
    np.testing.assert_allclose(sums.loss, [[-math.log(3 / 4) - math.log(1 / 4), 2 * math.log(2)]])
    np.testing.assert_allclose(sums.slope, [[(-1 / 4 + 3 / 4) * math.log(3), 0.0]], atol=1e-7)
    assert sums.num_samples == 2


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    scale=st.sampled_from([0.01, 0.5, 3.0, 40.0]),
    skill=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_the_temperatures_are_those_of_all_samples(seed, count, scale, skill):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 5, count))
    logits = torch.from_numpy(
        (scale * (rng.normal(size=(2, count, 5)) + skill * np.eye(5)[labels])).astype(np.float32)
    )
    owner = rng.integers(0, 3, count)
    ours, asked = fitted(
        [(logits[:, owner == client], labels[owner == client]) for client in range(3)], 2
    )
    assert asked == 3
    np.testing.assert_allclose(ours, [fit_temperature(rows, labels) for rows in logits], rtol=2e-4)


@pytest.mark.parametrize("margin", [30.0, 5.0, 0.5, 0.0, -1.0])
def test_at_and_beyond_the_ends_of_the_range(margin):
    """Always right: as cold as the range or the arithmetic goes; never right, or nothing to tell: as hot as the range goes."""
    logits, labels = torch.tensor([[[margin, 0.0]] * 4]), torch.zeros(4, dtype=torch.int64)
    assert fitted([(logits, labels)], 1)[0] == pytest.approx(
        (fit_temperature(logits[0], labels),), rel=2e-4
    )


def test_bad_sums_are_refused():
    good = TemperatureSums.zero(2)
    numbers = good.to_numbers()
    assert TemperatureSums.from_numbers(numbers, 2).loss.shape == (2, POINTS)
    with pytest.raises(ValueError, match="don't add up; wanted the same exits and temperatures"):
        good + TemperatureSums.zero(2, 3)
    with pytest.raises(ValueError, match="slope is missing"):
        TemperatureSums.from_numbers({"loss": numbers["loss"], "num_samples": 0}, 2)
    with pytest.raises(ValueError, match="not finite"):
        TemperatureSums.from_numbers({**numbers, "loss": [math.nan] * 2 * POINTS}, 2)
    with pytest.raises(ValueError, match="below 0"):
        TemperatureSums.from_numbers({**numbers, "num_samples": -1}, 2)
    with pytest.raises(
        ValueError,
        match=r"inverse temperatures: got the shape \(1, 1\); wanted \(2 exits, temperatures\)",
    ):
        temperature_sums(torch.zeros(2, 1, 3), torch.tensor([0]), [[1.0]])
    with pytest.raises(ValueError, match="labels: got 3 to 3; wanted 0 to 2"):
        temperature_sums(torch.zeros(1, 1, 3), torch.tensor([3]), [[1.0]])
