"""Run folders: other runs are left alone, and files are never half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tardis_fl.core.atomic import write_bytes, write_json
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.engines.parallelism import Parallelism
from tardis_fl.federation.records import Failure, RoundRecord
from tardis_fl.federation.transport.messages import Counts
from tardis_fl.runs.folder import RunFolder
from tests.conftest import ROOT, small_config

RECORD = RoundRecord(
    round=1,
    clients=(0, 2),
    failures=(Failure(1, 2, "train", "error", "E: x", "trace"),),
    num_late=0,
    num_repeated=1,
    learning_rate=0.1,
    exit_weights=(1.0, 0.5),
    update_norm={"median": 1.5, "max": 2.0},
    train=Counts(10, 2.5, (4,)),
    server=None,
    feature_ages={0: 7},
    validation=Counts(8, 0.0, (4, 6)),
    bytes_up={"weights": 5},
    bytes_down={"weights": 7},
    virtual_seconds=None,
    seconds=0.5,
)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_with_another_run_is_refused_and_says_what_to_do(tmp_path):
    RunFolder(tmp_path / "run", small_config()).append_round(RECORD)
    with pytest.raises(
        ConfigError,
        match=r"holds another run \(unfinished, 1 rounds\). Go on with it \(--resume\), choose another name \(--name NAME\) or folder \(--output DIR\)",
    ):
        RunFolder(tmp_path / "run", small_config())


def test_a_run_that_never_completed_a_round_does_not_block_its_folder(tmp_path):
    with RunFolder(tmp_path / "run", small_config()) as folder:
        folder.begin(
            folder.describe_environment(
                threads=1,
                parallelism=Parallelism(1, 1, ""),
                precision="float32",
                device="cpu",
                data_hash="x",
            )
        )
        folder.write_failure(RECORD.failures[0])
    RunFolder(tmp_path / "run", small_config())
    assert not (tmp_path / "run" / "failures").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files, which a run might overwrite"):
        RunFolder(tmp_path, small_config())
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder(tmp_path / "run", small_config())


def test_a_round_is_one_line_with_integer_counts(tmp_path):
    folder = RunFolder(tmp_path / "run", small_config())
    folder.append_round(RECORD)
    folder.append_round(RECORD)
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 2
    assert lines[0]["validation"] == {
        "num_samples": 8,
        "loss_sum": 0.0,
        "correct": [4, 6],
        "seen": [8, 8],
        "answered": [],
    }
    assert lines[0]["validation_accuracy"] == [0.5, 0.75]
    assert lines[0]["failures"] == [
        {"client": 2, "stage": "train", "kind": "error", "reason": "E: x", "node": None}
    ]
    again = RoundRecord.from_json(lines[0])
    assert again == replace(
        RECORD, failures=(replace(RECORD.failures[0], details="E: x"),)
    )  # tracebacks lie in files of their own


def test_a_full_disk_leaves_the_previous_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(
        RunError,
        match=r"report.json: can't be written \(No space left on device\); what was there before is unchanged",
    ):
        write_bytes(path, b"new")
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})


def test_a_folder_that_another_run_writes_is_refused_until_its_end(tmp_path):
    with RunFolder(tmp_path / "run", small_config()) as run:
        with pytest.raises(
            ConfigError,
            match=r"run: another run is writing into it now. Wait until that one has ended, or choose another name \(--name NAME\)",
        ):
            RunFolder.check_free(tmp_path / "run")
        with pytest.raises(ConfigError, match="another run is writing into it now"):
            RunFolder(tmp_path / "run", small_config(), resume=True)
        run.append_round(RECORD)
    with RunFolder(tmp_path / "run", small_config(), resume=True):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = "import sys, os, signal; from pathlib import Path; from tests.conftest import ROOT, small_config; from tardis_fl.runs.folder import RunFolder; "
    code += "run = RunFolder(Path(sys.argv[1]), small_config()); print('has it', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert killed.stdout == "has it\n"
    with RunFolder(tmp_path / "run", small_config()):
        pass
