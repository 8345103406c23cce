"""Checkpoints: one file a time, replaced in one step, so that a killed run finds the old or the new one whole."""

from __future__ import annotations

import json
from pathlib import Path

from tardis_fl.config.differences import differences
from tardis_fl.config.schema import Config
from tardis_fl.config.section import TRUSTED
from tardis_fl.core.atomic import write_bytes
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.records import Snapshot

FORMAT = 1
START_AGAIN = "begin a new run with another --name"
# what a resumed run need not share with the run before
MAY_CHANGE = ("name", "federation.rounds", "data.root", "runtime.cache_dir")
# held-out samples pass it in every round; nothing else of the deployment is seen before it
SEEN_IN_TRAINING = "deployment.feature_codec"


def write_checkpoint(path: Path, snapshot: Snapshot, config: Config) -> None:
    """Replaces a checkpoint; the tensors may be live ones."""
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in snapshot.tensors.items()
    }
    facts = {**snapshot.facts, "format": FORMAT, "config": config.model_dump(mode="json")}
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, save(tensors, {"facts": json.dumps(facts, allow_nan=False)}))


def read_checkpoint(path: Path, config: Config) -> Snapshot:
    """Reads a checkpoint of the same experiment.

    Raises:
        RunError: The file is damaged.
        ConfigError: It is of another configuration.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved_config, form = facts.pop("config"), facts.pop("format")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunError(
            f"{path}: this checkpoint is damaged or none of ours ({error}); "
            f"remove the folder's run, or {START_AGAIN}"
        ) from None
    if form != FORMAT:
        raise RunError(
            f"{path}: this checkpoint has format {form}, "
            f"this version of tardis_fl reads {FORMAT}; {START_AGAIN}"
        )
    _check_same_experiment(path, saved_config, config)
    if facts["round"] > config.federation.rounds:
        raise ConfigError(
            f"federation.rounds: got {config.federation.rounds}; {facts['round']} rounds are complete in {path}; wanted as many or more"
        )
    return Snapshot(tensors, facts)


def _check_same_experiment(path: Path, saved: object, config: Config) -> None:
    """Refuses a checkpoint of a configuration that differs in what its weights depend on.

    Raises:
        ConfigError: It differs, or isn't a configuration of this version.
    """
    try:
        there = Config.model_validate(saved, context=TRUSTED)
    except ConfigError as error:
        raise ConfigError(
            f"{path}: its configuration can't be read by this version; {START_AGAIN}\n{error}"
        ) from None
    changed = [found for found in differences(there, config) if not _may_change(found.path)]
    if changed:
        keys = ", ".join(found.path for found in changed)
        verb = "differs" if len(changed) == 1 else "differ"
        raise ConfigError(
            f"{path}: is of another configuration: {keys} {verb} ({changed[0]}); "
            f"a resumed run may change only {', '.join(MAY_CHANGE)} and deployment, "
            f"but for {SEEN_IN_TRAINING}; {START_AGAIN}"
        )


def _may_change(key: str) -> bool:
    return key in MAY_CHANGE or (key.startswith("deployment.") and key != SEEN_IN_TRAINING)
