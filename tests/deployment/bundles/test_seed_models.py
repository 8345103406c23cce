"""Pickles of TARDIS Early Exit come in only when they are asked for by name."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tardis_fl.cli import app
from tardis_fl.deployment.bundles.artefacts import load_bundle
from tardis_fl.deployment.bundles.seed_models import import_seed_models
from tardis_fl.early_exit import EarlyExitNetwork
from tardis_fl.errors import DataError

IMAGES = torch.randn(3, 1, 4, 4)


def layers():
    return [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.Sequential(nn.Flatten(), nn.Linear(8, 5))], [
        nn.Sequential(nn.Flatten(), nn.Linear(8, 5)) for _ in range(2)
    ]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Saves models as the seed does, from a class in its package, which is gone afterwards."""
    package, module = ModuleType("early_exit"), ModuleType("early_exit.seperated_model")
    monkeypatch.setitem(sys.modules, "early_exit", package)
    monkeypatch.setitem(sys.modules, "early_exit.seperated_model", module)

    class SegmentedEarlyExitNetwork(nn.Module):
        def __init__(self, network, exit=None, threshold=0.9):
            super().__init__()
            self.network, self.exit, self.threshold = network, exit, threshold
            self.confidence_function = nn.Softmax(dim=0)

    SegmentedEarlyExitNetwork.__module__, SegmentedEarlyExitNetwork.__qualname__ = (
        module.__name__,
        "SegmentedEarlyExitNetwork",
    )
    module.SegmentedEarlyExitNetwork = SegmentedEarlyExitNetwork
    torch.manual_seed(0)
    bodies, exits = layers()
    parts = [
        SegmentedEarlyExitNetwork(body, exit, 0.8)
        for body, exit in zip(bodies, exits, strict=False)
    ] + [SegmentedEarlyExitNetwork(bodies[2])]
    paths = [tmp_path / f"model_{number}.pth" for number in range(3)]
    for part, path in zip(parts, paths, strict=True):
        torch.save(part, path)
    monkeypatch.delitem(sys.modules, "early_exit.seperated_model")
    monkeypatch.delitem(sys.modules, "early_exit")
    return paths, EarlyExitNetwork(bodies, exits)


def test_the_seeds_files_come_in_when_trusted(files):
    paths, original = files
    network, thresholds = import_seed_models(paths, trust_pickle=True)
    assert thresholds == [0.8, 0.8]
    with torch.no_grad():
        assert torch.equal(network(IMAGES), original(IMAGES))


def test_without_the_word_they_are_not_opened(files, monkeypatch):
    paths, _ = files
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("it was opened"))
    with pytest.raises(
        DataError,
        match=r"model_0.pth: models saved with torch.save are pickles, which can run any code .* pass --trust-pickle",
    ):
        import_seed_models(paths, trust_pickle=False)


def test_the_command_turns_them_into_a_folder_without_pickle(files, tmp_path):
    paths, original = files
    arguments = ["import-seed", *map(str, paths), "--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 3
    assert "pass --trust-pickle" in refused.output
    done = CliRunner().invoke(app, [*arguments, "--trust-pickle"])
    assert done.exit_code == 0, done.output
    loaded = load_bundle(tmp_path / "out", factory=lambda: EarlyExitNetwork(*layers()))
    with torch.no_grad():
        assert torch.equal(loaded.network(IMAGES), original(IMAGES))
    assert loaded.rule.thresholds == (0.8, 0.8)


def test_other_files_are_named(files, tmp_path):
    paths, _ = files
    foreign, damaged = tmp_path / "foreign.pth", tmp_path / "damaged.pth"
    torch.save({"a": 1}, foreign)
    damaged.write_bytes(paths[0].read_bytes()[:200])
    for path, text in (
        (foreign, "it holds a dict; wanted the seed's SegmentedEarlyExitNetwork"),
        (damaged, "no model that torch.save wrote, or it is damaged"),
        (tmp_path / "none.pth", "can't be read"),
    ):
        with pytest.raises(DataError, match=text):
            import_seed_models([path, *paths[1:]], trust_pickle=True)
    with pytest.raises(DataError, match="give the files in order"):
        import_seed_models([paths[2], paths[0]], trust_pickle=True)
