"""The partitioner of `examples`: what it deals, and a run with it on every engine's processes."""

from __future__ import annotations

import numpy as np
import pytest

from examples.partitioner import quantity_skew
from tardis_fl.testing import PluginError, check_partitioner

LABELS = np.arange(1000) % 10


def test_it_keeps_the_contract():
    check_partitioner(quantity_skew)
    check_partitioner(quantity_skew, options={"alpha": 0.1, "smallest": 5})
    check_partitioner("examples.partitioner:quantity_skew")


def test_shares_are_as_uneven_as_alpha_says():
    uneven, even = (
        [len(part) for part in quantity_skew(LABELS, 5, np.random.default_rng(3), alpha=alpha)]
        for alpha in (0.2, 1000.0)
    )
    assert sum(uneven) == sum(even) == 1000
    assert min(uneven) >= 20
    assert max(uneven) > 3 * max(even) / 2
    assert max(even) - min(even) < 50


def test_every_client_gets_the_smallest_share_at_least():
    parts = quantity_skew(LABELS, 10, np.random.default_rng(0), alpha=0.01, smallest=100)
    assert [len(part) for part in parts] == [100] * 10
    with pytest.raises(ValueError, match="1000 samples are too few for 101 a client"):
        quantity_skew(LABELS, 10, np.random.default_rng(0), smallest=101)


def test_its_check_finds_what_is_wrong():
    with pytest.raises(PluginError):
        check_partitioner(lambda labels, num_clients, rng: quantity_skew(labels, 1, rng))


def test_a_run_is_the_same_in_this_process_and_in_workers(run_example, users_folder):
    uneven = "data.partition.options={alpha: 0.2, smallest: 20}"
    alone = run_example("partitioner", uneven, "runtime.workers=1", output="alone")
    workers = run_example("partitioner", uneven, "runtime.workers=2", output="workers")
    assert alone["exits"] == workers["exits"]
    dealt = np.load(users_folder / "runs" / "alone" / "partition.npz")
    sizes = np.bincount(dealt["client_ids"])
    assert sizes.sum() == 300
    assert sizes.max() > 2 * sizes.min()


def test_a_run_on_ray(run_example):
    pytest.importorskip("ray")
    alone = run_example("partitioner", "runtime.workers=1", output="for_ray")
    on_ray = run_example(
        "partitioner",
        "runtime={engine: ray, workers: 1, threads: 1, precision: float32}",
        output="ray",
    )
    assert alone["exits"] == on_ray["exits"]
