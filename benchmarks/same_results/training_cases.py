"""Cases of the training: each branch of the federation."""

from __future__ import annotations

from benchmarks.same_results.case import CONFIG, Case, Step, simulate

SMALL = """\
name: small
seed: 3
data:
  dataset: synthetic
  synthetic: {num_train: 240, num_test: 90}
  partition: {scheme: iid}
  fit_fraction: 0.1
  calibration_fraction: 0.2
model: {width: 4, exit_hidden: 8}
federation:
  rounds: 2
  num_clients: 3
  client: {batch_size: 16}
  server: {batch_size: 16}
  final_server_epochs: 1
deployment: {max_accuracy_drop: 0.05}
runtime: {threads: 1, workers: 1, precision: float32, device: cpu}
"""

# Groups of every depth, with devices and links for the virtual clock.
FOUR = "federation.num_clients=4"
MIXED = (
    FOUR,
    "federation.fleet=[{name: a, share: 0.5, depth: 1}, {name: b, share: 0.25, depth: 2}, "
    "{name: c, share: 0.25, depth: 3}]",
)
TWO_DEPTHS = (
    FOUR,
    "federation.fleet=[{name: a, share: 0.5, depth: 1}, {name: b, share: 0.5, depth: 2}]",
)
DEEPER = "federation.server_segments=deeper"
TIMED = (
    "federation.num_clients=6",
    "federation.rounds=4",
    "federation.fleet=[{name: a, share: 0.5, depth: 1, device: rpi-4b, link: wifi}, "
    "{name: b, share: 0.5, depth: 2, device: rpi-zero-2w, link: 3g}]",
    "federation.deadline_s=1.0",
    "federation.max_failed_fraction=0.9",
)
STRAGGLERS = "{kind: straggler, probability: 0.5, factor: 20}"
TOLERANT = ("federation.num_clients=6", "federation.max_failed_fraction=0.9")
# Every kind of state that a round leaves behind, for runs that are interrupted.
EVERYTHING = (
    *TIMED,
    "seed=6",
    "federation.client_fraction=0.7",
    "federation.final_server_epochs=3",
    "federation.final_feature_views=2",
    "federation.feature_buffer_rounds=2",
    "federation.aggregation.optimizer=fedyogi",
    "federation.aggregation.learning_rate=0.05",
    "federation.recalibrate_norm=true",
    "model.norm=batch_local",
    "model.exit_weighting=serving_rate",
    "federation.serving_score=0.2",
    "federation.distillation.teacher=mutual",
    "federation.late_updates=discount",
    DEEPER,
    "federation.faults=[{kind: dropout, probability: 0.2}, "
    f"{STRAGGLERS}, {{kind: repeat, probability: 0.3}}]",
)
SUMS = "federation.calibration=sums"


def trained(name: str, *settings: str, pictures: str | None = None, expects: int = 0) -> Case:
    """Returns a case that trains the small configuration with other settings."""
    steps = (Step(simulate(CONFIG, *settings), expects=expects),)
    return Case(name, steps, files={CONFIG: SMALL}, pictures=pictures)


FEDERATION = (
    trained("depth-1"),
    trained("depth-2", "federation.client_depth=2"),
    trained("depth-all", "federation.client_depth=3", "federation.local_epochs=2"),
    trained(
        "uneven",
        *MIXED,
        "federation.rounds=3",
        "federation.client_fraction=0.6",
        "federation.fleet.0.availability=0.6",
    ),
    trained("uneven-last-exit", *MIXED, "federation.client_exits=last"),
    trained("server-trains-nothing", *MIXED, "federation.server_training=none"),
    trained("split", "federation.split=true"),
    trained("split-uneven", *TWO_DEPTHS, "federation.split=true", "data.partition.scheme=shard"),
    trained("proxy", "federation.server_training=proxy", "federation.proxy_fraction=0.2"),
    trained(
        "proxy-deeper",
        *MIXED,
        DEEPER,
        "federation.server_training=proxy",
        "federation.proxy_fraction=0.2",
    ),
    trained("stale", "federation.feature_timing=stale", "federation.rounds=3"),
    trained(
        "stale-deeper-buffer",
        *TWO_DEPTHS,
        DEEPER,
        "federation.feature_timing=stale",
        "federation.feature_buffer_rounds=2",
        "federation.feature_fraction=0.5",
    ),
    trained("deeper", *MIXED, DEEPER),
    trained("buffer", "federation.feature_buffer_rounds=2", "federation.feature_fraction=0.3"),
    trained("views", "federation.final_server_epochs=4", "federation.final_feature_views=2"),
    trained("no-final-epochs", "federation.final_server_epochs=0", "federation.server_epochs=2"),
    trained("no-server-epochs", "federation.server_epochs=0", "federation.final_server_epochs=2"),
    trained("pieces", "federation.piece_bytes=4096"),
    trained("codec-float16", "federation.feature_codec=float16"),
    trained("codec-float32", "federation.feature_codec=float32"),
    trained("feature-noise", "federation.feature_noise=0.2"),
    trained("evaluate-never", "federation.evaluate_every=0"),
    trained("evaluate-every-2", "federation.evaluate_every=2", "federation.rounds=3"),
    trained("norm-local", *TWO_DEPTHS, "model.norm=batch_local"),
    trained("norm-local-deeper", *MIXED, DEEPER, "model.norm=batch_local"),
    trained("norm-group", "model.norm=group", "federation.client_depth=3"),
    trained("recalibrate-norm", *TWO_DEPTHS, "federation.recalibrate_norm=true"),
)

