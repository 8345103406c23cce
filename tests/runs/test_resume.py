"""A run that was killed and went on ends as the one that never was: the same weights, bit for bit, and the same report."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tardis_fl.errors import ConfigError, RunError
from tardis_fl.report.terminal import Screen
from tardis_fl.runs.checkpoint import read_checkpoint
from tardis_fl.runs.folder import EPOCH_CHECKPOINT, ROUND_CHECKPOINT, RunFolder
from tardis_fl.workflows.experiment import simulate
from tests.conftest import ROOT, SMALL, small_config

EVERYTHING = (  # every kind of state that a round leaves behind
    "seed=6",
    "federation.rounds=4",
    "federation.client_fraction=0.7",
    "federation.final_server_epochs=3",
    "federation.final_feature_views=2",
    "federation.feature_buffer_rounds=2",
    "federation.aggregation.optimizer=fedyogi",
    "federation.aggregation.learning_rate=0.05",
    "federation.recalibrate_norm=true",
    "model.norm=batch_local",
    "model.exit_weighting=serving_rate",
    "federation.serving_score=0.2",
    "federation.distillation.teacher=mutual",
    "federation.num_clients=6",
    "federation.max_failed_fraction=0.9",
    "federation.fleet=[{name: a, share: 0.5, depth: 1, device: rpi-4b, link: wifi}, {name: b, share: 0.5, depth: 2, device: rpi-zero-2w, link: 3g}]",
    "federation.deadline_s=1.0",
    "federation.late_updates=discount",
    "federation.server_segments=deeper",
    "federation.faults=[{kind: dropout, probability: 0.2}, {kind: straggler, probability: 0.5, factor: 20}, {kind: repeat, probability: 0.3}]",
)


class StopError(Exception):
    """Stands for a kill."""


def quiet():
    return Screen(Console(file=io.StringIO(), width=140))


def outcome(folder):
    report = json.loads((folder / "report.json").read_text())
    report["federation"].pop("seconds")
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    epochs = (
        (folder / "final_epochs.jsonl").read_text().splitlines()
        if (folder / "final_epochs.jsonl").exists()
        else []
    )
    for record in rounds:
        record.pop("seconds")
    weights = {
        path.name: load_file(path) for path in sorted((folder / "model").glob("*.safetensors"))
    }
    return report, rounds, len(epochs), weights


def assert_same(ours, theirs):
    (report, rounds, epochs, weights), (other_report, other_rounds, other_epochs, other_weights) = (
        outcome(ours),
        outcome(theirs),
    )
    assert rounds == other_rounds
    assert epochs == other_epochs
    assert weights.keys() == other_weights.keys()
    for name, tensors in weights.items():
        for key, tensor in tensors.items():
            assert tensor.equal(other_weights[name][key]), f"{name}: {key}"
    assert report == other_report


def stop_after(monkeypatch, method, count):
    """Makes the run folder raise in place of the `count`-th call of a method, as if the process had been killed there."""
    original, calls = getattr(RunFolder, method), []

    def stopping(self, *arguments):
        calls.append(1)
        if len(calls) == count:
            raise StopError
        return original(self, *arguments)

    monkeypatch.setattr(RunFolder, method, stopping)


def run_until_killed(config, folder, method, count, *, resume=False):
    """Runs until a method of the run folder is called for the `count`-th time."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, method, count)
        with pytest.raises(StopError):
            simulate(config, folder, quiet(), resume=resume)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    simulate(small_config(*EVERYTHING), folder, quiet())
    return folder


def test_everything_that_a_round_leaves_behind_was_there(uninterrupted):
    report, rounds, epochs, _ = outcome(uninterrupted)
    assert report["federation"]["failures"].get("dropout", 0) > 0
    assert report["federation"]["num_late"] > 0
    assert report["federation"]["num_repeated"] > 0
    assert report["federation"]["virtual_seconds"] > 0
    assert epochs == 3
    assert {age for record in rounds for age in record["feature_ages"]} == {"0", "1"}
    assert rounds[1]["exit_weights"] != rounds[0]["exit_weights"]


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("append_round", 1),
        ("write_round_checkpoint", 1),
        ("append_round", 3),
        ("write_round_checkpoint", 3),
        ("append_final_epoch", 1),
        ("append_final_epoch", 2),
        ("write_epoch_checkpoint", 3),
        ("write_exit_table", 1),
        ("write_reports", 1),
    ],
)
def test_killed_anywhere_it_ends_the_same(uninterrupted, tmp_path, method, count):
    config, folder = small_config(*EVERYTHING), tmp_path / "run"
    run_until_killed(config, folder, method, count)
    simulate(config, folder, quiet(), resume=True)
    assert_same(folder, uninterrupted)


