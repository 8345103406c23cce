"""Saved models: what comes back is what was saved, and nothing else gets in."""

from __future__ import annotations

import json

import pytest
import torch

from tardis_fl.deployment.artefacts import load_model, save_model
from tardis_fl.deployment.escalation import Rule
from tardis_fl.early_exit.backbones import build_network
from tardis_fl.errors import DataError

BUILD = {"name": "small_resnet", "num_classes": 10, "width": 4, "exit_hidden": 8}
RULE = Rule("margin", (1.1, 0.9, 1.0), (0.4, 0.5), "uint8")


@pytest.fixture
def folder(tmp_path):
    network = build_network(**BUILD, seed=3)
    save_model(tmp_path / "model", network, build=BUILD, rule=RULE, description={"tiers": ["device", "edge", "cloud"]})
    return tmp_path / "model"


def test_a_saved_model_comes_back_with_its_rule(folder):
    network, rule = load_model(folder)
    original = build_network(**BUILD, seed=3).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), original(x))
    assert rule == RULE
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "segment_0.safetensors", "segment_1.safetensors", "segment_2.safetensors"]


def test_a_tampered_segment_is_refused(folder):
    path = folder / "segment_1.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(DataError, match=r"segment_1.safetensors: its content isn't what the manifest was written for"):
        load_model(folder)


@pytest.mark.parametrize("how", ["missing segment", "no manifest", "foreign json", "wrong version"])
def test_incomplete_and_foreign_models_give_one_clear_error(folder, how):
    manifest = folder / "manifest.json"
    if how == "missing segment":
        (folder / "segment_2.safetensors").unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "foreign json":
        manifest.write_text("[1]")
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match=r"not a (complete saved )?model"):
        load_model(folder)
