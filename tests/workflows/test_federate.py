"""The main job on real Flower processes: the same weights, what goes wrong, and that nothing is left running."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from tardis_fl.cli import app
from tardis_fl.errors import ConfigError, RunError
from tardis_fl.federation.engines.local_flower.certificates import (
    write_certificates,
    write_node_key,
)
from tardis_fl.federation.engines.local_flower.deployment import LocalDeployment
from tardis_fl.federation.engines.local_flower.processes import Program, end_all
from tardis_fl.workflows.federate import _follow, federate
from tardis_fl.workflows.flower_app import find_config, server_app
from tests.conftest import ROOT, SMALL, hear_ctrl_c, small_config

ONE_ROUND = ("federation.rounds=1", "federation.final_server_epochs=0", "runtime.threads=1")


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def command(config_file, *options):
    return [sys.executable, "-m", "tardis_fl", "federate", str(config_file), *options]


def within(folder):
    """Returns an environment in which all that a command puts into a temporary folder lies in this one."""
    return {**os.environ, "TMPDIR": str(folder)}


def flower_processes(folder):
    """Returns the programs of Flower's that were started within a folder; others may run on this machine, too."""
    names = (
        "flower-superlink",
        "flower-supernode",
        "flower-superexec",
        "flwr-serverapp",
        "flwr-clientapp",
    )
    found = set()
    for process in psutil.process_iter(["cmdline", "status", "environ"]):
        words, home = (
            process.info["cmdline"] or [],
            (process.info["environ"] or {}).get("FLWR_HOME", ""),
        )
        if (
            process.info["status"] != psutil.STATUS_ZOMBIE
            and home.startswith(str(folder))
            and any(word.endswith(name) for word in words[:2] for name in names)
        ):
            found.add(process.pid)
    return found


