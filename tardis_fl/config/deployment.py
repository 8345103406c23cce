"""Keys of the deployment: when a sample leaves its tier, on which machines, under which load."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from tardis_fl.codecs.names import CODECS
from tardis_fl.config.plugin_names import PluginName
from tardis_fl.config.section import (
    ADDED,
    Fraction,
    NonNegativeFloat,
    Options,
    PositiveFloat,
    PositiveInt,
    Section,
)

CodecName = Annotated[str, Field(json_schema_extra=CODECS.json_schema())]
Axis = Literal["offload_rate", "bytes", "macs", "latency_ms", "energy_mj"]
POLICY_NAMES = ("max_softmax", "margin", "entropy", "patience", "gain")
USERS_FUNCTION = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
TARGETS = (
    "max_accuracy_drop",
    "target_offload_rate",
    "latency_budget_ms",
    "energy_budget_mj",
    "bytes_budget",
    "certificate",
    "thresholds",
)


class CertificateConfig(Section):
    """A threshold with a guarantee about new samples like those of the calibrate role."""

    method: Literal["ltt", "hoeffding_bentkus", "conformal"] = "ltt"
    """ltt: Learn-then-Test with the exact binomial test (losses of 0 and 1); hoeffding_bentkus: the
    same with a bound for any loss in [0, 1]; conformal: conformal risk control, which holds on
    average over calibrations only."""
    loss: Literal["accuracy_gap", "consistency", "brier"] = "accuracy_gap"
    """accuracy_gap: answered wrongly where the last exit is right; consistency: answered otherwise
    than by the last exit (needs no labels); brier: how much worse the answer's Brier score is."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Largest mean loss to allow."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Largest probability, over draws of the calibrate role, that the promise is broken (not with
    conformal)."""
    groups: Literal["marginal", "class", "client"] = "marginal"
    """marginal: the promise holds on average over all samples; class, client: for each class or
    client, each with its share of delta."""


class HardwareConfig(Section):
    """Machines and links of the tiers, by the names of their profiles."""

    devices: list[str]
    """Profile of each tier's machine, from the device on (see tardis_fl/profiles/devices.yaml)."""
    links: list[str]
    """Profile of the link over each boundary, from the device on (see links.yaml)."""
    radio: str | None = None
    """Profile of the device's radio (see radios.yaml); null: its energy isn't counted."""
    servers: list[PositiveInt] | None = None
    """Machines side by side on each tier but the first, which has one for each device; null: 1."""
    overhead_ms: list[NonNegativeFloat] | None = None
    """Time of each tier for a request beside computing, such as reading and starting; null: 0."""
    answer_bytes: PositiveInt = 8
    """Bytes of the answer on its way back to the device."""
    fragments: bool = False
    """Whether what is larger than a link's largest payload travels in several frames; false: such a
    deployment is refused."""


class LoadConfig(Section):
    """Requests over time, for a simulation of queues."""

    num_devices: PositiveInt = 100
    """Devices that send requests, each with its own queue and uplink."""
    arrivals: Literal["poisson", "bursty", "periodic", "trace"] = "poisson"
    """poisson: independent requests; bursty: Poisson in bursts, silent between; periodic: at equal
    times, each device with its own phase; trace: times from a file."""
    rate: PositiveFloat = 1.0
    """Requests a second and device (bursty: within a burst)."""
    on_seconds: PositiveFloat = 1.0
    """Mean length of a burst (arrivals bursty)."""
    off_seconds: PositiveFloat = 9.0
    """Mean silence between bursts (arrivals bursty)."""
    trace: str | None = None
    """File with one request a line, as seconds or as seconds,device (arrivals trace)."""
    num_requests: PositiveInt = 200_000
    """Requests to simulate."""
    deadline_ms: PositiveFloat | None = None
    """Latency above which an answer is late; late answers are counted; null: none is late."""
    batch_sizes: list[PositiveInt] | None = None
    """Largest batch of each tier but the first; null: 1."""
    batch_wait_ms: NonNegativeFloat = 0.0
    """Longest time a tier waits for a batch to fill."""
    batch_cost: Fraction = 1.0
    """Time of each further sample in a batch, as a share of the first one's; 1: a batch saves
    nothing."""
    allow_unstable: bool = False
    """Simulate although a queue grows without end; the figures then depend on num_requests, and the
    report says so."""
    saturation: list[PositiveFloat] = Field(default=[0.25, 0.5, 0.75, 0.9, 1.0])
    """Factors on the rate at which the latency is simulated too, for the saturation curve; factors
    with which a queue would grow without end are left out."""


