"""Deploying a finished run again, and its frontier: beside the first result, without training, by the same numbers."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tardis_fl.cli import app
from tardis_fl.deployment.run_tables import RunTables
from tardis_fl.early_exit.evaluation import CalibrationTable
from tardis_fl.errors import ConfigError, DataError
from tardis_fl.report.results import Report
from tardis_fl.report.terminal import Screen
from tardis_fl.workflows.experiment import simulate
from tardis_fl.workflows.frontier import write_frontier
from tardis_fl.workflows.redeploy import redeploy
from tests.conftest import small_config

HARDWARE = (
    "deployment.hardware={devices: [rpi-4b, xeon-8, v100], links: [wifi, 5g-us-2024], radio: wifi}"
)


def quiet() -> Screen:
    return Screen(Console(file=io.StringIO(), width=160))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished small run, and its report."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, simulate(small_config(), folder, quiet())


@pytest.fixture
def folder(run, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(run[0], tmp_path / "small")


def same_deployment(one: Report, other: Report) -> None:
    for part in (
        "exits",
        "boundaries",
        "operating_point",
        "calibration",
        "certificate",
        "baselines",
        "tiers",
        "classes",
        "escalation_effect",
        "threshold_sweeps",
    ):
        assert getattr(one, part) == getattr(other, part), part


def test_without_a_change_the_tables_give_what_the_segments_gave(run, folder):
    report, target = redeploy(folder, [], quiet())
    assert target == folder / "deployments" / "1"
    same_deployment(report, run[1])
    assert report.federation == run[1].federation
    assert report.deployment_name == "1"


def test_a_change_gives_what_a_run_with_it_would_have_given(folder, tmp_path):
    overrides = [
        "deployment.policy=margin",
        "deployment.ensemble=geometric",
        "deployment.target_offload_rate=0.3",
    ]
    report, _ = redeploy(folder, overrides, quiet())
    same_deployment(report, simulate(small_config(*overrides), tmp_path / "whole", quiet()))


def test_another_codec_passes_the_pictures_through_the_segments_again(folder):
    first = RunTables.read(folder)
    report, target = redeploy(
        folder,
        [
            "deployment.feature_codec=2bit+zstd",
            "deployment.measure_codecs=[float32, 2bit+zstd, uint8+zlib]",
        ],
        quiet(),
    )
    rows = {row.codec: row for row in report.codecs}
    assert list(rows) == ["float32", "2bit+zstd", "uint8+zlib"]
    assert rows["2bit+zstd"].bytes_per_sample == pytest.approx(
        report.operating_point.bytes_per_sample
    )
    assert rows["2bit+zstd"].accuracy == pytest.approx(report.operating_point.accuracy)
    assert [row.accuracy for row in report.exits] == pytest.approx(
        rows["2bit+zstd"].exit_accuracies
    )
    assert report.boundaries[0].bytes < first.test_bytes[0].mean() / 3
    assert (
        json.loads((target / "model" / "manifest.json").read_text())["deployment"]["feature_codec"]
        == "2bit+zstd"
    )


def test_nothing_of_the_run_itself_changes(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    redeploy(folder, ["deployment.thresholds=[0.5, 0.5]"], quiet())
    redeploy(folder, ["deployment.thresholds=[0.6, 0.6]"], quiet(), name="higher")
    redeploy(folder, ["deployment.thresholds=[0.7, 0.7]"], quiet())
    write_frontier(folder, [], quiet(), axis="bytes")
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in (folder / "deployments").iterdir()) == ["1", "2", "higher"]
    assert Report.read(
        folder / "deployments" / "higher" / "report.json"
    ).operating_point.thresholds == [0.6, 0.6]


def test_a_certificate_is_in_words_and_in_the_report(folder):
    report, target = redeploy(
        folder, ["deployment.certificate={epsilon: 0.2, delta: 0.2}"], quiet()
    )
    found = report.certificate
    assert found is not None
    assert found.threshold == report.operating_point.thresholds[0]
    assert found.num_samples == report.dataset.num_calibration
    assert found.worst_group in (found.worst_class, found.worst_client)
    assert found.promise in (target / "report.html").read_text()
    assert found.promise in (target / "report.md").read_text()


def test_too_few_samples_for_a_certificate_is_one_message_with_the_number_needed(folder):
    with pytest.raises(
        DataError,
        match=r"calibration has 48 samples; a certificate at an epsilon of 0.02 and a delta of 0.1 needs at least 114",
    ):
        redeploy(folder, ["deployment.certificate={}"], quiet())
    assert not (folder / "deployments").exists()


def test_hardware_gives_latency_and_energy_and_budgets_hold_on_the_calibrate_role(folder):
    report, _ = redeploy(folder, [HARDWARE], quiet())
    assert report.hardware is not None
    rows = report.baselines
    assert (
        rows["device_only"].latency_ms < report.hardware.no_load_latency_ms
        or report.operating_point.offload_rate == 0
    )
    assert rows["edge_only"].latency_ms > rows["device_only"].latency_ms
    assert report.operating_point.latency_ms["mean"] == pytest.approx(
        report.hardware.no_load_latency_ms
    )
    assert report.operating_point.latency_ms["p99"] is None  # 90 samples are too few
    middle = (rows["device_only"].latency_ms + rows["edge_only"].latency_ms) / 2
    budget, _ = redeploy(
        folder,
        [HARDWARE, f"deployment.latency_budget_ms={middle}", "deployment.threshold_mode=per_exit"],
        quiet(),
    )
    assert budget.hardware.no_load_latency_ms < 1.5 * middle
    assert len(budget.operating_point.thresholds) == 2


def test_load_and_faults_are_simulated_and_shown(folder):
    load = "deployment.load={num_devices: 4, rate: 5.0, num_requests: 3000, deadline_ms: 50.0}"
    fault = "deployment.faults=[{kind: outage, tier: device, start_s: 10.0, end_s: 60.0}]"
    report, target = redeploy(
        folder,
        [
            HARDWARE,
            load,
            fault,
            "deployment.on_failure=degrade",
            "deployment.thresholds=[0.9, 0.9]",
        ],
        quiet(),
    )
    found = report.simulation
    assert found.num_answered + found.num_dropped == found.num_requests == 3000
    assert found.num_degraded > 0
    assert found.answer_rate == 1.0
    outage = found.during_outages
    assert outage is not None
    assert 0 < outage.num_requests < 3000
    assert outage.num_degraded <= found.num_degraded
    assert outage.answer_rate == 1.0
    assert outage.latency_mean < found.latency[0].mean  # answers of the exit at hand come at once
    assert (
        f"Of the {outage.num_requests:,} requests sent while" in (target / "report.md").read_text()
    )
    assert report.operating_point.latency_ms["p95"] == found.latency[0].p95
    assert "Under load" in (target / "report.html").read_text()


def test_a_report_with_every_part_comes_back_as_it_was(folder):
    everything = [
        HARDWARE,
        "deployment.load={num_devices: 3, num_requests: 500, deadline_ms: 20.0, arrivals: bursty}",
        "deployment.certificate={epsilon: 0.3, groups: class, delta: 0.5}",
        "deployment.measure_codecs=[uint8, 3bit+zlib]",
        "deployment.faults=[{kind: loss, tier: edge, probability: 0.1}, {kind: crash, tier: cloud, end_s: 1.0}]",
        "deployment.on_failure=drop",
        "deployment.policy=patience",
    ]
    report, target = redeploy(folder, everything, quiet())
    assert Report.read(target / "report.json") == report
    assert report.simulation.num_answered + report.simulation.num_dropped == 500
    assert None in [row.p99 for row in report.simulation.latency]
    assert (
        report.boundaries[0].bytes == Report.read(folder / "report.json").boundaries[0].bytes + 3
    )  # what earlier exits said


def test_mixing_meets_a_budget_between_two_thresholds(folder):
    size = Report.read(folder / "report.json").boundaries[0].bytes
    report, target = redeploy(
        folder, [f"deployment.bytes_budget={0.31 * size}", "deployment.mixing=true"], quiet()
    )
    mixing = report.operating_point.mixing
    assert mixing is not None
    assert 0 < mixing.share < 1
    assert mixing.thresholds != report.operating_point.thresholds
    again, _ = redeploy(
        folder, [f"deployment.bytes_budget={0.31 * size}", "deployment.mixing=true"], quiet()
    )
    assert again.operating_point == report.operating_point
    assert (
        json.loads((target / "model" / "manifest.json").read_text())["deployment"]["mixed"]["share"]
        == mixing.share
    )


def test_an_unstable_load_names_the_server_and_what_would_hold(folder):
    result = CliRunner().invoke(
        app,
        [
            "deploy",
            str(folder),
            "--set",
            HARDWARE,
            "--set",
            "deployment.load={num_devices: 4, rate: 100000.0}",
            "--set",
            "deployment.thresholds=[0.9, 0.9]",
        ],
    )
    assert result.exit_code == 4
    assert "error:" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_frontier_is_written_and_holds_what_it_says(folder):
    report, target = write_frontier(folder, [HARDWARE], quiet(), axis="latency_ms")
    written = json.loads((target / "frontier.json").read_text())
    assert [axis["axis"] for axis in written["axes"]] == [
        "offload_rate",
        "bytes",
        "macs",
        "latency_ms",
        "energy_mj",
    ]
    rows = list(csv.DictReader(io.StringIO((target / "frontier.csv").read_text())))
    assert len(rows) == sum(len(axis["points"]) for axis in written["axes"])
    for axis in report.axes:
        costs, accuracy = (
            [point.cost for point in axis.points],
            [point.accuracy for point in axis.points],
        )
        assert costs == sorted(costs)
        assert accuracy == sorted(accuracy)
    table = RunTables.read(folder).calibrate
    assert isinstance(table, CalibrationTable)
    best = report.axis("bytes").points[-1]
    assert best.accuracy >= max(table.accuracies()) - 1e-12
    assert "frontier.json" in (target / "frontier.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["federation.rounds=3"],
            "these are of the training: federation.rounds: 2 there, 3 here; run simulate for them",
        ),
        (["deployment.polcy=margin"], "deployment.polcy: got an unknown key"),
    ],
)
def test_what_can_t_be_deployed_again_is_one_message(folder, overrides, expected):
    with pytest.raises(ConfigError, match=r"deploy|unknown") as caught:
        redeploy(folder, overrides, quiet())
    assert expected in str(caught.value)


def test_names_and_axes_are_checked(folder):
    redeploy(folder, [], quiet(), name="mine")
    with pytest.raises(ConfigError, match="is there already; choose another --name"):
        redeploy(folder, [], quiet(), name="mine")
    with pytest.raises(ConfigError, match=r"--name: got '\.\./x'; wanted letters"):
        redeploy(folder, [], quiet(), name="../x")
    with pytest.raises(
        ConfigError, match="--axis: got 'latency_ms'; wanted one of offload_rate, bytes, macs;"
    ):
        write_frontier(folder, [], quiet(), axis="latency_ms")
    with pytest.raises(ConfigError, match="holds no finished run"):
        redeploy(folder / "model", [], quiet())


def test_damaged_tables_are_one_message(folder):
    (folder / "crossings.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"crossings\.npz: can't be read"):
        redeploy(folder, [], quiet())
    (folder / "crossings.npz").unlink()
    with pytest.raises(DataError, match=r"crossings\.npz: is missing"):
        redeploy(folder, [], quiet())
    with np.load(folder / "exit_table.npz") as file:
        arrays = dict(file)
    arrays["sample_ids"][arrays["role"] == "test"] = arrays["sample_ids"][
        arrays["role"] == "calibrate"
    ][0]
    np.savez(folder / "exit_table.npz", **arrays)
    with pytest.raises(DataError, match="holds 89 of its 90 samples twice"):
        redeploy(folder, [], quiet())


def test_rows_that_a_link_can_t_carry_have_no_latency(folder):
    lora = "deployment.hardware={devices: [rpi-4b, xeon-8, v100], links: [lora-dr0, 5g-us-2024]}"
    report, _ = redeploy(folder, [lora, "deployment.thresholds=[0.0, 0.0]"], quiet())
    rows = report.baselines
    assert rows["device_only"].latency_ms is not None
    assert [rows[name].latency_ms for name in ("edge_only", "oracle", "cloud_only_raw_image")] == [
        None,
        None,
        None,
    ]
    with pytest.raises(ConfigError, match=r"a message of 520 bytes doesn't fit into a frame of"):
        write_frontier(folder, [lora], quiet(), axis="bytes")


def test_a_radio_named_like_a_link_keeps_both_sources(folder):
    report, _ = redeploy(folder, [HARDWARE], quiet())
    sources = report.hardware.sources
    assert {"wifi", "wifi (radio)"} < sources.keys()
    assert sources["wifi"] != sources["wifi (radio)"]


def test_a_threshold_just_above_1_never_answers(folder):
    report, _ = redeploy(
        folder, ["deployment.thresholds=[1.005, 0.0]", "deployment.measure_codecs=[uint8]"], quiet()
    )  # the pictures pass the segments
    assert report.operating_point.exit_fractions == [0, 1, 0]


def test_the_deployed_codec_s_row_is_the_operating_point_where_choices_are_mixed(folder):
    size = Report.read(folder / "report.json").boundaries[0].bytes
    report, _ = redeploy(
        folder,
        [
            f"deployment.bytes_budget={0.31 * size}",
            "deployment.mixing=true",
            "deployment.measure_codecs=[uint8, 4bit]",
        ],
        quiet(),
    )
    assert report.operating_point.mixing is not None
    row = next(row for row in report.codecs if row.codec == "uint8")
    assert (row.accuracy, row.offload_rate) == (
        report.operating_point.accuracy,
        report.operating_point.offload_rate,
    )
    assert row.bytes_per_sample == pytest.approx(report.operating_point.bytes_per_sample)


def test_a_frontier_needs_no_picture(folder, monkeypatch):
    redeploy(folder, ["deployment.measure_codecs=[4bit]"], quiet())
    monkeypatch.setattr(
        "tardis_fl.data.sources.load_dataset", lambda *_, **__: pytest.fail("loaded the pictures")
    )
    with pytest.raises(
        ConfigError,
        match="--axis: got 'speed'; wanted one of offload_rate, bytes, macs, latency_ms, energy_mj",
    ):
        write_frontier(folder / "nowhere", [], quiet(), axis="speed")
    write_frontier(folder, ["deployment.measure_codecs=[4bit]"], quiet(), axis="bytes")


def test_other_files_than_those_of_the_run_are_refused(folder):
    path = folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_hash": "another"}))
    with pytest.raises(
        ConfigError,
        match=r"data.root: these are other files than those of the run; wanted the same data set",
    ):
        redeploy(folder, ["deployment.feature_codec=float32"], quiet())
