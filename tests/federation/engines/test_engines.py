"""Engines: the same weights wherever the apps run, and what becomes of a client whose process dies."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import psutil
import pytest
import torch
from flwr.serverapp import ServerApp

from tardis_fl.config.checks.consistency import warnings_about
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.engines import check_engine, ray_engine, serve
from tardis_fl.federation.engines.parallelism import WORKER_BYTES, choose_parallelism
from tardis_fl.federation.engines.ray_engine import run_on_ray
from tardis_fl.federation.engines.shared_memory import WORTH_IT_BYTES, SharedArrays
from tardis_fl.federation.transport import messages
from tests.conftest import ROOT, small_config
from tests.federation.conftest import Recorder, federate, fingerprint
from tests.federation.test_rounds import same_weights

MIB = 2**20


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("federation.client_depth=3", "model.norm=batch_local", "federation.final_server_epochs=0"),
        ("federation.feature_timing=stale", "federation.server_epochs=1"),
        (
            "federation.client_depth=2",
            "federation.calibration=sums",
            "federation.client_fraction=0.7",
        ),
    ],
    ids=["server trains the deeper", "clients keep their norms", "stale features", "sums"],
)
def test_worker_processes_give_the_weights_of_one_process_bit_for_bit(overrides):
    config = small_config("runtime.threads=1", *overrides)
    alone, two = federate(config, workers=1), federate(config, workers=2)
    assert same_weights(alone, two)
    assert alone.ledger == two.ledger
    assert [record.validation for record in alone.rounds] == [
        record.validation for record in two.rounds
    ]


def test_more_workers_than_clients_have_nothing_to_do_and_change_nothing(capfd):
    config = small_config("runtime.threads=1")
    assert same_weights(federate(config, workers=1), federate(config, workers=4))
    assert capfd.readouterr().err == ""  # processes say nothing on a person's screen


def test_a_worker_that_is_killed_fails_its_client_and_no_other():
    recorder = Recorder()
    config = small_config(
        "runtime.threads=1", "federation.rounds=3", "federation.max_failed_fraction=0.4"
    )
    federate(config, recorder, workers=2, client_app="tests.federation.engines.killing_app:app")
    assert [
        (failure.round, failure.client, failure.stage, failure.kind)
        for failure in recorder.failures
    ] == [(2, 1, "train", "error")]
    assert (
        recorder.failures[0].reason
        == "its worker process died (killed by SIGKILL; was there enough memory?)"
    )
    assert (
        recorder.rounds[2].train.num_samples
        == recorder.rounds[0].train.num_samples
        > recorder.rounds[1].train.num_samples
    )


def test_a_client_that_raises_in_a_worker_is_shown_with_its_own_frames_alone():
    recorder = Recorder()
    federate(
        small_config(
            "runtime.threads=1",
            "federation.max_failed_fraction=0.4",
            "federation.faults=[{kind: crash, clients: [1]}]",
        ),
        recorder,
        workers=2,
    )
    details = recorder.failures[0].details
    assert recorder.failures[0].client == 1
    assert details.startswith("Traceback (most recent call last):")
    assert "federation/client/app.py" in details
    assert "flwr" not in details
    assert "InjectedCrashError: the client crashed" in details


def test_worker_processes_end_with_the_process_that_started_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from tardis_fl.federation.engines.workers import WorkerProcesses
            with WorkerProcesses("tardis_fl.federation.client.app:app", 2, 4) as processes:
                print(*[worker._process.pid for worker in processes._workers], flush=True)
                time.sleep(600)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    for _ in range(200):
        if not any(_runs(pid) for pid in pids):
            return
        time.sleep(0.1)
    pytest.fail("worker processes outlived the process that started them")


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_memory_of_an_answer_is_not_used_again_while_somebody_reads_it():
    theirs = SharedArrays()
    ours = SharedArrays(os.dup(theirs.file_descriptor))
    count = WORTH_IT_BYTES

    def received(value):
        return messages.unpack_tensors(
            ours.load(theirs.dump(messages.pack_tensors({"x": torch.full((count,), float(value))})))
        )["x"]

    first, part = received(1), received(2)[10:20]
    kept = [received(value) for value in range(3, 8)]
    assert first.eq(1).all()
    assert part.eq(2).all()
    assert all(tensor.eq(value).all() for tensor, value in zip(kept, range(3, 8), strict=True))
    place = received(8).data_ptr()
    assert received(9).data_ptr() == place


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_rules_that_keep_updates_get_the_same_from_worker_processes(rule):
    overrides = (
        "model.width=32",
        "federation.client_depth=3",
        "federation.rounds=1",
        "federation.evaluate_every=0",
        f"federation.aggregation={{rule: {rule}}}",
    )
    assert same_weights(
        federate(small_config(*overrides)), federate(small_config(*overrides), workers=2)
    )


def parallelism(*overrides, macs=1e15, cores=4, free=64 * 1024 * MIB, threads=4):
    return choose_parallelism(
        small_config("federation.num_clients=10", *overrides),
        macs,
        threads=threads,
        cores=cores,
        free_bytes=free,
    )


def test_small_batches_get_a_worker_for_each_core_and_large_ones_threads():
    small, large = (
        parallelism("federation.client.batch_size=10"),
        parallelism("federation.client.batch_size=128"),
    )
    assert (small.workers, small.client_threads) == (4, 1)
    assert small.reason == "batches of 10 are too few images for 4 threads; 4 cores"
    assert (large.workers, large.client_threads) == (1, 4)
    assert large.reason == "batches of 128 are enough for 4 threads"


@pytest.mark.parametrize(
    ("changes", "workers", "reason"),
    [
        ({"cores": 1}, 1, "1 core"),
        ({"free": 5 * WORKER_BYTES}, 2, "memory for 2"),
        ({"overrides": ["federation.client_fraction=0.3"]}, 3, "3 clients a round"),
        ({"macs": 1e9}, 1, "too little to do"),
        ({"overrides": ["federation.split=true"]}, 1, "split training takes turns"),
        ({"overrides": ["runtime.workers=2"]}, 2, "runtime.workers"),
        ({"overrides": ["runtime.workers=40"]}, 10, "no more clients than 10 train in a round"),
    ],
)
def test_the_number_of_workers_follows_cores_memory_clients_and_what_was_asked_for(
    changes, workers, reason
):
    overrides = changes.pop("overrides", [])
    chosen = parallelism("federation.client.batch_size=10", *overrides, **changes)
    assert chosen.workers == workers
    assert reason in chosen.reason


def test_the_engine_ray_without_ray_says_the_extra_and_ends_with_code_4(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        RunError,
        match=r"Ray is not installed; run `pip install 'tardis_fl\[ray\]'`, or use the engine inline",
    ) as caught:
        check_engine(small_config("runtime.engine=ray"), resume=False)
    assert caught.value.exit_code == 4


def test_clients_own_norms_cannot_be_resumed_on_ray():
    with pytest.raises(ConfigError, match=r"'batch_local' with --resume on the engine ray"):
        check_engine(small_config("runtime.engine=ray", "model.norm=batch_local"), resume=True)


def on_ray(*overrides):
    """Runs a small federation on Ray; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.federation.engines.on_ray", *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_ray_gives_the_weights_of_the_inline_engine_and_shows_a_clients_own_error():
    overrides = (
        "runtime.threads=1",
        "federation.max_failed_fraction=0.4",
        "federation.faults=[{kind: crash, clients: [1], rounds: [2, 2]}]",
    )
    recorder = Recorder()
    inline, ray = federate(small_config(*overrides), recorder), on_ray(*overrides)
    assert ray["fingerprint"] == fingerprint(inline)
    assert (
        ray["failures"]
        == [[failure.client, failure.details] for failure in recorder.failures]
        != []
    )


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_ray_cluster_that_is_not_there_is_named():
    assert on_ray("runtime.ray_address=127.0.0.1:1")["error"].startswith(
        "no Ray cluster answers at runtime.ray_address 127.0.0.1:1"
    )


