"""Configurations: strict, all problems at once, in words that mend them."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tardis_fl.config import Config, load_config, parse_config
from tardis_fl.config.checks.consistency import warnings_about
from tardis_fl.config.federation import FederationConfig, ServerOptimizerConfig
from tardis_fl.config.keys import key_paths
from tardis_fl.config.wire import read_wire, wire_json
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.errors import ConfigError
from tests.conftest import ROOT, SMALL

SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, overrides=overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()[1:]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_name_themselves(path):
    assert load_config(path).name == path.stem


def test_all_problems_are_reported_at_once_with_path_got_and_wanted():
    found = problems("""
name: a
seed: '3'
data: {on_missin: synthetic, partition: {scheme: dirichle, alpha: 1e-3}}
federation: {rounds: 2.5, num_clients: true}
deployment: {max_accuracy_drop: 0.01, thresholds: [0.5]}
""")
    assert found == [
        "  seed: got the text '3'; wanted a whole number; YAML reads 3 as text: write it 3 without quotes",
        "  data.partition.alpha: got the text '1e-3'; wanted a number; YAML reads 1e-3 as text: write it 1.0e-3",
        "  data.on_missin: got an unknown key with the text 'synthetic'; did you mean data.on_missing?",
        "  federation.rounds: got 2.5; wanted a whole number",
        "  federation.num_clients: got true; wanted a whole number",
        "  data.partition.scheme: got the text 'dirichle'; wanted 'iid', 'dirichlet', 'pathological', 'shard', 'natural' or MODULE:FUNCTION; did you mean 'dirichlet'?",
        "  deployment: got max_accuracy_drop and thresholds; wanted exactly one of max_accuracy_drop, target_offload_rate, latency_budget_ms, energy_budget_mj, bytes_budget, certificate and thresholds (set the others to null)",
        "  deployment.thresholds: got 1 thresholds; wanted 2: one for each tier but the last, which always answers",
    ]


def test_an_unknown_key_is_looked_for_in_other_sections_too():
    assert problems(SMALL, "num_client=3") == [
        "  num_client: got an unknown key with 3; did you mean federation.num_clients?"
    ]


def test_duplicate_keys_are_named_with_their_lines():
    assert problems(
        "name: a\nfederation:\n  rounds: 2\n  rounds: 3\ndeployment: {max_accuracy_drop: 0.1}"
    ) == ["  federation.rounds: got twice, in lines 3 and 4; keep one of them"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "federation.client_depth=4",
            "federation.client_depth: got 4; the network has 3 segments; wanted 1 to 3",
        ),
        (
            "model.exit_weights=[1, 1]",
            "model.exit_weights: got 2 weights; wanted one for each of the 3 exits",
        ),
        (
            "data.fit_fraction=0.9",
            "data.fit_fraction: got 0.9 beside data.calibration_fraction 0.2; their sum must stay below 1",
        ),
        (
            "data.partition.alpha=0.3",
            "data.partition.alpha: got 0.3; has no effect with the scheme 'iid'",
        ),
        (
            "deployment.thresholds=[.inf, 1]",
            "deployment.thresholds.0: got inf; wanted a finite number",
        ),
        (
            "data.image_size=8",
            "data.image_size: got 8; the backbone 'small_resnet' wants images of at least 16 pixels",
        ),
        ("name=2024-13-45", "--set name: got '2024-13-45'; wanted a YAML value"),
        ("name=a b", "name: got the text 'a b'; wanted letters, digits"),
        ("deployment.max_accuracy_drop=null", "deployment: got no target; wanted exactly one"),
    ],
)
def test_impossible_combinations_are_refused(override, expected):
    assert any(line.strip().startswith(expected) for line in problems(SMALL, override))


def test_overrides_reach_any_key_and_read_numbers_as_numbers():
    config = parse_config(
        SMALL,
        overrides=[
            "federation.client.learning_rate=1e-3",
            "tiers.0.name=phone",
            "deployment.max_accuracy_drop=null",
            "deployment.thresholds=[0.5, 2.0]",
        ],
    )
    assert config.federation.client.learning_rate == 0.001
    assert [tier.name for tier in config.tiers] == ["phone", "edge", "cloud"]
    assert config.deployment.thresholds == [0.5, 2.0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "federation.rounds",
            "--set federation.rounds: got no '='; wanted section.key=value, such as federation.rounds=3",
        ),
        ("tiers.7.name=x", "tiers.7.name: got index '7'; tiers has entries 0 to 2"),
        ("seed.x=1", "seed.x: got a path through a single value; seed is no group of keys"),
    ],
)
def test_overrides_that_lead_nowhere_are_named(override, expected):
    text = SMALL + "tiers: [{name: device}, {name: edge}, {name: cloud}]\n"
    assert f"  {expected}" in problems(text, override)


def test_a_quoted_number_stays_text_and_partial_sections_keep_their_other_defaults():
    assert parse_config(SMALL, overrides=['name="2024"']).name == "2024"
    assert (
        parse_config(
            "name: a\ndeployment: {max_accuracy_drop: 0.1}\nfederation: {server: {learning_rate: 0.1}}"
        ).federation.server.batch_size
        == 128
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list",
        "just text",
        "a: [1",
        "a: b: c",
        "name: 2024-13-45",
        "data: &a {partition: *a}",
    ],
)
def test_what_is_no_configuration_is_refused_in_one_message(text):
    with pytest.raises(ConfigError):
        parse_config(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none.yaml")


def test_a_resolved_configuration_reads_back_as_itself():
    config = parse_config(SMALL)
    assert parse_config(yaml.safe_dump(config.model_dump(mode="json"))) == config
    assert Config.model_validate_json(config.model_dump_json()) == config


REFUSED = "1 problem in the configuration\n  federation.client_depth: got 9; the network has 3 segments; wanted 1 to 3"
TOO_DEEP = {
    "name": "a",
    "federation": {"client_depth": 9},
    "deployment": {"max_accuracy_drop": 0.1},
}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Config(**TOO_DEEP),
        lambda: Config.model_validate(TOO_DEEP),
        lambda: Config.model_validate_json(json.dumps(TOO_DEEP)),
        lambda: parse_config(SMALL).with_changes({"federation.client_depth": 9}),
        lambda: parse_config(SMALL).model_copy(
            update={"federation": FederationConfig(client_depth=9)}
        ),
        lambda: parse_config(SMALL).model_copy(update={"federation": {"client_depth": 9}}),
    ],
)
def test_python_is_refused_what_the_command_line_is(make):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == REFUSED


def test_python_gets_problems_of_keys_and_combinations_at_once():
    with pytest.raises(ConfigError) as caught:
        Config(
            federation={"rounds": 2.5, "fleet": [{"share": 0.5}]},
            model={"exit_weights": [1.0]},
            deployment={"max_accuracy_drop": 0.1},
        )
    assert str(caught.value).splitlines() == [
        "4 problems in the configuration",
        "  name: got nothing; wanted this key: it has no default",
        "  federation.rounds: got 2.5; wanted a whole number",
        "  federation.fleet.0.name: got nothing; wanted this key: it has no default",
        "  model.exit_weights: got 1 weights; wanted one for each of the 3 exits",
    ]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: FederationConfig(rounds=2.5), "rounds: got 2.5; wanted a whole number"),
        (
            lambda: FederationConfig().model_copy(update={"round": 3}),
            "round: got an unknown key with 3; did you mean rounds?",
        ),
        (
            lambda: FederationConfig(fleet=({"name": "a", "share": 1.0},)),
            "fleet: got a tuple of 1; wanted a list",
        ),
    ],
)
def test_a_section_by_itself_is_refused_in_the_same_words(make, expected):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == f"1 problem in the configuration\n  {expected}"


def test_changes_reach_any_key_and_leave_the_old_configuration_alone():
    config = parse_config(SMALL)
    changed = config.with_changes(
        {
            "federation.rounds": 7,
            "tiers.0.name": "phone",
            "deployment.thresholds": [0.5, 0.5],
            "federation.server": ServerOptimizerConfig(batch_size=8),
        }
    )
    assert changed.federation.rounds == 7
    assert [tier.name for tier in changed.tiers] == ["phone", "edge", "cloud"]
    assert changed.deployment.targets == ["thresholds"]
    assert changed.federation.server.batch_size == 8
    assert changed.federation.client == config.federation.client
    assert config == parse_config(SMALL)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"federation.fleet.0.depth": 1}, "fleet"),
        ({"seed.x": 1}, "seed.x: got a path through a single value; seed is no group of keys"),
        ({"callbacks.0.use": "a:b"}, "callbacks.0.use: got index '0'; callbacks has no entries"),
    ],
)
def test_changes_that_lead_nowhere_are_refused(changes, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_config(SMALL).with_changes(changes)


def test_a_configuration_that_the_server_checked_is_taken_as_it_is():
    unchecked = parse_config(SMALL).unchecked_copy({"federation": FederationConfig(client_depth=9)})
    assert read_wire(wire_json(unchecked)) == unchecked


def test_every_key_is_described_in_the_schema():
    def undescribed(properties, where):
        return [
            f"{where}{name}"
            for name, entry in properties.items()
            if not entry.get("description") and "$ref" not in entry
        ]

    schema = Config.model_json_schema()
    sections = [("", schema), *((f"{name}.", section) for name, section in schema["$defs"].items())]
    assert [
        key for where, section in sections for key in undescribed(section["properties"], where)
    ] == []
    json.dumps(schema)


def test_the_catalogue_agrees_with_the_networks():
    from tardis_fl.early_exit.backbones import BUILDERS, build_network

    assert CATALOGUE.keys() == BUILDERS.keys()
    for name, info in CATALOGUE.items():
        assert (
            len(build_network(name, num_classes=10, width=4, exit_hidden=4, seed=0))
            == info.num_segments
        )


@given(
    st.sampled_from([path for path in key_paths(Config) if path not in ("name",)]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(max_size=5),
        st.integers(-3, 3),
        st.lists(st.integers(), max_size=2),
    ),
)
def test_no_value_of_any_key_gets_past_without_a_message_or_a_configuration(path, value):
    try:
        parse_config(
            SMALL + "tiers: [{name: device}, {name: edge}, {name: cloud}]\n",
            overrides=[f"{path}={json.dumps(value)}"],
        )
    except ConfigError as error:
        assert "got" in str(error)


FLEET = "federation.fleet=[{name: a, share: 0.5, depth: 1, device: rpi-4b}, {name: b, share: 0.5, depth: 3}]"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["federation.fleet=[{name: a, share: 0.5}, {name: b, share: 0.4}]"],
            "federation.fleet: got shares of 0.5 + 0.4 = 0.9; the groups' shares must add up to 1",
        ),
        (
            [FLEET, "federation.fleet.1.depth=4"],
            "federation.fleet.1.depth: got 4; the network has 3 segments; wanted 1 to 3",
        ),
        (
            [FLEET, "federation.fleet.1.name=a"],
            "federation.fleet: got a, a; every group wants a name of its own",
        ),
        (
            [FLEET, "federation.client_depth=2"],
            "federation.client_depth: got 2; beside federation.fleet, each group has a depth of its own; remove it",
        ),
        (
            ["federation.fleet=[{name: a, share: 0.99}, {name: b, share: 0.01}]"],
            "federation.fleet.1.share: got 0.01; that is no client of 3; wanted larger groups or more clients",
        ),
        ([FLEET, "federation.fleet.0.device=rpi4b"], "did you mean 'rpi-4b'?"),
        (
            ["federation.server_training=none"],
            "federation.server_training: got none; nobody would train segments 2 to 3; wanted features or proxy, or federation.client_depth: 3",
        ),
        (
            ["federation.server_training=proxy", "federation.proxy_fraction=1.5"],
            "federation.proxy_fraction: got 1.5; the server can't keep as many images as the training set has, or more; wanted less than 1",
        ),
        (
            ["federation.server_training=proxy"],
            "federation.proxy_fraction: got null; server_training proxy wants a share of the training images for the server",
        ),
        (
            ["federation.split=true", "federation.client_depth=3"],
            "federation.split: got true; there is no deeper segment for the server to train",
        ),
        (
            [
                "federation.split=true",
                "federation.server_training=proxy",
                "federation.proxy_fraction=0.1",
            ],
            "federation.split: got true beside server_training proxy; split training is on features",
        ),
        (
            ["federation.aggregation.rule=norm_clipping"],
            "federation.aggregation.clip_norm: got null; the rule norm_clipping wants the largest norm of an update",
        ),
        (
            [
                FLEET,
                "federation.deadline_s=1.0",
                "federation.late_updates=discount",
                "federation.aggregation.rule=median",
            ],
            "federation.late_updates: got discount; the rule median weighs all updates alike, so none can be discounted",
        ),
        (
            ["federation.deadline_s=1.0"],
            "federation.deadline_s: got 1; the virtual clock stands still: give a group of federation.fleet a device or a link",
        ),
        (
            ["federation.late_updates=discount"],
            "federation.late_updates: got discount; without federation.deadline_s nothing is late",
        ),
        (
            ["federation.faults=[{kind: crash, clients: [1, 3]}]"],
            "federation.faults.0.clients: got 3; there is no such client; wanted 0 to 2",
        ),
        (
            ["federation.faults=[{kind: crash, rounds: [2, 1]}]"],
            "federation.faults.0.rounds: got [2, 1]; wanted the first round, then the last",
        ),
        (
            ["federation.faults=[{kind: crash, factor: 2.0}]"],
            "federation.faults.0.factor: got 2; a crash has none; remove it",
        ),
        (
            ["federation.faults=[{kind: straggler}]"],
            "federation.faults.0.kind: got straggler; computing takes no time on the virtual clock",
        ),
        (["federation.faults=[{kind: crashed}]"], "did you mean 'crash'?"),
        (
            ["federation.faults=[{kind: crash, probabilty: 0.5}]"],
            "federation.faults.0.probabilty: got an unknown key with 0.5; did you mean federation.faults.0.probability?",
        ),
    ],
)
def test_what_can_not_work_in_a_federation_is_one_message(overrides, expected):
    assert any(expected in line for line in problems(SMALL, *overrides)), problems(
        SMALL, *overrides
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["federation.split=true", "federation.server_epochs=2"],
            "federation.server_epochs had no effect, since split is true",
        ),
        (
            [
                "federation.server_training=proxy",
                "federation.proxy_fraction=0.1",
                "federation.feature_fraction=0.5",
            ],
            "federation.feature_fraction had no effect, since server_training is proxy",
        ),
        (
            ["federation.proxy_fraction=0.1"],
            "federation.proxy_fraction had no effect, since server_training is features",
        ),
        (
            [FLEET, "federation.server_epochs=2"],
            "the server trains no segment, so federation.server_epochs",
        ),
        (
            ["federation.client_exits=last"],
            "federation.client_exits had no effect, since clients hold one exit",
        ),
        (
            ["federation.aggregation.tau=0.1"],
            "federation.aggregation.tau had no effect with the rule mean and the optimizer fedavg",
        ),
        (
            ["federation.client.decay=0.5"],
            "federation.client.decay had no effect with the schedule cosine",
        ),
        (
            ["federation.late_discount=0.9"],
            "federation.late_discount had no effect, since late_updates is discard",
        ),
        (
            ["model.exit_weights=[1, 1, 1]", "model.exit_weighting=early_heavy"],
            "model.exit_weighting had no effect, since model.exit_weights is set",
        ),
        (
            ["federation.serving_score=0.5"],
            "federation.serving_score had no effect, since model.exit_weighting isn't serving_rate",
        ),
        (
            ["federation.recalibrate_norm=true", "model.norm=group"],
            "federation.recalibrate_norm had no effect, since group norm has no running statistics",
        ),
        (
            ["tiers=[{name: a}, {name: b}]", "federation.distillation.teacher=mutual"],
            "federation.distillation had no effect, since neither clients nor the server hold two exits",
        ),
        (
            ["federation.faults=[{kind: crash, rounds: [5, 9]}]"],
            "federation.faults.0 (crash) never struck: it begins in round 5, and there were 2",
        ),
        (["model.norm=batch_local"], "calibrated, deployed and tested is their average"),
    ],
)
def test_settings_without_effect_are_said(overrides, expected):
    assert any(
        expected in line for line in warnings_about(parse_config(SMALL, overrides=overrides))
    )


def test_keys_of_groups_and_faults_have_paths():
    paths = set(key_paths(Config))
    assert {
        "federation.fleet.0.depth",
        "federation.faults.0.kind",
        "federation.aggregation.optimizer",
        "tiers.0.name",
    } <= paths


def test_names_of_plug_ins_may_be_references_and_have_options():
    config = parse_config(
        SMALL,
        overrides=[
            "model.backbone=my_package.networks:TinyNet",
            "model.options.channels=3",
            "callbacks=[{use: early_stop, options: {patience: 3}}]",
        ],
    )
    assert config.model.backbone == "my_package.networks:TinyNet"
    assert config.model.options == {"channels": 3}
    assert config.callbacks[0].options == {"patience": 3}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "federation.algorithm=fedavgg",
            "federation.algorithm: got the text 'fedavgg'; wanted 'fedavg' or MODULE:CLASS; did you mean 'fedavg'?",
        ),
        (
            "model.loss='my loss:f'",
            "model.loss: got the text 'my loss:f'; wanted 'cross_entropy' or MODULE:FUNCTION",
        ),
        ("model.options=[1]", "model.options: got a list of 1; wanted a group of keys"),
    ],
)
def test_names_and_options_of_another_form_are_refused(override, expected):
    assert problems(SMALL, override) == [f"  {expected}"]


def test_the_json_schema_lists_registered_names_beside_the_form_of_others():
    names, form = Config.model_json_schema()["$defs"]["PartitionConfig"]["properties"]["scheme"][
        "anyOf"
    ]
    assert "dirichlet" in names["enum"]
    assert re.search(form["pattern"], "my_package.deal:quantity")
