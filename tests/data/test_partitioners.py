"""Partitioners of a user's own, and ours by their common contract."""

from __future__ import annotations

import numpy as np
import pytest

from tardis_fl.config.data import PartitionConfig
from tardis_fl.core.randomness import Purpose, integer_seed, integer_seed_of, numpy_generator
from tardis_fl.data.partition import deal, load_partition
from tardis_fl.data.partitioners import OWN_KEYS, PARTITIONERS
from tardis_fl.data.sources import load_dataset
from tardis_fl.errors import ConfigError, DataError
from tests.conftest import small_config

HERE = "tests.data.test_partitioners"
LABELS = np.arange(600) % 10
WANTED = "wanted a function of (labels, num_clients, rng) that returns the indices of each client"


def shuffled(labels, num_clients, rng, *, largest: float = 0.5):
    order = rng.permutation(len(labels))
    first = round(largest * len(order))
    return [order[:first], *np.array_split(order[first:], num_clients - 1)]


def as_lists(labels, num_clients, rng):
    return [list(range(client, len(labels), num_clients)) for client in range(num_clients)]


def returns_none(labels, num_clients, rng):
    return None


def too_few(labels, num_clients, rng):
    return as_lists(labels, num_clients - 1, rng)


def floats(labels, num_clients, rng):
    return [np.asarray(part) / 1.0 for part in as_lists(labels, num_clients, rng)]


def masks(labels, num_clients, rng):
    return [labels % num_clients == client for client in range(num_clients)]


def columns(labels, num_clients, rng):
    return [np.asarray(part)[:, None] for part in as_lists(labels, num_clients, rng)]


def outside(labels, num_clients, rng):
    return [[600, *part] for part in as_lists(labels, num_clients, rng)]


def negative(labels, num_clients, rng):
    return [[-1, *part] for part in as_lists(labels, num_clients, rng)]


def shared(labels, num_clients, rng):
    return [
        [0, *part][client == 0 :] for client, part in enumerate(as_lists(labels, num_clients, rng))
    ]


def twice(labels, num_clients, rng):
    return [[*part, part[3]] for part in as_lists(labels, num_clients, rng)]


def of_the_global_generator(labels, num_clients, rng):
    return np.array_split(np.random.default_rng().permutation(len(labels)), num_clients)


def raises(labels, num_clients, rng):
    return labels[num_clients * 1000]


def changes_its_labels(labels, num_clients, rng):
    labels[:] = 0
    return as_lists(labels, num_clients, rng)


def few(labels, num_clients, rng):
    return [[client] for client in range(num_clients)]


def own(function: str, **options) -> PartitionConfig:
    return PartitionConfig(scheme=f"{HERE}:{function}", options=options)


@pytest.mark.parametrize("function", ["shuffled", "as_lists", "changes_its_labels"])
def test_a_partitioner_of_ones_own_deals(function):
    labels = LABELS.copy()
    parts = deal(labels, own(function), num_clients=5, seed=1)
    assert len(parts) == 5
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(600))
    assert {part.dtype for part in parts} == {np.dtype(np.int64)}
    assert np.array_equal(labels, LABELS)


def test_it_gets_its_options_and_a_generator_of_the_seed():
    parts = deal(LABELS, own("shuffled", largest=0.8), num_clients=3, seed=1)
    assert [len(part) for part in parts] == [480, 60, 60]
    order = numpy_generator(1, Purpose.PARTITION).permutation(600)
    assert np.array_equal(np.concatenate(parts), order)
    other = deal(LABELS, own("shuffled", largest=0.8), num_clients=3, seed=2)
    assert not np.array_equal(other[0], parts[0])


@pytest.mark.parametrize(
    ("function", "got"),
    [
        ("returns_none", "which returned a NoneType instead of a list"),
        ("too_few", "which returned 4 arrays for 5 clients"),
        (
            "floats",
            "which returned an array of float64 of the shape (120,) for client 0 instead of one of whole numbers of the shape (n,)",
        ),
        (
            "masks",
            "which returned an array of bool of the shape (600,) for client 0 instead of one of whole numbers of the shape (n,)",
        ),
        (
            "columns",
            "which returned an array of int64 of the shape (120, 1) for client 0 instead of one of whole numbers of the shape (n,)",
        ),
        ("outside", "which returned the index 600 for client 0 of 600 samples"),
        ("negative", "which returned the index -1 for client 0 of 600 samples"),
        ("shared", "which returned sample 0 for the clients 0 and 1"),
        ("twice", "which returned sample 15 twice for client 0"),
        (
            "of_the_global_generator",
            "which returned other indices for a generator of the same seed",
        ),
    ],
)
def test_what_is_no_partition_is_refused(function, got):
    with pytest.raises(ConfigError) as caught:
        deal(LABELS, own(function), num_clients=5, seed=1)
    assert str(caught.value) == f"data.partition.scheme: got '{HERE}:{function}', {got}; {WANTED}"


def test_a_partitioner_that_fails_is_one_message():
    with pytest.raises(
        ConfigError,
        match=rf"data.partition.scheme: got '{HERE}:raises', which fails with IndexError: index 5000 is out of bounds for axis 0 with size 600 \(tests/data/test_partitioners.py:\d+\); ",
    ):
        deal(LABELS, own("raises"), num_clients=5, seed=1)


def test_its_shards_must_be_large_enough_too():
    with pytest.raises(
        DataError,
        match=r"client 0: its shard of 1 samples is smaller than data.partition.min_samples = 20; change data.partition.options, lower",
    ):
        deal(LABELS, own("few"), num_clients=5, seed=1)


def test_a_run_with_it_is_dealt_afresh_and_alike():
    config = small_config(f"data.partition.scheme='{HERE}:shuffled'")
    dataset = load_dataset(config)
    first, second = (load_partition(config, dataset) for _ in range(2))
    assert [len(shard.train) for shard in first.shards()] == [
        len(shard.train) for shard in second.shards()
    ]
    assert np.array_equal(first.shard(1).train, second.shard(1).train)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "pathological", "shard"])
def test_ours_follow_the_same_contract(scheme):
    found, again = (
        PARTITIONERS.resolve(scheme)(LABELS, 4, np.random.default_rng(7)) for _ in range(2)
    )
    assert len(found) == 4
    dealt = np.concatenate(found)
    assert len(np.unique(dealt)) == len(dealt)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_natural_deals_nothing():
    with pytest.raises(ConfigError, match="this data set doesn't say whose its samples are"):
        PARTITIONERS.resolve("natural")(LABELS, 4, np.random.default_rng(7))


def test_every_scheme_of_ours_says_which_keys_it_takes():
    assert tuple(OWN_KEYS) == ("iid", "dirichlet", "pathological", "shard", "natural")
    for scheme, keys in OWN_KEYS.items():
        assert not PARTITIONERS.problems(scheme, dict.fromkeys(keys, 3))


def test_an_integer_seed_depends_on_the_seed_not_on_what_was_drawn():
    generator = numpy_generator(5, Purpose.PARTITION, 2)
    generator.random(10)
    assert integer_seed_of(generator) == integer_seed(5, Purpose.PARTITION, 2)
