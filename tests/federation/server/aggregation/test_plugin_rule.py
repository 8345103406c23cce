"""Aggregation rules of a user's own: what they are given, and what they may return."""

from __future__ import annotations

import pytest
import torch

from tardis_fl.config.federation import AggregationConfig
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.server.aggregation.weighted_mean import build_aggregator

HERE = "tests.federation.server.aggregation.test_plugin_rule"
WANTED = "wanted a class with the methods add(update, num_samples) and result()"
UPDATE = {"0.body": torch.tensor([1.0, 2.0]), "0.steps": torch.tensor([3])}


class Last:
    """The update that came last, times a factor."""

    def __init__(self, *, factor: float = 1.0):
        self.factor = factor
        self.held = {}

    def add(self, update, num_samples):
        if num_samples <= 0:
            raise ValueError("no samples")
        self.held |= update

    def result(self):
        return {
            key: value * self.factor if value.is_floating_point() else value
            for key, value in self.held.items()
        }


class Returns(Last):
    what = None

    def result(self):
        return self.what(super().result())


class ReturnsList(Returns):
    what = staticmethod(list)


class Forgets(Returns):
    what = staticmethod(lambda held: {"0.body": held["0.body"]})


class Invents(Returns):
    what = staticmethod(lambda held: {**held, "9.body": held["0.body"]})


class ChangesShape(Returns):
    what = staticmethod(lambda held: {**held, "0.body": held["0.body"][:1]})


class ChangesType(Returns):
    what = staticmethod(lambda held: {**held, "0.body": held["0.body"].double()})


class ReturnsNumbers(Returns):
    what = staticmethod(lambda held: {**held, "0.body": 1.0})


class Diverges(Returns):
    what = staticmethod(lambda held: {**held, "0.body": held["0.body"] / 0})


class FailsToAdd(Last):
    def add(self, update, num_samples):
        return self.nothing


class FailsInTheEnd(Last):
    def result(self):
        raise RuntimeError("no\nresult")


class FailsAtOnce(Last):
    def __init__(self):
        raise OSError("no disk")


class WithoutResult:
    def add(self, update, num_samples):
        """Has no result."""


def aggregator(name: str, **options):
    return build_aggregator(AggregationConfig(rule=f"{HERE}:{name}", options=options))


def test_a_rule_of_ones_own_is_made_with_its_options_and_asked():
    rule = aggregator("Last", factor=3)
    assert rule.num_updates == 0
    rule.add(UPDATE, 5)
    rule.add({"1.body": torch.tensor([4.0])}, 2)
    assert rule.num_updates == 2
    found = rule.result()
    assert found["0.body"].tolist() == [3.0, 6.0]
    assert found["1.body"].tolist() == [12.0]
    assert found["0.steps"].tolist() == [3]


def test_an_update_that_it_refuses_is_the_client_s_failure():
    rule = aggregator("Last")
    with pytest.raises(ValueError, match="no samples"):
        rule.add(UPDATE, 0)
    assert rule.num_updates == 0


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("ReturnsList", "whose result returned a list instead of a dict of tensors"),
        ("Forgets", "whose result returned no '0.steps'"),
        ("Invents", "whose result returned '9.body', which no update held"),
        (
            "ChangesShape",
            "whose result returned torch.float32 of the shape (1,) for '0.body' instead of torch.float32 of the shape (2,)",
        ),
        (
            "ChangesType",
            "whose result returned torch.float64 of the shape (2,) for '0.body' instead of torch.float32 of the shape (2,)",
        ),
        ("ReturnsNumbers", "whose result returned a float for '0.body' instead of a tensor"),
        ("Diverges", "whose result returned values that aren't finite for '0.body'"),
    ],
)
def test_what_can_t_become_weights_ends_the_run(name, got):
    rule = aggregator(name)
    rule.add(UPDATE, 5)
    with pytest.raises(RunError) as caught:
        rule.result()
    assert str(caught.value) == f"federation.aggregation.rule: got '{HERE}:{name}', {got}; {WANTED}"


def test_a_rule_that_fails_is_one_message_with_its_place():
    place = r" \(tests/federation/server/aggregation/test_plugin_rule.py:\d+\); wanted a class"
    rule = aggregator("FailsToAdd")
    with pytest.raises(
        RunError, match="whose add fails with AttributeError: .* has no attribute 'nothing'" + place
    ):
        rule.add(UPDATE, 5)
    rule = aggregator("FailsInTheEnd")
    rule.add(UPDATE, 5)
    with pytest.raises(RunError, match="whose result fails with RuntimeError: no result" + place):
        rule.result()
    with pytest.raises(ConfigError, match="which fails with OSError: no disk" + place):
        aggregator("FailsAtOnce")


def test_what_makes_no_aggregator_is_refused():
    with pytest.raises(ConfigError) as caught:
        aggregator("WithoutResult")
    assert str(caught.value) == (
        f"federation.aggregation.rule: got '{HERE}:WithoutResult', "
        f"which makes a WithoutResult without the method result; {WANTED}"
    )
