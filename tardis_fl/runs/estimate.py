"""Roughly how long a run will take: a few real steps, timed, times the number of steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tardis_fl.config.schema import Config
from tardis_fl.core.compute import resolve_device, training_arithmetic
from tardis_fl.early_exit.counting import SegmentCost
from tardis_fl.early_exit.network import EarlyExitNetwork, segments_loss
from tardis_fl.federation.engines.parallelism import Parallelism
from tardis_fl.federation.records import Work

TIMED_STEPS = 2
PASSES_OVER_HELD_OUT = 2.0  # an evaluation in float32 costs about two forward passes of training


@dataclass(frozen=True)
class Plan:
    """Planned work in samples, in the rounds and in the final epochs, and the seconds each sample takes, by kind of work."""

    in_rounds: dict[Work, float]
    in_final_epochs: dict[Work, float]
    seconds_per_sample: dict[Work, float]

    @property
    def seconds(self) -> float:
        """Estimated time of the federation."""
        return sum(
            count * self.seconds_per_sample[work]
            for part in (self.in_rounds, self.in_final_epochs)
            for work, count in part.items()
        )

    def rest(self, rounds_done: float, final_epochs_done: float) -> Plan:
        """Returns what is left when these shares are done."""
        parts = ((self.in_rounds, rounds_done), (self.in_final_epochs, final_epochs_done))
        in_rounds, in_final_epochs = (
            {work: count * (1 - done) for work, count in part.items()} for part, done in parts
        )
        return Plan(in_rounds, in_final_epochs, self.seconds_per_sample)


def trained_samples(config: Config, num_train: int) -> float:
    """Returns how many samples clients train on in all rounds, counted as often as they do."""
    federation = config.federation
    return (
        num_train
        * config.clients_per_round
        / federation.num_clients
        * federation.local_epochs
        * federation.rounds
    )


def train_macs(config: Config, costs: Sequence[SegmentCost], num_train: int) -> float:
    """Returns the multiply-accumulates of a forward pass over all of these, through the segments that each group holds."""
    a_sample = sum(
        group.share * sum(cost.macs for cost in costs[: group.depth]) for group in config.groups
    )
    return a_sample * trained_samples(config, num_train)


def plan(
    config: Config,
    network: EarlyExitNetwork,
    image_shape: tuple[int, int, int],
    *,
    num_train: int,
    num_fit: int,
    num_proxy: int,
    precision: str,
    parallelism: Parallelism,
) -> Plan:
    """Counts the samples that a run will work on and times a few steps of each kind on a copy of the network.

    Args:
        config: The run's configuration.
        network: The network, left as it is.
        image_shape: (C, H, W).
        num_train: Training samples of all clients.
        num_fit: Fit samples of all clients.
        num_proxy: The server's own samples.
        precision: Arithmetic of training.
        parallelism: Who does the clients' work.
    """
    federation = config.federation
    share = config.clients_per_round / federation.num_clients
    trained = trained_samples(config, num_train)
    proxy, deeper = federation.server_training == "proxy", config.server_start < config.num_segments
    a_round = num_proxy if proxy else num_train * share * federation.feature_fraction
    collected = (
        a_round * federation.rounds
        if deeper and federation.server_epochs and not federation.split
        else 0.0
    )
    served = (
        trained
        if federation.split
        else collected
        * federation.server_epochs
        * min(federation.feature_buffer_rounds, federation.rounds)
    )
    final = (
        (num_proxy if proxy else num_train) if deeper and federation.final_server_epochs else 0.0
    )
    evaluations = (
        -(-federation.rounds // federation.evaluate_every) if federation.evaluate_every else 1
    )
    in_rounds: dict[Work, float] = {
        "train": trained,
        "features": collected,
        "server": served,
        "evaluate": num_fit * share * evaluations,
    }
    in_final_epochs: dict[Work, float] = {
        "features": final * federation.final_feature_views,
        "server": final * federation.final_server_epochs,
        "evaluate": num_fit * (federation.final_server_epochs if federation.evaluate_every else 1)
        if final
        else 0.0,
    }
    return Plan(
        in_rounds,
        in_final_epochs,
        _time_steps(config, copy.deepcopy(network), image_shape, precision, parallelism),
    )


def _time_steps(
    config: Config,
    network: EarlyExitNetwork,
    image_shape: tuple[int, int, int],
    precision: str,
    parallelism: Parallelism,
) -> dict[Work, float]:
    device, segments = (
        resolve_device(config.runtime),
        list(network.to(resolve_device(config.runtime))),
    )
    images = torch.zeros(
        config.federation.client.batch_size, *image_shape, device=device
    ).contiguous(memory_format=torch.channels_last)
    shares: dict[int, float] = {}
    for group in config.groups:
        shares[group.depth] = shares.get(group.depth, 0.0) + group.share
    own_threads = torch.get_num_threads()
    torch.set_num_threads(parallelism.client_threads)
    train = sum(
        share
        * _seconds_per_sample(
            len(images), lambda depth=depth: _step(segments[:depth], images, precision)
        )
        for depth, share in shares.items()
    )
    held = segments[: config.server_start]

    def forward() -> torch.Tensor:
        with torch.no_grad(), training_arithmetic(precision, device):
            x = images
            for segment in held:
                x = segment.body(x)
        return x

    forward_seconds = _seconds_per_sample(len(images), forward)
    torch.set_num_threads(own_threads)
    server, deeper = 0.0, segments[len(held) :]
    if deeper:
        features = torch.zeros(
            config.federation.server.batch_size, *forward().shape[1:], device=device
        )
        if features.dim() == 4:
            features = features.contiguous(memory_format=torch.channels_last)
        server = _seconds_per_sample(len(features), lambda: _step(deeper, features, precision))
    if config.federation.split:
        train += forward_seconds
    train, forward_seconds = train / parallelism.workers, forward_seconds / parallelism.workers
    return {
        "train": train,
        "features": forward_seconds,
        "server": server,
        "evaluate": PASSES_OVER_HELD_OUT * (forward_seconds + server / 3),
    }


def _step(segments: list, x: torch.Tensor, precision: str) -> None:
    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    with training_arithmetic(precision, x.device):
        loss, _, _ = segments_loss(segments, x, labels, [1.0] * len(segments))
    loss.backward()


def _seconds_per_sample(count: int, step: Callable[[], object]) -> float:
    step()  # the first one builds kernels
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step()
    return (time.perf_counter() - started) / (TIMED_STEPS * count)
