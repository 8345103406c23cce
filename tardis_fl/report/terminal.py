"""What a person sees while a run goes on: rich in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tardis_fl.config.schema import Config
from tardis_fl.federation.callbacks.base import Callback
from tardis_fl.report.text import (
    bytes_text,
    duration_text,
    millijoules,
    milliseconds,
    percent,
    rate_text,
)

if TYPE_CHECKING:
    from tardis_fl.data.images import Dataset
    from tardis_fl.early_exit.counting import SegmentCost
    from tardis_fl.federation.callbacks.base import TakeSnapshot
    from tardis_fl.federation.engines.parallelism import Parallelism
    from tardis_fl.federation.records import Failure, RoundRecord, Work
    from tardis_fl.federation.rounds import Interrupted
    from tardis_fl.report.results import Report
    from tardis_fl.runs.estimate import Plan
    from tardis_fl.runs.folder import RunFolder

MIN_COLUMNS = 120  # where it is no terminal
MAX_CLIENT_ROWS = 12
MAX_CLASS_COLUMNS = 10
LONGEST_CLASS_NAME = 10
MAX_FAILURES_A_ROUND = 5


class Screen:
    """Prints to one console.

    Args:
        console: Where to; by default standard output, at least 120 columns wide where it is no
            terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal and console is None:
            self.console = Console(highlight=False, width=max(MIN_COLUMNS, self.console.width))

    def doing(self, what: str) -> None:
        """Says what takes a moment."""
        self.console.print(f"[dim]{what} ...[/dim]")

    def on_notice(self, text: str) -> None:
        """Says what a person should know, such as a node that joined."""
        show_note(self.console, text)

    def summary(
        self,
        config: Config,
        dataset: Dataset,
        label_counts: npt.NDArray[np.int64],
        costs: Sequence[SegmentCost],
        plan: Plan,
        *,
        parallelism: Parallelism,
        threads: int,
        precision: str,
        warnings: Sequence[str],
    ) -> None:
        """Shows what will run, on what data, and roughly how long."""
        federation, data = config.federation, config.data
        names = [tier.name for tier in config.tiers]
        print_ = partial(self.console.print, soft_wrap=True)
        print_(f"\n[bold]{escape(config.name)}[/bold]  (seed {config.seed})")
        print_(
            f"  data        {dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images, {escape(dataset.source)}"
        )
        print_(
            f"  clients     {federation.num_clients}, {config.clients_per_round} a round; partition {_partition_text(config)}; held out {percent(data.fit_fraction)} fit, {percent(data.calibration_fraction)} calibrate"
        )
        print_(
            f"  training    {federation.rounds} rounds; clients train {escape(_held_text(config, names))}"
            + _server_text(config, names[config.server_start :])
        )
        if federation.faults:
            kinds = ", ".join(dict.fromkeys(fault.kind for fault in federation.faults))
            print_(
                f"  faults      injected: {kinds}; the run goes on while at most {percent(federation.max_failed_fraction)} of a round's clients fail"
            )
        print_(
            f"  machine     {_machine_text(config, parallelism, threads)}; training in {precision}"
        )
        real = (
            " and some seconds a message beside it" if config.runtime.engine == "deployment" else ""
        )
        print_(
            f"  takes       about [bold]{duration_text(plan.seconds)}[/bold] of training on this machine, as it runs now{real}\n"
        )
        from tardis_fl.early_exit.summary import summary_table

        print_(
            summary_table(
                costs,
                names,
                input_values=dataset.train.image_bytes,
                title=f"network {config.model.backbone}",
                codecs=[config.deployment.feature_codec],
            )
        )
        print_(_partition_table(dataset.class_names, label_counts))
        for warning in warnings:
            print_(f"[bold yellow]warning:[/bold yellow] {escape(warning)}")

    def resuming(self, past: Interrupted) -> None:
        """Says where an interrupted run goes on."""
        epochs = f" and {len(past.final_epochs)} final epochs" if past.final_epochs else ""
        self.console.print(f"going on after {len(past.rounds)} complete rounds{epochs}")

    @contextmanager
    def training(self, config: Config, plan: Plan, run: RunFolder) -> Iterator[Callback]:
        """Shows the progress of a training and keeps its records in the run's folder."""
        if past := run.past:
            plan = plan.rest(
                len(past.rounds) / config.federation.rounds,
                len(past.final_epochs) / max(1, config.federation.final_server_epochs),
            )
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[accuracy]}"),
            )
            with Progress(*columns, console=self.console, speed_estimate_period=120) as progress:
                task = progress.add_task("training", total=plan.seconds, accuracy="")
                yield _Watcher(self.console, config, plan, run, progress, task)
                progress.update(task, completed=plan.seconds)
        else:
            yield _Watcher(self.console, config, plan, run, None, None)

    def results(self, report: Report, folder: Path) -> None:
        """Shows the outcome and where the whole report lies."""
        point, print_ = report.operating_point, partial(self.console.print, soft_wrap=True)
        table = Table(
            "tier",
            "accuracy of its exit",
            "answers",
            "right",
            "temperature",
            title="measured on the test split",
            title_justify="left",
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for row, tier, fraction in zip(
            report.exits, report.tiers, point.exit_fractions, strict=True
        ):
            right = percent(tier.num_correct / tier.num_answered) if tier.num_answered else "-"
            table.add_row(
                escape(row.tier),
                percent(row.accuracy),
                percent(fraction),
                right,
                f"{row.temperature:.2f}",
            )
        print_()
        print_(table)
        print_(_comparison(report))
        for table in _load_tables(report):
            print_(table)
        if report.certificate is not None:
            print_(f"certificate: {escape(report.certificate.promise)}")
        up = report.federation.bytes_up
        print_(
            f"training sent {bytes_text(up['weights'])} of weights and {bytes_text(up['features'])} of features up; the raw images would have been {bytes_text(report.federation.raw_images_bytes)}"
        )
        for warning in report.warnings:
            print_(f"[bold yellow]warning:[/bold yellow] {escape(warning)}")
        print_(
            f"\nreport: [bold]{escape(str(folder / 'report.html'))}[/bold] (also report.md, report.json)"
        )


class _Watcher(Callback):
    """Writes records to the run's folder and shows how far the training is."""

    def __init__(
        self,
        console: Console,
        config: Config,
        plan: Plan,
        run: RunFolder,
        progress: Progress | None,
        task: TaskID | None,
    ) -> None:
        self._console, self._config, self._plan, self._run = console, config, plan, run
        self._progress, self._task = progress, task
        self._done_s, self._started = 0.0, time.monotonic()
        self._told: dict[int, int] = {}

    def on_progress(self, work: Work, num_samples: int) -> None:
        self._done_s += num_samples * self._plan.seconds_per_sample[work]
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=min(self._done_s, self._plan.seconds))

    def on_failure(self, failure: Failure) -> None:
        """Shows the first few failures of a round; what has a traceback or is odd goes into a file.

        All are counted in the round's line.
        """
        told = self._told.get(failure.round, 0)
        self._told = {failure.round: told + 1}
        if told >= MAX_FAILURES_A_ROUND:
            return
        where = (
            f" ({self._run.write_failure(failure)})"
            if failure.kind in ("error", "rejected")
            else ""
        )
        who = f"client {failure.client}" + (
            f" (node {failure.node})" if failure.node is not None else ""
        )
        self._console.print(
            f"[bold yellow]round {failure.round}: {who} failed in {failure.stage}:[/bold yellow] {escape(failure.reason + where)}",
            soft_wrap=True,
        )

    def on_notice(self, text: str) -> None:
        show_note(self._console, text)

    def on_round_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        self._run.append_round(record)
        self._run.write_round_checkpoint(snapshot())
        self._show(f"round {record.round}/{self._config.federation.rounds}", record)

    def on_epoch_end(self, record: RoundRecord, snapshot: TakeSnapshot) -> None:
        self._run.append_final_epoch(record)
        self._run.write_epoch_checkpoint(snapshot())
        epoch = record.round - self._config.federation.rounds
        self._show(f"server epoch {epoch}/{self._config.federation.final_server_epochs}", record)

    def _show(self, what: str, record: RoundRecord) -> None:
        accuracy = record.validation_accuracy
        text = "held-out " + " / ".join(percent(value) for value in accuracy) if accuracy else ""
        happened = Counter(failure.kind for failure in record.failures) + Counter(
            {"late, for a later round": record.num_late, "repeated": record.num_repeated}
        )
        trouble = (
            f"  of {len(record.clients)} clients: "
            + ", ".join(f"{kind} {count}" for kind, count in happened.items())
            if happened
            else ""
        )
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, description=what, **({"accuracy": text} if text else {})
            )
            if trouble:
                self._console.print(f"{what}{trouble}", soft_wrap=True)
            return
        elapsed = time.monotonic() - self._started
        left = (
            elapsed / self._done_s * max(0.0, self._plan.seconds - self._done_s)
            if self._done_s
            else self._plan.seconds
        )
        self._console.print(
            f"{what}  {text or 'not evaluated'}{trouble}  {record.seconds:.1f} s, about {duration_text(left)} left",
            soft_wrap=True,
        )


