"""Sweeps: which runs there are, what is run again, what failures do, and the figures at the end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tardis_fl.cli import app
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.report.results import Report
from tardis_fl.workflows.sweep import runs
from tardis_fl.workflows.sweep.grid import plan_sweep, read_axis
from tardis_fl.workflows.sweep.intervals import Estimate, t_quantile
from tests.conftest import SMALL

AXES = ["--set", "federation.rounds=1,2", "--set", "federation.final_server_epochs=1"]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file


def sweep(path, folder, *arguments):
    return CliRunner().invoke(app, ["sweep", str(path), "--output", str(folder), *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two points and two seeds, with what its screen showed."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "small.yaml").write_text(SMALL)
    done = sweep(folder / "small.yaml", folder / "out", "--seeds", "2", *AXES)
    assert done.exit_code == 0, done.output
    return folder, done.output


@pytest.fixture
def report(finished):
    return Report.read(finished[0] / "out" / "rounds_1" / "seed_3" / "report.json")


@pytest.fixture
def calls(monkeypatch, report):
    """Replaces the main job by one that notes what it was asked for and returns a report at once."""
    noted = []

    def instead(config, folder, screen, *, resume=False):
        noted.append((folder.parent.name, config.seed, resume))
        return report

    monkeypatch.setattr(runs, "simulate", instead)
    return noted


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("data.partition.alpha=0.1,1.0", ("0.1", "1.0")),
        ("model.exit_weights=[1,1,1],[3,1,1]", ("[1,1,1]", "[3,1,1]")),
        ("model.exit_weights=[1,1,1]", ("[1,1,1]",)),
        ("federation.rounds = 3", ("3",)),
        ("deployment.thresholds=null, [0.5, 0.5]", ("null", "[0.5, 0.5]")),
        ("federation.client.learning_rate=1e-3,0.1", ("1e-3", "0.1")),
        (
            "tiers=[{name: a}, {name: b}],[{name: c}, {name: d}]",
            ("[{name: a}, {name: b}]", "[{name: c}, {name: d}]"),
        ),
    ],
)
def test_values_are_the_entries_of_a_yaml_list(option, values):
    assert read_axis(option).values == values


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "federation.rounds",
            "--set federation.rounds: got no '='; wanted KEY=V1,V2,..., such as data.partition.alpha=0.1,1.0",
        ),
        (
            "federation.rounds=1,,2",
            "--set federation.rounds: got '1,,2'; wanted YAML values with commas between, such as 0.1,1.0 or [1,1,1],[3,1,1]",
        ),
        ("federation.rounds=1]", "--set federation.rounds: got '1]'; wanted YAML values"),
        (
            "federation.rounds=",
            "--set federation.rounds: got no value; wanted one or more, such as federation.rounds=V1,V2 (null is a value)",
        ),
        (
            "seed=1,2",
            "--set seed: got 2 values; a sweep repeats every point over seeds; wanted --seeds N, and at most one value here",
        ),
        ("name=a,b", "--set name: got 2 values; a name changes nothing in a run"),
    ],
)
def test_an_option_that_cant_be_read_says_why(option, message):
    with pytest.raises(ConfigError) as error:
        read_axis(option)
    assert str(error.value).startswith(message)


def test_the_grid_has_every_combination_with_seeds_that_follow_the_configurations(path):
    options = [
        "data.partition.scheme=dirichlet",
        "data.partition.alpha=1e-1,1",
        "model.exit_weights=[1,1,1],[3,1,1]",
        "federation.rounds=5",
    ]
    grid = plan_sweep(path, options, num_seeds=3)
    assert grid.seeds == (3, 4, 5)
    assert grid.fixed == {"data.partition.scheme": "dirichlet", "federation.rounds": 5}
    assert [point.name for point in grid.points] == [
        "alpha_0.1-exit_weights_1-1-1",
        "alpha_0.1-exit_weights_3-1-1",
        "alpha_1-exit_weights_1-1-1",
        "alpha_1-exit_weights_3-1-1",
    ]
    assert grid.points[1].settings == {
        "data.partition.alpha": 0.1,
        "model.exit_weights": [3.0, 1.0, 1.0],
    }
    config = grid.points[1].configs[2]
    assert (
        config.data.partition.alpha,
        config.model.exit_weights,
        config.federation.rounds,
        config.seed,
    ) == (0.1, [3.0, 1.0, 1.0], 5, 5)


def test_a_single_point_is_called_base_and_seed_may_be_set_to_one_value(path):
    grid = plan_sweep(path, ["federation.rounds=1", "seed=20"], num_seeds=2)
    assert [(point.name, point.settings) for point in grid.points] == [("base", {})]
    assert grid.seeds == (20, 21)


def test_names_of_points_are_short_safe_and_different(path):
    grid = plan_sweep(
        path,
        ["federation.client.learning_rate=0.1,0.2", "federation.server.learning_rate=0.1,0.2"],
        num_seeds=1,
    )
    assert grid.points[1].name == "client.learning_rate_0.1-server.learning_rate_0.2"
    tiers = "tiers=[{name: a/b}, {name: b}, {name: c}],[{name: a b}, {name: b}, {name: c}],[{name: 'A B'}, {name: b}, {name: c}]"
    names = [point.name for point in plan_sweep(path, [tiers], num_seeds=1).points]
    assert len({name.casefold() for name in names}) == 3
    assert all(
        len(name) <= 50
        and set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        for name in names
    )


def test_every_configuration_is_checked_before_anything_trains(path, tmp_path):
    done = sweep(
        path,
        tmp_path / "out",
        "--set",
        "data.partition.scheme=dirichlet",
        "--set",
        "data.partition.alpha=-1,1,0",
    )
    assert done.exit_code == 2
    assert (
        f"error: point data.partition.alpha=-1: {path}: 1 problem in the configuration\n  data.partition.alpha: got -1; wanted greater than 0"
        in done.stderr
    )
    assert "point data.partition.alpha=0:" in done.stderr
    assert "alpha=1:" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_all_points_is_said_once(path, tmp_path):
    assert sweep(
        tmp_path / "none.yaml", tmp_path, "--set", "federation.rounds=1,2"
    ).stderr.startswith(f"error: {tmp_path}/none.yaml: there is no such file")
    done = sweep(path, tmp_path, "--set", "federation.rounds=1", "--set", "federation.rounds=2,3")
    assert (
        done.stderr
        == "error: --set federation.rounds: got it more than once; wanted all its values in one --set, with commas between\n"
    )


def test_two_points_of_the_same_configuration_are_refused(path):
    with pytest.raises(
        ConfigError,
        match=r"got the same configuration twice \(federation.rounds=2 and federation.rounds=2\); wanted different values",
    ):
        plan_sweep(path, ["federation.rounds=2,1,2"], num_seeds=1)


def test_the_summary_holds_what_the_runs_reported(finished):
    folder, screen = finished
    summary = json.loads((folder / "out" / "sweep.json").read_text())
    assert (summary["seeds"], summary["varied"], summary["fixed"]) == (
        [3, 4],
        ["federation.rounds"],
        {"federation.final_server_epochs": 1},
    )
    assert [(row["name"], row["settings"], row["num_runs"]) for row in summary["points"]] == [
        ("rounds_1", {"federation.rounds": 1}, 2),
        ("rounds_2", {"federation.rounds": 2}, 2),
    ]
    for row in summary["points"]:
        reports = [
            Report.read(folder / "out" / run["folder"] / "report.json") for run in row["runs"]
        ]
        assert row["accuracy"]["values"] == [report.operating_point.accuracy for report in reports]
        assert row["offload_rate"]["values"] == [
            report.operating_point.offload_rate for report in reports
        ]
        assert row["bytes_per_sample"]["mean"] == pytest.approx(
            mean(report.operating_point.bytes_per_sample for report in reports)
        )
        assert row["bytes_up"]["values"] == [
            sum(report.federation.bytes_up.values()) for report in reports
        ]
        for number, exit in enumerate(row["exit_accuracy"]):
            first, second = exit["values"]
            assert [first, second] == [report.exits[number].accuracy for report in reports]
            half = (
                12.706 * abs(first - second) / 2
            )  # n = 2: s = |a - b| / sqrt(2), divided by sqrt(2) again
            assert exit["interval"] == pytest.approx([exit["mean"] - half, exit["mean"] + half])
    assert (
        "2 seeds a point: too few to tell a difference from chance; wanted --seeds 3 or more"
        in summary["warnings"]
    )
    assert all(
        f"{position}/4  rounds_{rounds}  seed {seed}  accuracy" in screen
        for position, rounds, seed in [(1, 1, 3), (2, 2, 3), (3, 1, 4), (4, 2, 4)]
    )
    assert "round 1/1" not in screen
    assert "warning: 2 seeds a point" in screen


def test_the_table_in_markdown_has_a_row_a_point(finished):
    text = (finished[0] / "out" / "sweep.md").read_text()
    row = json.loads((finished[0] / "out" / "sweep.json").read_text())["points"][1]
    accuracy = row["accuracy"]
    half = accuracy["interval"][1] - accuracy["mean"]
    line = next(line for line in text.splitlines() if line.startswith("| 2 |"))
    assert f"| {100 * accuracy['mean']:.1f} ± {100 * half:.1f} % |" in line
    assert (
        "| rounds | n | device | edge | cloud | operating point | leaves the device | bytes a sample | sent up in training |"
        in text
    )
    assert "federation.final\\_server\\_epochs = 1." in text


def test_a_finished_run_is_not_run_again_and_more_seeds_add_only_theirs(finished, calls):
    folder = finished[0]
    before = (folder / "out" / "sweep.json").read_text()
    again = sweep(folder / "small.yaml", folder / "out", "--seeds", "2", *AXES)
    assert again.exit_code == 0
    assert calls == []
    assert again.output.count("was there") == 4
    assert (folder / "out" / "sweep.json").read_text() == before
    assert sweep(folder / "small.yaml", folder / "out", "--seeds", "3", *AXES).exit_code == 0
    assert calls == [("rounds_1", 5, False), ("rounds_2", 5, False)]


def test_a_run_of_another_configuration_is_refused_before_anything_trains(finished, calls):
    folder = finished[0]
    done = sweep(
        folder / "small.yaml",
        folder / "out",
        "--seeds",
        "3",
        *AXES,
        "--set",
        "federation.local_epochs=2",
    )
    assert done.exit_code == 2
    assert calls == []
    assert done.stderr == (
        f"error: {folder}/out/rounds_1/seed_3: holds a run of another configuration (federation.local_epochs: 1 there, 2 here). "
        "Choose another folder (--output DIR), or move it away.\n"
    )


def test_an_interrupted_run_is_resumed(path, tmp_path, calls):
    config = plan_sweep(path, ["federation.rounds=1,2"], num_seeds=1).points[1].configs[0]
    unfinished = tmp_path / "out" / "rounds_2" / "seed_3"
    unfinished.mkdir(parents=True)
    (unfinished / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (unfinished / "rounds.jsonl").write_text("{}\n")
    assert (
        sweep(path, tmp_path / "out", "--seeds", "1", "--set", "federation.rounds=1,2").exit_code
        == 0
    )
    assert calls == [("rounds_1", 3, False), ("rounds_2", 3, True)]


def test_a_failed_run_is_noted_and_the_sweep_goes_on(path, tmp_path):
    done = sweep(
        path,
        tmp_path / "out",
        "--seeds",
        "1",
        "--set",
        "data.partition.min_samples=100,20",
        "--set",
        "federation.rounds=1",
    )
    assert done.exit_code == 4
    assert (
        done.stderr == f"error: 1 of 2 runs failed; the other runs are in {tmp_path}/out/sweep.md\n"
    )
    failed, good = json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]
    assert failed["runs"][0]["state"] == "failed"
    assert failed["runs"][0]["error"].startswith(
        "federation.num_clients: got 3 clients for 240 training samples"
    )
    assert (failed["num_runs"], failed["accuracy"]) == (
        0,
        {"values": [], "mean": None, "interval": None},
    )
    assert (good["num_runs"], good["accuracy"]["interval"]) == (1, None)
    assert "| 100 | 0 | - | - | - | - | - | - | - |" in (tmp_path / "out" / "sweep.md").read_text()


def test_warnings_of_runs_are_said_once_with_the_points_they_are_of(
    path, tmp_path, report, monkeypatch
):
    def warned(config, folder, screen, *, resume=False):
        return replace(
            report, warnings=["of all", *(["of one"] if config.federation.rounds == 2 else [])]
        )

    monkeypatch.setattr(runs, "simulate", warned)
    assert (
        sweep(path, tmp_path / "out", "--seeds", "3", "--set", "federation.rounds=1,2").exit_code
        == 0
    )
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["warnings"] == [
        "of all",
        "rounds_2: of one",
    ]


def test_ctrl_c_keeps_what_is_complete(path, tmp_path, report, monkeypatch):
    answers = iter([report, RunError("too many"), None])

    def interrupted(config, folder, screen, *, resume=False):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise KeyboardInterrupt
        return replace(answer, seed=config.seed)

    monkeypatch.setattr(runs, "simulate", interrupted)
    done = sweep(path, tmp_path / "out", "--seeds", "2", "--set", "federation.rounds=1,2")
    assert done.exit_code == 130
    assert f"stopped; {tmp_path}/out keeps what was complete" in done.stderr
    summary = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [[run["state"] for run in row["runs"]] for row in summary["points"]] == [
        ["done", "pending"],
        ["failed", "pending"],
    ]
    assert summary["num_pending"] == 2
    assert "rounds_2, seed 3 failed: too many" in summary["warnings"]


def test_the_interval_of_a_mean_by_hand():
    estimate = Estimate.of([0.5, 0.6, 0.7])  # s = 0.1, t = 4.303 with 2 degrees of freedom
    assert estimate.mean == pytest.approx(0.6)
    assert estimate.half_width == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert estimate.interval == pytest.approx([0.6 - 0.24843, 0.6 + 0.24843], abs=1e-5)
    assert Estimate.of([0.5]) == Estimate([0.5], 0.5, None)
    assert Estimate.of([]).mean is Estimate.of([]).interval is None


@pytest.mark.parametrize("degrees", [*range(1, 41), 60, 120, 1000])
def test_a_student_t_lies_within_the_quantile_with_95_percent(degrees):
    """Integrates the density by Simpson's rule after t = tan(u), which makes the range finite."""
    density = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(
        degrees * math.pi
    )
    angles = np.linspace(0, math.atan(t_quantile(degrees)), 20001)
    values = (
        density * (1 + np.tan(angles) ** 2 / degrees) ** (-(degrees + 1) / 2) / np.cos(angles) ** 2
    )
    weights = np.array([1, *[4, 2] * 9999, 4, 1])
    assert 2 * (angles[1] / 3) * (weights @ values) == pytest.approx(
        0.95, abs=6e-5
    )  # half a unit of the table's last digit
