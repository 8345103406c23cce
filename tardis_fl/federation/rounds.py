"""The federated training, from the first round to the exit tables of the clients' hold-outs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import RecordDict

from tardis_fl.codecs import concatenate
from tardis_fl.config.schema import Config
from tardis_fl.data.roles import Role
from tardis_fl.early_exit.evaluation import CalibrationTable, ExitTable, FitTable
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.errors import RunError
from tardis_fl.federation import messages
from tardis_fl.federation.aggregation import WeightedMean
from tardis_fl.federation.events import Failure, Listener, RoundRecord
from tardis_fl.federation.fleet import Fleet
from tardis_fl.federation.messages import Counts, FeatureBatch, Ledger
from tardis_fl.federation.schedule import learning_rate
from tardis_fl.federation.server_training import ServerTrainer, deeper_logits
from tardis_fl.federation.workspace import new_network
from tardis_fl.precision import resolve_precision
from tardis_fl.randomness import Purpose, numpy_generator, torch_generator


@dataclass(frozen=True)
class Trained:
    """What a federation leaves.

    Attributes:
        network: The trained network, all segments.
        fit, calibrate: Exit tables of the clients' hold-outs.
        rounds: One record a round.
        final_epochs: One record for each of the server's final epochs.
        ledger: Bytes by direction and kind.
        num_train: Training samples of all clients.
        num_failures: How often a client failed or its update was rejected.
        seconds: Wall-clock time of the federation.
    """

    network: EarlyExitNetwork
    fit: FitTable
    calibrate: CalibrationTable
    rounds: list[RoundRecord]
    final_epochs: list[RoundRecord]
    ledger: Ledger
    num_train: int
    num_failures: int
    seconds: float


def train_federated(fleet: Fleet, config: Config, listener: Listener) -> Trained:
    """Runs the configured federation.

    Raises:
        RunError: More clients failed than `federation.max_failed_fraction` allows, or training diverged.
    """
    started = time.perf_counter()
    server = FederationServer(fleet, config, listener)
    rounds, final_epochs = [], []
    for number in range(1, config.federation.rounds + 1):
        record = server.run_round(number)
        rounds.append(record)
        listener.round_done(record, server.network.state_dict())
    if server.trains:
        for epoch in range(config.federation.final_server_epochs):
            record = server.run_final_epoch(epoch)
            final_epochs.append(record)
            listener.epoch_done(record)
    fit, calibrate = server.exit_tables()
    return Trained(
        server.network, fit, calibrate, rounds, final_epochs, fleet.ledger,
        sum(fleet.num_train.values()), server.num_failures, time.perf_counter() - started,
    )  # fmt: skip


def choose_clients(config: Config, round_number: int) -> list[int]:
    """Returns the round's clients, ascending; the draw depends on the seed and the round alone."""
    generator = numpy_generator(config.seed, Purpose.SELECTION, round_number)
    return sorted(generator.permutation(config.federation.num_clients)[: config.clients_per_round].tolist())


def view_of(epoch: int, *, config: Config) -> int:
    """Returns which view of the features a final epoch trains on, both counted from 0."""
    return epoch * config.federation.final_feature_views // config.federation.final_server_epochs


