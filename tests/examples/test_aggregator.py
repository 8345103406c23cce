"""The aggregation rule of `examples`: the geometric median, by hand and in a run with garbage."""

from __future__ import annotations

import pytest
import torch

from examples.aggregator import GeometricMedian
from tardis_fl.testing import check_aggregator


def median_of(values, weights=None, **options):
    rule = GeometricMedian(**options)
    for number, value in enumerate(values):
        rule.add({"0.body": torch.tensor(value)}, weights[number] if weights else 1)
    return rule.result()["0.body"].tolist()


def test_it_keeps_the_contract():
    check_aggregator(GeometricMedian)
    check_aggregator(GeometricMedian, options={"iterations": 1})
    check_aggregator("examples.aggregator:GeometricMedian")


def test_the_first_step_from_the_mean_by_hand():
    # mean 3; distances 3, 3, 6; weights 1/3, 1/3, 1/6; (0 + 0 + 9/6) / (5/6) = 1.8
    assert median_of([[0.0], [0.0], [9.0]], iterations=1) == pytest.approx([1.8])


def test_the_median_of_points_on_a_line_is_the_middle_one():
    assert median_of([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0]], iterations=300) == pytest.approx(
        [1.0, 1.0], abs=1e-3
    )


def test_the_median_of_an_equilateral_triangle_is_its_centre():
    corners = [[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]]
    assert median_of(corners) == pytest.approx([0.5, 3**0.5 / 6])


def test_more_than_half_of_the_weight_is_the_median():
    assert median_of([[0.0], [8.0]], weights=[1, 9], iterations=300) == pytest.approx([8.0])


def test_integer_keys_take_the_maximum_and_keys_come_from_whoever_holds_them():
    rule = GeometricMedian()
    rule.add({"0.steps": torch.tensor([3]), "0.body": torch.tensor([1.0])}, 1)
    rule.add({"0.steps": torch.tensor([5])}, 1)
    assert rule.result()["0.steps"].tolist() == [5]
    assert rule.result()["0.body"].tolist() == [1.0]


def test_what_can_t_be_aggregated_is_refused():
    rule = GeometricMedian()
    with pytest.raises(ValueError, match="no update"):
        rule.result()
    with pytest.raises(ValueError, match="must be positive, got 0"):
        rule.add({"0.body": torch.tensor([1.0])}, 0)
    rule.add({"0.body": torch.tensor([1.0])}, 1)
    with pytest.raises(ValueError, match=r"0\.body isn't shaped as the first update's"):
        rule.add({"0.body": torch.tensor([1.0, 2.0])}, 1)


def test_a_run_with_it_is_another_than_with_the_mean(run_example):
    median = run_example("aggregator", output="median")
    mean = run_example("aggregator", "federation.aggregation={rule: mean}", output="mean")
    assert median["exits"] != mean["exits"]
    assert median["federation"]["bytes_up"] == mean["federation"]["bytes_up"]
