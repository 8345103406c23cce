"""What no single key shows: combinations that can't work, and options without effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tardis_fl.config.checks.deployment import deployment_problems, deployment_warnings
from tardis_fl.config.checks.federation import federation_problems, federation_warnings
from tardis_fl.config.checks.plugins import choice_problems
from tardis_fl.config.checks.profiles import profile_problems
from tardis_fl.config.problem import Problem, changed, touches
from tardis_fl.data.partitioners import OWN_KEYS
from tardis_fl.early_exit.catalogue import CATALOGUE

if TYPE_CHECKING:
    from tardis_fl.config.schema import Config


def all_problems(config: Config) -> list[Problem]:
    """Returns what is wrong with a configuration whose keys are right by themselves."""
    missing = list(choice_problems(config))
    broken = [problem.path for problem in missing]
    rest = [problem for problem in inconsistencies(config) if not touches(problem, broken)]
    return [*missing, *rest]


def inconsistencies(config: Config) -> Iterator[Problem]:
    """Yields the combinations of keys that can't work together."""
    num_tiers = len(config.tiers)
    names = [tier.name for tier in config.tiers]
    if len(set(names)) < len(names):
        yield Problem("tiers", ", ".join(names), "every tier wants a name of its own")
    weights = config.model.exit_weights
    if weights is not None and len(weights) != num_tiers:
        yield Problem(
            "model.exit_weights",
            f"{len(weights)} weights",
            f"wanted one for each of the {num_tiers} exits",
            ("tiers",),
        )
    if weights is not None and any(weight == 0 for weight in weights):
        yield Problem(
            "model.exit_weights",
            str(weights),
            "every exit answers in deployment, so each weight must be above 0",
        )
    yield from _backbone(config, num_tiers)
    yield from _data(config)
    yield from federation_problems(config)
    yield from deployment_problems(config)
    yield from profile_problems(config)


def _backbone(config: Config, num_tiers: int) -> Iterator[Problem]:
    model = config.model
    backbone = CATALOGUE.get(model.backbone)  # None: the user's own, which only its code knows
    if model.cuts is not None:
        problem_with_cuts = backbone.problem_with_cuts(model.cuts) if backbone else None
        if problem_with_cuts:
            yield Problem("model.cuts", *problem_with_cuts, ("model.backbone",))
        if num_tiers != len(model.cuts) + 1:
            yield Problem(
                "tiers",
                f"{num_tiers} tiers",
                f"model.cuts makes {len(model.cuts) + 1} segments and wants one tier for each",
                ("model.cuts",),
            )
    if num_tiers < 2:
        yield Problem(
            "tiers", f"{num_tiers} tiers", "wanted two or more: where would a sample escalate to?"
        )
    elif backbone is not None and model.cuts is None and num_tiers > len(backbone.children) + 1:
        yield Problem(
            "tiers",
            f"{num_tiers} tiers",
            f"the backbone {backbone.name!r} has {len(backbone.children)} places to cut it",
            ("model.backbone",),
        )
    problem_with_size = backbone.problem_with_size(config.data.image_size) if backbone else None
    if problem_with_size:
        yield Problem(
            "data.image_size", str(config.data.image_size), problem_with_size, ("model.backbone",)
        )