@contextmanager
def ray_cluster(num_cpus):
    """A Ray cluster of another process, which ends with it; yields its address."""
    code = f"import ray; print(ray.init(num_cpus={num_cpus}, include_dashboard=False, logging_level='ERROR').address_info['gcs_address'], flush=True); input()"
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as head:
        try:
            yield head.stdout.readline().strip()
            head.communicate("end\n", timeout=60)
        finally:
            started = (
                psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            )
            head.kill()
            for process in started:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.mark.extended  # the weights on Ray are tested above, an address below
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_ray_cluster_that_is_there_gives_the_weights_of_the_inline_engine():
    with ray_cluster(2) as address:
        ray = on_ray("runtime.threads=1", f"runtime.ray_address={address}")
    assert ray["fingerprint"] == fingerprint(federate(small_config("runtime.threads=1")))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_ray_cluster_without_processors_is_one_sentence():
    with ray_cluster(0) as address:
        error = on_ray(f"runtime.ray_address={address}")["error"]
    assert error.startswith("Flower's simulation engine failed: ")
    assert "\n" not in error


@pytest.fixture
def simulation_engine(monkeypatch):
    """Stands in for Ray and Flower's engine; a test sets what they do."""
    engine = SimpleNamespace(start=lambda address, workers: None, run_simulation=None)
    monkeypatch.setitem(
        sys.modules,
        "flwr.simulation",
        SimpleNamespace(
            run_simulation=lambda *arguments, **options: engine.run_simulation(*arguments)
        ),
    )
    monkeypatch.setattr(ray_engine, "check_ray", lambda: None)
    monkeypatch.setattr(
        ray_engine, "_start_ray", lambda address, workers: engine.start(address, workers)
    )
    monkeypatch.setattr(ray_engine, "_stop_ray", lambda: None)
    return engine


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


