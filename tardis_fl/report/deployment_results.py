"""The parts of `report.json` that a deployment makes, and that deploying a finished run again makes anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExitResult:
    """One exit and the segment it sits on.

    accuracy, ece and auroc are over all test samples; ece and auroc are of the scores after the
    temperature. num_parameters and macs are the segment's, exit included, not the network's up to
    here.
    """

    tier: str
    accuracy: float
    num_parameters: int
    num_exit_parameters: int
    macs: int
    temperature: float
    ece: float
    auroc: float | None


@dataclass(frozen=True)
class BoundaryResult:
    """What crosses from one tier to the next: `bytes` a sample that crosses, all that travels included; their mean where a codec compresses."""

    sender: str
    receiver: str
    shape: list[int]
    codec: str
    bytes: int | float


@dataclass(frozen=True)
class MixingResult:
    """Thresholds that a share of the samples, drawn by the seed and the sample's number, is decided by instead."""

    thresholds: list[float]
    share: float


@dataclass(frozen=True)
class OperatingPoint:
    """The deployment, measured on the test role.

    escalation_rates: crossings of each boundary over all samples; conditional_escalation_rates:
        over the samples that reached the boundary's sender (None where none did). bytes_per_sample:
        mean over all samples and boundaries. accuracy_interval: Wilson, 95 %. latency_ms (mean,
        p50, p95, p99) and device_energy_mj of a
    request: under the configured load, without one of a request that waits for nobody; None without
        hardware.
    """

    policy: str
    thresholds: list[float]
    accuracy: float
    accuracy_interval: list[float]
    exit_counts: list[int]
    exit_fractions: list[float]
    offload_rate: float
    escalation_rates: list[float]
    conditional_escalation_rates: list[float | None]
    bytes_per_sample: float
    macs_per_sample: float
    device_macs_per_sample: float
    latency_ms: dict[str, float | None] | None
    device_energy_mj: float | None
    mixing: MixingResult | None = None


@dataclass(frozen=True)
class CalibrationResult:
    """How the thresholds were chosen: figures of the calibrate role."""

    target: str
    num_samples: int
    accuracy: float
    offload_rate: float
    full_accuracy: float


@dataclass(frozen=True)
class GroupRisk:
    """The mean loss of one class or client: `name` is the class's, or the client's number; `role` says on whose samples."""

    kind: str
    name: str
    role: str
    risk: float
    num_samples: int


@dataclass(frozen=True)
class CertificateResult:
    """A promise about the mean loss of new samples, and how it turned out on the test role.

    threshold is shared by all exits. abstained: no threshold could be promised anything, so that
    nothing exits early.
    promise: what is promised, in words. worst_group: the worst of the classes and clients; clients
        by their own calibrate samples, since test samples belong to none.
    """

    method: str
    epsilon: float
    delta: float
    num_samples: int
    threshold: float
    abstained: bool
    test_risk: float
    worst_group: GroupRisk | None
    loss: str
    groups: str
    calibration_risk: float
    promise: str
    worst_class: GroupRisk | None
    worst_client: GroupRisk | None


@dataclass(frozen=True)
class BaselineResult:
    """An alternative to the operating point, on the same test samples; latency and energy of requests that wait for nobody."""

    accuracy: float
    offload_rate: float
    bytes_per_sample: float
    latency_ms: float | None = None
    energy_mj: float | None = None


@dataclass(frozen=True)
class SweepResult:
    """Accuracy, offload rate and mean bytes over all boundaries for each shared threshold on one role."""

    role: str
    thresholds: list[float]
    accuracy: list[float]
    offload_rate: list[float]
    bytes_per_sample: list[float]


@dataclass(frozen=True)
class TierResult:
    """Samples that a tier answered, and how many of the answers were right."""

    tier: str
    num_answered: int
    num_correct: int


@dataclass(frozen=True)
class ClassResult:
    """The operating point on one class."""

    name: str
    num_samples: int
    num_correct: int
    num_offloaded: int


@dataclass(frozen=True)
class EscalationEffect:
    """Of the samples that left the device: how many of its errors were mended, how many right answers spoiled."""

    num_escalated: int
    num_fixed: int
    num_broken: int


@dataclass(frozen=True)
class CodecResult:
    """One codec between the tiers, measured through the segments at the operating point's thresholds.

    bytes_per_boundary: mean over the samples that cross it, None where none does. bytes_per_sample:
        mean over all samples.
    """

    codec: str
    exit_accuracies: list[float]
    accuracy: float
    offload_rate: float
    bytes_per_boundary: list[float | None]
    bytes_per_sample: float


@dataclass(frozen=True)
class HardwareResult:
    """Machines and links of the tiers, by the names of their profiles.

    servers: machines side by side on each tier but the first. service_ms: time of each tier for one
        sample. sources: of the profiles, by name.
    no_load_latency_ms, no_load_energy_mj: means at the operating point where no request waits for
        another; energy is the device's, None where a profile has no power.
    """

    devices: list[str]
    links: list[str]
    radio: str | None
    servers: list[int]
    service_ms: list[float]
    sources: dict[str, str]
    no_load_latency_ms: float
    no_load_energy_mj: float | None


@dataclass(frozen=True)
class StationResult:
    """A machine or a link under load.

    utilisation: measured share of time it is busy, over all its servers; predicted: arrival rate x
        service time / servers.
    max_rate_per_device: requests a second and device at which it would be busy all the time, None
        where nothing reaches it.
    """

    name: str
    servers: int
    utilisation: float
    predicted_utilisation: float
    max_rate_per_device: float | None


@dataclass(frozen=True)
class LatencyResult:
    """Latency in ms from the intended send time to the answer's arrival; None where too few answers are there to say (p90: 64, p95: 130, p99: 662)."""

    tier: str
    num_answers: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class StageResult:
    """Mean time in ms over all requests that one stage adds to the latency, by what it is spent on; requests that are given up count until then."""

    stage: str
    compute: float
    queue: float
    serialise: float
    propagate: float
    retry: float


@dataclass(frozen=True)
class SaturationPoint:
    """Latency in ms at another arrival rate (requests a second and device)."""

    rate_per_device: float
    mean: float
    p95: float | None


@dataclass(frozen=True)
class OutageResult:
    """The requests that were sent while a link or a tier was down; accuracy and latency (ms) are of those that were answered."""

    num_requests: int
    answer_rate: float
    num_degraded: int
    accuracy: float | None
    latency_mean: float | None


@dataclass(frozen=True)
class SimulationResult:
    """Requests over time through queues: what `deployment.load` and `deployment.faults` describe.

    Counts are requests: num_answered + num_dropped = num_requests. num_degraded: answered by the
        exit at hand, since what lay behind was broken. answer_rate and late_rate are of all
        requests; accuracy is of the answered ones. device_energy_mj is a request's share of all the
        device's energy over the simulated time, active_energy_mj what it would not have used
        without requests.
    latency_cdf_ms: latencies at 0, 1, ..., 100 % of the answers. saturation: without faults.
    """

    arrivals: str
    num_devices: int
    num_requests: int
    simulated_seconds: float
    rate_per_device: float
    stations: list[StationResult]
    latency: list[LatencyResult]
    breakdown: list[StageResult]
    num_answered: int
    num_dropped: int
    num_degraded: int
    num_late: int | None
    answer_rate: float
    accuracy: float | None
    device_energy_mj: float | None
    active_energy_mj: float | None
    latency_cdf_ms: list[float]
    saturation: list[SaturationPoint]
    faults: list[str]
    on_failure: str
    warnings: list[str]
    during_outages: OutageResult | None = None
