"""A network on disk: one safetensors file a segment, and a manifest with their hashes and how to decide. No pickle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import tardis_fl
from tardis_fl.codecs.codec import transfer
from tardis_fl.codecs.names import CODECS
from tardis_fl.config.deployment import POLICY_NAMES
from tardis_fl.core.atomic import write_bytes, write_json
from tardis_fl.core.importing import REFERENCE
from tardis_fl.deployment.escalation import Deployment, Rule, deploy
from tardis_fl.early_exit.backbones import build_network
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.early_exit.conversion.convert import convert
from tardis_fl.early_exit.counting import segment_costs
from tardis_fl.early_exit.network import EarlyExitNetwork, Segment
from tardis_fl.early_exit.scoring.confidence import checked_threshold
from tardis_fl.early_exit.segmented import SegmentedEarlyExitNetwork, test_networks
from tardis_fl.errors import DataError

FORMAT = "tardis_fl.model"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
RESERVED_KEYS = {
    "format",
    "version",
    "made_by",
    "recipe",
    "input_shape",
    "segments",
    "deployment",
    "onnx",
}


@dataclass(frozen=True)
class Bundle:
    """A network with everything needed to deploy it.

    Attributes:
        network: In evaluation mode.
        rule: Policy, temperatures, thresholds, codec and ensembling of its deployment.
        manifest: All that was written beside it, such as tiers, classes, costs and the calibration
            record.
    """

    network: EarlyExitNetwork
    rule: Rule
    manifest: Mapping[str, Any]

    def networks(self) -> list[SegmentedEarlyExitNetwork]:
        """Returns the deployed segments, from the first tier on; codec and ensembling are up to the caller."""
        return deploy(self.network, self.rule)

    def escalate(
        self, x: Tensor, sample_ids: npt.NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Passes a batch through the deployed segments by the whole rule, codec, ensembling and mixing included; see `Deployment.escalate`."""
        return Deployment(self.network, self.rule).escalate(x, sample_ids)

    def test(
        self, dataset: Any, *, batch_size: int = 250
    ) -> tuple[float, dict[int, dict[str, int]]]:
        """Sends labelled samples through the deployed segments by the whole rule; see `segmented.test_networks`.

        Raises:
            ValueError: The rule mixes thresholds by the samples' numbers, which a data set doesn't
                have; use `escalate`.
        """
        if self.rule.mixed is not None:
            raise ValueError(
                "this deployment mixes two choices of thresholds by the samples' numbers; use escalate(x, sample_ids)"
            )
        patience = self.rule.scoring.needs_earlier_exits
        return test_networks(
            self.networks(),
            dataset,
            batch_size=batch_size,
            transfer=transfer(self.rule.codec),
            ensemble=self.rule.ensemble,
            patience=patience,
        )


