"""A user's folder: a copy of `examples`, from which the commands are run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SMALLER = (
    "data.synthetic={num_train: 300, num_test: 60}",
    "federation.rounds=2",
    "federation.local_epochs=1",
    "federation.final_server_epochs=1",
    "model.width=4",
    "runtime={threads: 1, precision: float32}",
)

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package `examples`, which only a process that is run there finds."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(
        ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__")
    )
    # so that tests see which copy was imported
    installed = folder / "installed"
    installed.mkdir()
    (installed / "tardis_fl").symlink_to(ROOT / "tardis_fl")
    return folder


@pytest.fixture(scope="module")
def run_example(users_folder: Path) -> Run:
    """Runs `tardis_fl.simulate` on an example, made smaller; returns its report."""

    def run(name: str, *overrides: str, output: str | None = None) -> dict[str, Any]:
        sets = [word for text in (*SMALLER, *overrides) for word in ("--set", text)]
        folder = users_folder / "runs" / (output or name)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tardis_fl.simulate", f"examples/{name}.yaml"),
                *sets,
                *("--output", str(folder)),
            ],
            cwd=users_folder,
            env={**os.environ, "PYTHONPATH": str(users_folder / "installed")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads((folder / "report.json").read_text())

    return run