def show_note(console: Console, what: str) -> None:
    """Prints what a person should know."""
    console.print(f"[bold yellow]note:[/bold yellow] {escape(what)}", soft_wrap=True)


def _machine_text(config: Config, parallelism: Parallelism, threads: int) -> str:
    """Says who works with how many threads, and why."""
    own = f"{threads} thread{'s' if threads != 1 else ''}"
    if parallelism.workers == 1 and config.runtime.engine == "inline":
        return f"{own}, one client at a time" + (f" ({parallelism.reason})" if threads > 1 else "")
    if config.runtime.engine == "deployment":
        return f"each client on a node of its own, where every message starts a process; {own} for the server"
    where = "Ray actor" if config.runtime.engine == "ray" else "process"
    clients = (
        f"{parallelism.workers} clients at a time, each in a {where} of one thread"
        if parallelism.workers > 1
        else f"one client at a time, in a {where} of one thread"
    )
    return f"{clients} ({parallelism.reason}); {own} for the server"


def _held_text(config: Config, names: Sequence[str]) -> str:
    """Says which segments clients hold, by group where there are several."""
    texts = []
    for group, size in zip(config.groups, config.group_sizes, strict=True):
        held = " + ".join(names[: group.depth])
        profile = ", ".join(part for part in (group.device, group.link) if part)
        texts.append(
            f"{held} ({size} {group.name}{f', {profile}' if profile else ''})"
            if config.federation.fleet
            else held
        )
    return "; ".join(texts)