ALGORITHMS = (
    trained(
        "rule-trimmed-mean",
        *TOLERANT,
        "federation.aggregation={rule: trimmed_mean, trim_fraction: 0.2}",
    ),
    trained("rule-median", *MIXED, "federation.aggregation.rule=median"),
    trained("rule-norm-clipping", "federation.aggregation={rule: norm_clipping, clip_norm: 0.2}"),
    trained("server-fedavgm", "federation.aggregation={optimizer: fedavgm, momentum: 0.5}"),
    trained("server-fedadam", "federation.aggregation={optimizer: fedadam, learning_rate: 0.05}"),
    trained("server-fedyogi", "federation.aggregation={optimizer: fedyogi, learning_rate: 0.05}"),
    trained("server-half-step", *MIXED, "federation.aggregation.learning_rate=0.5"),
    trained("fedprox", "federation.proximal_mu=0.1", "federation.client_depth=2"),
    trained("distillation-mutual", *MIXED, "federation.distillation.teacher=mutual"),
    trained(
        "distillation-last",
        "federation.client_depth=2",
        "federation.distillation={teacher: last, weight: 0.5, temperature: 2.0, ramp: 0.0}",
    ),
    trained("distillation-on-the-server", "federation.distillation.teacher=mutual"),
    trained("distillation-split", "federation.split=true", "federation.distillation.teacher=last"),
    trained("exit-weights", "model.exit_weights=[0.2, 0.5, 1.0]", "federation.client_depth=2"),
    trained("exits-early-heavy", *MIXED, "model.exit_weighting=early_heavy"),
    trained(
        "exits-serving-rate",
        *MIXED,
        "model.exit_weighting=serving_rate",
        "federation.serving_score=0.2",
        "federation.rounds=3",
    ),
    trained(
        "schedule-constant", "federation.client.schedule=constant", "federation.client.momentum=0.0"
    ),
    trained(
        "schedule-linear",
        "federation.client={batch_size: 16, schedule: linear, warmup: 0.5, clip_norm: 0.5}",
        "federation.server={batch_size: 16, schedule: linear, warmup: 0.5, clip_norm: 0.5}",
        "federation.rounds=3",
    ),
    trained(
        "schedule-exponential",
        "federation.client={batch_size: 16, schedule: exponential, decay: 0.5, weight_decay: 0.0}",
        "federation.server={batch_size: 16, schedule: exponential, decay: 0.5}",
    ),
    trained(
        "privacy",
        "model.norm=group",
        "federation.privacy={clip_norm: 1.0, epsilon: 50.0}",
        "federation.client_depth=2",
    ),
    trained(
        "privacy-features",
        *MIXED,
        "model.norm=group",
        "federation.privacy={clip_norm: 1.0, epsilon: 50.0, delta: 1.0e-4}",
        "federation.feature_noise=0.1",
        DEEPER,
    ),
)

CALIBRATION = (
    trained("sums", SUMS),
    trained(
        "sums-margin-mixing",
        SUMS,
        *MIXED,
        "deployment={policy: margin, target_offload_rate: 0.37, mixing: true, "
        "feature_codec: float16}",
    ),
    trained(
        "sums-entropy-ensemble",
        SUMS,
        "deployment={policy: entropy, ensemble: geometric, latency_budget_ms: 200, hardware: "
        "{devices: [rpi-4b, xeon-8, v100], links: [wifi, 5g-us-2024]}}",
    ),
    trained(
        "sums-patience",
        SUMS,
        "deployment={policy: patience, bytes_budget: 300, measure_codecs: [2bit]}",
    ),
    trained("sums-everything", SUMS, *EVERYTHING),
)

FAULTS = (
    trained(
        "faults-of-weights",
        *TOLERANT,
        "federation.rounds=3",
        "federation.faults=[{kind: nan, probability: 0.2}, {kind: explode, probability: 0.2}, "
        "{kind: wrong_shape, probability: 0.2}, {kind: missing_segment, clients: [4]}, "
        "{kind: garbage, clients: [3], rounds: [2, 3], factor: 2.0}]",
    ),
    trained(
        "faults-of-delivery",
        *TOLERANT,
        "federation.rounds=3",
        "federation.client_fraction=0.7",
        "federation.faults=[{kind: dropout, probability: 0.3}, {kind: repeat, probability: 0.4}, "
        "{kind: crash, probability: 0.2}]",
    ),
    trained(
        "faults-and-trimmed-mean",
        *TOLERANT,
        "federation.aggregation={rule: trimmed_mean, trim_fraction: 0.3, max_update_ratio: null}",
        "federation.faults=[{kind: garbage, clients: [1]}, {kind: explode, clients: [2], "
        "factor: 5.0}]",
    ),
    trained(
        "faults-and-split",
        *TOLERANT,
        "federation.split=true",
        "federation.faults=[{kind: dropout, probability: 0.2}, {kind: crash, probability: 0.2}, "
        "{kind: nan, probability: 0.2}]",
    ),
    trained("clock", *TIMED[:3], "federation.max_failed_fraction=0.9"),
    trained("late-discarded", *TIMED, f"federation.faults=[{STRAGGLERS}]"),
    trained(
        "late-discounted",
        *TIMED,
        f"federation.faults=[{STRAGGLERS}]",
        "federation.late_updates=discount",
        "federation.late_discount=0.7",
    ),
    trained(
        "late-discounted-norm-local",
        *TIMED,
        f"federation.faults=[{STRAGGLERS}]",
        "federation.late_updates=discount",
        "model.norm=batch_local",
        "federation.aggregation.optimizer=fedavgm",
    ),
    trained("everything", *EVERYTHING),
)

TRAINING = (*FEDERATION, *ALGORITHMS, *CALIBRATION, *FAULTS)