def test_ray_that_does_not_start_is_told_without_waiting_for_a_server_that_never_began(
    simulation_engine, monkeypatch
):
    simulation_engine.start = fail_with(RunError("Ray can't be started here"))
    monkeypatch.setattr(threading.Event, "wait", fail_with(AssertionError("waited")))
    with pytest.raises(RunError, match=r"^Ray can't be started here$"):
        run_on_ray(ServerApp(), None, 3, workers=1)


def test_what_goes_wrong_in_flowers_engine_is_one_sentence(simulation_engine):
    def run(*_):
        try:
            raise ValueError("the pool is empty\nand its frames")
        except ValueError as error:
            raise RuntimeError("An error was encountered. Ending simulation.") from error

    simulation_engine.run_simulation = run
    with pytest.raises(RunError, match=r"^Flower's simulation engine failed: the pool is empty$"):
        run_on_ray(ServerApp(), None, 3, workers=1)


def test_what_goes_wrong_in_our_server_keeps_its_kind(simulation_engine):
    server_app, ours = ServerApp(), ValueError("ours")
    server_app.main()(fail_with(ours))
    simulation_engine.run_simulation = lambda wrapped, *_: serve(
        wrapped, SimpleNamespace(pull_messages=None, get_node_ids=None)
    )
    with pytest.raises(ValueError, match=r"^ours$") as caught:
        run_on_ray(server_app, None, 3, workers=1)
    assert caught.value is ours


def test_a_server_that_is_told_to_end_asks_no_more():
    server_app, grid = (
        ServerApp(),
        SimpleNamespace(pull_messages=lambda ids: [], get_node_ids=lambda: [1]),
    )

    @server_app.main()
    def main(grid, context):
        assert grid.get_node_ids() == [1] and grid.pull_messages([]) == []
        wrapped._stop.set()
        for call in (grid.get_node_ids, lambda: grid.pull_messages([])):
            with pytest.raises(RunError, match=r"^the run was stopped$"):
                call()

    wrapped = ray_engine._Server(server_app)
    serve(wrapped.app, grid)
    wrapped.end()
    assert wrapped.error is None


@pytest.mark.parametrize(
    ("overrides", "warning"),
    [
        (["runtime.min_nodes=2"], "runtime.min_nodes had no effect on the engine inline"),
        (["runtime.ray_address=auto"], "runtime.ray_address had no effect on the engine inline"),
        (
            ["runtime.workers=2", "runtime.engine=deployment"],
            "runtime.workers had no effect on the engine deployment",
        ),
        (
            ["runtime.workers=2", "runtime.engine=ray", "runtime.ray_address=auto"],
            "runtime.workers had no effect: a Ray cluster that is already there has its own number",
        ),
    ],
)
def test_keys_of_another_engine_are_named(overrides, warning):
    assert warning in list(warnings_about(small_config(*overrides)))
