"""Who holds what, and in which role."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.config.data import PartitionConfig
from tardis_fl.data.partition import deal, label_counts, load_partition, undealt
from tardis_fl.data.roles import Role, hold_out
from tardis_fl.data.sources import load_dataset
from tardis_fl.errors import DataError
from tests.conftest import small_config

LABELS = np.arange(600) % 10
SCHEMES = [
    PartitionConfig(scheme="iid"),
    PartitionConfig(scheme="dirichlet", alpha=1.0),
    PartitionConfig(scheme="pathological", classes_per_client=2),
    PartitionConfig(scheme="shard", shards_per_client=2),
]


@pytest.mark.parametrize("settings", SCHEMES, ids=lambda s: s.scheme)
def test_every_sample_goes_to_one_client_and_the_seed_decides(settings):
    parts = deal(LABELS, settings, num_clients=5, seed=1)
    dealt = np.concatenate(parts)
    assert len(dealt) == len(np.unique(dealt))
    counts = np.stack([np.bincount(LABELS[part], minlength=10) for part in parts])
    left_out = undealt(counts, LABELS, "abcdefghij")
    if settings.scheme == "pathological":  # draws classes at random, so it can pass some over
        assert (
            left_out
            == f"{600 - len(dealt)} of 600 training images belong to no client (of the classes {', '.join(name for name, n in zip('abcdefghij', counts.sum(0), strict=True) if not n)}); the partition scheme leaves them out"
        )
    else:
        assert left_out is None
        assert len(dealt) == len(LABELS)
    again, other = (deal(LABELS, settings, num_clients=5, seed=seed) for seed in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other, strict=True))


def test_schemes_skew_labels_as_they_say():
    few = deal(
        LABELS, PartitionConfig(scheme="pathological", classes_per_client=2), num_clients=5, seed=1
    )
    assert all(len(np.unique(LABELS[part])) == 2 for part in few)
    even = deal(LABELS, PartitionConfig(scheme="iid"), num_clients=5, seed=1)
    assert {len(part) for part in even} == {120}


def test_a_scheme_that_cannot_deal_says_which_setting_to_change():
    with pytest.raises(
        DataError,
        match=r"'dirichlet' can't deal 600 samples to 25 clients.*raise data.partition.alpha.*lower data.partition.min_samples",
    ):
        deal(
            LABELS,
            PartitionConfig(scheme="dirichlet", alpha=0.01, min_samples=20),
            num_clients=25,
            seed=1,
        )
    with pytest.raises(
        DataError,
        match=r"federation.num_clients: got 31 clients for 600 training samples, at least data.partition.min_samples = 20 each",
    ):
        deal(LABELS, PartitionConfig(scheme="iid"), num_clients=31, seed=1)
    uneven = np.repeat(np.arange(10), [555, *[5] * 9])
    with pytest.raises(
        DataError,
        match=r"client \d: its shard of \d+ samples is smaller than data.partition.min_samples = 20; raise data.partition.classes_per_client",
    ):
        deal(
            uneven,
            PartitionConfig(scheme="pathological", classes_per_client=1),
            num_clients=10,
            seed=1,
        )


def test_a_shard_too_small_is_named_with_the_setting_to_change():
    with pytest.raises(
        DataError,
        match=r"client 4: its shard of 3 samples is too small: 1 for fit and 1 for calibrate leave 1 to train on.*raise data.partition.alpha",
    ):
        hold_out(
            4,
            np.arange(3),
            fit_fraction=0.1,
            calibration_fraction=0.1,
            seed=1,
            mend="raise data.partition.alpha",
        )


@given(
    count=st.integers(4, 300),
    fit=st.floats(0.01, 0.45),
    calibrate=st.floats(0.01, 0.45),
    seed=st.integers(0, 5),
    client=st.integers(0, 5),
)
def test_roles_never_overlap_and_cover_the_shard(count, fit, calibrate, seed, client):
    indices = np.arange(count) * 3
    try:
        shard = hold_out(
            client,
            indices,
            fit_fraction=fit,
            calibration_fraction=calibrate,
            seed=seed,
            mend="mend",
        )
    except DataError:
        assert count - max(1, round(fit * count)) - max(1, round(calibrate * count)) < 2
        return
    roles = [set(shard.indices(role).tolist()) for role in (Role.TRAIN, Role.FIT, Role.CALIBRATE)]
    assert set.union(*roles) == set(indices.tolist())
    assert sum(map(len, roles)) == count == len(shard)
    assert min(map(len, roles)) >= 1


def test_no_client_holds_test_samples():
    shard = hold_out(0, np.arange(20), fit_fraction=0.1, calibration_fraction=0.1, seed=1, mend="")
    with pytest.raises(KeyError):
        shard.indices(Role.TEST)


def test_a_later_process_gets_the_same_shards_from_the_cache(monkeypatch):
    config = small_config("data.partition.scheme=dirichlet", "seed=11")
    dataset = load_dataset(config)
    first = load_partition(config, dataset)
    monkeypatch.setattr(
        "tardis_fl.data.partition.deal", lambda *_, **__: pytest.fail("dealt twice")
    )
    again = load_partition(config, dataset)
    for a, b in zip(first.shards(), again.shards(), strict=True):
        assert np.array_equal(a.train, b.train)
        assert np.array_equal(a.calibrate, b.calibrate)
    counts = label_counts(first.shards(), dataset.train.labels, 10)
    assert counts.sum() == 240
    assert counts.shape == (3, 10)
