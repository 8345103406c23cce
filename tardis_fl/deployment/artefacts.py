"""The trained network on disk: one safetensors file a segment, and a manifest with their hashes. No pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tardis_fl.atomic import write_bytes, write_json
from tardis_fl.deployment.escalation import Rule
from tardis_fl.early_exit.backbones import build_network
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.errors import DataError

FORMAT = "tardis_fl.model"
FORMAT_VERSION = 1


def save_model(folder: Path, network: EarlyExitNetwork, *, build: dict[str, Any], rule: Rule, description: dict[str, Any]) -> None:
    """Writes segments and manifest.

    Args:
        folder: Made where it is missing.
        network: The trained network.
        build: Keyword arguments of `build_network` that rebuild it, with `name`.
        rule: Policy, temperatures, thresholds and codec of its deployment.
        description: Anything else to keep beside it, such as tiers and the calibration record.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, segment in enumerate(network):
        state = {name: tensor.contiguous() for name, tensor in segment.state_dict().items()}
        blob = save(state)
        write_bytes(folder / f"segment_{number}.safetensors", blob)
        files.append({
            "file": f"segment_{number}.safetensors", "sha256": hashlib.sha256(blob).hexdigest(),
            "tensors": {name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")} for name, tensor in state.items()},
        })  # fmt: skip
    deployment = {"policy": rule.policy, "temperatures": rule.temperatures, "thresholds": rule.thresholds, "feature_codec": rule.codec}
    write_json(
        folder / "manifest.json", {"format": FORMAT, "version": FORMAT_VERSION, "build": build, "segments": files, "deployment": deployment, **description}
    )


def load_model(folder: str | Path) -> tuple[EarlyExitNetwork, Rule]:
    """Rebuilds a saved network, in evaluation mode, with the rule of its deployment.

    Raises:
        DataError: A file is missing, was changed since it was written, or isn't of this format.
    """
    from safetensors.torch import load

    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, FORMAT_VERSION):
            raise DataError(f"{folder / 'manifest.json'}: not a model of this program (wanted the format {FORMAT}, version {FORMAT_VERSION})")
        blobs = [(entry["file"], entry["sha256"], (folder / Path(entry["file"]).name).read_bytes()) for entry in manifest["segments"]]
        deployment = manifest["deployment"]
        rule = Rule(deployment["policy"], tuple(deployment["temperatures"]), tuple(deployment["thresholds"]), deployment["feature_codec"])
        network = build_network(**manifest["build"], seed=0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a complete saved model ({error})") from None
    for name, expected, blob in blobs:
        if hashlib.sha256(blob).hexdigest() != expected:
            raise DataError(f"{folder / name}: its content isn't what the manifest was written for; restore the file")
    for segment, (_, _, blob) in zip(network, blobs, strict=True):
        segment.load_state_dict(load(blob))
    return network.eval(), rule
