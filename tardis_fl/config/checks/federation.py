"""Combinations of the keys of `federation` that can't work, and those without effect."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tardis_fl.codecs.names import has_fixed_size
from tardis_fl.config.problem import Problem, changed
from tardis_fl.early_exit.catalogue import CATALOGUE
from tardis_fl.errors import ConfigError
from tardis_fl.federation.server.aggregation.rules import OWN_RULES

if TYPE_CHECKING:
    from tardis_fl.config.schema import Config

KEYS_OF_FEATURES = (
    "server_epochs",
    "final_server_epochs",
    "server",
    "server_segments",
    "feature_codec",
    "feature_fraction",
    "feature_timing",
    "feature_buffer_rounds",
    "final_feature_views",
)
POLICIES_OF_SUMS = ("max_softmax", "margin", "entropy", "patience")


def federation_problems(config: Config) -> Iterator[Problem]:
    """Yields what can't work together in `federation`."""
    yield from _depths(config)
    yield from _server(config)
    yield from _aggregation(config)
    yield from _time(config)
    yield from _faults(config)
    yield from _privacy(config)
    if config.calibrates_by_sums:
        yield from _sums(config)


def _privacy(config: Config) -> Iterator[Problem]:
    federation = config.federation
    sends = federation.server_training == "features" and config.server_start < config.num_segments
    if federation.feature_noise and not sends:
        yield Problem(
            "federation.feature_noise",
            f"{federation.feature_noise:g}",
            "no features travel in training, so it has no effect; remove it",
        )
    if federation.privacy is None:
        return
    if federation.split:
        yield Problem(
            "federation.privacy",
            "settings",
            "split training sends features and gets their gradients at each step, which it doesn't cover; remove one of both",
            ("federation.split",),
        )
    backbone = CATALOGUE.get(config.model.backbone)
    if config.norm_layer == "batch" and backbone is not None and backbone.has_norm:
        yield Problem(
            "federation.privacy",
            "settings",
            f"model.norm {config.model.norm!r} sends running statistics of the images with the weights; wanted model.norm: group",
            ("model.norm",),
        )


def _depths(config: Config) -> Iterator[Problem]:
    federation, count = config.federation, config.num_segments
    if federation.fleet is None:
        if federation.client_depth > count:
            yield Problem(
                "federation.client_depth",
                str(federation.client_depth),
                f"the network has {count} segments; wanted 1 to {count}",
                ("tiers",),
            )
        return
    if changed(federation, "client_depth"):
        yield Problem(
            "federation.client_depth",
            str(federation.client_depth),
            "beside federation.fleet, each group has a depth of its own; remove it",
            ("federation.fleet",),
        )
    names = [group.name for group in federation.fleet]
    if len(set(names)) < len(names):
        yield Problem("federation.fleet", ", ".join(names), "every group wants a name of its own")
    total = math.fsum(group.share for group in federation.fleet)
    if abs(total - 1) > 1e-6:
        yield Problem(
            "federation.fleet",
            f"shares of {' + '.join(f'{group.share:g}' for group in federation.fleet)} = {total:g}",
            "the groups' shares must add up to 1",
        )
        return
    for number, group in enumerate(federation.fleet):
        if group.depth > count:
            yield Problem(
                f"federation.fleet.{number}.depth",
                str(group.depth),
                f"the network has {count} segments; wanted 1 to {count}",
                ("tiers",),
            )
        if config.group_sizes[number] == 0:
            yield Problem(
                f"federation.fleet.{number}.share",
                f"{group.share:g}",
                f"that is no client of {federation.num_clients}; wanted larger groups or more clients",
                ("federation.num_clients",),
            )
    if federation.client_exits == "last":
        yield from _last_exits(config)


def _last_exits(config: Config) -> Iterator[Problem]:
    """Where clients train their last exit only, every exit above those of the server wants a group for which it is the last."""
    depths, involves = (
        {group.depth for group in config.groups},
        ("federation.client_depth", "federation.fleet", "tiers"),
    )
    untrained = [
        str(number)
        for number in range(1, min(config.server_start, config.max_depth) + 1)
        if number not in depths
    ]
    if untrained:
        yield Problem(
            "federation.client_exits",
            "last",
            f"nobody would train exit {' and '.join(untrained)}; wanted all, or a group of each depth",
            involves,
        )
    if config.federation.distillation.teacher != "none" and config.max_depth > 1:
        yield Problem(
            "federation.client_exits",
            "last beside federation.distillation",
            "it would train the exits above the last too; wanted all, or teacher: none",
            ("federation.distillation", *involves),
        )


