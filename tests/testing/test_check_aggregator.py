"""`check_aggregator`: ours pass, and every way to be none is said."""

from __future__ import annotations

import pytest
import torch

from tardis_fl.testing import PluginError, check_aggregator
from tests.federation.server.aggregation import test_plugin_rule as plugins

WANTED = "wanted a class with the methods add(update, num_samples) and result()"


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "norm_clipping"])
def test_ours_pass(rule):
    check_aggregator(rule, options={"trim_fraction": 0.2} if rule == "trimmed_mean" else None)


def test_a_user_s_passes_by_class_and_by_name():
    check_aggregator(plugins.Last)
    check_aggregator(f"{plugins.HERE}:Last")


def refusal(rule, **arguments):
    with pytest.raises(PluginError) as caught:
        check_aggregator(rule, **arguments)
    return str(caught.value)


def test_a_rule_that_shrinks_says_so_itself():
    check_aggregator(plugins.Last, options={"factor": 0.5}, unanimous=False)
    assert refusal(plugins.Last, options={"factor": 0.5}).endswith(
        ":Last: got another '0.body.float32' than all updates hold; wanted that update (or unanimous=False)"
    )


class Keeps(plugins.Last):
    what = staticmethod(lambda held: held)

    def result(self):
        return self.what(super().result())


class ReturnsList(Keeps):
    what = staticmethod(list)


class Forgets(Keeps):
    what = staticmethod(lambda held: {"0.body.float32": held["0.body.float32"]})


class Widens(Keeps):
    what = staticmethod(lambda held: {key: value.double() for key, value in held.items()})


class Flattens(Keeps):
    what = staticmethod(lambda held: {key: value[None] for key, value in held.items()})


class Diverges(Keeps):
    what = staticmethod(
        lambda held: {
            key: value / 0 if value.is_floating_point() else value for key, value in held.items()
        }
    )


@pytest.mark.parametrize(
    ("rule", "got"),
    [
        (ReturnsList, "as the result of 5 updates a list instead of a dict of tensors"),
        (Forgets, "as the result of 5 updates no '0.body.int64'"),
        (
            Widens,
            "as the result of 5 updates torch.float64 of the shape (40,) for '0.body.float32' instead of torch.float32 of the shape (40,)",
        ),
        (
            Flattens,
            "as the result of 5 updates torch.float32 of the shape (1, 40) for '0.body.float32' instead of torch.float32 of the shape (40,)",
        ),
        (Diverges, "as the result of 5 updates values that aren't finite for '0.body.float32'"),
        (plugins.WithoutResult, "a WithoutResult without the method result"),
    ],
)
def test_what_is_no_aggregate_is_said(rule, got):
    name = f"{rule.__module__}:{rule.__name__}"
    assert refusal(rule) == f"{name}: got {got}; {WANTED}"


def test_exceptions_are_said_with_their_place():
    for rule, error in (
        (plugins.FailsToAdd, "AttributeError: 'FailsToAdd' object has no attribute 'nothing'"),
        (plugins.FailsInTheEnd, "RuntimeError: no result"),
        (plugins.FailsAtOnce, "OSError: no disk"),
    ):
        assert (
            f": for 5 updates it fails with {error} (tests/federation/server/aggregation/"
            in refusal(rule)
        )


def test_a_rule_that_needs_several_updates_is_said():
    class NeedsTwo(plugins.Last):
        def __init__(self):
            super().__init__()
            self.count = 0

        def add(self, update, num_samples):
            super().add(update, num_samples)
            self.count += 1

        def result(self):
            1 / (self.count - 1)  # as the variance of updates has it
            return super().result()

    assert "for 1 updates it fails with ZeroDivisionError: division by zero" in refusal(NeedsTwo)


def test_a_rule_that_changes_an_update_is_said():
    class Doubles(plugins.Last):
        def add(self, update, num_samples):
            for value in update.values():
                value.mul_(2)
            super().add(update, num_samples)

    assert refusal(Doubles).endswith(
        "got an update whose '0.body.float32' it changed; wanted it left as it is"
    )


def test_a_rule_that_draws_is_said():
    class Noisy(plugins.Last):
        def result(self):
            return {
                key: value + torch.rand(1) if value.is_floating_point() else value
                for key, value in super().result().items()
            }

    assert refusal(Noisy).endswith(
        "got another '0.body.float32' for the same updates; wanted no randomness of its own"
    )
