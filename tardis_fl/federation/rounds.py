"""The federated training, from the first round to the exit tables of the clients' held-out samples, or sums over these."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, RecordDict

from tardis_fl.config.schema import Config
from tardis_fl.config.wire import wire_json
from tardis_fl.core.compute import resolve_device, resolve_precision
from tardis_fl.core.randomness import Purpose, torch_generator
from tardis_fl.data.roles import Role
from tardis_fl.early_exit.counting import segment_costs
from tardis_fl.early_exit.evaluation import CalibrationTable, ExitTable, FitTable
from tardis_fl.early_exit.network import EarlyExitNetwork
from tardis_fl.early_exit.scoring.calibration_sums import CalibrationSums
from tardis_fl.early_exit.training.losses import build_loss
from tardis_fl.errors import RunError
from tardis_fl.federation.callbacks.base import Callback, RunStart, StopTraining
from tardis_fl.federation.client.local_training import answering_exits, training_features
from tardis_fl.federation.client.norm_statistics import PooledStatistics
from tardis_fl.federation.client.resources import new_network, open_resources
from tardis_fl.federation.conditions.clock import VirtualClock
from tardis_fl.federation.records import RoundRecord, Snapshot
from tardis_fl.federation.server.aggregation.updates import Updates
from tardis_fl.federation.server.deeper.feature_buffer import FeatureBuffer, Pieces, by_depth
from tardis_fl.federation.server.deeper.trainer import ServerTrainer, deeper_logits, epochs_a_round
from tardis_fl.federation.server.evaluation.calibration_sums import STAGE, collect_sums
from tardis_fl.federation.server.evaluation.held_out import HeldOutReply, collect_held_out
from tardis_fl.federation.server.round_state import RoundState
from tardis_fl.federation.server.training_plan import TrainingPlan
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.fleet import Fleet, Reply
from tardis_fl.federation.transport.messages import Counts, FeatureBatch, Ledger
from tardis_fl.federation.transport.weights import Flat, HeldWeights


@dataclass(frozen=True)
class Trained:
    """What a federation leaves.

    Attributes:
        network: The trained network, all segments.
        fit, calibrate: Exit tables of the clients' held-out samples; None where they sent sums.
        sums: What clients sent instead of tables (federation.calibration: sums); None where they
            sent tables.
        rounds: One record a round.
        final_epochs: One record for each of the server's final epochs.
        ledger: Bytes by direction and kind.
        num_train: Training samples of all clients.
        failures: How often clients failed, by kind.
        num_unused: Late updates that would have joined a round after the last.
        seconds: Wall-clock time of the federation, without interruptions.
    """

    network: EarlyExitNetwork
    fit: FitTable | None
    calibrate: CalibrationTable | None
    sums: CalibrationSums | None
    rounds: list[RoundRecord]
    final_epochs: list[RoundRecord]
    ledger: Ledger
    num_train: int
    failures: Mapping[str, int]
    num_unused: int
    seconds: float

    @property
    def num_fit(self) -> int:
        """Fit samples behind the temperatures."""
        if self.sums is not None:
            return self.sums.num_fit
        return len(self.fit) if self.fit is not None else 0


@dataclass(frozen=True)
class Interrupted:
    """What an interrupted federation left.

    Attributes:
        snapshot: Its state after the last complete round or final epoch.
        rounds, final_epochs: The records up to there.
    """

    snapshot: Snapshot
    rounds: Sequence[RoundRecord]
    final_epochs: Sequence[RoundRecord]


def train_federated(
    fleet: Fleet, config: Config, callbacks: Callback, interrupted: Interrupted | None = None
) -> Trained:
    """Runs the configured federation, or the rest of it.

    Args:
        fleet: The clients.
        config: The resolved configuration.
        callbacks: Are called as it goes on; they may end the rounds by `StopTraining`.
        interrupted: Where an interrupted federation goes on; None: from the start.

    Raises:
        RunError: More clients failed than `federation.max_failed_fraction` allows, or training
            diverged.
    """
    try:
        trained = _train(fleet, config, callbacks, interrupted)
    except BaseException as error:
        callbacks.on_run_end(error)
        raise
    callbacks.on_run_end(None)
    return trained


def _train(
    fleet: Fleet, config: Config, callbacks: Callback, interrupted: Interrupted | None
) -> Trained:
    server = FederationServer(fleet, config, callbacks)
    rounds: list[RoundRecord] = []
    final_epochs: list[RoundRecord] = []
    if interrupted is not None:
        rounds += interrupted.rounds
        final_epochs += interrupted.final_epochs
        server.restore(interrupted.snapshot)
    try:
        callbacks.on_run_begin(RunStart(config, tuple(rounds), tuple(final_epochs)))
        while len(rounds) < config.federation.rounds and not server.stopped:
            rounds.append(server.run_round(len(rounds) + 1))
            callbacks.on_round_end(rounds[-1], server.snapshot)
    except StopTraining:
        server.stopped = True
    if config.federation.recalibrate_norm and not final_epochs:
        server.recalibrate_norm()
    if server.trains:
        try:
            while len(final_epochs) < config.federation.final_server_epochs:
                final_epochs.append(server.run_final_epoch(len(final_epochs)))
                callbacks.on_epoch_end(final_epochs[-1], server.snapshot)
        except StopTraining:
            pass
    sums = server.calibration_sums() if config.calibrates_by_sums else None
    fit, calibrate = server.exit_tables() if sums is None else (None, None)
    return Trained(
        network=server.network,
        fit=fit,
        calibrate=calibrate,
        sums=sums,
        rounds=rounds,
        final_epochs=final_epochs,
        ledger=fleet.ledger,
        num_train=fleet.total_train,
        failures=dict(server.failures),
        num_unused=server.num_unused,
        seconds=server.seconds,
    )


def view_of(epoch: int, *, config: Config) -> int:
    """Returns which view of the features a final epoch trains on, both counted from 0."""
    return epoch * config.federation.final_feature_views // config.federation.final_server_epochs


class FederationServer:
    """The server's side: the global network, how updates become weights, and the trainer of the deeper segments."""

    def __init__(self, fleet: Fleet, config: Config, callbacks: Callback) -> None:
        self._fleet, self._config, self._callbacks = fleet, config, callbacks
        self._device, self._precision = (
            resolve_device(config.runtime),
            resolve_precision(config.runtime),
        )
        self.network = new_network(config, fleet.image_kind.num_classes).to(self._device)
        self._segments = list(self.network)
        self._weights = HeldWeights(self._segments[: config.max_depth])
        self._updates = Updates(self._weights, config)
        criterion = build_loss(
            config.model.loss,
            config.model.loss_options,
            num_classes=fleet.image_kind.num_classes,
        )
        self._plan = TrainingPlan(config, criterion)
        self.trains = config.server_start < config.num_segments
        self._trainer = (
            ServerTrainer(self._segments, config, self._precision, self._device)
            if self.trains
            else None
        )
        self._buffer = FeatureBuffer(config.federation.feature_buffer_rounds)
        self._final_view: tuple[int, list[FeatureBatch]] | None = None
        timed = any(group.device for group in config.groups)
        self._clock = VirtualClock(
            config,
            [cost.macs for cost in segment_costs(self.network, fleet.image_kind.shape)]
            if timed
            else [],
        )
        self.failures: Counter[str] = Counter()
        self.stopped = False  # whether a callback wants no further round
        self._now = RoundState(0, (), 0.0)
        self._rounds_done, self._epochs_done = 0, 0
        self._started, self._seconds_before = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock time so far, of all sittings."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def num_unused(self) -> int:
        """Late updates that wait for a round to come."""
        return self._updates.num_waiting

    def run_round(self, number: int) -> RoundRecord:
        """1.

        Chosen clients train the segments they hold. 2. Aggregate. 3. Train the deeper ones. 4.
        Evaluate.
        """
        federation, num_repeated = self._config.federation, self._fleet.num_repeated
        now = self._begin(number, self._fleet.population.choose(number))
        exit_weights, sent = self._plan.exit_weights, self._updates.begin(number)
        if now.clients:
            if federation.split:
                self._train_split(sent)
            else:
                self._train_clients(sent)
            now.check()
        # with nobody there, a late update of an earlier round may still have come
        self._updates.finish()
        if self._trainer and not federation.split and federation.server_epochs:
            self._train_deeper(sent)
        due = federation.evaluate_every and number % federation.evaluate_every == 0
        if due or number == federation.rounds:
            now.validation = self._evaluate()
            self._plan.learn_serving_rates(now.validation)
        self._rounds_done = number
        missing = bool(now.late) or any(
            failure.kind in ("dropout", "late") for failure in now.failures
        )
        return now.record(
            self._fleet.ledger,
            learning_rate=self._plan.learning_rate(number),
            exit_weights=exit_weights,
            update_norm=self._updates.norm_summary(),
            num_repeated=self._fleet.num_repeated - num_repeated,
            virtual_seconds=self._clock.round_seconds(now.arrivals, someone_is_missing=missing),
        )

    def recalibrate_norm(self) -> None:
        """Replaces the held segments' running statistics by those of all clients' training samples."""
        federation, pooled = self._config.federation, PooledStatistics()
        now = self._begin(federation.rounds, range(federation.num_clients))
        for reply, content in self._ask(
            "statistics", messages.STATISTICS, weights=self._weights.flatten()
        ):
            try:
                pooled.add(
                    messages.unpack_tensors(content.array_records[messages.WEIGHTS]),
                    self._fleet.num_train(reply.client),
                )
            except ValueError as error:
                self._fail(reply.client, "statistics", "rejected", f"{error}; rejected")
        now.check()
        pooled.write(self._segments[: self._config.max_depth])

    def run_final_epoch(self, epoch: int) -> RoundRecord:
        """Trains the deeper segments on all clients' features; every so many epochs these are a fresh view."""
        federation = self._config.federation
        now = self._begin(federation.rounds + 1 + epoch, range(federation.num_clients))
        data = self._final_features(epoch)
        now.server = self._train_server(
            data, federation.rounds * epochs_a_round(self._config) + epoch
        )
        if federation.evaluate_every or epoch == federation.final_server_epochs - 1:
            now.validation = self._evaluate()
        self._epochs_done = epoch + 1
        return now.record(
            self._fleet.ledger,
            learning_rate=None,
            exit_weights=self._plan.exit_weights,
            update_norm=None,
            num_repeated=0,
            virtual_seconds=None,
        )

    def exit_tables(self) -> tuple[FitTable, CalibrationTable]:
        """Asks all clients for their held-out samples' logits and features, and adds the deeper exits."""
        federation = self._config.federation
        now = self._begin(federation.rounds + self._epochs_done, range(federation.num_clients))
        tables: dict[Role, dict[int, ExitTable]] = {Role.FIT: {}, Role.CALIBRATE: {}}
        for found in self._held_out("tables", messages.TABLES):
            first = 0
            for role, kind in ((Role.FIT, FitTable), (Role.CALIBRATE, CalibrationTable)):
                logits, sample_ids = (
                    found.tensors[f"{role.value}.{name}"].numpy()
                    for name in ("logits", "sample_ids")
                )
                if found.features is None:
                    labels = found.tensors[f"{role.value}.labels"].numpy()
                else:
                    rows = found.features[first : first + len(sample_ids)]
                    logits, labels = (
                        np.concatenate([logits, self._deeper_logits(rows)]),
                        rows.labels.numpy(),
                    )
                first += len(sample_ids)
                sample_ids = self._fleet.first_sample(found.client) + sample_ids
                tables[role][found.client] = kind(
                    logits, labels, sample_ids, np.full(len(labels), found.client)
                )
        now.check()
        fit, calibrate = (
            [table for _, table in sorted(tables[role].items())]
            for role in (Role.FIT, Role.CALIBRATE)
        )
        return FitTable.concatenate(fit), CalibrationTable.concatenate(calibrate)  # type: ignore[arg-type]

    def calibration_sums(self) -> CalibrationSums:
        """Sends all clients the whole network, and asks for sums over their held-out samples in place of tables."""
        federation = self._config.federation
        now = self._begin(federation.rounds + self._epochs_done, range(federation.num_clients))
        return collect_sums(
            self._ask,
            lambda client, why: self._fail(client, STAGE, "rejected", f"{why}; rejected"),
            now.check,
            weights=HeldWeights(self._segments).flatten(),
            num_exits=len(self._segments),
        )

    def snapshot(self) -> Snapshot:
        """Returns all that `restore` needs after a complete round or final epoch."""
        parts = {
            "network": self.network.state_dict(),
            "updates": self._updates.state(),
            "trainer": self._trainer.state() if self._trainer else {},
            "features": self._buffer.state(),
            "clients": self._fleet.client_states(),
        }
        facts = {
            "round": self._rounds_done,
            "final_epoch": self._epochs_done,
            "exit_weights": self._plan.exit_weights,
            "failures": dict(self.failures),
            "bytes_up": self._fleet.ledger.up,
            "bytes_down": self._fleet.ledger.down,
            "seconds": self.seconds,
        }
        if self.stopped:
            facts["stopped"] = True
        return Snapshot(
            {
                f"{part}.{name}": tensor
                for part, tensors in parts.items()
                for name, tensor in tensors.items()
            },
            facts,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Takes back what `snapshot` returned; the final epochs' features, which it leaves out, are asked for again and not counted again."""
        facts = snapshot.facts
        self.network.load_state_dict(snapshot.part("network"))
        self._updates.restore(snapshot.part("updates"))
        if self._trainer:
            self._trainer.restore(snapshot.part("trainer"))
        self._buffer.restore(snapshot.part("features"), self._device)
        self._fleet.restore_client_states(snapshot.part("clients"))
        self._plan.exit_weights = list(facts["exit_weights"])
        self._rounds_done, self._epochs_done = facts["round"], facts["final_epoch"]
        if 0 < self._epochs_done < self._config.federation.final_server_epochs:
            self._begin(
                self._config.federation.rounds + self._epochs_done,
                range(self._config.federation.num_clients),
            )
            self._final_features(self._epochs_done - 1)
        self.failures = Counter(facts["failures"])
        self.stopped = bool(facts.get("stopped", False))
        self._fleet.ledger.up, self._fleet.ledger.down = (
            dict(facts["bytes_up"]),
            dict(facts["bytes_down"]),
        )
        self._seconds_before, self._started = facts["seconds"], time.perf_counter()

    def _begin(self, number: int, clients: Sequence[int]) -> RoundState:
        self._now = RoundState(number, clients, self._config.federation.max_failed_fraction)
        return self._now

    def _train_clients(self, sent: Flat) -> None:
        for reply, content in self._ask(
            "train", messages.TRAIN, weights=sent, **self._plan.request(self._now.number)
        ):
            self._take_update(
                reply,
                content,
                bytes_down=sum(reply.bytes_down.values()),
                bytes_up=sum(reply.bytes_up.values()),
            )

    def _train_split(self, sent: Flat) -> None:
        """Clients and server train together: features up, their gradients down, until every client has sent its weights."""
        assert self._trainer is not None
        request, objective, tally = (
            self._plan.request(self._now.number),
            self._plan.server_objective(self._now.number),
            self._trainer.tally(),
        )
        down, up = Counter[int](), Counter[int]()
        gradients: dict[int, ArrayRecord] = {}
        for step in itertools.count():
            extras, gradients = gradients, {}
            for reply, content in self._ask(
                "train",
                messages.SPLIT,
                clients=list(extras) if step else None,
                extras=extras or None,
                weights=None if step else sent,
                step=step,
                **request,
            ):
                down[reply.client] += sum(reply.bytes_down.values())
                up[reply.client] += sum(reply.bytes_up.values())
                if messages.WEIGHTS in content:
                    self._take_update(
                        reply,
                        content,
                        bytes_down=down[reply.client],
                        bytes_up=up[reply.client],
                        num_exchanges=step + 1,
                    )
                    continue
                tensors = messages.unpack_tensors(content.array_records[messages.FEATURES_KIND])
                batch = FeatureBatch.from_tensors(
                    tensors, self._fleet.population.depth(reply.client)
                )
                gradient = self._trainer.train_split(
                    batch, epoch=self._now.number - 1, objective=objective, tally=tally
                )
                gradients[reply.client] = messages.pack_tensors({"gradient": gradient})
                self._callbacks.on_progress("server", len(batch))
            if not gradients:
                break
        self._now.server = tally.counts()
        self._check_server(self._now.server)

    def _take_update(
        self,
        reply: Reply,
        content: RecordDict,
        *,
        bytes_down: int,
        bytes_up: int,
        num_exchanges: int = 1,
    ) -> None:
        """Puts an update where it belongs: into this round's average, into a later one's, or away."""
        federation, client, now = self._config.federation, reply.client, self._now
        counts, group = (
            Counts.from_record(content.metric_records[messages.METRICS]),
            self._fleet.population.group(client),
        )
        slowdown = (
            self._fleet.faults.strike(now.number, client).get("straggler", 1.0)
            if self._clock.runs
            else 1.0
        )
        seconds = self._clock.client_seconds(
            group,
            num_samples=counts.num_samples,
            bytes_down=bytes_down,
            bytes_up=bytes_up,
            num_exchanges=num_exchanges,
            slowdown=slowdown,
        )
        missed = self._clock.deadlines_missed(seconds)
        now.arrivals.append(seconds)
        self._callbacks.on_progress("train", counts.num_samples)
        if missed and federation.late_updates == "discard":
            self._fail(
                client,
                "train",
                "late",
                f"its update came after {seconds:.3g} s, federation.deadline_s is {federation.deadline_s:g}",
            )
            return
        try:
            update = messages.unpack_tensors(content.array_records[messages.WEIGHTS])
            keys = self._weights.keys(group.depth, exits=federation.client_exits)
            self._updates.add(update, keys, self._fleet.num_train(client), deadlines_missed=missed)
        except ValueError as error:
            self._fail(client, "train", "rejected", f"{error}; rejected")
            return
        if missed:
            now.late.add(client)
        now.train = counts + (now.train or Counts())

    def _train_deeper(self, sent: Flat) -> None:
        """Trains the deeper segments on features of the new average, or, where they are stale, of the weights that the round began with."""
        federation, now = self._config.federation, self._now
        if federation.server_training == "proxy":
            parts = [self._proxy_features()]
        else:
            weights = (
                self._weights.flatten()
                if federation.feature_timing == "fresh"
                else None
                if self._config.keeps_features
                else sent
            )
            parts = self._collect_features(weights, federation.feature_fraction)
        self._buffer.add(now.number, parts)
        now.feature_ages, data = self._buffer.ages(now.number), self._buffer.batches()
        if not data:
            return
        now.server = Counts()
        for epoch in range(federation.server_epochs):
            now.server += self._train_server(
                data, (now.number - 1) * federation.server_epochs + epoch
            )

    def _final_features(self, epoch: int) -> list[FeatureBatch]:
        """Returns the view of an epoch's features, asked for as in the first epoch that trains on it."""
        view, federation = view_of(epoch, config=self._config), self._config.federation
        if self._final_view is None or self._final_view[0] != view:
            self._final_view = None  # let go of the old view before the new one comes
            first = next(
                number
                for number in range(epoch + 1)
                if view_of(number, config=self._config) == view
            )
            number, self._now.number = self._now.number, federation.rounds + 1 + first
            proxy = federation.server_training == "proxy"
            parts = (
                [self._proxy_features()]
                if proxy
                else self._collect_features(self._weights.flatten(), 1.0)
            )
            self._now.number = number
            self._final_view = view, by_depth(parts)
        return self._final_view[1]

    def _collect_features(self, weights: Flat | None, fraction: float) -> list[FeatureBatch]:
        """Asks clients for features of what they hold above the first segment that the server trains; without weights for those they kept."""
        start, pieces = self._config.server_start, Pieces()
        first, asked = 0, list(self._now.healthy)
        while asked:
            for reply, content in self._ask(
                "features",
                messages.FEATURES,
                clients=asked,
                weights=weights,
                max_depth=start,
                fraction=fraction,
                first=first,
            ):
                tensors = messages.unpack_tensors(content.array_records[messages.FEATURES_KIND])
                piece = FeatureBatch.from_tensors(
                    tensors, min(self._fleet.population.depth(reply.client), start)
                ).to(self._device)
                try:
                    pieces.add(
                        reply.client,
                        piece,
                        first,
                        int(content.metric_records[messages.METRICS]["num_samples"]),
                    )
                except ValueError as error:
                    self._fail(reply.client, "features", "rejected", f"{error}; rejected")
                self._callbacks.on_progress("features", len(piece))
                del reply, content, tensors, piece  # large: not kept while the next ones come
            first, asked = pieces.wanted(self._now.healthy)
        self._now.check()
        return pieces.of(self._now.healthy)

    def _proxy_features(self) -> FeatureBatch:
        """Computes features of the server's own images with the segments above those it trains."""
        work = open_resources(wire_json(self._config))
        batch = training_features(
            self._segments[: self._config.server_start],
            work.data,
            work.partition.proxy,
            codec=self._config.federation.feature_codec,
            generator=torch_generator(self._config.seed, Purpose.PROXY, self._now.number),
            precision=self._precision,
        )
        self._callbacks.on_progress("features", len(batch))
        return batch

    def _train_server(self, data: Sequence[FeatureBatch], epoch: int) -> Counts:
        assert self._trainer is not None
        generator = torch_generator(self._config.seed, Purpose.SERVER_SHUFFLE, epoch)
        objective = self._plan.server_objective(
            min(self._now.number, self._config.federation.rounds + 1)
        )
        counts = self._trainer.train_epoch(
            data, epoch=epoch, generator=generator, objective=objective
        )
        self._check_server(counts)
        self._callbacks.on_progress("server", sum(len(part) for part in data))
        return counts

    def _check_server(self, counts: Counts) -> None:
        assert self._trainer is not None
        if not (math.isfinite(counts.loss_sum) and self._trainer.is_finite()):
            raise RunError(
                f"round {self._now.number}: the server's training diverged (its loss or weights are not finite); lower federation.server.learning_rate"
            )

    def _evaluate(self) -> Counts:
        total, score = Counts(), self._plan.serving_score
        values = {} if score is None else {"serving_score": score}
        for found in self._held_out("evaluate", messages.EVALUATE, **values):
            counts, batch = Counts.from_record(found.metrics), found.features
            if batch is not None:
                logits = self._deeper_logits(batch)
                answered: Sequence[int] = ()
                if score is not None:
                    left = torch.from_numpy(logits)[:, found.tensors["open"].bool()]
                    answered = torch.bincount(
                        answering_exits(left, score, last_answers=True), minlength=len(logits)
                    ).tolist()
                deeper = (logits.argmax(2) == batch.labels.numpy()).sum(1).tolist()
                counts = Counts(
                    counts.num_samples,
                    0.0,
                    (*counts.correct, *deeper),
                    (),
                    (*counts.answered, *answered),
                )
            total += counts
            self._callbacks.on_progress("evaluate", counts.num_samples)
        self._now.check()
        return total

    def _held_out(self, stage: str, message_type: str, **values: float) -> Iterator[HeldOutReply]:
        return collect_held_out(
            self._ask,
            lambda client, why: self._fail(client, stage, "rejected", f"{why}; rejected"),
            stage,
            message_type,
            healthy=lambda: self._now.healthy,
            depth=self._fleet.population.depth,
            weights=self._weights.flatten(),
            **values,
        )

    def _deeper_logits(self, batch: FeatureBatch) -> npt.NDArray[np.float32]:
        return deeper_logits(
            self._segments, batch, self._config.deployment.feature_codec, self._device
        )

    def _ask(
        self,
        stage: str,
        message_type: str,
        *,
        clients: Sequence[int] | None = None,
        weights: Flat | None = None,
        extras: Mapping[int, ArrayRecord] | None = None,
        max_depth: int | None = None,
        depth: int | None = None,
        **values: float | list[float],
    ) -> Iterator[tuple[Reply, RecordDict]]:
        """Asks clients, or all of the round that haven't failed yet; yields who answered with what, ascending."""
        asked = self._now.healthy if clients is None else clients
        options: dict[str, Any] = {
            "weights": weights,
            "extras": extras,
            "max_depth": max_depth,
            "depth": depth,
            **values,
        }
        for reply in self._fleet.ask(message_type, asked, round_number=self._now.number, **options):
            if reply.content is None:
                self._fail(reply.client, stage, reply.kind, str(reply.error))
            else:
                yield reply, reply.content
            del reply  # not kept while the next is waited for

    def _fail(self, client: int, stage: str, kind: str, details: str) -> None:
        failure = self._now.fail(client, stage, kind, details, self._fleet.node_label(client))
        self.failures[kind] += 1
        self._callbacks.on_failure(failure)