def _server_text(config: Config, trained: Sequence[str]) -> str:
    federation = config.federation
    if not trained:
        return (
            ", the whole network (FedAvg)"
            if all(group.depth == config.num_segments for group in config.groups)
            else "; the server none"
        )
    on = (
        "step by step with them"
        if federation.split
        else "on its own images"
        if federation.server_training == "proxy"
        else ""
    )
    more = (
        f", then {federation.final_server_epochs} epochs more"
        if federation.final_server_epochs
        else ""
    )
    return f"; the server {escape(' + '.join(trained))}{f' {on}' if on else ''}{more}"


def _comparison(report: Report) -> Table:
    """Compares the operating point with its alternatives."""
    point, hardware = report.operating_point, report.hardware
    costs = ["latency, no load", "device energy, no load"] if hardware else []
    table = Table(
        "",
        "accuracy",
        "leaves the device",
        "bytes a sample",
        *costs,
        title="operating point and what to compare it with",
        title_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    low, high = point.accuracy_interval
    own = [percent(point.accuracy), percent(point.offload_rate), f"{point.bytes_per_sample:,.0f}"]
    own += (
        [milliseconds(hardware.no_load_latency_ms), millijoules(hardware.no_load_energy_mj)]
        if hardware
        else []
    )
    table.add_row(
        f"[bold]operating point[/bold] ({percent(low)} to {percent(high)})",
        *(f"[bold]{text}[/bold]" for text in own),
    )
    for name, row in report.baselines.items():
        texts = [percent(row.accuracy), percent(row.offload_rate), f"{row.bytes_per_sample:,.0f}"]
        table.add_row(
            name.replace("_", " "),
            *texts,
            *([milliseconds(row.latency_ms), millijoules(row.energy_mj)] if hardware else []),
        )
    return table


def _load_tables(report: Report) -> Iterator[Table]:
    """Shows what queues make of the load: how busy machines and links are, and latencies by who answers."""
    load = report.simulation
    if load is None:
        return
    told = f"{load.num_requests:,} requests of {load.num_devices:,} devices, {load.rate_per_device:.3g} a second each: {percent(load.answer_rate, 2)} answered"
    told += f", {percent(load.accuracy)} of these rightly" if load.accuracy is not None else ""
    told += f"; {load.num_degraded:,} by the exit at hand" if load.num_degraded else ""
    told += f"; {load.num_late:,} late" if load.num_late is not None else ""
    table = Table(
        "answered by", "answers", "mean", "p50", "p95", "p99", title=told, title_justify="left"
    )
    stations = Table(
        "machine or link",
        "servers",
        "busy",
        "holds up to, a second and device",
        title="how busy, as predicted",
        title_justify="left",
    )
    for column in (*table.columns[1:], *stations.columns[1:]):
        column.justify = "right"
    for row in load.latency:
        table.add_row(
            escape(row.tier),
            f"{row.num_answers:,}",
            *(milliseconds(value) for value in (row.mean, row.p50, row.p95, row.p99)),
        )
    for station in load.stations:
        stations.add_row(
            escape(station.name),
            str(station.servers),
            percent(station.predicted_utilisation),
            rate_text(station.max_rate_per_device),
        )
    yield stations
    yield table


def _partition_text(config: Config) -> str:
    partition = config.data.partition
    numbers = {
        "dirichlet": f"({partition.alpha:g})",
        "pathological": f"({partition.classes_per_client} classes)",
        "shard": f"({partition.shards_per_client} pieces)",
    }
    return partition.scheme + numbers.get(partition.scheme, "")


def _partition_table(class_names: Sequence[str], label_counts: npt.NDArray[np.int64]) -> Table:
    shown = [
        escape(name) if len(name) <= LONGEST_CLASS_NAME else str(number)
        for number, name in enumerate(class_names[:MAX_CLASS_COLUMNS])
    ]
    table = Table(
        "client",
        "samples",
        *shown,
        title="who holds what: samples of each class",
        title_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for client, row in enumerate(label_counts[:MAX_CLIENT_ROWS]):
        table.add_row(
            str(client), f"{row.sum():,}", *(str(count) for count in row[:MAX_CLASS_COLUMNS])
        )
    if len(label_counts) > MAX_CLIENT_ROWS:
        sizes = label_counts.sum(axis=1)
        table.add_row(
            f"... {len(label_counts)}", f"{sizes.min()} to {sizes.max()}", *["..." for _ in shown]
        )
    return table
