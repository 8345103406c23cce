"""Temperatures and thresholds from sums: as from tables, and nothing of a sample leaves a client."""

from __future__ import annotations

import io
import math
from functools import partial

import numpy as np
import pytest
from flwr.app import ArrayRecord
from rich.console import Console

from tardis_fl.config import parse_config
from tardis_fl.deployment.scoring.policies import ScoringRule
from tardis_fl.deployment.scoring.temperatures import fit_temperatures
from tardis_fl.deployment.thresholds.choice import choose_thresholds
from tardis_fl.deployment.thresholds.sweep import sweep_from_histograms
from tardis_fl.deployment.thresholds.targets import Target
from tardis_fl.early_exit.evaluation import FitTable
from tardis_fl.early_exit.scoring.histograms import score_histograms
from tardis_fl.early_exit.scoring.temperature_sums import POINTS
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.client import app as client_module
from tardis_fl.federation.engines.inline import InlineGrid
from tardis_fl.federation.transport import messages
from tardis_fl.federation.transport.weights import HeldWeights
from tardis_fl.report.terminal import Screen
from tardis_fl.workflows.experiment import simulate
from tardis_fl.workflows.frontier import write_frontier
from tardis_fl.workflows.redeploy import redeploy
from tests.conftest import SMALL, small_config
from tests.federation.conftest import Recorder, federate
from tests.runs.test_resume import EVERYTHING, assert_same, run_until_killed

SUMS = "federation.calibration=sums"
UNEVEN = (
    "federation.num_clients=4",
    "model.norm=batch_local",
    "federation.fleet=[{name: a, share: 0.5, depth: 1}, {name: b, share: 0.25, depth: 2}, {name: c, share: 0.25, depth: 3}]",
)


def quiet():
    return Screen(Console(file=io.StringIO(), width=160))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("deployment.policy=margin", "deployment.feature_codec=float32"),
        ("deployment.policy=entropy", "deployment.ensemble=geometric"),
        ("deployment.policy=patience", "deployment.feature_codec=3bit+zlib"),
        UNEVEN,
    ],
)
def test_sums_say_what_the_joined_tables_say(overrides):
    config = small_config(SUMS, *overrides)
    tables, trained = federate(small_config(*overrides)), federate(config)
    assert (trained.fit, trained.calibrate, tables.sums) == (None, None, None)
    fit, calibrate = tables.fit, tables.calibrate
    if config.deployment.ensemble == "geometric":
        fit, calibrate = fit.ensembled(), calibrate.ensembled()
    np.testing.assert_allclose(trained.sums.temperatures, fit_temperatures(fit), rtol=1e-3)
    scoring = ScoringRule(config.deployment.policy, trained.sums.temperatures)
    expected = score_histograms(scoring.table_scores(calibrate), calibrate.correct()).to_arrays()
    for name, counts in trained.sums.histograms.to_arrays().items():
        assert np.array_equal(counts, expected[name]), name
    assert (
        (trained.sums.num_fit, trained.sums.num_calibrate)
        == (trained.num_fit, trained.sums.histograms.num_samples)
        == (len(fit), len(calibrate))
    )
    assert [record.validation for record in trained.rounds] == [
        record.validation for record in tables.rounds
    ]


def replies_of(monkeypatch, config):
    """Runs a federation; returns the contents of all replies, by type of message."""
    replies, original = {}, InlineGrid.pull_messages

    def pull(self, message_ids):
        pulled = list(original(self, message_ids))
        for message in pulled:
            replies.setdefault(message.metadata.message_type, []).append(message.content)
        return pulled

    with monkeypatch.context() as patch:
        patch.setattr(InlineGrid, "pull_messages", pull)
        return replies, federate(config)


def test_what_travels_up_are_sums_whose_size_does_not_depend_on_the_number_of_samples(monkeypatch):
    array_bytes = []
    for count in (240, 720):
        replies, trained = replies_of(
            monkeypatch, small_config(SUMS, f"data.synthetic.num_train={count}")
        )
        assert messages.TABLES not in replies
        assert len(replies[messages.TEMPERATURES]) == 3 * 3
        for content in replies[messages.TEMPERATURES]:
            assert list(content) == [messages.METRICS]
            assert {
                name: np.size(numbers) for name, numbers in content[messages.METRICS].items()
            } == {
                "loss": 3 * POINTS,
                "slope": 3 * POINTS,
                "num_samples": 1,
            }
        assert len(replies[messages.HISTOGRAMS]) == 3
        for content in replies[messages.HISTOGRAMS]:
            assert list(content) == [messages.METRICS]
            assert isinstance(content[messages.METRICS], ArrayRecord)
            shapes = {name: tuple(array.shape) for name, array in content[messages.METRICS].items()}
            assert shapes == {
                "reached": (2, 1001),
                "right_here": (2, 1001),
                "right_next": (2, 1001),
                "right_last": (1,),
                "num_samples": (1,),
            }
            array_bytes.append(messages.content_bytes(content))
        assert trained.sums.num_calibrate == 48 * count // 240
    assert all(sizes == array_bytes[0] for sizes in array_bytes)
    assert array_bytes[0]["features"] == 0