class FederationServer:
    """The server's side: the global network, the trainer of its deeper segments, and who failed this round."""

    def __init__(self, fleet: Fleet, config: Config, listener: Listener) -> None:
        self._fleet, self._config, self._listener = fleet, config, listener
        self.network = new_network(config, fleet.image_kind.num_classes)
        depth = config.federation.client_depth
        self._held, deeper = messages.segments_state(list(self.network)[:depth]), list(self.network)[depth:]
        self.trains = bool(deeper)
        self._deeper = deeper
        self._trainer = ServerTrainer(deeper, config, resolve_precision(config.runtime)) if deeper else None
        self._final_features: FeatureBatch | None = None
        self.num_failures = 0
        self._round = _RoundState(0, [])

    def run_round(self, number: int) -> RoundRecord:
        """1. Chosen clients train the held segments. 2. Average. 3. Train the deeper ones. 4. Evaluate."""
        federation = self._config.federation
        self._round = _RoundState(number, choose_clients(self._config, number))
        rate = learning_rate(federation.client.learning_rate, federation.client.schedule, (number - 1) / federation.rounds)
        train_counts = self._train_clients(rate)
        server_counts = None
        if self._trainer and federation.server_epochs:
            data = self._collect_features(federation.feature_fraction)
            server_counts = Counts()
            for epoch in range(federation.server_epochs):
                server_counts += self._train_server(data, (number - 1) * federation.server_epochs + epoch)
        due = federation.evaluate_every and number % federation.evaluate_every == 0
        validation = self._evaluate() if due or number == federation.rounds else None
        return self._record(rate, train_counts, server_counts, validation)

    def run_final_epoch(self, epoch: int) -> RoundRecord:
        """Trains the deeper segments on all clients' features; every so many epochs these are a fresh view."""
        federation = self._config.federation
        self._round = _RoundState(federation.rounds + 1 + epoch, list(range(federation.num_clients)))
        if self._final_features is None or view_of(epoch, config=self._config) != view_of(epoch - 1, config=self._config):
            self._final_features = None  # let go of the old view before the new one comes
            self._final_features = self._collect_features(1.0)
        counts = self._train_server(self._final_features, federation.rounds * federation.server_epochs + epoch)
        last = epoch == federation.final_server_epochs - 1
        return self._record(None, None, counts, self._evaluate() if federation.evaluate_every or last else None)

    def exit_tables(self) -> tuple[FitTable, CalibrationTable]:
        """Asks all clients for their hold-outs' logits and features, and adds the deeper exits."""
        self._round = _RoundState(self._round.number, list(range(self._config.federation.num_clients)))
        tables: dict[Role, list[ExitTable]] = {Role.FIT: [], Role.CALIBRATE: []}
        for client, content in self._ask("tables", messages.TABLES, weights=self._held):
            tensors = messages.unpack_tensors(content.array_records[messages.FEATURES_KIND])
            for role, kind in ((Role.FIT, FitTable), (Role.CALIBRATE, CalibrationTable)):
                prefix = f"{role.value}."
                logits, labels = tensors[f"{prefix}logits"].numpy(), tensors[f"{prefix}labels"].numpy()
                if self._deeper:
                    batch = FeatureBatch.from_tensors(tensors, prefix)
                    logits = np.concatenate([logits, deeper_logits(self._deeper, batch, self._config.deployment.feature_codec)])
                tables[role].append(kind(logits, labels, tensors[f"{prefix}sample_ids"].numpy(), np.full(len(labels), client)))
        return FitTable.concatenate(tables[Role.FIT]), CalibrationTable.concatenate(tables[Role.CALIBRATE])  # type: ignore[arg-type]

    def _train_clients(self, rate: float) -> Counts:
        total, counts = WeightedMean(), Counts()
        for client, content in self._ask("train", messages.TRAIN, weights=self._held, learning_rate=rate):
            try:
                state = messages.read_weights(content.array_records[messages.WEIGHTS], self._held)
            except ValueError as error:
                self._fail(client, "train", f"{error}; rejected")
                continue
            update = Counts.from_record(content.metric_records[messages.METRICS])
            total.add(state, self._fleet.num_train[client])
            counts += update
            self._listener.worked("train", update.num_samples)
        self._check_failures()
        messages.load_weights(total.mean(), into=self._held)
        return counts

    def _collect_features(self, fraction: float) -> FeatureBatch:
        parts = []
        for _, content in self._ask("features", messages.FEATURES, weights=self._held, fraction=fraction):
            parts.append(FeatureBatch.from_tensors(messages.unpack_tensors(content.array_records[messages.FEATURES_KIND])))
            self._listener.worked("features", len(parts[-1]))
        self._check_failures()
        return FeatureBatch(concatenate([part.features for part in parts]), torch.cat([part.labels for part in parts]))

    def _train_server(self, data: FeatureBatch, epoch: int) -> Counts:
        assert self._trainer is not None
        counts = self._trainer.train_epoch(data, epoch=epoch, generator=torch_generator(self._config.seed, Purpose.SERVER_SHUFFLE, epoch))
        weights_finite = all(torch.isfinite(parameter).all() for segment in self._deeper for parameter in segment.parameters())
        if not (math.isfinite(counts.loss_sum) and weights_finite):
            raise RunError(
                f"round {self._round.number}: the server's training diverged (its loss or weights are not finite); lower federation.server.learning_rate"
            )
        self._listener.worked("server", len(data))
        return counts

    def _evaluate(self) -> Counts:
        total = Counts()
        for _, content in self._ask("evaluate", messages.EVALUATE, weights=self._held):
            counts = Counts.from_record(content.metric_records[messages.METRICS])
            if self._deeper:
                batch = FeatureBatch.from_tensors(messages.unpack_tensors(content.array_records[messages.FEATURES_KIND]))
                logits = deeper_logits(self._deeper, batch, self._config.deployment.feature_codec)
                deeper = (logits.argmax(2) == batch.labels.numpy()).sum(1).tolist()
                counts = Counts(counts.num_samples, 0.0, (*counts.correct, *deeper))
            total += counts
            self._listener.worked("evaluate", counts.num_samples)
        self._check_failures()
        return total

    def _ask(self, stage: str, message_type: str, *, weights: messages.State, **values: float) -> Iterator[tuple[int, RecordDict]]:
        """Asks the round's clients that haven't failed yet; yields who answered, ascending."""
        healthy = [client for client in self._round.chosen if client not in {failure.client for failure in self._round.failures}]
        for reply in self._fleet.ask(message_type, healthy, round_number=self._round.number, weights=weights, **values):
            if reply.content is None:
                self._fail(reply.client, stage, str(reply.error))
            else:
                yield reply.client, reply.content
        if stage == "tables":
            self._check_failures()

    def _fail(self, client: int, stage: str, details: str) -> None:
        reason = details.strip().splitlines()[-1] if details.strip() else "no reason given"
        failure = Failure(self._round.number, client, stage, reason, details)
        self._round.failures.append(failure)
        self.num_failures += 1
        self._listener.failed(failure)

    def _check_failures(self) -> None:
        failures, chosen, limit = self._round.failures, self._round.chosen, self._config.federation.max_failed_fraction
        if len(failures) > limit * len(chosen):
            first = failures[0]
            raise RunError(
                f"round {self._round.number}: {len(failures)} of {len(chosen)} clients failed, more than federation.max_failed_fraction {limit:g} allows.\n"
                f"Client {first.client} failed first, in {first.stage}: {first.reason}"
            )

    def _record(self, rate: float | None, train: Counts | None, server: Counts | None, validation: Counts | None) -> RoundRecord:
        state, ledger = self._round, self._fleet.ledger
        return RoundRecord(
            state.number, tuple(state.chosen), tuple(state.failures), rate, train, server, validation,
            dict(ledger.up), dict(ledger.down), time.perf_counter() - state.started,
        )  # fmt: skip


@dataclass
class _RoundState:
    number: int
    chosen: Sequence[int]
    failures: list[Failure] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
