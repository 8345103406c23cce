"""Views of the configuration: every key of `federation` is in one, and derived figures are right."""

from __future__ import annotations

import dataclasses

import pytest

from tardis_fl.config import views
from tardis_fl.config.federation import FederationConfig, GroupConfig
from tardis_fl.config.views import SegmentRoles

VIEWS = (
    "population",
    "local_training",
    "deeper_training",
    "features",
    "late",
    "evaluation",
    "failures",
)
# keys that stand for themselves, or are sections of their own
ALONE = {"algorithm", "algorithm_options", "rounds", "privacy", "aggregation"}
THREE_GROUPS = [
    GroupConfig(name="small", share=0.5, depth=1),
    GroupConfig(name="middle", share=0.3, depth=2),
    GroupConfig(name="large", share=0.2, depth=3),
]


def test_every_key_of_the_federation_is_in_one_view():
    """A view counts its own fields; `groups` stands for `fleet` and `client_depth`."""
    fields = sum(len(dataclasses.fields(getattr(FederationConfig(), name))) for name in VIEWS)
    assert fields + len(ALONE) + 1 == len(FederationConfig.model_fields)


def test_views_have_the_values_of_their_keys():
    federation = FederationConfig(
        feature_fraction=0.25,
        feature_codec="float16",
        final_feature_views=2,
        deadline_s=3.0,
        late_updates="discount",
        calibration="sums",
        local_epochs=4,
        max_failed_fraction=0.5,
    )
    assert federation.features.fraction == 0.25
    assert federation.features.codec == "float16"
    assert federation.deeper_training.final_views == 2
    assert federation.late == views.LateSettings(3.0, "discount", 0.5)
    assert federation.late.counts
    assert federation.evaluation.by_sums
    assert federation.local_training.epochs == 4
    assert federation.failures.max_failed_fraction == 0.5


def test_clients_are_shared_out_by_the_largest_remainders():
    population = FederationConfig(num_clients=11, fleet=THREE_GROUPS).population
    assert population.group_sizes == [6, 3, 2]  # of 5.5, 3.3 and 2.2
    assert (population.min_depth, population.max_depth) == (1, 3)


def test_clients_that_are_alike_are_one_group():
    population = FederationConfig(num_clients=7, client_depth=2, client_fraction=0.5).population
    assert [group.name for group in population.groups] == ["all"]
    assert population.group_sizes == [7]
    assert population.clients_per_round == 4
    assert not population.has_virtual_time


@pytest.mark.parametrize(
    ("keys", "server_start"),
    [
        ({"client_depth": 1}, 1),
        ({"client_depth": 1, "server_training": "none"}, 4),
        ({"fleet": THREE_GROUPS}, 3),
        ({"fleet": THREE_GROUPS, "server_segments": "deeper"}, 1),
    ],
)
def test_the_servers_segments_begin_where_clients_end(keys, server_start):
    roles = FederationConfig(**keys).segment_roles(4)
    assert roles == SegmentRoles(
        count=4, max_depth=3 if "fleet" in keys else 1, server_start=server_start
    )
    assert roles.server_trains == (server_start < 4)