def test_the_whole_network_travels_down_once_and_is_counted():
    extra = ("federation.evaluate_every=0", "federation.rounds=1")
    tables, trained = federate(small_config(*extra)), federate(small_config(SUMS, *extra))
    segments = list(trained.network)
    held, whole = (
        sum(
            len(array.data) for array in messages.pack_tensors(HeldWeights(part).flatten()).values()
        )
        for part in (segments[:1], segments)
    )
    assert trained.ledger.down["weights"] - tables.ledger.down["weights"] == 3 * (whole - held)
    assert trained.ledger.up["weights"] == tables.ledger.up["weights"]
    assert trained.ledger.up["features"] < tables.ledger.up["features"]


def broken_client(monkeypatch, client, *, from_call, make):
    """Makes one client's sums for temperatures go wrong from one of its answers on."""
    original, calls = client_module.client_temperature_sums, []

    def sums(resources, shard, answers, grid):
        record = original(resources, shard, answers, grid)
        if shard.client == client:
            calls.append(1)
            if len(calls) >= from_call:
                return make(record)
        return record

    monkeypatch.setattr(client_module, "client_temperature_sums", sums)


def no_numbers(record):
    record["loss"] = [math.nan] * len(record["loss"])
    return record


def out_of_memory(record):
    raise MemoryError("the whole network is too large for me")


@pytest.mark.parametrize(("make", "kind"), [(no_numbers, "rejected"), (out_of_memory, "error")])
@pytest.mark.parametrize("from_call", [1, 3])
def test_a_client_that_fails_is_counted_and_all_sums_are_of_the_others(
    monkeypatch, from_call, make, kind
):
    tables = federate(small_config())
    broken_client(monkeypatch, 1, from_call=from_call, make=make)
    recorder = Recorder()
    trained = federate(small_config(SUMS, "federation.max_failed_fraction=0.4"), recorder)
    assert [(failure.client, failure.stage, failure.kind) for failure in recorder.failures] == [
        (1, "calibrate", kind)
    ]
    assert trained.failures == {kind: 1}
    others = tables.fit.client_ids != 1
    fit = FitTable(
        tables.fit.logits[:, others],
        tables.fit.labels[others],
        tables.fit.sample_ids[others],
        tables.fit.client_ids[others],
    )
    np.testing.assert_allclose(trained.sums.temperatures, fit_temperatures(fit), rtol=1e-3)
    assert (trained.sums.num_fit, trained.sums.num_calibrate) == (
        len(fit),
        int((tables.calibrate.client_ids != 1).sum()),
    )


def test_too_many_failing_clients_end_the_run(monkeypatch):
    broken_client(monkeypatch, 2, from_call=2, make=no_numbers)
    with pytest.raises(
        RunError,
        match=r"(?s)1 of 3 clients failed \(rejected updates: 1\).*in calibrate: temperature sums: got some that are not finite; rejected",
    ):
        federate(small_config(SUMS))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two small runs, one with tables and one with sums, and their reports."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: (
            folder / name,
            simulate(small_config(f"federation.calibration={name}"), folder / name, quiet()),
        )
        for name in ("tables", "sums")
    }


def choices(config, report):
    """Returns the exact choice, the sweep of the histograms, and the report's threshold.

    The exact choice is made on the joined table; the report's threshold is an edge of a bin.
    """
    tables = federate(
        config.model_copy(
            update={"federation": config.federation.model_copy(update={"calibration": "tables"})}
        )
    )
    sums = federate(config).sums
    scores = ScoringRule(config.deployment.policy, sums.temperatures).table_scores(tables.calibrate)
    found, (threshold,) = (
        sweep_from_histograms(sums.histograms),
        set(report.operating_point.thresholds),
    )
    assert threshold in found.thresholds
    return (
        choose_thresholds(tables.calibrate, scores, Target.from_config(config.deployment)),
        found,
        threshold,
    )


def test_a_whole_run_keeps_its_drop_as_cheaply_as_the_histograms_promise(runs):
    report = runs["sums"][1]
    central, found, _ = choices(small_config(SUMS), report)
    chosen = report.calibration
    assert chosen.full_accuracy == central.full_accuracy
    assert chosen.accuracy >= central.full_accuracy - 0.05 - 1e-9
    above = np.searchsorted(found.thresholds, central.thresholds[0], side="left")
    assert found.accuracy[above] >= central.full_accuracy - 0.05
    assert central.offload_rate - 1e-12 <= chosen.offload_rate <= found.offload_rate[above] + 1e-12