def _server(config: Config) -> Iterator[Problem]:
    federation, count, depth = config.federation, config.num_segments, config.max_depth
    if depth > count:
        return
    deepest = (
        f"federation.client_depth: {count}"
        if federation.fleet is None
        else f"a group of depth {count}"
    )
    involves = ("federation.client_depth", "federation.fleet", "tiers")
    if depth < count and federation.server_training == "none":
        yield Problem(
            "federation.server_training",
            "none",
            f"nobody would train segments {depth + 1} to {count}; wanted features or proxy, or {deepest}",
            involves,
        )
    elif (
        depth < count
        and not federation.split
        and federation.server_epochs == 0
        and federation.final_server_epochs == 0
    ):
        yield Problem(
            "federation.final_server_epochs",
            "0 beside server_epochs 0",
            f"nobody would train segments {depth + 1} to {count}; set one of them above 0 or {deepest}",
            ("federation.server_epochs", *involves),
        )
    if 0 < federation.final_server_epochs < federation.final_feature_views:
        yield Problem(
            "federation.final_feature_views",
            str(federation.final_feature_views),
            f"wanted at most one view a final epoch (federation.final_server_epochs is {federation.final_server_epochs})",
            ("federation.final_server_epochs",),
        )
    fraction = federation.proxy_fraction
    if federation.server_training == "proxy" and fraction is None:
        yield Problem(
            "federation.proxy_fraction",
            "null",
            "server_training proxy wants a share of the training images for the server, such as 0.05",
            ("federation.server_training",),
        )
    if fraction is not None and fraction >= 1:
        yield Problem(
            "federation.proxy_fraction",
            f"{fraction:g}",
            "the server can't keep as many images as the training set has, or more; wanted less than 1",
        )
    if federation.server_training == "proxy" and config.server_start == count:
        yield Problem(
            "federation.server_training",
            "proxy",
            "clients hold all segments, so the server's images would train nothing; wanted features, or server_segments: deeper",
            ("federation.server_segments", *involves),
        )
    if federation.split:
        if config.server_start == count:
            yield Problem(
                "federation.split",
                "true",
                "there is no deeper segment for the server to train; wanted split: false, or clients that hold fewer segments",
                ("federation.server_training", *involves),
            )
        elif config.server_start < depth:
            yield Problem(
                "federation.split",
                "true beside server_segments deeper",
                "what the server trains during a round would be lost to the average; wanted unheld",
                ("federation.server_segments", *involves),
            )
        elif federation.server_training != "features":
            yield Problem(
                "federation.split",
                f"true beside server_training {federation.server_training}",
                "split training is on features; wanted server_training: features",
                ("federation.server_training",),
            )


def _aggregation(config: Config) -> Iterator[Problem]:
    aggregation = config.federation.aggregation
    if aggregation.rule == "norm_clipping" and aggregation.clip_norm is None:
        yield Problem(
            "federation.aggregation.clip_norm",
            "null",
            "the rule norm_clipping wants the largest norm of an update; rounds.jsonl of another run has such norms",
            ("federation.aggregation.rule",),
        )
    if aggregation.options and aggregation.rule in OWN_RULES:
        keys = {
            "trimmed_mean": "federation.aggregation.trim_fraction",
            "norm_clipping": "federation.aggregation.clip_norm",
        }
        yield Problem(
            "federation.aggregation.options",
            "options",
            f"the rule {aggregation.rule!r} takes {keys.get(aggregation.rule, 'none')}; remove them",
            ("federation.aggregation.rule",),
        )
    if config.federation.late_updates == "discount" and aggregation.rule in (
        "trimmed_mean",
        "median",
    ):
        yield Problem(
            "federation.late_updates",
            "discount",
            f"the rule {aggregation.rule} weighs all updates alike, so none can be discounted; wanted discard, or the rule mean",
            ("federation.aggregation.rule",),
        )


