"""Saved networks: what comes back is what was saved, and nothing else gets in."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tardis_fl.codecs.codec import transfer
from tardis_fl.deployment.bundles.artefacts import load_bundle, save_bundle
from tardis_fl.deployment.escalation import Rule
from tardis_fl.early_exit import EarlyExitNetwork, build_network, convert, escalate
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.errors import DataError

THRESHOLDS = (0.4, 0.5)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small_network(seed=3):
    return build_network("small_resnet", num_classes=10, width=4, exit_hidden=8, seed=seed)


@pytest.fixture
def folder(tmp_path):
    options = {
        "policy": "margin",
        "temperatures": (1.1, 0.9, 1.0),
        "codec": "uint8",
        "ensemble": True,
    }
    save_bundle(
        tmp_path / "model",
        small_network(),
        THRESHOLDS,
        **options,
        description={"tiers": ["device", "edge", "cloud"]},
    )
    return tmp_path / "model"


def test_a_registered_network_comes_back_with_its_rule(folder):
    bundle = load_bundle(folder)
    with torch.no_grad():
        assert torch.equal(bundle.network(IMAGES), small_network().eval()(IMAGES))
    assert bundle.rule == Rule("margin", (1.1, 0.9, 1.0), THRESHOLDS, "uint8", True)
    assert bundle.manifest["tiers"] == ["device", "edge", "cloud"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "segment_0.safetensors",
        "segment_1.safetensors",
        "segment_2.safetensors",
    ]
    answers, exits = escalate(bundle.networks(), IMAGES)
    assert answers.shape == (2, 10)


def test_a_bundle_deploys_by_its_whole_rule(tmp_path):
    """Codec and ensembling included."""
    network = small_network()
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(10):
            network(images)
        scores = network.eval()(images).softmax(-1).amax(-1).median(0).values
    save_bundle(tmp_path, network, scores[:2], codec="uint8", ensemble=True)
    bundle = load_bundle(tmp_path)
    _, exits = bundle.escalate(images)
    _, expected = escalate(bundle.networks(), images, transfer=transfer("uint8"), ensemble=True)
    _, without = escalate(bundle.networks(), images, transfer=transfer("uint8"))
    assert torch.equal(exits, expected)
    assert not torch.equal(exits, without)
    _, statistics = bundle.test(TensorDataset(images, torch.zeros(64, dtype=torch.int64)))
    assert [counts["total"] for counts in statistics.values()] == torch.bincount(
        exits, minlength=3
    ).tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_come_back_in_their_type(tmp_path, dtype):
    save_bundle(tmp_path, small_network().to(dtype), THRESHOLDS)
    network = load_bundle(tmp_path).network
    assert next(network.parameters()).dtype == dtype
    assert network(IMAGES.to(dtype)).dtype == dtype


def test_the_manifest_names_shapes_costs_and_hashes(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["input_shape"] == [3, 32, 32]
    assert [entry["feature_shape"] for entry in manifest["segments"]] == [
        [2, 16, 16],
        [8, 8, 8],
        [16, 4, 4],
    ]
    for entry in manifest["segments"]:
        assert entry["macs"] > 0
        assert len(entry["sha256"]) == 64
        assert (
            sum(torch.Size(tensor["shape"]).numel() for tensor in entry["tensors"].values())
            >= entry["num_parameters"]
        )


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_backbone_comes_back(name, tmp_path):
    network = build_network(name, num_classes=5, exit_hidden=4, seed=1)
    save_bundle(tmp_path, network, [0.5] * (len(network) - 1))
    loaded = load_bundle(tmp_path).network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())


def foreign():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
    )


def test_a_converted_model_comes_back_through_its_factory(tmp_path):
    network = convert(foreign(), IMAGES, 3, exit_hidden=5, seed=1)
    save_bundle(tmp_path, network, THRESHOLDS)
    bundle = load_bundle(tmp_path, factory=foreign)
    with torch.no_grad():
        assert torch.equal(bundle.network(IMAGES), network.eval()(IMAGES))
    with pytest.raises(
        DataError,
        match="this network is a converted model, which the folder can't rebuild; pass factory=",
    ):
        load_bundle(tmp_path)
    with pytest.raises(
        DataError,
        match="the factory's Sequential can't be cut as the saved model was: cuts: '1' gives",
    ):
        load_bundle(tmp_path, factory=lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 6)))
    with pytest.raises(
        DataError, match=r"segment 0: exit\.4\.bias is \(6,\), the rebuilt network's is \(7,\)"
    ):
        load_bundle(tmp_path, factory=lambda: foreign()[:-1].append(nn.Linear(8, 7)))


def test_exits_of_ones_own_need_a_factory_that_builds_them(tmp_path):
    def build():
        return convert(
            foreign(), IMAGES, cuts=["1"], exits=[nn.Sequential(nn.Flatten(), nn.Linear(900, 6))]
        )

    network = build()
    save_bundle(tmp_path, network, [0.5])
    loaded = load_bundle(tmp_path, factory=build).network
    assert all(
        torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items()
    )
    with pytest.raises(
        DataError, match="factory= must return an EarlyExitNetwork of the same form; got Sequential"
    ):
        load_bundle(tmp_path, factory=foreign)


def test_a_network_made_by_hand_needs_one_too(tmp_path):
    def build():
        return EarlyExitNetwork(
            nn.Sequential(nn.Flatten(), nn.Linear(3072, 6)), nn.ModuleList([nn.Linear(3072, 6)])
        )

    save_bundle(tmp_path, build(), [0.5], input_shape=(3, 32, 32))
    assert load_bundle(tmp_path, factory=build).manifest["segments"][1]["macs"] == 3072 * 6
    with pytest.raises(DataError, match="this network was made by hand"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("thresholds", "options", "text"),
    [
        ([0.5], {}, "thresholds: got 1 for 3 exits"),
        ([0.5, 1.5], {}, "thresholds[1]: got 1.5; wanted a number in [0, 1]"),
        (THRESHOLDS, {"temperatures": [1.0, 0.0, 1.0]}, "temperatures: got [1.0, 0.0, 1.0]"),
        (THRESHOLDS, {"policy": "hope"}, "policy: got 'hope'; wanted one of max_softmax"),
        (THRESHOLDS, {"codec": "gif"}, "codec: got the text 'gif'"),
        (
            THRESHOLDS,
            {"description": {"segments": 1}},
            "description: got segments, which the manifest has itself",
        ),
    ],
)
def test_a_rule_that_does_not_fit_is_not_saved(tmp_path, thresholds, options, text):
    with pytest.raises(ValueError, match=r".*") as caught:
        save_bundle(tmp_path / "model", small_network(), thresholds, **options)
    assert text in str(caught.value)
    assert not (tmp_path / "model").exists()


def flip(path):
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(bytes(blob))


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def forge(folder):
    """Puts a pickle in a segment's place, with the right hash."""
    from tardis_fl.deployment.bundles.artefacts import sha256

    blob = pickle.dumps({"a": 1})
    (folder / "segment_0.safetensors").write_bytes(blob)
    segments = json.loads((folder / "manifest.json").read_text())["segments"]
    segments[0]["sha256"] = sha256(blob)
    edit(folder, segments=segments)


