"""Plug-ins in a configuration: names, references, options, modules, and what travels of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tardis_fl.config import Config, parse_config
from tardis_fl.config.checks.plugins import problems_on_node
from tardis_fl.config.wire import wire_json
from tardis_fl.data.partitioners import PARTITIONERS
from tardis_fl.early_exit.training.registry import LOSSES
from tardis_fl.errors import ConfigError
from tests.conftest import ROOT, SMALL, small_config

HERE = "tests.config.test_plugins"


def halves(labels, num_clients, rng, *, first_share: float = 0.5):
    """Something that looks like a partitioner to a configuration."""


class Rule:
    def __init__(self, *, power: int) -> None:
        """Something that looks like an aggregation rule to a configuration."""


NUMBER = 3


@pytest.fixture
def forgets_names(monkeypatch):
    """Lets registries forget what a test registers."""
    for registry in (PARTITIONERS, LOSSES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        small_config(*overrides)
    return str(caught.value).splitlines()[1:]


def test_plug_ins_with_right_options_are_accepted():
    config = small_config(
        f"data.partition={{scheme: '{HERE}:halves', options: {{first_share: 1}}}}",
        f"federation.aggregation={{rule: '{HERE}:Rule', options: {{power: 2}}}}",
        f"plugins=[{HERE}]",
    )
    assert config.data.partition.options == {"first_share": 1}
    assert config.plugins == [HERE]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["data.partition.scheme=irid"],
            "  data.partition.scheme: got the text 'irid'; wanted 'iid', 'dirichlet', 'pathological', 'shard', 'natural' or MODULE:FUNCTION; did you mean 'iid'?",
        ),
        (
            ["federation.aggregation.rule=medain"],
            "  federation.aggregation.rule: got the text 'medain'; wanted 'mean', 'trimmed_mean', 'median', 'norm_clipping' or MODULE:CLASS; did you mean 'median'?",
        ),
        (
            ["data.partition.scheme=3"],
            "  data.partition.scheme: got 3; wanted text",
        ),
        (
            [f"data.partition.scheme='{HERE}:nothing'"],
            f"  data.partition.scheme: got '{HERE}:nothing'; wanted MODULE:FUNCTION (module '{HERE}' has no attribute 'nothing')",
        ),
        (
            [f"data.partition.scheme='{HERE}:NUMBER'"],
            f"  data.partition.scheme: got '{HERE}:NUMBER', which is an int and can't be called; wanted MODULE:FUNCTION: a function of (labels, num_clients, rng) that returns the indices of each client",
        ),
        (
            [f"data.partition.scheme='{HERE}:problems_on_node'"],
            f"  data.partition.scheme: got '{HERE}:problems_on_node', which takes other arguments; wanted a function of (labels, num_clients, rng) that returns the indices of each client",
        ),
        (
            [
                f"data.partition.scheme='{HERE}:halves'",
                "data.partition.options={first_share: x}",
            ],
            "  data.partition.options.first_share: got the text 'x'; wanted a number",
        ),
        (
            [
                f"data.partition.scheme='{HERE}:halves'",
                "data.partition.options={first_shar: 1}",
            ],
            "  data.partition.options.first_shar: got an unknown option with 1; did you mean 'first_share'?",
        ),
        (
            [f"federation.aggregation.rule='{HERE}:Rule'"],
            f"  federation.aggregation.options.power: got nothing; '{HERE}:Rule' wants this option: it has no default",
        ),
        (
            ["data.partition={scheme: dirichlet, options: {alpha: 1}}"],
            "  data.partition.options: got options; the scheme 'dirichlet' takes data.partition.alpha and data.partition.min_samples; remove them",
        ),
        (
            ["data.partition={scheme: iid, options: {alpha: 1}}"],
            "  data.partition.options.alpha: got an unknown option with 1; 'iid' has no options; remove it",
        ),
        (
            ["federation.aggregation={rule: trimmed_mean, options: {trim_fraction: 0.2}}"],
            "  federation.aggregation.options: got options; the rule 'trimmed_mean' takes federation.aggregation.trim_fraction; remove them",
        ),
        (
            [f"data.partition={{scheme: '{HERE}:halves', alpha: 0.5}}"],
            f"  data.partition.alpha: got 0.5; has no effect with the scheme '{HERE}:halves'; remove it or set data.partition.scheme: dirichlet",
        ),
        (
            ["plugins=[no.such.module]"],
            f"  plugins.0: got 'no.such.module'; wanted a module that is installed, or lies in {Path.cwd()} (No module named 'no')",
        ),
        (["plugins=some.module"], "  plugins: got the text 'some.module'; wanted a list"),
    ],
)
def test_what_is_wrong_with_a_plug_in_is_one_message(overrides, expected):
    assert problems(*overrides) == [expected]


def test_a_misspelt_scheme_hides_what_rests_on_it():
    (only,) = problems("data.partition={scheme: dirichle, alpha: 0.5}")
    assert only.endswith("did you mean 'dirichlet'?")


def test_a_plug_in_that_fails_hides_the_names_that_it_would_have_registered():
    (only,) = problems("plugins=[no.such.module]", "data.partition.scheme=a_name_of_its_own")
    assert only.startswith("  plugins.0: got 'no.such.module'; ")


def test_a_registered_name_of_a_listed_module_is_known(tmp_path, monkeypatch, forgets_names):
    monkeypatch.chdir(tmp_path)
    Path("names_of_a_config_test.py").write_text(
        "from tardis_fl.data.partitioners import PARTITIONERS\n"
        "@PARTITIONERS.register('first_come')\n"
        "def first_come(labels, num_clients, rng): ...\n"
    )
    config = parse_config(
        SMALL + "plugins: [names_of_a_config_test]\n",
        overrides=["data.partition.scheme=first_come"],
    )
    assert config.data.partition.scheme == "first_come"


def test_a_new_process_reads_a_request_with_registered_names(tmp_path, monkeypatch, forgets_names):
    """As a node of Flower's deployment engine does, which has a process for each message."""
    monkeypatch.chdir(tmp_path)
    Path("names_of_a_request_test.py").write_text(
        "from tardis_fl.early_exit.training.registry import LOSSES\n"
        "LOSSES.register('own_loss', 'torch.nn.functional:cross_entropy')\n"
    )
    config = parse_config(
        SMALL + "plugins: [names_of_a_request_test]\n", overrides=["model.loss=own_loss"]
    )
    code = "import sys; from tardis_fl.config.wire import read_wire; print(read_wire(sys.argv[1]).model.loss)"
    done = subprocess.run(
        [sys.executable, "-c", code, wire_json(config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "own_loss\n"


def test_requests_of_configurations_without_plug_ins_are_as_long_as_ever():
    config = small_config()
    sent = json.loads(wire_json(config))
    whole = json.loads(config.model_dump_json())
    assert "plugins" not in sent
    assert "options" not in sent["data"]["partition"]
    assert whole.pop("plugins") == []
    assert whole.pop("callbacks") == []
    assert whole["data"].pop("options") == {}
    assert whole["data"]["partition"].pop("options") == {}
    assert whole["model"].pop("options") == {}
    assert whole["model"].pop("loss") == "cross_entropy"
    assert whole["model"].pop("loss_options") == {}
    assert whole["federation"].pop("algorithm") == "fedavg"
    assert whole["federation"].pop("algorithm_options") == {}
    assert whole["federation"]["aggregation"].pop("options") == {}
    assert whole["deployment"].pop("policy_options") == {}
    assert sent.keys() == whole.keys()
    assert sent["data"]["partition"] == whole["data"]["partition"]
    assert Config.model_validate_json(wire_json(config)) == config


def test_plug_ins_travel_with_requests():
    config = small_config(
        f"data.partition={{scheme: '{HERE}:halves', options: {{first_share: 0.25}}}}",
        f"plugins=[{HERE}]",
    )
    again = Config.model_validate_json(wire_json(config))
    assert again == config
    assert json.loads(wire_json(config))["plugins"] == [HERE]


def test_a_node_tells_what_it_lacks_of_what_clients_call():
    config = Config.model_validate_json(small_config().model_dump_json())
    assert problems_on_node(config) == []
    partition = config.data.partition.model_copy(update={"scheme": "no_such_module:deal"})
    data = config.data.model_copy(update={"partition": partition})
    elsewhere = config.unchecked_copy({"data": data, "plugins": ["not.there"]})
    assert problems_on_node(elsewhere) == [
        "lacks the plug-in not.there: No module named 'not'; install it there",
        "lacks the plug-in no_such_module:deal: No module named 'no_such_module'; install it there",
    ]
    partition = partition.model_copy(update={"scheme": "registered_elsewhere"})
    data = config.data.model_copy(update={"partition": partition})
    assert problems_on_node(config.unchecked_copy({"data": data})) == [
        "lacks the plug-in with the partitioner 'registered_elsewhere'; install it there"
    ]


def test_a_node_needs_no_plug_in_that_only_the_server_calls():
    config = small_config()
    aggregation = config.federation.aggregation.model_copy(update={"rule": "no_such_module:Rule"})
    federation = config.federation.model_copy(update={"aggregation": aggregation})
    assert problems_on_node(config.unchecked_copy({"federation": federation})) == []


def test_the_schema_lists_the_registered_names():
    schema = Config.model_json_schema()["$defs"]
    scheme = schema["PartitionConfig"]["properties"]["scheme"]
    assert scheme["type"] == "string"
    assert scheme["default"] == "dirichlet"
    assert scheme["anyOf"][0]["enum"] == ["iid", "dirichlet", "pathological", "shard", "natural"]
    rule = schema["AggregationConfig"]["properties"]["rule"]
    assert rule["anyOf"][0]["enum"] == ["mean", "trimmed_mean", "median", "norm_clipping"]