def _time(config: Config) -> Iterator[Problem]:
    federation = config.federation
    timed = any(group.device or group.link for group in config.groups)
    if federation.deadline_s is not None and not timed:
        yield Problem(
            "federation.deadline_s",
            f"{federation.deadline_s:g}",
            "the virtual clock stands still: give a group of federation.fleet a device or a link",
            ("federation.fleet",),
        )
    if federation.deadline_s is None and federation.late_updates == "discount":
        yield Problem(
            "federation.late_updates",
            "discount",
            "without federation.deadline_s nothing is late",
            ("federation.deadline_s",),
        )


def _faults(config: Config) -> Iterator[Problem]:
    federation = config.federation
    has_device = any(group.device for group in config.groups)
    for number, fault in enumerate(federation.faults):
        path = f"federation.faults.{number}"
        unknown = [client for client in fault.clients or () if client >= federation.num_clients]
        if unknown:
            yield Problem(
                f"{path}.clients",
                str(unknown[0]),
                f"there is no such client; wanted 0 to {federation.num_clients - 1}",
                ("federation.num_clients",),
            )
        if fault.rounds is not None and fault.rounds[0] > fault.rounds[1]:
            yield Problem(
                f"{path}.rounds", str(fault.rounds), "wanted the first round, then the last"
            )
        if fault.factor is not None and fault.kind not in ("straggler", "explode", "garbage"):
            yield Problem(
                f"{path}.factor", f"{fault.factor:g}", f"a {fault.kind} has none; remove it"
            )
        if fault.kind == "straggler" and not has_device:
            yield Problem(
                f"{path}.kind",
                "straggler",
                "computing takes no time on the virtual clock: give a group of federation.fleet a device",
                ("federation.fleet",),
            )


def _sums(config: Config) -> Iterator[Problem]:
    """Yields what a deployment can't be made of sums for."""
    deployment, path = config.deployment, "federation.calibration"
    policy, wanted = (
        deployment.policy,
        f"wanted tables, or the policy {', '.join(POLICIES_OF_SUMS[:-1])} or {POLICIES_OF_SUMS[-1]}",
    )
    if policy == "gain":
        yield Problem(
            path, "sums", f"the policy 'gain' is fitted on tables; {wanted}", ("deployment.policy",)
        )
    elif policy not in POLICIES_OF_SUMS:
        yield Problem(
            path,
            "sums",
            f"clients don't know the function {policy!r}; {wanted}",
            ("deployment.policy",),
        )
    if deployment.certificate is not None:
        yield Problem(
            path,
            "sums",
            "a certificate needs the table of the calibrate role; wanted tables",
            ("deployment.certificate",),
        )
    budgets = (deployment.bytes_budget, deployment.latency_budget_ms, deployment.energy_budget_mj)
    counts_bytes = any(budget is not None for budget in budgets) or deployment.minimise in (
        "bytes",
        "latency_ms",
        "energy_mj",
    )
    if counts_bytes and not _has_known_size(deployment.feature_codec):
        yield Problem(
            path,
            "sums",
            f"how much the codec {deployment.feature_codec!r} compresses the clients' images isn't among what they send, and the target counts bytes; "
            "wanted tables, or a codec without compression",
            ("deployment.feature_codec",),
        )
    if deployment.thresholds is not None:
        yield Problem(
            path,
            "sums",
            "of fixed thresholds the counts don't tell what they do; wanted tables, or a target to choose thresholds for",
            ("deployment.thresholds",),
        )
    elif (
        deployment.certificate is None
        and deployment.threshold_mode == "per_exit"
        and config.num_segments > 2
    ):
        yield Problem(
            path,
            "sums",
            "the counts know thresholds that all exits share; wanted tables, or threshold_mode: shared",
            ("deployment.threshold_mode",),
        )


def _has_known_size(codec: str) -> bool:
    """Whether a codec sends as many bytes for every sample."""
    try:
        return has_fixed_size(codec)
    except ConfigError:
        return True  # that it can't be had is a problem of its own