def _data(config: Config) -> Iterator[Problem]:
    data = config.data
    held_out = data.fit_fraction + data.calibration_fraction
    if held_out >= 1:
        yield Problem(
            "data.fit_fraction",
            f"{data.fit_fraction} beside data.calibration_fraction {data.calibration_fraction}",
            "their sum must stay below 1 so that something is left to train on",
            ("data.calibration_fraction",),
        )
    keys_of_schemes = {
        "alpha": "dirichlet",
        "classes_per_client": "pathological",
        "shards_per_client": "shard",
    }
    for key, scheme in keys_of_schemes.items():
        if changed(data.partition, key) and data.partition.scheme != scheme:
            yield Problem(
                f"data.partition.{key}",
                str(getattr(data.partition, key)),
                f"has no effect with the scheme {data.partition.scheme!r}; remove it or set data.partition.scheme: {scheme}",
                ("data.partition.scheme",),
            )
    if data.partition.options and data.partition.scheme in OWN_KEYS:
        own_keys = [f"data.partition.{key}" for key in OWN_KEYS[data.partition.scheme]]
        yield Problem(
            "data.partition.options",
            "options",
            f"the scheme {data.partition.scheme!r} takes "
            f"{' and '.join(own_keys) if own_keys else 'none'}; remove them",
            ("data.partition.scheme",),
        )
    if data.partition.scheme == "natural":
        yield from _natural(config)
    elif data.classes is not None:
        yield Problem(
            "data.classes",
            str(data.classes),
            "it has no effect without the scheme 'natural'; remove it",
            ("data.partition.scheme",),
        )
    if (
        changed(data, "synthetic")
        and data.dataset != "synthetic"
        and data.on_missing != "synthetic"
    ):
        yield Problem(
            "data.synthetic",
            "settings",
            f"they have no effect with dataset {data.dataset!r} and on_missing 'error'; remove them",
            ("data.dataset", "data.on_missing"),
        )
    if changed(data, "image_size") and data.dataset != "image_folder":
        yield Problem(
            "data.image_size",
            str(data.image_size),
            f"the dataset {data.dataset!r} has 32x32 images; remove it",
            ("data.dataset",),
        )
    if data.dataset == "image_folder" and data.on_missing == "synthetic" and data.image_size != 32:
        yield Problem(
            "data.on_missing",
            "synthetic",
            "synthetic images are 32x32: set data.image_size: 32 or on_missing: error",
            ("data.image_size", "data.dataset"),
        )


def _natural(config: Config) -> Iterator[Problem]:
    """Yields what doesn't go with images that belong to their clients."""
    data, scheme = config.data, ("data.partition.scheme",)
    if data.dataset != "image_folder":
        yield Problem(
            "data.partition.scheme",
            "natural",
            "each client has a folder of its own: wanted data.dataset: image_folder",
            ("data.dataset",),
        )
    if data.on_missing != "error":
        yield Problem(
            "data.on_missing",
            data.on_missing,
            "generated images belong to no client; remove it",
            scheme,
        )
    if data.max_train_samples is not None:
        yield Problem(
            "data.max_train_samples",
            str(data.max_train_samples),
            "clients have what is in their folders; remove it",
            scheme,
        )
    if config.federation.server_training == "proxy":
        yield Problem(
            "federation.server_training",
            "proxy",
            "the server has no training images with the scheme 'natural'; wanted features or none",
            scheme,
        )
    if data.classes is not None and len(set(data.classes)) < len(data.classes):
        yield Problem("data.classes", str(data.classes), "wanted every name once")
    if config.runtime.min_nodes is not None:
        yield Problem(
            "runtime.min_nodes",
            str(config.runtime.min_nodes),
            "with the scheme 'natural' all clients tell first what they hold; remove it",
            scheme,
        )


def warnings_about(config: Config) -> Iterator[str]:
    """Yields a warning for each setting that was changed and does nothing in this configuration, or does other than one might think."""
    data = config.data
    yield from _backbone_warnings(config)
    yield from federation_warnings(config)
    yield from deployment_warnings(config)
    engines = {
        "reply_timeout_s": ["deployment"],
        "nodes_timeout_s": ["deployment"],
        "min_nodes": ["deployment"],
        "ray_address": ["ray"],
        "workers": ["inline", "ray"],
    }
    for key, having in engines.items():
        if changed(config.runtime, key) and config.runtime.engine not in having:
            yield f"runtime.{key} had no effect on the engine {config.runtime.engine}"
    if config.runtime.workers and config.runtime.ray_address:
        yield "runtime.workers had no effect: a Ray cluster that is already there has its own number"
    if data.dataset == "synthetic" and data.on_missing == "synthetic":
        yield "data.on_missing had no effect, since the dataset is synthetic by choice"


def _backbone_warnings(config: Config) -> Iterator[str]:
    model = config.model
    backbone = CATALOGUE.get(model.backbone)
    if backbone is None:
        return
    own_cuts = backbone.cuts if config.num_segments == backbone.num_segments else backbone.children
    adaptive_exits = not set(model.cuts or own_cuts) <= set(backbone.fixed_exits)
    for key, has_effect in (
        ("width", backbone.has_width),
        ("norm", backbone.has_norm),
        ("exit_hidden", adaptive_exits),
    ):
        if not has_effect and changed(model, key):
            yield f"model.{key} had no effect with the backbone {backbone.name!r}"