def test_secured_processes_give_the_weights_of_the_inline_engine_and_all_end(config_file, tmp_path):
    overrides = [part for setting in ONE_ROUND for part in ("--set", setting)]
    secured = subprocess.run(
        command(
            config_file,
            "--engine",
            "deployment",
            "--secure",
            "--output",
            str(tmp_path / "real"),
            *overrides,
        ),
        cwd=ROOT,
        env=within(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert secured.returncode == 0, secured.stderr
    assert "round 1/1" in secured.stdout
    assert "measured on the test split" in secured.stdout
    inline = CliRunner().invoke(
        app,
        [
            "federate",
            str(config_file),
            "--engine",
            "inline",
            "--output",
            str(tmp_path / "inline"),
            *overrides,
        ],
    )
    assert inline.exit_code == 0, inline.output
    for number in range(3):
        name = f"model/segment_{number}.safetensors"
        assert (tmp_path / "real" / name).read_bytes() == (tmp_path / "inline" / name).read_bytes()
    reports = [
        json.loads((tmp_path / side / "report.json").read_text()) for side in ("real", "inline")
    ]
    assert reports[0]["operating_point"] == reports[1]["operating_point"]
    files = [{path.name for path in (tmp_path / side).iterdir()} for side in ("real", "inline")]
    assert files[0] - files[1] == {"flower_logs"}
    assert not flower_processes(tmp_path)


def test_ctrl_c_ends_every_process(config_file, tmp_path):
    process = subprocess.Popen(
        command(config_file, "--engine", "deployment", "--output", str(tmp_path / "run")),
        cwd=ROOT,
        env=within(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    deadline = time.monotonic() + 120
    while (
        len(flower_processes(tmp_path)) < 8 and time.monotonic() < deadline
    ):  # SuperLink, three SuperNodes, and a superexec of each
        time.sleep(0.2)
    assert len(flower_processes(tmp_path)) >= 8
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in errors
    assert "Traceback" not in errors
    assert not flower_processes(tmp_path)


def test_too_few_nodes_are_refused_before_anything_starts(config_file, tmp_path):
    result = CliRunner().invoke(
        app,
        [
            "federate",
            str(config_file),
            "--engine",
            "deployment",
            "--nodes",
            "2",
            "--output",
            str(tmp_path / "run"),
        ],
    )
    assert result.exit_code == 4
    assert (
        "--nodes: got 2; this configuration needs 3, one for each client (federation.num_clients, runtime.min_nodes)"
        in result.output
    )
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(
            RunError,
            match=f"port {port} of this machine is in use; give another one with --port, or none",
        ) as caught:
            federate(
                small_config(),
                tmp_path / "run",
                num_nodes=None,
                secure=False,
                port=port,
                resume=False,
            )
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("option", [["--nodes", "3"], ["--secure"], ["--port", "9000"]])
def test_options_of_nodes_without_nodes_are_refused(config_file, option):
    result = CliRunner().invoke(app, ["federate", str(config_file), *option])
    assert result.exit_code == 2
    assert (
        f"{option[0]}: has no effect on the engine inline; wanted --engine deployment, or leave it out"
        in result.output
    )


def test_the_engine_deployment_wants_its_command(config_file):
    result = CliRunner().invoke(
        app, ["simulate", str(config_file), "--set", "runtime.engine=deployment"]
    )
    assert result.exit_code == 2
    assert (
        "runtime.engine: got 'deployment', whose server and clients are processes; wanted the command 'federate', or `flwr run`"
        in result.output
    )


def test_another_version_of_flower_is_named(monkeypatch, config_file):
    monkeypatch.setattr("tardis_fl.federation.engines.version", lambda name: "1.42.0")
    result = CliRunner().invoke(app, ["simulate", str(config_file)])
    assert result.exit_code == 4
    assert "Flower 1.42.0 is installed, and this was tested with 1.41.x alone" in result.output


def test_a_program_that_ends_at_once_is_shown_with_the_end_of_its_log(tmp_path):
    program = Program.start(
        "SuperLink", ["flower-superlink", "--no-such-option"], log=tmp_path / "log", environment={}
    )
    with pytest.raises(
        RunError,
        match=r"(?s)the SuperLink ended at once with code \d+. The end of its log:.*no-such-option",
    ):
        program.await_port(1)


def test_what_a_killed_program_left_running_is_ended_too(tmp_path):
    shell = tmp_path / "flower-parent"
    shell.write_text(
        f"#!/bin/sh\n{sys.executable} -c 'import time; time.sleep(600)' flower-superexec &\necho $!\nwait\n"
    )
    shell.chmod(0o755)
    program = Program.start(
        "parent",
        [str(shell)],
        log=tmp_path / "log",
        environment={"FLWR_HOME": str(tmp_path / "home")},
    )
    while not (written := program.log.read_text()):
        time.sleep(0.05)
    orphan = psutil.Process(int(written))
    program._process.kill()
    program._process.wait()
    assert orphan.is_running()
    end_all([program])
    assert not orphan.is_running()


@pytest.fixture
def secured(tmp_path):
    """A SuperLink with TLS that isn't started yet, and can be given other certificates."""
    deployment = LocalDeployment(tmp_path, 0, secure=True)
    deployment._write_files()
    yield deployment
    deployment._end()


def test_an_expired_certificate_keeps_the_command_out(secured, tmp_path):
    """A SuperLink with a certificate of the last year: the run can't even be submitted."""
    last_year = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=365)
    for name in ("ca.crt", "server.crt", "server.key"):
        (tmp_path / name).unlink()
    write_certificates(tmp_path, valid_from=last_year, valid=datetime.timedelta(days=30))
    secured.start_superlink()
    with pytest.raises(
        RunError, match=r"(?s)`flwr ls` failed.*Connection to the SuperLink is unavailable"
    ):
        secured.flwr("ls", "local")  # which doesn't tell why
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    with (
        socket.create_connection(("127.0.0.1", secured.port), 10) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"),
    ):
        trusting.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_valid_certificate_lets_the_command_in(secured):
    secured.start_superlink()
    assert secured.flwr("ls", "local")["success"] is True


def test_a_command_that_does_not_end_is_named(secured, monkeypatch):
    monkeypatch.setattr("tardis_fl.federation.engines.local_flower.commands.COMMAND_SECONDS", 0.05)
    with pytest.raises(
        RunError, match=r"`flwr ls` doesn't end within 0.05 s; does the SuperLink answer\?"
    ):
        secured.flwr("ls", "local")


def test_a_run_that_failed_before_it_began_leaves_its_folder_free(tmp_path, monkeypatch):
    def refuse(self, run_config):
        raise RunError("`flwr run` failed: no")

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(LocalDeployment, "submit", refuse)
    with pytest.raises(RunError, match="`flwr run` failed: no"):
        federate(
            small_config(), tmp_path / "run", num_nodes=None, secure=False, port=None, resume=False
        )
    assert not list((tmp_path / "run").iterdir())


def test_private_keys_are_readable_by_their_owner_alone(tmp_path):
    write_certificates(tmp_path)
    write_node_key(tmp_path / "node")
    for name in ("server.key", "node"):
        assert os.stat(tmp_path / name).st_mode & 0o777 == 0o600


def test_a_server_that_ends_without_a_word_is_an_error(tmp_path):
    class Deployment:
        superlink = type("Program", (), {"last_lines": staticmethod(lambda: "its last line")})

        def newly_ended(self):
            return []

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "process.json").write_text(json.dumps({"pid": process.pid}))
    with pytest.raises(
        RunError,
        match=r"the server's process ended without a message. The end of the SuperLink's log:\nits last line",
    ):
        _follow(Deployment(), tmp_path)


def test_the_project_is_a_flower_app_that_carries_its_configurations(tmp_path):
    """`flwr run .` builds and sends this; the code is the installed one."""
    app_folder = tmp_path / "tardis-fl"
    app_folder.mkdir()
    for name in ("pyproject.toml", "configs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, app_folder / name)
    flwr = Path(sys.executable).with_name("flwr")
    subprocess.run(
        [flwr, "build", "--app", str(app_folder)],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (bundle,) = tmp_path.glob("*.fab")
    names = set(zipfile.ZipFile(bundle).namelist())
    assert {"configs/quickstart.yaml", "configs/cifar10_3tier.yaml", "pyproject.toml"} <= names
    assert not any(name.endswith(".py") for name in names)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for reference in settings["components"].values():
        module, _, attribute = reference.partition(":")
        assert hasattr(importlib.import_module(module), attribute)
    assert find_config(settings["config"]["config"]).is_file()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The app as Flower unpacks it, a clone that Python finds modules in, and the SuperLink's working folder."""
    folders = {name: tmp_path / name for name in ("app", "clone", "working")}
    for folder in folders.values():
        folder.mkdir()
    for name in ("app", "clone"):
        (folders[name] / "pyproject.toml").touch()
    monkeypatch.syspath_prepend(folders["clone"])
    monkeypatch.syspath_prepend(folders["app"])
    monkeypatch.chdir(folders["working"])
    return folders


def test_a_configuration_is_looked_for_in_the_submitted_app_first(places):
    for folder in places.values():
        (folder / "small.yaml").write_text(SMALL)
    assert find_config("small.yaml") == places["app"] / "small.yaml"
    (places["app"] / "small.yaml").unlink()
    assert find_config("small.yaml") == places["working"] / "small.yaml"
    assert find_config(str(places["clone"] / "small.yaml")) == places["clone"] / "small.yaml"


def test_a_configuration_that_is_nowhere_is_named(places):
    (places["clone"] / "nowhere.yaml").write_text(SMALL)
    with pytest.raises(
        ConfigError,
        match=r"run config `config`: got 'nowhere.yaml', no file in the app or on this machine \(in .*working\); wanted a YAML's path",
    ):
        find_config("nowhere.yaml")


@pytest.mark.parametrize("absolute", [False, True])
def test_a_run_says_which_configuration_it_found(places, monkeypatch, absolute):
    (places["app"] / "small.yaml").write_text(SMALL)
    asked = []
    monkeypatch.setattr(
        "tardis_fl.workflows.experiment.simulate",
        lambda config, folder, screen, **_: asked.append((config.runtime.engine, folder)),
    )
    run_config = {
        "config": str(places["app"] / "small.yaml") if absolute else "small.yaml",
        "set": "name=other",
        "output": "",
        "resume": False,
    }
    follow = places["working"] / "follow"
    follow.mkdir()
    server_app(None, SimpleNamespace(run_config={**run_config, "follow": str(follow)}))
    assert asked == [("deployment", Path("runs") / "other")]
    assert (follow / "screen.txt").read_text() == (
        "" if absolute else f"note: the configuration is {places['app'] / 'small.yaml'}\n"
    )