def federation_warnings(config: Config) -> Iterator[str]:
    """Yields a warning for each setting of `federation` that was changed and does nothing, or does other than one might think."""
    federation, count = config.federation, config.num_segments
    if config.server_start == count:
        ignored = [f"federation.{key}" for key in KEYS_OF_FEATURES if changed(federation, key)]
        if ignored:
            why = (
                f"clients train all segments (federation.client_depth {federation.client_depth})"
                if federation.fleet is None
                else "the server trains no segment"
            )
            yield f"{why}, so {', '.join(ignored)} had no effect"
    else:
        ignored, why = _ignored_by_the_server(config)
        ignored = [key for key in ignored if changed(federation, key)]
        if ignored:
            yield f"{', '.join(f'federation.{key}' for key in ignored)} had no effect, since {why}"
        if federation.final_server_epochs == 0 and changed(federation, "final_feature_views"):
            yield "federation.final_feature_views had no effect, since final_server_epochs is 0"
    if federation.proxy_fraction is not None and federation.server_training != "proxy":
        yield f"federation.proxy_fraction had no effect, since server_training is {federation.server_training}"
    yield from _ignored_by_clients(config)


def _ignored_by_the_server(config: Config) -> tuple[list[str], str]:
    federation = config.federation
    if federation.split:
        return [
            "server_epochs",
            "feature_fraction",
            "feature_timing",
            "feature_buffer_rounds",
        ], "split is true"
    if federation.server_epochs == 0:
        return ["feature_fraction", "feature_timing", "feature_buffer_rounds"], "server_epochs is 0"
    if federation.server_training == "proxy":
        return ["feature_fraction", "feature_timing"], "server_training is proxy"
    return [], ""


def _ignored_by_clients(config: Config) -> Iterator[str]:
    federation, model, aggregation = config.federation, config.model, config.federation.aggregation
    single = config.max_depth == 1 and config.num_segments - config.server_start < 2
    if federation.distillation.teacher != "none" and single:
        yield "federation.distillation had no effect, since neither clients nor the server hold two exits"
    if federation.client_exits == "last" and config.max_depth == 1:
        yield "federation.client_exits had no effect, since clients hold one exit"
    if model.exit_weights is not None and changed(model, "exit_weighting"):
        yield "model.exit_weighting had no effect, since model.exit_weights is set"
    if changed(federation, "serving_score") and (
        model.exit_weights is not None or model.exit_weighting != "serving_rate"
    ):
        yield "federation.serving_score had no effect, since model.exit_weighting isn't serving_rate"
    if (
        model.exit_weights is None
        and model.exit_weighting == "serving_rate"
        and federation.evaluate_every == 0
    ):
        yield "model.exit_weighting serving_rate had no effect, since federation.evaluate_every is 0"
    if federation.recalibrate_norm and model.norm == "group":
        yield "federation.recalibrate_norm had no effect, since group norm has no running statistics"
    ignored = []
    if aggregation.rule != "trimmed_mean":
        ignored.append("trim_fraction")
    if aggregation.rule != "norm_clipping":
        ignored.append("clip_norm")
    if aggregation.optimizer in ("fedavg", "fedavgm"):
        ignored += ["beta2", "tau"]
    if aggregation.optimizer == "fedavg":
        ignored.append("momentum")
    for key in ignored:
        if changed(aggregation, key):
            yield f"federation.aggregation.{key} had no effect with the rule {aggregation.rule} and the optimizer {aggregation.optimizer}"
    for name, settings in (("client", federation.client), ("server", federation.server)):
        if changed(settings, "decay") and settings.schedule != "exponential":
            yield f"federation.{name}.decay had no effect with the schedule {settings.schedule}"
    if changed(federation, "late_discount") and federation.late_updates != "discount":
        yield "federation.late_discount had no effect, since late_updates is discard"
    for number, fault in enumerate(federation.faults):
        if fault.rounds is not None and fault.rounds[0] > federation.rounds:
            yield f"federation.faults.{number} ({fault.kind}) never struck: it begins in round {fault.rounds[0]}, and there were {federation.rounds}"
    if model.norm == "batch_local":
        yield "model.norm batch_local: rounds are evaluated with each client's own norm layers; calibrated, deployed and tested is their average"
