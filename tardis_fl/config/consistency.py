"""What no single key shows: combinations that can't work, and options without effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tardis_fl.config.schema import Config, Section
from tardis_fl.early_exit.catalogue import CATALOGUE


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        path: Dotted path of the key, such as `federation.rounds`.
        got: What stands there, as the user would write it.
        wanted: What may stand there, and how to mend it.
        involves: Paths of further keys the judgement rests on.
    """

    path: str
    got: str
    wanted: str
    involves: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: got {self.got}; {self.wanted}"


def inconsistencies(config: Config) -> Iterator[Problem]:
    """Yields the combinations of keys that can't work together."""
    num_tiers = len(config.tiers)
    names = [tier.name for tier in config.tiers]
    if len(set(names)) < len(names):
        yield Problem("tiers", ", ".join(names), "every tier wants a name of its own")
    weights = config.model.exit_weights
    if weights is not None and len(weights) != num_tiers:
        yield Problem("model.exit_weights", f"{len(weights)} weights", f"wanted one for each of the {num_tiers} exits", ("tiers",))
    if weights is not None and any(weight == 0 for weight in weights):
        yield Problem("model.exit_weights", str(weights), "every exit answers in deployment, so each weight must be above 0")
    yield from _backbone(config, num_tiers)
    yield from _data(config)
    yield from _federation(config, num_tiers)
    yield from _deployment(config, num_tiers)


def _backbone(config: Config, num_tiers: int) -> Iterator[Problem]:
    model, backbone = config.model, CATALOGUE[config.model.backbone]
    if model.cuts is not None:
        problem_with_cuts = backbone.problem_with_cuts(model.cuts)
        if problem_with_cuts:
            yield Problem("model.cuts", *problem_with_cuts, ("model.backbone",))
        if num_tiers != len(model.cuts) + 1:
            yield Problem("tiers", f"{num_tiers} tiers", f"model.cuts makes {len(model.cuts) + 1} segments and wants one tier for each", ("model.cuts",))
    if num_tiers < 2:
        yield Problem("tiers", f"{num_tiers} tiers", "wanted two or more: where would a sample escalate to?")
    elif model.cuts is None and num_tiers > len(backbone.children) + 1:
        yield Problem("tiers", f"{num_tiers} tiers", f"the backbone {backbone.name!r} has {len(backbone.children)} places to cut it", ("model.backbone",))
    problem_with_size = backbone.problem_with_size(config.data.image_size)
    if problem_with_size:
        yield Problem("data.image_size", str(config.data.image_size), problem_with_size, ("model.backbone",))


def _changed(section: Section, key: str) -> bool:
    """Whether a key was set to something else than its default; a resolved configuration sets them all."""
    return key in section.model_fields_set and getattr(section, key) != type(section).model_fields[key].default


def _data(config: Config) -> Iterator[Problem]:
    data = config.data
    held_out = data.fit_fraction + data.calibration_fraction
    if held_out >= 1:
        yield Problem(
            "data.fit_fraction", f"{data.fit_fraction} beside data.calibration_fraction {data.calibration_fraction}",
            "their sum must stay below 1 so that something is left to train on", ("data.calibration_fraction",),
        )  # fmt: skip
    keys_of_schemes = {"alpha": "dirichlet", "classes_per_client": "pathological", "shards_per_client": "shard"}
    for key, scheme in keys_of_schemes.items():
        if _changed(data.partition, key) and data.partition.scheme != scheme:
            yield Problem(
                f"data.partition.{key}", str(getattr(data.partition, key)),
                f"has no effect with the scheme {data.partition.scheme!r}; remove it or set data.partition.scheme: {scheme}",
                ("data.partition.scheme",),
            )  # fmt: skip
    if _changed(data, "synthetic") and data.dataset != "synthetic" and data.on_missing != "synthetic":
        yield Problem(
            "data.synthetic",
            "settings",
            f"they have no effect with dataset {data.dataset!r} and on_missing 'error'; remove them",
            ("data.dataset", "data.on_missing"),
        )
    if _changed(data, "image_size") and data.dataset != "image_folder":
        yield Problem("data.image_size", str(data.image_size), f"the dataset {data.dataset!r} has 32x32 images; remove it", ("data.dataset",))
    if data.dataset == "image_folder" and data.on_missing == "synthetic" and data.image_size != 32:
        yield Problem(
            "data.on_missing", "synthetic", "synthetic images are 32x32: set data.image_size: 32 or on_missing: error", ("data.image_size", "data.dataset")
        )


