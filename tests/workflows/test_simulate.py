"""The main job from end to end: its folder, its report, its screen and its exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from rich.console import Console

from tardis_fl.cli import app
from tardis_fl.config import parse_config
from tardis_fl.errors import ConfigError, DataError, RunError
from tardis_fl.report.terminal import Screen
from tardis_fl.workflows.experiment import simulate
from tests.conftest import ROOT, SMALL, hear_ctrl_c, small_config

CONTRACT = {
    "exits": {
        "tier",
        "accuracy",
        "num_parameters",
        "num_exit_parameters",
        "macs",
        "temperature",
        "ece",
        "auroc",
    },
    "operating_point": {
        "policy",
        "thresholds",
        "accuracy",
        "accuracy_interval",
        "exit_counts",
        "exit_fractions",
        "offload_rate",
        "escalation_rates",
        "conditional_escalation_rates",
        "bytes_per_sample",
        "macs_per_sample",
        "latency_ms",
        "device_energy_mj",
    },
    "dataset": {"name", "source", "num_train", "num_calibration", "num_test", "synthetic"},
    "federation": {
        "rounds",
        "num_clients",
        "clients_per_round",
        "bytes_up",
        "bytes_down",
        "seconds",
    },
    "baselines": {
        "device_only",
        "edge_only",
        "cloud_only_raw_image",
        "random_escalation",
        "oracle",
    },
}
TOP = {
    "name",
    "seed",
    "dataset",
    "exits",
    "operating_point",
    "certificate",
    "baselines",
    "federation",
    "last_round",
    "best_round",
    "warnings",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished small run and what its screen showed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    simulate(small_config(), folder, Screen(console))
    return folder, console.file.getvalue()


def load_report(folder):
    return json.loads((folder / "report.json").read_text())


def test_the_run_folder_holds_what_the_contract_names(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "partition.npz",
        "rounds.jsonl",
        "checkpoint",
        "model",
        "exit_table.npz",
        "report.json",
        "report.md",
        "report.html",
    }
    assert parse_config((folder / "config.yaml").read_text()) == small_config()
    assert [
        json.loads(line)["round"] for line in (folder / "rounds.jsonl").read_text().splitlines()
    ] == [1, 2]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["flwr"].startswith("1.41")
    assert environment["precision"] == "float32"


def test_report_json_keeps_its_contract(finished):
    report = load_report(finished[0])
    assert report.keys() >= TOP
    for section, keys in CONTRACT.items():
        rows = report[section] if isinstance(report[section], list) else [report[section]]
        assert all(row.keys() >= keys for row in rows)
    assert all(
        row.keys() >= {"accuracy", "offload_rate", "bytes_per_sample"}
        for row in report["baselines"].values()
    )
    assert (
        report["certificate"]
        is report["operating_point"]["latency_ms"]
        is report["operating_point"]["device_energy_mj"]
        is None
    )


def test_the_report_agrees_with_the_exit_table_it_was_made_from(finished):
    report, table = load_report(finished[0]), np.load(finished[0] / "exit_table.npz")
    point = report["operating_point"]
    test = table["role"] == "test"
    assert test.sum() == report["dataset"]["num_test"] == sum(point["exit_counts"]) == 90
    assert (table["role"] == "calibrate").sum() == report["dataset"]["num_calibration"]
    assert len(np.unique(table["sample_ids"])) == len(table["sample_ids"])
    assert set(table["client_ids"][test]) == {-1}
    logits, labels = table["logits"][:, test], table["labels"][test]
    accuracies = (logits.argmax(2) == labels).mean(1)
    assert accuracies.tolist() == [row["accuracy"] for row in report["exits"]]
    scores = np.stack(
        [
            np.exp(z := rows.astype(float) / row["temperature"]).max(1) / np.exp(z).sum(1)
            for rows, row in zip(logits, report["exits"], strict=True)
        ]
    )
    first = scores[0] >= point["thresholds"][0]
    second = ~first & (scores[1] >= point["thresholds"][1])
    exits = np.where(first, 0, np.where(second, 1, 2))
    assert np.bincount(exits, minlength=3).tolist() == point["exit_counts"]
    assert (logits.argmax(2)[exits, np.arange(90)] == labels).mean() == pytest.approx(
        point["accuracy"]
    )
    assert point["offload_rate"] == pytest.approx((exits > 0).mean())
    boundary = [row["bytes"] for row in report["boundaries"]]
    assert point["bytes_per_sample"] == pytest.approx(
        (exits > 0).mean() * boundary[0] + (exits > 1).mean() * boundary[1]
    )


def test_rates_and_counts_of_the_report_are_consistent(finished):
    report = load_report(finished[0])
    point = report["operating_point"]
    assert sum(point["exit_fractions"]) == pytest.approx(1)
    assert point["accuracy_interval"][0] <= point["accuracy"] <= point["accuracy_interval"][1]
    assert point["escalation_rates"][0] == point["offload_rate"]
    assert sum(tier["num_correct"] for tier in report["tiers"]) == round(point["accuracy"] * 90)
    assert sum(row["num_samples"] for row in report["classes"]) == 90
    assert np.sum(report["clients"]["label_counts"]) == 240
    effect = report["escalation_effect"]
    assert effect["num_fixed"] - effect["num_broken"] == round(
        (point["accuracy"] - report["baselines"]["device_only"]["accuracy"]) * 90
    )
    assert report["baselines"]["oracle"]["accuracy"] >= point["accuracy"]
    assert report["federation"]["raw_images_bytes"] == report["dataset"]["num_train"] * 3072


def test_html_is_self_contained_and_both_texts_tell_the_result(finished):
    folder, screen = finished
    html, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert html.count("<svg") == 6
    assert "src=" not in html
    assert "<link" not in html
    accuracy = f"{100 * load_report(folder)['operating_point']['accuracy']:.1f} %"
    assert accuracy in html
    assert accuracy in markdown
    assert accuracy in screen
    assert "synthetic" in html
    assert "SYNTHETIC" in markdown


def test_the_screen_shows_plan_partition_progress_and_the_reports_path(finished):
    folder, screen = finished
    for part in (
        "takes       about",
        "who holds what",
        "round 2/2  held-out",
        "left",
        "server epoch 1/1",
        "operating point",
        "report.html",
    ):
        assert part in screen
    assert str(folder) in screen.replace("\n", "")


def test_the_same_configuration_gives_the_same_figures(finished, tmp_path):
    simulate(small_config(), tmp_path / "again", Screen(Console(file=io.StringIO())))
    ours, theirs = load_report(finished[0]), load_report(tmp_path / "again")
    for report in (ours, theirs):
        report["federation"].pop("seconds")
    assert ours == theirs


def test_plain_fedavg_of_the_whole_network_runs_too(tmp_path):
    config = small_config(
        "federation.client_depth=3",
        "deployment.thresholds=[0.3, 0.3]",
        "deployment.max_accuracy_drop=null",
    )
    report = simulate(config, tmp_path / "run", Screen(Console(file=io.StringIO())))
    assert report.operating_point.thresholds == [0.3, 0.3]
    assert report.federation.client_depth == 3
    assert (
        report.warnings[0]
        == "clients train all segments (federation.client_depth 3), so federation.final_server_epochs, federation.server had no effect"
    )


def test_the_second_backbone_runs_through_the_same_job(tmp_path):
    config = parse_config(
        SMALL.replace("width: 4, ", "backbone: vgg19, "),
        overrides=[
            "federation.rounds=1",
            "data.synthetic.num_train=90",
            "data.synthetic.num_test=20",
        ],
    )
    report = simulate(config, tmp_path / "run", Screen(Console(file=io.StringIO())))
    assert report.backbone == "vgg19"
    assert [row.shape for row in report.boundaries] == [[128, 16, 16], [256, 8, 8]]
    assert any(
        "features leaving device (128x16x16) are 32,768 bytes as uint8" in warning
        for warning in report.warnings
    )


def test_a_slice_of_real_cifar10(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TARDIS_FL_DATA", str(real_data))
    config = small_config(
        "data.dataset=cifar10",
        "data.synthetic={}",
        "data.max_train_samples=2000",
        "data.max_test_samples=500",
        "federation.rounds=3",
        "model.width=8",
        "federation.local_epochs=2",
        "federation.final_server_epochs=3",
    )
    report = simulate(config, tmp_path / "run", Screen(Console(file=io.StringIO())))
    assert not report.dataset.synthetic
    assert not any("SYNTHETIC" in warning for warning in report.warnings)
    assert report.exits[-1].accuracy > 0.25  # chance is 0.1
    assert report.operating_point.accuracy > 0.2


def run_cli(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_bad_configuration_ends_with_code_2_and_no_traceback(tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "name: x\nfederation: {rouns: 3}\ndeployment: {max_accuracy_drop: 0.1}\n"
    )
    done = run_cli("tardis_fl.simulate", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        "federation.rouns: got an unknown key with 3; did you mean federation.rounds?"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_missing_data_ends_with_code_3_and_leaves_no_folder(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "name: x\ndata: {dataset: image_folder, root: nowhere}\ndeployment: {max_accuracy_drop: 0.1}\n"
    )
    done = run_cli("tardis_fl.simulate", "c.yaml", cwd=tmp_path)
    assert done.returncode == 3
    assert "nowhere/train: there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_ends_cleanly_and_leaves_a_readable_folder(tmp_path):
    (tmp_path / "c.yaml").write_text(SMALL)
    command = [
        sys.executable,
        "-m",
        "tardis_fl.simulate",
        "c.yaml",
        "--set",
        "federation.rounds=5000",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    rounds = tmp_path / "runs" / "small" / "rounds.jsonl"
    deadline = time.monotonic() + 120
    while (
        not (rounds.exists() and rounds.read_text().count("\n") >= 2)
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        errors.strip() == "stopped; runs/small keeps what was complete, and --resume continues it"
    )
    assert all(json.loads(line) for line in rounds.read_text().splitlines())
    assert (tmp_path / "runs" / "small" / "checkpoint" / "round.safetensors").exists()


def test_commands_of_the_command_line(tmp_path):
    from typer.testing import CliRunner

    runner = CliRunner()
    assert (
        "valid (quickstart: 8 clients"
        in runner.invoke(app, ["validate", str(ROOT / "configs" / "quickstart.yaml")]).output
    )
    assert (
        runner.invoke(
            app, ["validate", str(ROOT / "configs" / "quickstart.yaml"), "--set", "seed=-1"]
        ).exit_code
        == 2
    )
    assert json.loads(runner.invoke(app, ["schema"]).output)["title"] == "Config"
    (tmp_path / "one").mkdir()
    assert (
        "0 entries"
        in runner.invoke(
            app, ["cache", "clear"], env={"TARDIS_FL_CACHE": str(tmp_path / "one")}
        ).output
    )


def test_help_needs_neither_torch_nor_flower():
    probe = "import sys; sys.argv=['x','--help']\nfrom tardis_fl.cli import app\ntry: app()\nexcept SystemExit: pass\nprint([m for m in ('torch','flwr','matplotlib','numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.rstrip().endswith("[]")
    assert "--set" in run_cli("tardis_fl.simulate", "--help", cwd=ROOT).stdout


def test_the_resolved_configuration_of_a_run_can_be_run_again(finished):
    resolved = yaml.safe_load((finished[0] / "config.yaml").read_text())
    assert (
        parse_config(yaml.safe_dump(resolved), overrides=["name=again"]).federation
        == small_config().federation
    )


HARDWARE = (
    "deployment.hardware={devices: [rpi-4b, xeon-8, v100], links: [lora-dr5, 4g], radio: lora}"
)


@pytest.mark.parametrize(
    ("overrides", "error", "expected"),
    [
        (
            ["deployment.certificate={}"],
            DataError,
            "calibration has 48 samples; a certificate at an epsilon of 0.02 and a delta of 0.1 needs at least 114",
        ),
        ([HARDWARE], ConfigError, "a message of 520 bytes doesn't fit into a frame of 222"),
        (
            [HARDWARE, "deployment.feature_codec=2bit", "deployment.latency_budget_ms=0.000001"],
            RunError,
            "a budget of 1e-06 for latency_ms can't be met",
        ),
    ],
)
def test_what_no_training_can_mend_is_said_before_it(overrides, error, expected, tmp_path):
    with pytest.raises(error, match=expected):
        simulate(small_config(*overrides), tmp_path / "run", Screen(Console(file=io.StringIO())))
    assert not (tmp_path / "run").exists()