def test_killed_twice_it_ends_the_same(uninterrupted, tmp_path):
    config, folder = small_config(*EVERYTHING), tmp_path / "run"
    for resume, (method, count) in enumerate(
        (("append_round", 2), ("write_round_checkpoint", 2), ("append_final_epoch", 2))
    ):
        run_until_killed(config, folder, method, count, resume=bool(resume))
    simulate(config, folder, quiet(), resume=True)
    assert_same(folder, uninterrupted)


def test_split_training_resumes_too(tmp_path):
    config = small_config(
        "federation.split=true", "federation.rounds=3", "federation.final_server_epochs=0"
    )
    simulate(config, tmp_path / "whole", quiet())
    run_until_killed(config, tmp_path / "run", "append_round", 3)
    simulate(config, tmp_path / "run", quiet(), resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_kill_9_in_the_middle_of_a_real_process(tmp_path):
    (tmp_path / "c.yaml").write_text(SMALL)
    command = [
        sys.executable,
        "-m",
        "tardis_fl.simulate",
        "c.yaml",
        "--set",
        "federation.rounds=12",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    simulate(small_config("federation.rounds=12"), tmp_path / "runs" / "whole", quiet())
    process = subprocess.Popen(
        [*command, "--name", "run"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    rounds = tmp_path / "runs" / "run" / "rounds.jsonl"
    deadline = time.monotonic() + 120
    while (
        not (rounds.exists() and rounds.read_text().count("\n") >= 3)
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(
        [*command, "--name", "run", "--resume"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "going on after" in done.stdout
    assert (tmp_path / "runs" / "run" / "rounds.jsonl").read_text().count("\n") == 12
    ours, theirs = (outcome(tmp_path / "runs" / name) for name in ("run", "whole"))
    assert all(
        tensor.equal(theirs[3][name][key])
        for name, tensors in ours[3].items()
        for key, tensor in tensors.items()
    )


def test_a_finished_run_goes_on_with_more_rounds_as_if_they_had_been_planned(tmp_path):
    constant = ("federation.client.schedule=constant", "federation.server.schedule=constant")
    simulate(small_config(*constant, "federation.rounds=2"), tmp_path / "run", quiet())
    simulate(small_config(*constant, "federation.rounds=3"), tmp_path / "run", quiet(), resume=True)
    simulate(small_config(*constant, "federation.rounds=3"), tmp_path / "whole", quiet())
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["federation"]["rounds"] == 3
    )


@pytest.fixture
def interrupted(tmp_path):
    run_until_killed(small_config(), tmp_path / "run", "append_round", 2)
    return tmp_path / "run"


def test_another_configuration_is_refused_and_named(interrupted):
    before = (interrupted / "config.yaml").read_text()
    with pytest.raises(
        ConfigError,
        match=r"is of another configuration: federation.client.learning_rate differs \(federation.client.learning_rate: 0.05 there, 0.1 here\); a resumed run may change only name, federation.rounds",
    ):
        simulate(
            small_config("federation.client.learning_rate=0.1"), interrupted, quiet(), resume=True
        )
    with pytest.raises(ConfigError, match=r"seed, model.width differ \(seed: 3 there, 4 here\)"):
        simulate(small_config("seed=4", "model.width=8"), interrupted, quiet(), resume=True)
    assert (interrupted / "config.yaml").read_text() == before


def test_a_checkpoint_from_before_a_key_was_there_is_of_the_same_experiment(interrupted):
    path = interrupted / ROUND_CHECKPOINT
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del facts["config"]["plugins"]
    del facts["config"]["model"]["loss"]
    save_file(tensors, path, {"facts": json.dumps(facts)})
    assert read_checkpoint(path, small_config()).facts["round"] == 1
    facts["config"]["federation"]["no_longer"] = 1
    save_file(tensors, path, {"facts": json.dumps(facts)})
    with pytest.raises(ConfigError, match="can't be read by this version; begin a new run"):
        read_checkpoint(path, small_config())


def test_a_deployment_that_did_not_come_out_is_changed_without_training_again(tmp_path):
    """A load that no queue holds shows only after the training; its checkpoint stays, and the deployment may change."""
    heavy = [
        "deployment.hardware={devices: [mcu-stm32l4r5, rpi-4b, rpi-4b], links: [wifi, wifi]}",
        "deployment.load={num_devices: 2, rate: 1.0e+6, num_requests: 100}",
    ]
    with pytest.raises(RunError, match="its queue grows without end"):
        simulate(small_config(*heavy), tmp_path / "run", quiet())
    assert not (tmp_path / "run" / "report.json").exists()
    lines = (tmp_path / "run" / "rounds.jsonl").read_text()
    report = simulate(small_config(), tmp_path / "run", quiet(), resume=True)
    assert (tmp_path / "run" / "rounds.jsonl").read_text() == lines
    assert (
        report.operating_point
        == simulate(small_config(), tmp_path / "whole", quiet()).operating_point
    )
    with pytest.raises(
        ConfigError,
        match=r"deployment.feature_codec differs .* and deployment, but for deployment.feature_codec",
    ):
        simulate(
            small_config("deployment.feature_codec=float32"), tmp_path / "run", quiet(), resume=True
        )


def test_fewer_rounds_than_are_complete_are_refused(tmp_path):
    simulate(small_config(), tmp_path / "run", quiet())
    with pytest.raises(
        ConfigError,
        match=r"federation.rounds: got 1; 2 rounds are complete in .*wanted as many or more",
    ):
        simulate(small_config("federation.rounds=1"), tmp_path / "run", quiet(), resume=True)


def test_a_truncated_checkpoint_is_one_message(interrupted):
    path = interrupted / ROUND_CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        RunError,
        match=r"round.safetensors: this checkpoint is damaged or none of ours .*begin a new run with another --name",
    ):
        simulate(small_config(), interrupted, quiet(), resume=True)


def test_other_images_are_refused(interrupted):
    environment = json.loads((interrupted / "environment.json").read_text())
    (interrupted / "environment.json").write_text(
        json.dumps(environment | {"data_hash": "another"})
    )
    with pytest.raises(
        ConfigError, match=r"these are other images than those that the run in .* began with"
    ):
        simulate(small_config(), interrupted, quiet(), resume=True)


def test_another_number_of_threads_is_said_in_the_report(interrupted):
    environment = json.loads((interrupted / "environment.json").read_text())
    (interrupted / "environment.json").write_text(json.dumps(environment | {"threads": 64}))
    report = simulate(small_config(), interrupted, quiet(), resume=True)
    assert any("went on with other threads" in warning for warning in report.warnings)


def test_a_change_of_threads_is_not_forgotten_over_two_interruptions(tmp_path):
    config, folder = small_config("federation.rounds=4"), tmp_path / "run"
    run_until_killed(config, folder, "append_round", 2)
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(environment | {"threads": 64}))
    run_until_killed(config, folder, "append_round", 2, resume=True)
    report = simulate(config, folder, quiet(), resume=True)
    assert any("went on with other threads" in warning for warning in report.warnings)
    assert [
        sitting["threads"]
        for sitting in json.loads((folder / "environment.json").read_text())["earlier_sittings"]
    ] == [64, 1]


def test_a_finished_run_is_left_as_it_is_with_its_reference_rows(tmp_path):
    simulate(small_config(), tmp_path / "run", quiet())
    path = tmp_path / "run" / "report.json"
    report = json.loads(path.read_text())
    row = {
        "name": "x",
        "accuracy": [0.5, None, None],
        "accuracy_std": None,
        "num_runs": 1,
        "passes": 1.0,
        "raw_images_bytes_up": 0,
        "num_failures": 0,
        "seconds": 1.0,
    }
    path.write_text(
        json.dumps(report | {"reference_rows": [row | {"bytes_up": {}, "bytes_down": {}}]})
    )
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    again = simulate(small_config(), tmp_path / "run", quiet(), resume=True)
    assert again.reference_rows[0].name == "x"
    assert before == {
        file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()
    }


def test_other_images_leave_the_old_report_where_it_is(tmp_path):
    simulate(small_config(), tmp_path / "run", quiet())
    environment = tmp_path / "run" / "environment.json"
    environment.write_text(
        json.dumps(json.loads(environment.read_text()) | {"data_hash": "another"})
    )
    with pytest.raises(ConfigError, match="these are other images"):
        simulate(small_config("federation.rounds=3"), tmp_path / "run", quiet(), resume=True)
    assert (tmp_path / "run" / "report.json").exists()


def test_nothing_complete_starts_from_the_beginning(tmp_path):
    simulate(small_config(), tmp_path / "fresh", quiet(), resume=True)
    assert (tmp_path / "fresh" / EPOCH_CHECKPOINT).exists()
