"""The trainings that a run is compared with.

Each gets the run's data, roles, seed and passes over an image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import torch

from tardis_fl.codecs.codec import transfer
from tardis_fl.config.federation import AggregationConfig, DistillationConfig
from tardis_fl.config.schema import Config
from tardis_fl.config.wire import wire_json
from tardis_fl.core.randomness import Purpose, numpy_generator, torch_generator
from tardis_fl.data.images import Dataset
from tardis_fl.data.roles import Indices, Shard
from tardis_fl.early_exit.evaluation import TestTable, exit_logits
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.errors import RunError
from tardis_fl.federation.callbacks.base import Callback
from tardis_fl.federation.client.local_training import train_segments
from tardis_fl.federation.client.resources import ClientResources, new_network, open_resources
from tardis_fl.federation.engines import run_apps
from tardis_fl.federation.rounds import Trained
from tardis_fl.federation.server.app import build_server_app
from tardis_fl.federation.server.learning_rate import learning_rate
from tardis_fl.federation.transport.messages import KINDS
from tardis_fl.report.results import ReferenceRow

CENTRALISED = "centralised"
CLIENT_ALONE = "client_alone"
FEDAVG = "fedavg"
DEVICE_ONLY = "device_only_training"


@dataclass(frozen=True)
class Sent:
    """Bytes of a whole training, by kind."""

    up: Mapping[str, int]
    down: Mapping[str, int]


def centralised(config: Config, _: int) -> ReferenceRow:
    """Trains the whole network with all exits on the training samples of all clients together."""
    started = time.perf_counter()
    work = _open(config)
    shards = work.partition.shards()
    together = np.sort(np.concatenate([shard.train for shard in shards]))
    network = train_alone(config, work, together, stream=0)
    sent = len(together) * work.dataset.train.image_bytes
    return _row(
        CENTRALISED,
        [exit_accuracies(network, work.dataset, config)],
        started,
        passes=num_passes(config),
        raw_images_bytes_up=sent,
    )


def client_alone(config: Config, num_clients: int) -> ReferenceRow:
    """Trains the whole network on the training samples of one client, for each of some clients."""
    started = time.perf_counter()
    work = _open(config)
    shards: list[Shard] = [
        work.partition.shard(client) for client in drawn_clients(config, num_clients)
    ]
    accuracies = [
        exit_accuracies(
            train_alone(config, work, shard.train, stream=shard.client), work.dataset, config
        )
        for shard in shards
    ]
    return _row(CLIENT_ALONE, accuracies, started, passes=num_passes(config))


def fedavg(config: Config, _: int) -> ReferenceRow:
    """Trains the whole network by plain FedAvg, in the run's rounds.

    With its clients and local epochs (McMahan et al. 2017).
    """
    started = time.perf_counter()
    trained, accuracies = _federated(plain(config, depth=config.num_segments))
    return _row(
        FEDAVG,
        [accuracies],
        started,
        passes=_client_passes(config),
        sent=Sent(trained.ledger.up, trained.ledger.down),
        num_failures=sum(trained.failures.values()),
    )


def device_only_training(config: Config, _: int) -> ReferenceRow:
    """Trains only the device segment with its exit, by plain FedAvg.

    Features aren't counted: they travel here only because the untrained deeper exits are evaluated
    too, which the row doesn't need.
    """
    started = time.perf_counter()
    trained, accuracies = _federated(plain(config, depth=1))
    up = {**trained.ledger.up, "features": 0}
    down = {**trained.ledger.down, "features": 0}
    return _row(
        DEVICE_ONLY,
        [[accuracies[0], *[None] * (config.num_segments - 1)]],
        started,
        passes=_client_passes(config),
        sent=Sent(up, down),
        num_failures=sum(trained.failures.values()),
    )


ROWS: dict[str, Callable[[Config, int], ReferenceRow]] = {
    CENTRALISED: centralised,
    CLIENT_ALONE: client_alone,
    FEDAVG: fedavg,
    DEVICE_ONLY: device_only_training,
}
"""The rows in their order. Each takes the run's configuration and the number of clients to train
alone."""


def plain(config: Config, *, depth: int) -> Config:
    """Returns the configuration of plain FedAvg, in which all clients train `depth` segments.

    All exits train on labels alone, and the server only averages. No fault is injected, no client
    is late, the exits' weights stay those of the start, and images that the server keeps aren't
    used. It isn't checked for consistency: depth 1 leaves segments that nobody trains, which is
    what the row is about.
    """
    federation = config.federation.unchecked_copy(
        {
            "client_depth": depth,
            "fleet": None,
            "client_exits": "all",
            "proximal_mu": 0.0,
            "distillation": DistillationConfig(),
            "aggregation": AggregationConfig(
                max_update_ratio=config.federation.aggregation.max_update_ratio
            ),
            "recalibrate_norm": False,
            "server_segments": "unheld",
            "server_epochs": 0,
            "final_server_epochs": 0,
            "split": False,
            "deadline_s": None,
            "late_updates": "discard",
            "faults": [],
        }
    )
    model = config.model.model_copy(
        update={"exit_weights": config.exit_weights, "norm": config.norm_layer}
    )
    return config.unchecked_copy({"federation": federation, "model": model})


def num_passes(config: Config) -> int:
    """Returns how often an image is used in the whole run, on average and rounded, at least once.

    rounds * share of the clients in a round * local epochs, and the final epochs where the server
    trains something.
    """
    final = (
        config.federation.final_server_epochs if config.server_start < config.num_segments else 0
    )
    return max(1, round(_client_passes(config) + final))


def drawn_clients(config: Config, count: int) -> list[int]:
    """Returns the clients that train alone, ascending.

    They are drawn by the seed; where there are fewer than `count`, all.
    """
    order = numpy_generator(config.seed, Purpose.REFERENCE).permutation(
        config.federation.num_clients
    )
    return sorted(order[:count].tolist())


def train_alone(
    config: Config, work: ClientResources, indices: Indices, *, stream: int
) -> EarlyExitNetwork:
    """Trains the whole network on some samples, as a client would, for `num_passes` epochs.

    It starts from the run's initial weights. The learning rate follows the clients' schedule over
    these epochs. Momentum starts at zero in every epoch, as it does in every round on a client.

    Args:
        config: The run's configuration.
        work: Its data.
        indices: Samples of the training split.
        stream: Number of the stream of random numbers.

    Raises:
        RunError: The weights are no longer finite.
    """
    settings, passes = config.federation.client, num_passes(config)
    an_epoch = config.unchecked_copy(
        {"federation": config.federation.unchecked_copy({"local_epochs": 1})}
    )
    network = new_network(config, work.dataset.num_classes).to(work.data.device)
    generator = torch_generator(config.seed, Purpose.REFERENCE, stream)
    for epoch in range(passes):
        rate = learning_rate(settings, epoch / passes, passes)
        train_segments(
            list(network),
            work.data,
            indices,
            config=an_epoch,
            learning_rate=rate,
            generator=generator,
            precision=work.precision,
        )
    if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        raise RunError(
            "training diverged (weights are not finite); lower federation.client.learning_rate"
        )
    return network


def exit_accuracies(network: EarlyExitNetwork, dataset: Dataset, config: Config) -> list[float]:
    """Returns each exit's accuracy on the test split, measured as the run's.

    Through the deployment's codec, and as ensembles where it has them.
    """
    device = next(network.parameters()).device

    def images(rows: slice) -> torch.Tensor:
        return dataset.normalisation(torch.from_numpy(dataset.test.images[rows]).to(device))

    count = len(dataset.test)
    logits = exit_logits(
        list(network), images, count, transfer=transfer(config.deployment.feature_codec)
    )
    table = TestTable(logits, np.asarray(dataset.test.labels), np.arange(count), np.full(count, -1))
    return (table.ensembled() if config.deployment.ensemble == "geometric" else table).accuracies()


def _federated(config: Config) -> tuple[Trained, list[float]]:
    received: list[Trained] = []
    run_apps(build_server_app(config, Callback(), received.append), config, workers=1)
    trained = received.pop()
    return trained, exit_accuracies(trained.network, _open(config).dataset, config)


def _open(config: Config) -> ClientResources:
    return open_resources(wire_json(config))


def _client_passes(config: Config) -> float:
    federation = config.federation
    return (
        federation.rounds
        * federation.local_epochs
        * config.clients_per_round
        / federation.num_clients
    )


def _row(
    name: str,
    accuracies: Sequence[Sequence[float | None]],
    started: float,
    *,
    passes: float,
    raw_images_bytes_up: int = 0,
    num_failures: int = 0,
    sent: Sent | None = None,
) -> ReferenceRow:
    columns = [
        [value for value in exit if value is not None] for exit in zip(*accuracies, strict=True)
    ]
    sent = sent or Sent(dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0))
    return ReferenceRow(
        name=name,
        accuracy=[fmean(values) if values else None for values in columns],
        accuracy_std=[stdev(values) for values in columns] if len(accuracies) > 1 else None,
        num_runs=len(accuracies),
        passes=float(passes),
        bytes_up=dict(sent.up),
        bytes_down=dict(sent.down),
        raw_images_bytes_up=raw_images_bytes_up,
        num_failures=num_failures,
        seconds=time.perf_counter() - started,
    )
