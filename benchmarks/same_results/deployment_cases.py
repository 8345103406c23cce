"""Cases of the deployment: each branch of it, on one trained run."""

from __future__ import annotations

from benchmarks.same_results.case import CONFIG, RUN, Case, Step, overrides, simulate
from benchmarks.same_results.training_cases import SMALL, SUMS

TRAINED = "trained"
TRAINED_SUMS = "trained-sums"
# Enough training for exits that are right at times, so that thresholds have something to choose.
LEARNED = (
    "data.synthetic={num_train: 800, num_test: 200}",
    "data.augment=false",
    "data.calibration_fraction=0.25",
    "model={width: 8, exit_hidden: 16}",
    "federation.rounds=4",
    "federation.client_depth=2",
    "federation.num_clients=4",
    "federation.final_server_epochs=3",
)
HARDWARE = "hardware: {devices: [rpi-4b, xeon-8, v100], links: [wifi, 5g-us-2024], radio: wifi}"
MACHINES = f"deployment.{HARDWARE.replace(': ', '=', 1)}"
OWN_POLICY = '''\
"""A user's own score: how far the likeliest class is above an even share."""


def surer_than_even(probabilities):
    classes = probabilities.shape[-1]
    top = probabilities.max(-1)
    top = getattr(top, "values", top)
    return (top - 1 / classes) / (1 - 1 / classes)
'''
OWN_PROFILES = """\
devices:
  own-board:
    dense_flop_per_s: 2.0e+9
    depthwise_flop_per_s: 1.0e+9
    idle_w: 0.5
    active_w: 2.0
    source: made up
"""
TRACE = "".join(
    f"{0.03 * number + 0.01 * (number % 7):.3f},{number % 5}\n" for number in range(600)
)


def deployed(
    name: str,
    *settings: str,
    after: str = TRAINED,
    files: dict[str, str] | None = None,
    expects: int = 0,
) -> Case:
    """Returns a case that deploys the trained run with other settings."""
    arguments = ("deploy", RUN, *overrides(*settings))
    steps = (Step(arguments, expects=expects),)
    return Case(f"deploy-{name}", steps, files=files or {}, after=after)


def choosing(name: str, target: str, *settings: str) -> Case:
    """Returns a case that chooses thresholds for another target than the run's."""
    return deployed(name, "deployment.max_accuracy_drop=null", f"deployment.{target}", *settings)


def certified(name: str, certificate: str, *settings: str) -> Case:
    """Returns a case that chooses a threshold with a guarantee."""
    return choosing(f"certificate-{name}", f"certificate={{{certificate}}}", *settings)


def loaded(name: str, load: str, *settings: str, files: dict[str, str] | None = None) -> Case:
    """Returns a case with requests over time."""
    load = f"deployment.load={{num_requests: 3000, num_devices: 20, {load}}}"
    return deployed(f"load-{name}", MACHINES, load, *settings, files=files)


def frontier(name: str, axis: str, *settings: str) -> Case:
    """Returns a case that finds the frontier of the trained run."""
    arguments = ("frontier", RUN, "--axis", axis, *overrides(*settings))
    return Case(f"frontier-{name}", (Step(arguments),), after=TRAINED)


BEGINNINGS = (
    Case(TRAINED, (Step(simulate(CONFIG, *LEARNED)),), files={CONFIG: SMALL}),
    Case(TRAINED_SUMS, (Step(simulate(CONFIG, SUMS)),), files={CONFIG: SMALL}),
)

POLICIES = (
    deployed("again"),
    deployed("policy-margin", "deployment.policy=margin"),
    deployed("policy-entropy", "deployment.policy=entropy"),
    deployed("policy-patience", "deployment.policy=patience"),
    deployed("policy-gain", "deployment.policy=gain"),
    deployed(
        "policy-own",
        "deployment.policy=own_score:surer_than_even",
        files={"own_score.py": OWN_POLICY},
    ),
    deployed("policy-own-missing", "deployment.policy=own_score:surer_than_even", expects=2),
    deployed("ensemble", "deployment.ensemble=geometric"),
    deployed("ensemble-gain", "deployment.ensemble=geometric", "deployment.policy=gain"),
    deployed("sums-refused", "deployment.policy=margin", after=TRAINED_SUMS, expects=2),
)

TARGETS = (
    deployed("drop-0", "deployment.max_accuracy_drop=0.0"),
    deployed("least-bytes", "deployment.minimise=bytes"),
    deployed("least-macs", "deployment.minimise=macs"),
    deployed("least-latency", "deployment.minimise=latency_ms", MACHINES),
    deployed("least-energy", "deployment.minimise=energy_mj", MACHINES),
    choosing("offload", "target_offload_rate=0.4"),
    choosing("offload-mixing", "target_offload_rate=0.4", "deployment.mixing=true"),
    choosing("bytes", "bytes_budget=400"),
    choosing("bytes-mixing", "bytes_budget=400", "deployment.mixing=true"),
    choosing("latency", "latency_budget_ms=4.0", MACHINES),
    choosing("latency-mixing", "latency_budget_ms=4.0", MACHINES, "deployment.mixing=true"),
    choosing("energy", "energy_budget_mj=6.0", MACHINES),
    choosing("energy-mixing", "energy_budget_mj=6.0", MACHINES, "deployment.mixing=true"),
    choosing("thresholds", "thresholds=[0.4, 0.6]"),
    choosing("thresholds-at-the-ends", "thresholds=[0.0, 1.5]"),
    deployed("per-exit", "deployment.threshold_mode=per_exit"),
    deployed(
        "per-exit-least-energy",
        "deployment.threshold_mode=per_exit",
        "deployment.minimise=energy_mj",
        MACHINES,
    ),
    choosing("per-exit-offload", "target_offload_rate=0.4", "deployment.threshold_mode=per_exit"),
    choosing(
        "per-exit-bytes-mixing",
        "bytes_budget=400",
        "deployment.threshold_mode=per_exit",
        "deployment.mixing=true",
    ),
    choosing(
        "per-exit-latency",
        "latency_budget_ms=4.0",
        "deployment.threshold_mode=per_exit",
        "deployment.policy=gain",
        MACHINES,
    ),
)