def _federation(config: Config, num_tiers: int) -> Iterator[Problem]:
    federation = config.federation
    depth = federation.client_depth
    if depth > num_tiers:
        yield Problem("federation.client_depth", str(depth), f"the network has {num_tiers} segments; wanted 1 to {num_tiers}", ("tiers",))
    if depth < num_tiers and federation.server_epochs == 0 and federation.final_server_epochs == 0:
        yield Problem(
            "federation.final_server_epochs", "0 beside server_epochs 0",
            f"nobody would train segments {depth + 1} to {num_tiers}; set one of them above 0 or client_depth: {num_tiers}",
            ("federation.server_epochs", "federation.client_depth", "tiers"),
        )  # fmt: skip
    if 0 < federation.final_server_epochs < federation.final_feature_views:
        yield Problem(
            "federation.final_feature_views", str(federation.final_feature_views),
            f"wanted at most one view a final epoch (federation.final_server_epochs is {federation.final_server_epochs})", ("federation.final_server_epochs",),
        )  # fmt: skip


def without_effect(config: Config) -> Iterator[str]:
    """Yields a warning for each setting that was changed and does nothing in this configuration."""
    federation, data, model = config.federation, config.data, config.model
    backbone = CATALOGUE[model.backbone]
    own_cuts = backbone.cuts if config.num_segments == backbone.num_segments else backbone.children
    adaptive_exits = not set(model.cuts or own_cuts) <= set(backbone.fixed_exits)
    for key, has_effect in (("width", backbone.has_width), ("norm", backbone.has_norm), ("exit_hidden", adaptive_exits)):
        if not has_effect and _changed(model, key):
            yield f"model.{key} had no effect with the backbone {backbone.name!r}"
    server_keys = ("server_epochs", "final_server_epochs", "server", "feature_codec", "feature_fraction", "final_feature_views")
    if federation.client_depth == config.num_segments:
        ignored = [f"federation.{key}" for key in server_keys if _changed(federation, key)]
        if ignored:
            yield f"clients train all segments (federation.client_depth {federation.client_depth}), so {', '.join(ignored)} had no effect"
    else:
        if federation.server_epochs == 0 and _changed(federation, "feature_fraction"):
            yield "federation.feature_fraction had no effect, since server_epochs is 0"
        if federation.final_server_epochs == 0 and _changed(federation, "final_feature_views"):
            yield "federation.final_feature_views had no effect, since final_server_epochs is 0"
    if data.dataset == "synthetic" and data.on_missing == "synthetic":
        yield "data.on_missing had no effect, since the dataset is synthetic by choice"


def _deployment(config: Config, num_tiers: int) -> Iterator[Problem]:
    deployment = config.deployment
    targets = [key for key in ("max_accuracy_drop", "target_offload_rate", "thresholds") if getattr(deployment, key) is not None]
    if len(targets) != 1:
        yield Problem(
            "deployment", " and ".join(targets) if targets else "no target",
            "wanted exactly one of max_accuracy_drop, target_offload_rate and thresholds (set the others to null)",
            tuple(f"deployment.{key}" for key in ("max_accuracy_drop", "target_offload_rate", "thresholds")),
        )  # fmt: skip
    if deployment.thresholds is not None and len(deployment.thresholds) != num_tiers - 1:
        yield Problem(
            "deployment.thresholds", f"{len(deployment.thresholds)} thresholds",
            f"wanted {num_tiers - 1}: one for each tier but the last, which always answers", ("tiers",),
        )  # fmt: skip