def test_a_whole_run_on_many_samples_chooses_the_most_accurate_edge_of_a_bin(tmp_path):
    config = small_config(
        SUMS,
        "data.synthetic.num_train=3000",
        "data.calibration_fraction=0.6",
        "federation.rounds=1",
        "deployment.target_offload_rate=0.3",
    )
    report = simulate(config, tmp_path / "run", quiet())
    central, found, threshold = choices(config, report)
    below = np.searchsorted(found.thresholds, central.thresholds[0], side="right") - 1
    assert found.accuracy[below] - 1e-12 <= report.calibration.accuracy <= central.accuracy + 1e-12
    assert report.calibration.offload_rate <= 0.3 + 1e-9
    assert 0 < threshold < 1
    # Accuracy isn't monotonic in the threshold, so the exact choice may lie bins away.
    allowed = found.offload_rate <= 0.3 + 1e-9
    assert report.calibration.accuracy == pytest.approx(found.accuracy[allowed].max(), abs=1e-12)


def test_the_report_of_a_whole_run_is_complete(runs):
    (folder, report), (_, other) = runs["sums"], runs["tables"]
    assert report.dataset == other.dataset
    assert report.calibration.num_samples == report.dataset.num_calibration == 48
    assert [row.accuracy for row in report.exits] == [row.accuracy for row in other.exits]
    assert [row.temperature for row in report.exits] == pytest.approx(
        [row.temperature for row in other.exits], rel=1e-3
    )
    assert (
        [row.role for row in report.threshold_sweeps]
        == [row.role for row in other.threshold_sweeps]
        == ["calibrate", "test"]
    )
    assert report.to_json().keys() == other.to_json().keys()
    with np.load(folder / "exit_table.npz") as file:
        assert set(file["role"].tolist()) == {"test"}
    assert (folder / "report.html").stat().st_size > 10_000


def test_deploying_such_a_run_again_says_why_it_can_not(runs):
    folder, _ = runs["sums"]
    for command in (redeploy, partial(write_frontier, axis="bytes")):
        with pytest.raises(ConfigError) as caught:
            command(folder, ["deployment.policy=margin"], quiet())
        assert str(caught.value) == (
            "deployment: thresholds can't be chosen anew, since this run's clients sent sums instead of tables (federation.calibration: sums); run simulate"
        )


@pytest.mark.parametrize(
    "overrides",
    [
        (
            "deployment.target_offload_rate=0.37",
            "deployment.mixing=true",
            "deployment.feature_codec=4bit+zlib",
        ),
        (
            "deployment.bytes_budget=300",
            "deployment.policy=patience",
            "deployment.measure_codecs=[2bit]",
        ),
        (
            "deployment.latency_budget_ms=200",
            "deployment.hardware={devices: [rpi-4b, xeon-8, v100], links: [wifi, 5g-us-2024]}",
            "deployment.ensemble=geometric",
        ),
    ],
)
def test_other_targets_are_met_too(tmp_path, overrides):
    report = simulate(small_config(SUMS, *overrides), tmp_path / "run", quiet())
    assert report.calibration.num_samples == 48
    assert len(report.operating_point.thresholds) == 2


def test_a_killed_run_ends_as_one_that_never_was(tmp_path):
    config = small_config(*EVERYTHING, SUMS)
    simulate(config, tmp_path / "whole", quiet())
    for number, (method, count) in enumerate(
        (("write_epoch_checkpoint", 3), ("write_exit_table", 1))
    ):
        run_until_killed(config, tmp_path / str(number), method, count)
        simulate(config, tmp_path / str(number), quiet(), resume=True)
        assert_same(tmp_path / str(number), tmp_path / "whole")


POLICY = "wanted tables, or the policy max_softmax, margin, entropy or patience"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["deployment.policy=gain"], f"the policy 'gain' is fitted on tables; {POLICY}"),
        (
            ["deployment.policy=mine:surely"],
            f"clients don't know the function 'mine:surely'; {POLICY}",
        ),
        (
            ["deployment.certificate={epsilon: 0.05}"],
            "a certificate needs the table of the calibrate role; wanted tables",
        ),
        (
            ["deployment.thresholds=[0.5, 0.5]"],
            "of fixed thresholds the counts don't tell what they do; wanted tables, or a target to choose thresholds for",
        ),
        (
            ["deployment.threshold_mode=per_exit"],
            "the counts know thresholds that all exits share; wanted tables, or threshold_mode: shared",
        ),
    ],
)
def test_what_sums_can_not_do_is_refused_in_one_line(overrides, expected):
    with pytest.raises(ConfigError) as caught:
        parse_config(SMALL, overrides=[SUMS, *overrides])
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        f"federation.calibration: got sums; {expected}"
    ]
