"""Shared fixtures: a cache of the tests' own, small configurations, and real CIFAR-10 where it is at hand."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import hypothesis
import pytest

from tardis_fl.config import Config, parse_config

hypothesis.settings.register_profile("tests", deadline=None)  # no test depends on the clock
hypothesis.settings.load_profile("tests")

ROOT = Path(__file__).parents[1]
REAL_DATA = os.environ.pop("TARDIS_FL_DATA", None) or os.environ.get(
    "REAL_CIFAR10"
)  # tests say themselves where they read from
if REAL_DATA:
    os.environ["REAL_CIFAR10"] = (
        REAL_DATA  # for the processes that pytest-xdist starts, which no longer see the other one
    )

SMALL = """
name: small
seed: 3
data:
  dataset: synthetic
  synthetic: {num_train: 240, num_test: 90}
  partition: {scheme: iid}
  fit_fraction: 0.1
  calibration_fraction: 0.2
model: {width: 4, exit_hidden: 8}
federation:
  rounds: 2
  num_clients: 3
  client: {batch_size: 16}
  server: {batch_size: 16}
  final_server_epochs: 1
deployment: {max_accuracy_drop: 0.05}
runtime: {threads: 1, precision: float32}
"""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TARDIS_FL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["FLWR_HOME"] = str(tmp_path_factory.mktemp("flwr"))


@pytest.fixture(autouse=True)
def _outlines_of_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds the reports' plots, and lets matplotlib render them only where a test is marked `draws`.

    Rendering takes longer than a small run's training.
    """
    plots = sys.modules.get("tardis_fl.report.plots")  # not imported for tests without a report
    if plots is None or request.node.get_closest_marker("draws"):
        return
    monkeypatch.setattr(
        plots.NotebookFigure,
        "savefig",
        lambda figure, buffer, **_: buffer.write("<svg></svg>"),
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real CIFAR-10, from TARDIS_FL_DATA; the test is skipped where it isn't set."""
    if not REAL_DATA:
        pytest.skip("TARDIS_FL_DATA does not name a folder with CIFAR-10")
    return Path(REAL_DATA).resolve()


def small_config(*overrides: str) -> Config:
    """A configuration that trains in a second or two."""
    return parse_config(SMALL, overrides=overrides)


def hear_ctrl_c() -> None:
    """For a process that is about to start: lets it hear SIGINT, also where the tests run in a shell's background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