def save_bundle(
    path: str | Path,
    network: EarlyExitNetwork,
    thresholds: Sequence[float],
    *,
    policy: str = "max_softmax",
    temperatures: Sequence[float] | None = None,
    codec: str = "float32",
    ensemble: bool = False,
    coefficients: tuple[tuple[float, ...], ...] | None = None,
    mixed: tuple[tuple[float, ...], float, int] | None = None,
    input_shape: Sequence[int] | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and the rule of its deployment into a folder.

    Args:
        path: The folder, made where it is missing. The manifest is written last.
        network: Registered, converted or made by hand; `load_bundle` says what each needs to come
            back.
        thresholds: One for each exit but the last.
        policy: Name of the score.
        temperatures: One an exit; None: 1 for all.
        codec: How features travel between tiers.
        ensemble, coefficients, mixed: As in `Rule`.
        input_shape: Of one sample, for counts; None: what the network was built for, or no counts.
        description: Anything else of what JSON can hold, such as tiers, classes and the calibration
            record.

    Raises:
        ValueError: Thresholds, temperatures, policy or codec don't fit, the path is a file, or
            `description` has a key of the manifest's own.
    """
    all_temperatures = (
        [1.0] * len(network) if temperatures is None else [float(value) for value in temperatures]
    )
    rule = _checked_rule(
        Rule(
            policy, tuple(all_temperatures), tuple(thresholds), codec, ensemble, coefficients, mixed
        ),
        len(network),
    )
    folder, description = Path(path), dict(description or {})
    reserved = RESERVED_KEYS & description.keys()
    if reserved:
        raise ValueError(
            f"description: got {', '.join(sorted(reserved))}, which the manifest has itself; choose another name"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: it is a file; wanted a folder")
    if network.recipe and network.recipe.kind == "registered":
        info = CATALOGUE[network.recipe.options["name"]]
        description = {
            "normalisation": {"mean": list(info.mean), "std": list(info.std)}
        } | description
    folder.mkdir(parents=True, exist_ok=True)
    shape = tuple(input_shape) if input_shape is not None else _input_shape(network)
    dtype = (
        torch.int64
        if network.recipe and network.recipe.options.get("input_dtype") == "int64"
        else None
    )
    costs = segment_costs(network, shape, dtype) if shape is not None else [None] * len(network)
    entries = []
    for number, (segment, cost) in enumerate(zip(network, costs, strict=True)):
        counts = (
            {
                "num_parameters": cost.num_parameters,
                "macs": cost.macs,
                "feature_shape": list(cost.feature_shape),
            }
            if cost
            else {}
        )
        entries.append(_write_segment(folder, f"segment_{number}.safetensors", segment) | counts)
    recipe = (
        {"kind": network.recipe.kind, "options": dict(network.recipe.options)}
        if network.recipe
        else None
    )
    deployment = {
        "policy": rule.policy,
        "temperatures": rule.temperatures,
        "thresholds": rule.thresholds,
        "feature_codec": rule.codec,
        "ensemble": rule.ensemble,
        "coefficients": rule.coefficients,
        "mixed": dict(zip(("thresholds", "share", "seed"), rule.mixed, strict=True))
        if rule.mixed
        else None,
    }
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "made_by": {"tardis_fl": tardis_fl.__version__, "torch": torch.__version__},
    }
    body = {
        "recipe": recipe,
        "input_shape": list(shape) if shape else None,
        "segments": entries,
        "deployment": deployment,
    }
    write_json(folder / MANIFEST, header | body | description)


def save_rule(
    path: str | Path,
    network: EarlyExitNetwork,
    rule: Rule,
    *,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and a rule as `save_bundle` does."""
    save_bundle(
        path,
        network,
        rule.thresholds,
        policy=rule.policy,
        temperatures=rule.temperatures,
        codec=rule.codec,
        ensemble=rule.ensemble,
        coefficients=rule.coefficients,
        mixed=rule.mixed,
        description=description,
    )


def load_bundle(
    path: str | Path,
    factory: Callable[[], nn.Module] | None = None,
    *,
    trust_functions: bool = False,
) -> Bundle:
    """Reads a network back. Every file's hash is checked before its tensors are parsed.

    A registered backbone is rebuilt from the manifest. A converted model is known to its user only:
    `factory` builds it, and it is cut in the same places. For a network whose segments or exits
    were made by hand, `factory` returns an `EarlyExitNetwork` of the same form.

    Args:
        path: The folder that `save_bundle` wrote.
        factory: Builds the model, with any weights.
        trust_functions: Whether a policy or codec that is somebody's (MODULE:FUNCTION or
            MODULE:CLASS) may be imported and called.

    Raises:
        DataError: A file is missing, damaged, tampered with, of another format or version, or the
            factory's model is another one.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    try:
        blobs = [_checked_blob(folder, entry) for entry in manifest["segments"]]
        deployment = manifest["deployment"]
        coefficients, mixed = deployment.get("coefficients"), deployment.get("mixed")
        rule = Rule(
            deployment["policy"],
            tuple(deployment["temperatures"]),
            tuple(deployment["thresholds"]),
            deployment["feature_codec"],
            deployment["ensemble"],
            tuple(tuple(row) for row in coefficients) if coefficients else None,
            (tuple(mixed["thresholds"]), float(mixed["share"]), int(mixed["seed"]))
            if mixed
            else None,
        )
        _checked_rule(rule, len(blobs))
        recipe = manifest["recipe"]
        if recipe is not None and (
            recipe["kind"] not in ("registered", "converted")
            or not isinstance(recipe["options"], dict)
        ):
            raise ValueError(f"it knows no recipe of kind {recipe['kind']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / MANIFEST}: it isn't whole ({type(error).__name__}: {error}); restore the folder"
        ) from None
    if rule.policy not in POLICY_NAMES and not trust_functions:
        raise DataError(
            f"{folder}: its policy is the function {rule.policy!r}, which would be imported and run; pass trust_functions=True if you trust it"
        )
    if REFERENCE.match(rule.codec) and not trust_functions:
        raise DataError(
            f"{folder}: its features go through the codec {rule.codec!r}, which would be imported "
            "and run; pass trust_functions=True if you trust it"
        )
    network = _rebuild(folder, recipe, factory)
    if len(network) != len(blobs):
        raise DataError(
            f"{folder}: the manifest has {len(blobs)} segments, the rebuilt network {len(network)}; was the factory or the folder changed?"
        )
    for number, (segment, blob) in enumerate(zip(network, blobs, strict=True)):
        _load_segment(folder, number, segment, blob)
    return Bundle(network.eval(), rule, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads a bundle's manifest.

    Raises:
        DataError: There is none, or it is of another format or version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise DataError(
            f"{folder}: not a complete saved model ({error.strerror}: {MANIFEST})"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path}: it is no JSON ({error}); it may be cut off, so restore the folder"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a model of this program; wanted the format {FORMAT!r}")
    if manifest.get("version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: not a model this version reads: got version {manifest.get('version')!r}, wanted {FORMAT_VERSION}; save it anew"
        )
    return manifest


def sha256(blob: bytes) -> str:
    """Returns the hash that manifests hold."""
    return hashlib.sha256(blob).hexdigest()


def _write_segment(folder: Path, name: str, segment: Segment) -> dict[str, Any]:
    from safetensors.torch import save

    state = {
        key: tensor.detach().cpu().contiguous().clone()
        for key, tensor in segment.state_dict().items()
    }
    blob = save(state)
    write_bytes(folder / name, blob)
    return {
        "file": name,
        "sha256": sha256(blob),
        "tensors": {key: _describe(tensor) for key, tensor in state.items()},
    }


def _describe(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _checked_blob(folder: Path, entry: Mapping[str, Any]) -> bytes:
    name = entry["file"]
    if not isinstance(name, str) or Path(name).name != name:
        raise DataError(
            f"{folder / MANIFEST}: it names the file {name!r}; wanted one in its own folder"
        )
    try:
        blob = (folder / name).read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder}: not a complete saved model ({error.strerror}: {name})"
        ) from None
    if sha256(blob) != entry["sha256"]:
        raise DataError(
            f"{folder / name}: its content isn't what the manifest was written for (cut off, damaged or changed); restore the file"
        )
    return blob


def _load_segment(folder: Path, number: int, segment: Segment, blob: bytes) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(blob)
    except SafetensorError as error:
        raise DataError(f"{folder}: segment {number} is no safetensors file ({error})") from None
    own = segment.state_dict()
    for problem, names in (
        ("lacks", own.keys() - state.keys()),
        ("has unknown", state.keys() - own.keys()),
    ):
        if names:
            raise DataError(
                f"{folder}: segment {number} {problem} {', '.join(sorted(names)[:3])}; the network was rebuilt in another form than it was saved in"
            )
    for name, tensor in sorted(state.items()):
        if tensor.shape != own[name].shape:
            raise DataError(
                f"{folder}: segment {number}: {name} is {tuple(tensor.shape)}, the rebuilt network's is {tuple(own[name].shape)}"
            )
        if tensor.is_floating_point() and tensor.dtype != own[name].dtype:
            segment.to(tensor.dtype)
    segment.load_state_dict(state)


def _rebuild(
    folder: Path, recipe: Mapping[str, Any] | None, factory: Callable[[], nn.Module] | None
) -> EarlyExitNetwork:
    if recipe is not None and recipe["kind"] == "registered":
        try:
            return build_network(**recipe["options"], seed=0)
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{folder / MANIFEST}: its backbone can't be built ({error})") from None
    if factory is None:
        what = "is a converted model" if recipe else "was made by hand"
        raise DataError(
            f"{folder}: this network {what}, which the folder can't rebuild; pass factory=, a function that builds it (its weights are then loaded)"
        )
    model = factory()
    if isinstance(model, EarlyExitNetwork):
        return model
    if recipe is None or recipe["options"].get("own_exits"):
        raise DataError(
            f"{folder}: its segments or exits were made by hand, so factory= must return an EarlyExitNetwork of the same form; got {type(model).__name__}"
        )
    options = recipe["options"]
    try:
        floating = next(
            (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()),
            torch.float32,
        )
        example = torch.zeros(
            1,
            *options["input_shape"],
            dtype=torch.int64 if options["input_dtype"] == "int64" else floating,
        )
        return convert(
            model, example, cuts=options["cuts"], exit_hidden=options["exit_hidden"], check=False
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: the factory's {type(model).__name__} can't be cut as the saved model was: {error}"
        ) from None


def _input_shape(network: EarlyExitNetwork) -> tuple[int, ...] | None:
    if network.recipe is None:
        return None
    options = network.recipe.options
    return (
        tuple(options["input_shape"])
        if "input_shape" in options
        else (3, options["image_size"], options["image_size"])
    )


def _checked_rule(rule: Rule, num_exits: int) -> Rule:
    """Returns the rule with thresholds as floats; raises ValueError where it doesn't fit a number of exits."""
    if len(rule.thresholds) != num_exits - 1:
        raise ValueError(
            f"thresholds: got {len(rule.thresholds)} for {num_exits} exits; wanted {num_exits - 1}, one for each but the last"
        )
    thresholds = tuple(
        checked_threshold(threshold, f"thresholds[{number}]")
        for number, threshold in enumerate(rule.thresholds)
    )
    if len(rule.temperatures) != num_exits or not all(
        math.isfinite(value) and value > 0 for value in rule.temperatures
    ):
        raise ValueError(
            f"temperatures: got {list(rule.temperatures)} for {num_exits} exits; wanted one above 0 an exit"
        )
    problem = CODECS.problem_with_name(rule.codec, key="codec")
    if problem is not None:
        raise ValueError(str(problem))
    coefficients = rule.scoring.coefficients
    if coefficients is not None and len(coefficients) != num_exits - 1:
        raise ValueError(
            f"coefficients: got {len(coefficients)} rows for {num_exits} exits; wanted one for each but the last"
        )
    if rule.mixed is not None:
        second, share, _ = rule.mixed
        if len(second) != num_exits - 1 or not 0 <= share <= 1:
            raise ValueError(
                f"mixed: got {len(second)} thresholds and the share {share}; wanted {num_exits - 1}, and a share in [0, 1]"
            )
    return replace(rule, thresholds=thresholds)