DAMAGES = {
    "tampered": (
        lambda f: flip(f / "segment_1.safetensors"),
        "segment_1.safetensors: its content isn't what the manifest was written for",
    ),
    "truncated": (
        lambda f: (f / "segment_1.safetensors").write_bytes(
            (f / "segment_1.safetensors").read_bytes()[:99]
        ),
        "its content isn't what",
    ),
    "no segment": (
        lambda f: (f / "segment_2.safetensors").unlink(),
        "not a complete saved model (No such file or directory: segment_2.safetensors)",
    ),
    "no manifest": (
        lambda f: (f / "manifest.json").unlink(),
        "not a complete saved model (No such file or directory: manifest.json)",
    ),
    "half a manifest": (
        lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text()[:100]),
        "it is no JSON",
    ),
    "foreign": (lambda f: (f / "manifest.json").write_text("[1]"), "not a model of this program"),
    "wrong version": (
        lambda f: edit(f, version=99),
        "not a model this version reads: got version 99, wanted 2; save it anew",
    ),
    "missing key": (lambda f: edit(f, deployment={}), "it isn't whole (KeyError: 'policy')"),
    "threshold": (
        lambda f: edit(
            f,
            deployment=json.loads((f / "manifest.json").read_text())["deployment"]
            | {"thresholds": [7, 0]},
        ),
        "thresholds[0]: got 7",
    ),
    "unknown recipe": (
        lambda f: edit(f, recipe={"kind": "magic", "options": {}}),
        "it knows no recipe of kind 'magic'",
    ),
    "unknown backbone": (
        lambda f: edit(
            f, recipe={"kind": "registered", "options": {"name": "resnet9", "num_classes": 2}}
        ),
        "its backbone can't be built",
    ),
    "another network": (
        lambda f: edit(
            f, recipe={"kind": "registered", "options": {"name": "resnet8", "num_classes": 10}}
        ),
        "the network was rebuilt in another form",
    ),
    "outside": (
        lambda f: edit(f, segments=[{"file": "../x", "sha256": "0"}]),
        "it names the file '../x'; wanted one in its own folder",
    ),
    "pickle": (forge, "segment 0 is no safetensors file"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_damaged_or_foreign_gives_one_clear_error(folder, how):
    damage, text = DAMAGES[how]
    damage(folder)
    with pytest.raises(DataError) as caught:
        load_bundle(folder)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_thresholds_may_come_as_tensors_and_arrays(tmp_path):
    save_bundle(
        tmp_path,
        small_network(),
        torch.tensor(THRESHOLDS),
        temperatures=torch.tensor([1.0, 2.0, 0.5]).numpy(),
    )
    assert load_bundle(tmp_path).rule.thresholds == pytest.approx(THRESHOLDS)


def test_saving_over_an_older_one_leaves_the_new_one(folder):
    save_bundle(folder, small_network(seed=5), (0.1, 0.2))
    bundle = load_bundle(folder)
    assert bundle.rule.thresholds == (0.1, 0.2)
    assert torch.equal(next(bundle.network.parameters()), next(small_network(seed=5).parameters()))
