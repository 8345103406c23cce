"""Checkpoints: one file a time, replaced in one step, so that a killed run finds the old or the new one whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tardis_fl.config.schema import Config
from tardis_fl.core.atomic import write_bytes
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.records import Snapshot

FORMAT = 1
MAY_CHANGE = (
    "name",
    "federation.rounds",
    "data.root",
    "runtime.cache_dir",
)  # what a resumed run need not share with the run before
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
            f"{path}: this checkpoint is damaged or none of ours ({error}); remove the folder's run, or start anew with another --name"
        ) from None
    if form != FORMAT:
        raise RunError(
            f"{path}: this checkpoint has format {form}, this version of tardis_fl reads {FORMAT}; start anew with another --name"
        )
    changed = [
        key
        for key in changed_keys(saved_config, config.model_dump(mode="json"))
        if not _may_change(key)
    ]
    if changed:
        first = changed[0]
        raise ConfigError(
            f"{path}: is of another configuration: {', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'} "
            f"({first}: {_value(saved_config, first)} there, {_value(config.model_dump(mode='json'), first)} now); "
            f"a resumed run may change only {', '.join(MAY_CHANGE)} and deployment, but for {SEEN_IN_TRAINING}; start anew with another --name"
        )
    if facts["round"] > config.federation.rounds:
        raise ConfigError(
            f"federation.rounds: got {config.federation.rounds}; {facts['round']} rounds are complete in {path}; wanted as many or more"
        )
    return Snapshot(tensors, facts)


def _may_change(key: str) -> bool:
    return key in MAY_CHANGE or (key.startswith("deployment.") and key != SEEN_IN_TRAINING)


def changed_keys(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted paths of values that differ between two configurations."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from changed_keys(
                old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key)
            )
    elif old != new:
        yield prefix


def _value(config: Any, path: str) -> str:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return json.dumps(config)
