"""`check_partitioner`: ours pass, and every way to be none is said."""

from __future__ import annotations

import numpy as np
import pytest

from tardis_fl.testing import PluginError, check_partitioner
from tests.data import test_partitioners as plugins

WANTED = "wanted the indices of each client's samples, every sample at one client"


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "shard"])
def test_ours_pass(scheme):
    check_partitioner(scheme)


def test_one_that_leaves_samples_out_passes_where_it_may():
    check_partitioner("pathological", may_leave_out=True)
    with pytest.raises(
        PluginError,
        match=r"^pathological: got \d+ of 1000 samples dealt to \d clients; wanted all of them \(or may_leave_out=True\)$",
    ):
        check_partitioner("pathological")


def test_users_pass_as_functions_and_by_name():
    check_partitioner(plugins.shuffled, options={"largest": 0.9})
    check_partitioner("tests.data.test_partitioners:as_lists")


def refusal(function, **arguments):
    with pytest.raises(PluginError) as caught:
        check_partitioner(function, **arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (plugins.returns_none, "a NoneType instead of a list"),
        (plugins.too_few, "4 arrays for 5 clients"),
        (
            plugins.floats,
            "an array of float64 of the shape (200,) for client 0 instead of one of whole numbers of the shape (n,)",
        ),
        (plugins.negative, "the index -1 for client 0 of 1000 samples"),
        (plugins.shared, "sample 0 for the clients 0 and 1"),
        (plugins.twice, "sample 15 twice for client 0"),
    ],
)
def test_what_is_no_partition_is_said(function, got):
    name = f"tests.data.test_partitioners:{function.__name__}"
    assert refusal(function) == f"{name}: got {got}; {WANTED}"


def test_a_partition_of_the_global_generator_is_none():
    def of_numpy(labels, num_clients, rng):
        return np.array_split(np.random.permutation(len(labels)), num_clients)

    for function in (of_numpy, plugins.of_the_global_generator):
        assert refusal(function).endswith(
            "got other indices for a generator of the same seed; wanted whatever is random drawn from rng alone"
        )


def test_the_global_generator_is_left_as_it_was():
    before = np.random.get_state()[1].copy()
    check_partitioner("iid")
    assert np.array_equal(np.random.get_state()[1], before)


def test_an_empty_client_is_said():
    def all_to_the_first(labels, num_clients, rng):
        return [np.arange(len(labels)), *[np.arange(0)] * (num_clients - 1)]

    assert refusal(all_to_the_first).endswith(
        "got no sample for client 1 of 5; wanted at least one for each"
    )


def test_changed_labels_are_said():
    assert refusal(plugins.changes_its_labels).endswith(
        "got labels that it changed; wanted them left as they are"
    )


def test_an_exception_is_said_with_its_place_and_kept_as_the_cause():
    with pytest.raises(
        PluginError,
        match=r":raises: for 1000 samples and 5 clients it fails with IndexError: .* \(tests/data/test_partitioners.py:\d+\)$",
    ) as caught:
        check_partitioner(plugins.raises)
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(
    ("partitioner", "options", "message"),
    [
        (
            plugins.shuffled,
            {"larges": 1},
            "data.partition.options.larges: got an unknown option with 1; did you mean 'largest'?",
        ),
        (
            "no_such_scheme",
            None,
            "data.partition.scheme: got the text 'no_such_scheme'; wanted 'iid', ",
        ),
        (
            "tests.data.test_partitioners:nothing",
            None,
            "data.partition.scheme: got 'tests.data.test_partitioners:nothing'; wanted MODULE:FUNCTION (module",
        ),
        (
            lambda labels: [],
            None,
            "which takes other arguments; wanted a function of (labels, num_clients, rng)",
        ),
        (
            3,
            None,
            "builtins:int: got a int, which can't be called; wanted a function of (labels, num_clients, rng)",
        ),
    ],
)
def test_what_can_t_be_called_so_is_said(partitioner, options, message):
    assert message in refusal(partitioner, options=options)


def test_a_plugin_error_is_an_assertion():
    assert issubclass(PluginError, AssertionError)