class DeploymentFaultConfig(Section):
    """Something that breaks while requests go on."""

    kind: Literal["loss", "outage", "slow", "crash"]
    """loss: messages get lost; outage: a link is down; slow: a link's rate changes over time;
    crash: a tier's machines are down."""
    tier: str
    """The tier that crashes, or the sender of the link."""
    probability: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of messages that get lost (loss)."""
    burst: Annotated[float, Field(ge=1)] | None = None
    """Mean number of transmissions lost in a row (loss), all of one message; null: each is lost
    independently."""
    timeout_ms: NonNegativeFloat = 100.0
    """Time until a lost message is sent again (loss)."""
    start_s: NonNegativeFloat = 0.0
    """When it begins (outage, crash)."""
    end_s: PositiveFloat | None = None
    """When it is over (outage, crash)."""
    times_s: list[NonNegativeFloat] | None = None
    """When the rate changes (slow)."""
    factors: list[NonNegativeFloat] | None = None
    """Share of the link's rate from each of these times on (slow)."""


class DeploymentConfig(Section):
    """When a sample leaves its tier, and what travels then."""

    policy: Annotated[str, PluginName(lambda: POLICY_NAMES)] = "max_softmax"
    """Score in [0, 1] of an exit; the sample stays when score >= threshold. max_softmax, margin and
    entropy: of the probabilities; patience: share of the exits before that give the same answer;
    gain: 1 less the probability that the next tier corrects the answer, fitted on the fit role; or
    MODULE:FUNCTION, a function of your own of class probabilities (B, classes)."""
    policy_options: Annotated[Options, ADDED] = Field(default={})
    """Options of a policy of your own, by the names of its parameters."""
    ensemble: Literal["none", "geometric"] = "none"
    """none; geometric: an exit answers by the geometric mean of itself and all shallower exits,
    whose class probabilities then cross with the features."""
    max_accuracy_drop: Fraction | None = None
    """Target: the least offload (or what `minimise` names) with an accuracy on calibration data at
    most this far below that of never exiting early; 0.01 is one point."""
    target_offload_rate: Fraction | None = None
    """Target: the best accuracy on calibration data that sends at most this share of samples off
    the device."""
    latency_budget_ms: PositiveFloat | None = None
    """Target: the best accuracy with a mean latency without load of at most this (needs
    hardware)."""
    energy_budget_mj: PositiveFloat | None = None
    """Target: the best accuracy with a mean energy of the device for a request of at most this
    (needs hardware)."""
    bytes_budget: NonNegativeFloat | None = None
    """Target: the best accuracy that sends at most this many bytes a sample, over all
    boundaries."""
    certificate: CertificateConfig | None = None
    """Target: the lowest threshold with a guarantee, such as {epsilon: 0.02, delta: 0.1}."""
    thresholds: list[NonNegativeFloat] | None = None
    """Fixed thresholds in place of a target, one for each tier but the last; 0 always exits, above
    1 never."""
    threshold_mode: Literal["shared", "per_exit"] = "shared"
    """shared: one threshold for all exits; per_exit: one for each, from the exact frontier of two
    or three tiers (more freedom to fit chance: see the README)."""
    minimise: Axis = "offload_rate"
    """What max_accuracy_drop makes as small as it can: offload_rate, bytes, macs, latency_ms or
    energy_mj."""
    mixing: bool = False
    """Meet a budget exactly by mixing two thresholds at random, each sample by the seed and its
    number."""
    feature_codec: CodecName = "uint8"
    """How features travel between tiers: float32, float16, uint8, 7bit, 6bit, 5bit, 4bit, 3bit or
    2bit, alone or followed by +zlib or +zstd; or MODULE:CLASS, a codec of your own."""
    measure_codecs: list[CodecName] = Field(default=[])
    """Codecs to measure through the segments too, each with its accuracy and bytes, for the
    report's table."""
    batch_size: PositiveInt = 250
    """Samples a tier decides on at a time in the replay."""
    hardware: HardwareConfig | None = None
    """Machines and links, for latency and energy; null: neither is given."""
    load: LoadConfig | None = None
    """Requests over time (needs hardware); null: latency and energy are those of a request that
    waits for nobody."""
    faults: list[DeploymentFaultConfig] = Field(default=[])
    """What breaks while requests go on (needs load)."""
    on_failure: Literal["retry", "degrade", "drop"] = "retry"
    """What a request does that meets a broken link or tier. retry: it waits; degrade: the exit at
    hand answers it; drop: it is given up."""
    max_attempts: PositiveInt = 5
    """Times a lost message is sent before on_failure degrade or drop takes over; retry goes on."""

    @property
    def targets(self) -> list[str]:
        """The keys, of those that choose thresholds, that are set."""
        return [key for key in TARGETS if getattr(self, key) is not None]
