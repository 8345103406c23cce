"""Groups of an uneven fleet: sizes, who is in which, and who can be reached."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.config.federation import FederationConfig, GroupConfig
from tardis_fl.federation.conditions.population import Population
from tests.conftest import small_config

UNEVEN = "federation.fleet=[{name: phone, share: 0.5, depth: 1}, {name: box, share: 0.3, depth: 2, availability: 0.5}, {name: rack, share: 0.2, depth: 3}]"


def population(*overrides):
    config = small_config(
        UNEVEN, "federation.num_clients=100", "data.synthetic.num_train=4000", *overrides
    )
    return Population(config.federation.population, config.seed)


def test_without_groups_all_clients_are_alike():
    config = small_config("federation.client_depth=2")
    alike = Population(config.federation.population, config.seed)
    assert [alike.depth(client) for client in range(3)] == [2, 2, 2]
    assert alike.group(0).name == "all"


def group_sizes(shares, clients):
    fleet = [GroupConfig(name=f"g{number}", share=share) for number, share in enumerate(shares)]
    return FederationConfig(num_clients=clients, fleet=fleet).population.group_sizes


@pytest.mark.parametrize(
    ("shares", "clients", "expected"),
    [
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([1 / 3, 1 / 3, 1 / 3], 10, [4, 3, 3]),
        ([0.1, 0.9], 10, [1, 9]),
        ([1.0], 7, [7]),
    ],
)
def test_sizes_by_largest_remainder(shares, clients, expected):
    assert group_sizes(shares, clients) == expected


@given(parts=st.lists(st.integers(1, 50), min_size=1, max_size=6), clients=st.integers(1, 500))
def test_sizes_add_up_and_are_off_by_less_than_one(parts, clients):
    shares = [part / sum(parts) for part in parts]
    sizes = group_sizes(shares, clients)
    assert sum(sizes) == clients
    assert all(abs(size - share * clients) < 1 for size, share in zip(sizes, shares, strict=True))


def test_groups_have_their_sizes_and_follow_the_seed_alone():
    def depths(*overrides):
        fleet = population(*overrides)
        return [fleet.depth(client) for client in range(100)]

    assert np.bincount(depths(), minlength=4).tolist() == [0, 50, 30, 20]
    assert depths() == depths(
        "data.partition.scheme=dirichlet", "data.partition.min_samples=2", "model.width=8"
    )  # other data, other network
    assert depths() != depths("seed=4")
    assert sorted(depths()) != depths()  # not simply in order


def test_who_can_not_be_reached_is_not_chosen():
    fleet = population("federation.rounds=50")
    chosen = [fleet.choose(number) for number in range(1, 51)]
    times = np.bincount(np.concatenate(chosen), minlength=100)
    reached = {
        name: times[[client for client in range(100) if fleet.group(client).name == name]]
        for name in ("phone", "box", "rack")
    }
    assert (reached["phone"] == 50).all()
    assert (reached["rack"] == 50).all()
    assert 0.4 < reached["box"].mean() / 50 < 0.6
    assert chosen[0] == population("federation.rounds=50").choose(1)


def test_the_number_chosen_stays_where_enough_can_be_reached():
    fleet = population("federation.client_fraction=0.3")
    assert {len(fleet.choose(number)) for number in range(1, 30)} == {30}
