"""Callbacks: when they are called, early stopping, JSON lines, and a user's mistakes."""

from __future__ import annotations

import json

import pytest

import tardis_fl
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.callbacks.base import Callback, StopTraining
from tests.conftest import SMALL, small_config
from tests.federation.conftest import Recorder, federate

FOUR_ROUNDS = ("federation.rounds=4", "federation.final_server_epochs=2")


def run(tmp_path, *overrides, callbacks=(), resume=False):
    config = tardis_fl.load_config(SMALL, [*overrides])
    return tardis_fl.run(
        config, tmp_path / "run", progress=False, callbacks=callbacks, resume=resume
    )


class StopAfter(Callback):
    """Stops after some rounds, and after some final epochs."""

    def __init__(self, rounds=99, epochs=99):
        self.rounds, self.epochs = rounds, epochs

    def on_round_end(self, record, snapshot):
        if record.round == self.rounds:
            raise StopTraining

    def on_epoch_end(self, record, snapshot):
        self.epochs -= 1
        if not self.epochs:
            raise StopTraining


class Log(Callback):
    """Keeps the order of calls."""

    def __init__(self):
        self.calls = []

    def on_run_begin(self, start):
        self.calls.append(f"begin after {len(start.rounds)}")

    def on_round_end(self, record, snapshot):
        self.calls.append(f"round {record.round}")

    def on_epoch_end(self, record, snapshot):
        self.calls.append(f"epoch {record.round}")

    def on_run_end(self, error):
        self.calls.append(f"end {error!r}")


class Crash(Callback):
    def on_round_end(self, record, snapshot):
        raise ZeroDivisionError("no such axis")


class NeedsMore(Callback):
    def __init__(self, *, every: int):
        raise KeyError("plot")


def test_callbacks_are_called_in_the_order_of_the_run(tmp_path):
    log = Log()
    run(tmp_path, "federation.rounds=2", "federation.final_server_epochs=1", callbacks=[log])
    assert log.calls == ["begin after 0", "round 1", "round 2", "epoch 3", "end None"]


def test_rounds_and_epochs_end_where_a_callback_stops_them(tmp_path):
    log = Log()
    stopped = run(tmp_path, *FOUR_ROUNDS, callbacks=[StopAfter(2, 1), log])
    assert log.calls == ["begin after 0", "round 1", "round 2", "epoch 5", "end None"]
    assert [record.round for record in stopped.rounds()] == [1, 2]
    assert len(stopped.final_epochs()) == 1
    assert stopped.report.federation.rounds == 2
    assert stopped.report.operating_point.accuracy > 0


def test_a_stopped_run_that_is_interrupted_in_its_final_epochs_stays_stopped(tmp_path):
    class Interrupt(Callback):
        def on_epoch_end(self, record, snapshot):
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole", *FOUR_ROUNDS, callbacks=[StopAfter(2)])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *FOUR_ROUNDS, callbacks=[StopAfter(2), Interrupt()])
    log = Log()
    resumed = run(tmp_path, *FOUR_ROUNDS, callbacks=[log], resume=True)
    assert log.calls == ["begin after 2", "epoch 6", "end None"]
    assert resumed.report.exits == whole.report.exits


def test_early_stop_of_the_configuration_ends_rounds_without_gain(tmp_path):
    never_enough = "callbacks=[{use: early_stop, options: {patience: 2, min_delta: 0.99}}]"
    assert len(run(tmp_path, *FOUR_ROUNDS, never_enough).rounds()) == 3


def test_early_stop_counts_the_rounds_before_an_interruption(tmp_path):
    class Interrupt(Callback):
        def on_round_end(self, record, snapshot):
            if record.round == 2:
                raise KeyboardInterrupt

    never_enough = "callbacks=[{use: early_stop, options: {patience: 2, min_delta: 0.99}}]"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *FOUR_ROUNDS, never_enough, callbacks=[Interrupt()])
    assert len(run(tmp_path, *FOUR_ROUNDS, never_enough, resume=True).rounds()) == 3


def test_json_lines_hold_every_event(tmp_path):
    path = tmp_path / "events.jsonl"
    recorder = Recorder()
    lines = f"callbacks=[{{use: json_lines, options: {{path: {path}}}}}]"
    run(
        tmp_path,
        lines,
        "federation.rounds=2",
        "federation.final_server_epochs=1",
        "federation.max_failed_fraction=0.9",
        "federation.faults=[{kind: crash, clients: [1], rounds: [2, 2]}]",
        callbacks=[recorder],
    )
    events = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["begin", "round", "failure", "round", "epoch", "end"]
    assert events[2]["client"] == 1
    assert "federation.faults" in events[2]["reason"]
    assert {key: value for key, value in events[1].items() if key != "event"} == json.loads(
        json.dumps(recorder.rounds[0].to_json())
    )
    assert events[-1]["error"] is None


def test_what_a_users_callback_raises_is_one_message(tmp_path):
    here = f"{__name__}:Crash"
    with pytest.raises(
        RunError,
        match=rf"callbacks\.0\.use: got '{here}', whose on_round_end fails with ZeroDivisionError",
    ):
        run(tmp_path, f"callbacks=[{{use: '{here}'}}]")
    with pytest.raises(RunError, match=r"callbacks: got .*Crash.*, whose on_round_end fails"):
        run(tmp_path / "again", callbacks=[Crash()])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{use: early_stopp}",
            r"callbacks\.0\.use: got the text 'early_stopp'; .*did you mean 'early_stop'",
        ),
        (
            "{use: early_stop, options: {patiance: 3}}",
            r"callbacks\.0\.options\.patiance: .*did you mean 'patience'",
        ),
        ("{use: early_stop, options: {patience: 0}}", r"callbacks\.0\.options\.patience: got 0"),
        ("{use: early_stop, options: {exit: 7}}", r"exit: got 7; wanted 0 to 2"),
        ("{use: 'builtins:dict'}", r"callbacks\.0\.use: got 'builtins:dict', a dict; wanted a cla"),
        (
            f"{{use: '{__name__}:NeedsMore', options: {{every: 2}}}}",
            r"callbacks\.0\.use: got .*NeedsMore', which fails with KeyError",
        ),
    ],
)
def test_wrong_callbacks_are_refused_before_anything_trains(tmp_path, entry, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, f"callbacks=[{entry}]")
    assert not (tmp_path / "run" / "rounds.jsonl").exists()


def test_an_object_that_is_no_callback_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks: got .*, a int; wanted a class derived from"):
        run(tmp_path, callbacks=[3])


def test_callbacks_hear_of_the_error_that_ends_a_run():
    class Last(Recorder):
        error = None

        def on_run_end(self, error):
            self.error = error

    last = Last()
    config = small_config("federation.faults=[{kind: crash}]")
    with pytest.raises(RunError):
        federate(config, last)
    assert isinstance(last.error, RunError)
