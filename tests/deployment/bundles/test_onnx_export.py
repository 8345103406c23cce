"""ONNX segments decide like PyTorch's; without the extra there is one message."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

from tardis_fl.deployment.bundles.artefacts import save_bundle
from tardis_fl.deployment.bundles.onnx_export import compare_onnx, export_onnx
from tardis_fl.early_exit import build_network, escalate
from tardis_fl.errors import RunError

IMAGES = torch.randn(41, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def save(path, seed):
    """Saves a network with batch statistics of these images, so that scores spread, and the median score of each exit as its threshold."""
    network = build_network("small_resnet", num_classes=10, width=8, exit_hidden=8, seed=seed)
    with torch.no_grad():
        for _ in range(20):
            network(IMAGES)
        scores = network.eval()(IMAGES).softmax(-1).amax(-1)
    save_bundle(path, network, scores[:, :2].median(dim=0).values.tolist(), codec="uint8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="the extra onnx isn't installed")
    path = tmp_path_factory.mktemp("onnx")
    save(path, seed=1)
    export_onnx(path)
    return path


def test_onnx_runtime_takes_the_same_exits_for_any_batch(folder):
    for images in (IMAGES, IMAGES[:1]):
        found = compare_onnx(folder, images)
        assert found.num_samples == len(images)
        assert found.num_other_exit <= found.num_near_threshold
        assert found.max_difference < 1e-4
    from tardis_fl.deployment.bundles.artefacts import load_bundle

    _, exits = escalate(load_bundle(folder).networks(), IMAGES)
    assert set(exits.tolist()) == {0, 1, 2}, "the test wants all exits in use"


def test_the_manifest_keeps_their_hashes_and_a_changed_file_is_refused(folder):
    assert [
        entry["file"] for entry in json.loads((folder / "manifest.json").read_text())["onnx"]
    ] == [f"segment_{number}.onnx" for number in range(3)]
    path = folder / "segment_1.onnx"
    blob = path.read_bytes()
    path.write_bytes(blob[:-1])
    try:
        with pytest.raises(
            RunError, match="its content isn't what the manifest was written for; export it again"
        ):
            compare_onnx(folder, IMAGES)
    finally:
        path.write_bytes(blob)


def test_segments_that_decide_otherwise_are_reported(folder, tmp_path):
    """The ONNX files of one network beside the weights of another."""
    save(tmp_path, seed=2)
    entries = json.loads((folder / "manifest.json").read_text())["onnx"]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"onnx": entries}))
    for entry in entries:
        (tmp_path / entry["file"]).write_bytes((folder / entry["file"]).read_bytes())
    with pytest.raises(
        RunError, match="segment 0 hands on other features in ONNX Runtime than in PyTorch"
    ):
        compare_onnx(tmp_path, IMAGES)


def test_exits_that_decide_otherwise_are_reported(folder, monkeypatch):
    """Same features, but logits that another exit would give."""
    from tardis_fl.deployment.bundles import onnx_export

    call = onnx_export._Session.__call__
    monkeypatch.setattr(
        onnx_export._Session, "__call__", lambda self, x: (call(self, x)[0], 100 * call(self, x)[1])
    )
    with pytest.raises(RunError, match="samples take another exit in ONNX Runtime than in PyTorch"):
        compare_onnx(folder, IMAGES)


def test_a_deployment_that_mixes_is_compared_by_both_of_its_choices(folder, tmp_path, monkeypatch):
    """By the first choice everything leaves at once on either side; by the second, exits decide otherwise."""
    from tardis_fl.deployment.bundles import onnx_export

    path = shutil.copytree(folder, tmp_path / "mixed")
    manifest = json.loads((path / "manifest.json").read_text())
    rule = manifest["deployment"]
    rule["mixed"], rule["thresholds"] = (
        {"thresholds": rule["thresholds"], "share": 0.5, "seed": 1},
        [0.0, 0.0],
    )
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert (
        compare_onnx(path, IMAGES).num_other_exit <= compare_onnx(path, IMAGES).num_near_threshold
    )
    call = onnx_export._Session.__call__
    monkeypatch.setattr(
        onnx_export._Session, "__call__", lambda self, x: (call(self, x)[0], 100 * call(self, x)[1])
    )
    with pytest.raises(RunError, match="samples take another exit in ONNX Runtime than in PyTorch"):
        compare_onnx(path, IMAGES)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    save_bundle(
        tmp_path, build_network("small_resnet", num_classes=10, width=4, seed=1), [0.5, 0.5]
    )
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RunError, match=r"pip install 'tardis_fl\[onnx\]'"):
        export_onnx(tmp_path)
    monkeypatch.delitem(sys.modules, "onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(RunError, match="there are no ONNX files; export them first"):
        compare_onnx(tmp_path, IMAGES)
