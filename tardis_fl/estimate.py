"""Roughly how long a run will take: a few real steps, timed, times the number of steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tardis_fl.config.schema import Config
from tardis_fl.early_exit.network import EarlyExitNetwork, segments_loss
from tardis_fl.federation.events import Work
from tardis_fl.precision import training_arithmetic

TIMED_STEPS = 2
PASSES_OVER_HELD_OUT = 2.0  # an evaluation in float32 costs about two forward passes of training


@dataclass(frozen=True)
class Plan:
    """Planned work in samples, and the seconds each sample takes, by kind of work."""

    num_samples: dict[Work, int]
    seconds_per_sample: dict[Work, float]

    @property
    def seconds(self) -> float:
        """Estimated time of the federation."""
        return sum(count * self.seconds_per_sample[work] for work, count in self.num_samples.items())


def plan(config: Config, network: EarlyExitNetwork, image_shape: tuple[int, int, int], *, num_train: int, num_fit: int, precision: str) -> Plan:
    """Counts the samples that a run will work on and times a few steps of each kind on a copy of the network.

    Args:
        config: The run's configuration.
        network: The network, left as it is.
        image_shape: (C, H, W).
        num_train: Training samples of all clients.
        num_fit: Fit samples of all clients.
        precision: Arithmetic of training.
    """
    federation = config.federation
    share = config.clients_per_round / federation.num_clients
    a_round = round(num_train * share)
    deeper = federation.client_depth < config.num_segments
    features = round(a_round * federation.feature_fraction) * federation.rounds if deeper and federation.server_epochs else 0
    final = num_train * federation.final_server_epochs if deeper else 0
    final_views = num_train * federation.final_feature_views if final else 0
    evaluations = -(-federation.rounds // federation.evaluate_every) if federation.evaluate_every else 1
    final_evaluations = (federation.final_server_epochs if federation.evaluate_every else 1) if deeper else 0
    num_samples: dict[Work, int] = {
        "train": a_round * federation.local_epochs * federation.rounds,
        "features": features + final_views,
        "server": features * federation.server_epochs + final,
        "evaluate": round(num_fit * share) * evaluations + num_fit * final_evaluations,
    }
    return Plan(num_samples, _time_steps(config, copy.deepcopy(network), image_shape, precision))


def _time_steps(config: Config, network: EarlyExitNetwork, image_shape: tuple[int, int, int], precision: str) -> dict[Work, float]:
    depth = config.federation.client_depth
    held, deeper = list(network)[:depth], list(network)[depth:]
    images = torch.zeros(config.federation.client.batch_size, *image_shape).contiguous(memory_format=torch.channels_last)
    train = _seconds_per_sample(len(images), lambda: _step(held, images, precision))

    def forward() -> torch.Tensor:
        with torch.no_grad(), training_arithmetic(precision):
            x = images
            for segment in held:
                x = segment.body(x)
        return x

    forward_seconds = _seconds_per_sample(len(images), forward)
    server = 0.0
    if deeper:
        features = torch.zeros(config.federation.server.batch_size, *forward().shape[1:])
        if features.dim() == 4:
            features = features.contiguous(memory_format=torch.channels_last)
        server = _seconds_per_sample(len(features), lambda: _step(deeper, features, precision))
    return {"train": train, "features": forward_seconds, "server": server, "evaluate": PASSES_OVER_HELD_OUT * (forward_seconds + server / 3)}


def _step(segments: list, x: torch.Tensor, precision: str) -> None:
    labels = torch.zeros(len(x), dtype=torch.int64)
    with training_arithmetic(precision):
        loss, _ = segments_loss(segments, x, labels, [1.0] * len(segments))
    loss.backward()


def _seconds_per_sample(count: int, step: Callable[[], object]) -> float:
    step()  # the first one builds kernels
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step()
    return (time.perf_counter() - started) / (TIMED_STEPS * count)