CERTIFICATES = (
    certified("ltt", "epsilon: 0.2"),
    certified("ltt-consistency", "loss: consistency, epsilon: 0.3, delta: 0.2"),
    certified("ltt-out-of-reach", "epsilon: 0.001, delta: 0.01"),
    certified("ltt-class", "epsilon: 0.4, groups: class"),
    certified("ltt-client", "epsilon: 0.3, groups: client", "deployment.policy=margin"),
    certified("bound", "method: hoeffding_bentkus, epsilon: 0.2"),
    certified("bound-brier", "method: hoeffding_bentkus, loss: brier, epsilon: 0.3"),
    certified(
        "bound-brier-client",
        "method: hoeffding_bentkus, loss: brier, epsilon: 0.4, groups: client",
        "deployment.ensemble=geometric",
    ),
    certified("conformal", "method: conformal, epsilon: 0.1"),
    certified("conformal-brier", "method: conformal, loss: brier, epsilon: 0.1"),
    certified("conformal-class", "method: conformal, epsilon: 0.3, groups: class"),
)

CODECS = (
    deployed("codec-float32", "deployment.feature_codec=float32"),
    deployed("codec-float16", "deployment.feature_codec=float16"),
    deployed("codec-2bit", "deployment.feature_codec=2bit", "deployment.batch_size=32"),
    deployed("codec-3bit-zlib", "deployment.feature_codec=3bit+zlib"),
    deployed("codec-4bit-zstd", "deployment.feature_codec=4bit+zstd"),
    deployed(
        "codecs-measured",
        "deployment.feature_codec=uint8+zstd",
        "deployment.measure_codecs=[float32, uint8, 5bit, 4bit+zstd, 2bit+zlib]",
    ),
)

LOADS = (
    deployed("hardware", MACHINES),
    deployed(
        "hardware-in-detail",
        "deployment.hardware={devices: [mcu-stm32l4r5, rpi-4b, xeon-8], links: [lora-dr5, 4g], "
        "radio: lora, servers: [2, 3], overhead_ms: [1.0, 2.0, 0.5], answer_bytes: 16, "
        "fragments: true}",
    ),
    deployed(
        "hardware-own",
        "profiles=own_profiles.yaml",
        "deployment.hardware={devices: [own-board, rpi-4b, xeon-8], links: [wifi, 4g]}",
        files={"own_profiles.yaml": OWN_PROFILES},
    ),
    loaded("poisson", "rate: 2.0, deadline_ms: 50, saturation: [0.5, 1.0]"),
    loaded("bursty", "arrivals: bursty, rate: 10.0, on_seconds: 2.0, off_seconds: 8.0"),
    loaded("periodic", "arrivals: periodic, rate: 2.0"),
    loaded("trace", "arrivals: trace, trace: trace.csv", files={"trace.csv": TRACE}),
    loaded("batches", "rate: 20.0, batch_sizes: [4, 8], batch_wait_ms: 5.0, batch_cost: 0.3"),
    loaded("unstable", "rate: 5000.0, allow_unstable: true, saturation: [0.01, 0.5]"),
    loaded(
        "loss-retried",
        "rate: 2.0",
        "deployment.faults=[{kind: loss, tier: device, probability: 0.2, timeout_ms: 50.0}]",
    ),
    loaded(
        "loss-degraded",
        "rate: 2.0",
        "deployment.faults=[{kind: loss, tier: edge, probability: 0.5, burst: 3.0}]",
        "deployment.on_failure=degrade",
        "deployment.max_attempts=2",
    ),
    loaded(
        "outage-dropped",
        "rate: 2.0",
        "deployment.faults=[{kind: outage, tier: device, start_s: 5.0, end_s: 20.0}]",
        "deployment.on_failure=drop",
    ),
    loaded(
        "crash-and-slow",
        "rate: 2.0, deadline_ms: 100",
        "deployment.faults=[{kind: crash, tier: cloud, start_s: 5.0, end_s: 20.0}, "
        "{kind: slow, tier: device, times_s: [0.0, 30.0], factors: [0.1, 1.0]}]",
        "deployment.on_failure=degrade",
    ),
    loaded(
        "mixing-ensemble",
        "rate: 2.0",
        "deployment.max_accuracy_drop=null",
        "deployment.target_offload_rate=0.4",
        "deployment.mixing=true",
        "deployment.ensemble=geometric",
        "deployment.feature_codec=4bit+zstd",
    ),
)

FRONTIERS = (
    frontier("offload", "offload_rate"),
    frontier("latency", "latency_ms", MACHINES, "deployment.policy=margin"),
    frontier("ensemble-bytes", "bytes", "deployment.ensemble=geometric"),
    frontier("codec", "bytes", "deployment.feature_codec=4bit+zstd", "deployment.policy=gain"),
)

DEPLOYMENT = (*BEGINNINGS, *POLICIES, *TARGETS, *CERTIFICATES, *CODECS, *LOADS, *FRONTIERS)
