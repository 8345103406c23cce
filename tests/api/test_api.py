"""The Python API: what it takes, what it refuses, and what its objects show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tardis_fl
from tardis_fl.api.results import unique_names
from tardis_fl.config import Config
from tests.conftest import ROOT, SMALL, small_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished small run."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    return tardis_fl.run(small_config(), folder, progress=False)


def test_importing_the_package_imports_no_torch_and_no_pydantic():
    code = "import sys, tardis_fl; print([m for m in ('torch', 'pydantic', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_reading_a_configuration_imports_no_torch():
    code = (
        "import sys, tardis_fl; tardis_fl.load_config('quickstart'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", tardis_fl.__all__)
def test_every_public_name_can_be_imported_and_says_what_it_is(name):
    assert name in dir(tardis_fl)
    assert getattr(tardis_fl, name).__doc__


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tardis_fl' has no attribute 'simulator'"):
        tardis_fl.simulator  # noqa: B018


def test_a_configuration_may_be_a_path_a_name_a_text_a_dict_or_a_config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    expected = small_config()
    for source in (path, str(path), SMALL, yaml.safe_load(SMALL), expected):
        assert tardis_fl.load_config(source) == expected
    assert tardis_fl.load_config("quickstart").name == "quickstart"
    flow = "{name: flow, deployment: {max_accuracy_drop: 0.1}}"
    assert tardis_fl.load_config(flow).name == "flow"


@pytest.mark.parametrize(
    "changes", [{"seed": 9, "data.augment": False}, ["seed=9", "data.augment=false"]]
)
@pytest.mark.parametrize("source", [SMALL, small_config()], ids=["text", "Config"])
def test_changes_are_a_dict_or_texts(source, changes):
    config = tardis_fl.load_config(source, changes)
    assert (config.seed, config.data.augment) == (9, False)
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (1e-05, "federation.client.learning_rate"),
        (None, "data.max_train_samples"),
        ([0.3, 0.4], "deployment.thresholds"),
        ("A-1", "name"),
    ],
)
def test_a_value_arrives_as_it_was_given(value, key):
    found = tardis_fl.load_config(SMALL, {key: value})
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_text_that_looks_like_a_number_stays_a_text():
    with pytest.raises(
        tardis_fl.ConfigError, match=r"seed: got the text '7'; wanted a whole number"
    ):
        tardis_fl.load_config(SMALL, {"seed": "7"})


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (
            SMALL,
            {"federation.client_depth": 9},
            r"federation.client_depth: got 9; the network has 3 segments; wanted",
        ),
        ({"name": "x", "federation": {"rouns": 1}}, {}, r"did you mean federation.rounds\?"),
        (3, {}, "configuration: got int; wanted a Config, a path, YAML text or a dict"),
        ({"name": "x", "seed": object}, {}, "wanted numbers, texts, lists and dicts"),
        (SMALL, {"seed": {1, 2}.union}, "seed: got builtin_function_or_method"),
        (SMALL, "seed=3", r"changes: got the text 'seed=3'; wanted a dict such as"),
        ("quickstrat", {}, "quickstrat: there is no such file; .* shipped: .*quickstart"),
    ],
)
def test_what_the_command_line_refuses_is_refused_with_its_message(source, changes, message):
    with pytest.raises(tardis_fl.ConfigError, match=message):
        tardis_fl.load_config(source, changes)


def test_run_refuses_a_folder_with_another_run_and_resume_returns_a_finished_one(run):
    with pytest.raises(tardis_fl.ConfigError, match="holds another run"):
        tardis_fl.run(small_config(), run.folder, progress=False)
    again = tardis_fl.run(small_config(), run.folder, resume=True, progress=False)
    assert again.report == run.report


def test_without_progress_nothing_is_printed(tmp_path, capsys):
    config = small_config("federation.rounds=1", "federation.final_server_epochs=0")
    tardis_fl.run(config, tmp_path / "run", progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_run_gives_its_records_tables_and_network(run):
    assert [record.round for record in run.rounds()] == [1, 2]
    assert len(run.final_epochs()) == 1
    table = run.exit_table()
    assert table.logits.shape == (3, 90, 10)
    assert table.accuracies() == [row.accuracy for row in run.report.exits]
    assert len(run.exit_table("calibrate")) == run.report.dataset.num_calibration
    assert len(run.bundle().network) == 3
    assert run.config == small_config()
    with pytest.raises(ValueError, match="role: got 'train'; this run has"):
        run.exit_table("train")


def test_a_damaged_line_of_the_records_is_a_data_error(run, tmp_path):
    import shutil

    copied = tmp_path / "copy"
    shutil.copytree(run.folder, copied)
    (copied / "rounds.jsonl").write_text("{}\n")
    with pytest.raises(tardis_fl.DataError, match=r"rounds.jsonl: can't be read"):
        tardis_fl.open_run(copied).rounds()


def test_a_run_shows_itself_as_a_line_a_table_and_html(run):
    accuracy = f"{100 * run.report.operating_point.accuracy:.1f} %"
    assert repr(run).startswith(f"Run('small': accuracy {accuracy}")
    assert "\n" not in repr(run)
    text, html = str(run), run._repr_html_()
    for part in ("exit cloud", "operating point (max_softmax)", "oracle", accuracy, "folder: "):
        assert part in text
        assert part in html
    rows = [line for line in text.splitlines() if line.startswith("   ")]
    assert html.count("<tr>") == len(rows)


def test_html_of_a_run_escapes_what_users_name(run):
    from dataclasses import replace

    report = replace(run.report, name="<script>")
    assert "<script>" not in replace(run, report=report)._repr_html_()


@pytest.mark.draws
@pytest.mark.parametrize(
    "what", ["rounds", "frontier", "thresholds", "tiers", "classes", "clients"]
)
def test_every_plot_of_a_run_can_be_drawn(run, what):
    figure = run.plot(what)
    assert figure.axes[0].has_data()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_an_unknown_plot_is_refused(run):
    with pytest.raises(ValueError, match="plot: got 'loss'; wanted one of rounds, frontier"):
        run.plot("loss")


def test_deploy_changes_the_deployment_and_leaves_the_run(run):
    deployment = tardis_fl.deploy(run, {"deployment.policy": "margin"}, name="margin")
    assert deployment.report.operating_point.policy == "margin"
    assert deployment.config.deployment.policy == "margin"
    assert deployment.folder == run.folder / "deployments" / "margin"
    assert repr(deployment).startswith("Deployment('margin': accuracy")
    assert "operating point (margin)" in str(deployment)
    assert "<table>" in deployment._repr_html_()
    assert deployment.plot().axes
    assert tardis_fl.open_run(run.folder).report == run.report


def test_deploy_refuses_what_the_command_line_refuses(run):
    with pytest.raises(tardis_fl.ConfigError, match="changes the section deployment only"):
        tardis_fl.deploy(run, {"federation.rounds": 9})


def test_frontier_gives_the_points_of_one_axis(run):
    found = tardis_fl.frontier(run.folder, axis="bytes")
    assert found.points.axis == "bytes"
    assert repr(found).startswith(f"FrontierResult(bytes: {len(found.points.points)} points")
    assert "threshold device" in str(found)
    assert "<table>" in found._repr_html_()
    assert found.plot().axes
    with pytest.raises(tardis_fl.ConfigError, match="--axis: got 'time'"):
        tardis_fl.frontier(run, axis="time")


def test_compare_puts_runs_and_deployments_side_by_side(run):
    deployment = tardis_fl.deploy(run, {"deployment.max_accuracy_drop": 0.2}, name="loose")
    found = tardis_fl.compare([run, deployment, run.folder / "deployments" / "loose"])
    assert found.names == ("small", "small/loose", "small/loose")
    first, second, third = found.rows()
    assert first["accuracy"] == run.report.operating_point.accuracy
    assert second["offload_rate"] == deployment.report.operating_point.offload_rate
    assert second["accuracy_edge"] == third["accuracy_edge"] == run.report.exits[1].accuracy
    assert "small" in str(found)
    assert found._repr_html_().count("<tr>") == 4
    assert found.plot("bytes_per_sample").axes
    with pytest.raises(ValueError, match="cost: got 'time'; wanted one of offload_rate"):
        found.plot("time")


@pytest.mark.parametrize("runs", [[], "runs/one"])
def test_compare_wants_a_list(runs):
    with pytest.raises(tardis_fl.ConfigError, match="wanted a list of runs"):
        tardis_fl.compare(runs)


def test_open_run_refuses_a_folder_without_a_finished_run(tmp_path):
    with pytest.raises(tardis_fl.ConfigError, match="holds no finished run"):
        tardis_fl.open_run(tmp_path)


def test_names_are_the_shortest_ends_that_tell_folders_apart():
    folders = ["runs/a/run", "runs/b/run", "runs/c", "runs/c/deployments/1", "c"]
    names = unique_names([Path(folder) for folder in folders])
    assert names == ("a/run", "b/run", "runs/c", "c/1", "c")
