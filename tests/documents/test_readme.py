"""The README's commands run, and its configuration names exist."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from tests.conftest import REAL_DATA, ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if re.match(r"(\$ )?(python|make|TARDIS)", line)
]
PYTHON = [command for command in COMMANDS if command.startswith("python -m tardis_fl")]
QUICK = [
    "--set",
    "federation.rounds=1",
    "--set",
    "federation.final_server_epochs=1",
    "--set",
    "federation.final_feature_views=1",
    "--set",
    "data.max_train_samples=600",
    "--set",
    "data.max_test_samples=100",
    "--set",
    "runtime.threads=1",
]


def test_the_readme_names_both_make_commands():
    assert {"make demo", "make test"} <= set(COMMANDS)
    targets = (ROOT / "Makefile").read_text()
    assert all(
        f"\n{command.split()[1]}:" in targets for command in COMMANDS if command.startswith("make ")
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which runs/quickstart is finished, shortened."""
    folder = tmp_path_factory.mktemp("finished")
    run_in(folder, ["-m", "tardis_fl.simulate", str(ROOT / "configs" / "quickstart.yaml"), *QUICK])
    return folder


def run_in(folder, arguments, **environment):
    """Runs `python -m MODULE ...` in this process, as Python does, which saves the imports."""
    dash_m, module, *options = arguments
    assert dash_m == "-m"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", [module, *options])
        name = f"{module}.__main__" if module == "tardis_fl" else module
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        assert ended.value.code in (None, 0)


def run_apart(folder, arguments, **environment):
    """Runs a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in PYTHON if "runs/quickstart" in command])
def test_a_command_on_a_finished_run_works(command, finished):
    run_in(finished, shlex.split(command)[1:])


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_every_shipped_configuration_runs(config, tmp_path):
    run_in(
        tmp_path,
        [
            "-m",
            "tardis_fl.simulate",
            str(ROOT / "configs" / config),
            *QUICK,
            "--set",
            "data.dataset=synthetic",
            "--set",
            "data.max_train_samples=2000",
            "--output",
            "run",
        ],
    )
    assert (tmp_path / "run" / "report.html").exists()


# starting real processes is tested in tests/workflows/test_federate.py, and Ray with the engines
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.extended] if "--engine" in command else [])
        for command in PYTHON
        if "runs/quickstart" not in command
    ],
)
def test_a_command_of_the_readme_runs(command, tmp_path):
    """Trainings run shortened: the README's own options, then fewer rounds and samples, on generated images where TARDIS_FL_DATA names no others."""
    arguments = shlex.split(command)[1:]
    trains = any(word in command for word in ("simulate", "federate", "sweep", "baselines"))
    if trains:
        if "--output" in arguments:
            position = arguments.index("--output")
            del arguments[position : position + 2]
        if "sweep" in command:
            arguments[arguments.index("--seeds") + 1] = "1"
        if "deployment" in command:  # every message starts a process on each node
            arguments += [
                "--set",
                "federation.num_clients=2",
                "--set",
                "federation.final_server_epochs=0",
            ]
        arguments += [
            *(QUICK if "deployment" not in command else QUICK[:2] + QUICK[6:]),
            *([] if REAL_DATA else ["--set", "data.dataset=synthetic"]),
            "--output",
            str(tmp_path / "run"),
        ]
    run = run_apart if "federate" in command else run_in
    run(ROOT, arguments, **({"TARDIS_FL_DATA": REAL_DATA} if REAL_DATA else {}))
    if trains:
        assert (tmp_path / "run" / ("sweep.md" if "sweep" in command else "report.html")).exists()


def test_every_python_block_of_the_readme_runs(finished, monkeypatch):
    monkeypatch.chdir(finished)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})


def test_paths_named_in_the_readme_exist():
    names = set(
        re.findall(r"`((?:configs|docs|benchmarks|simulations|tardis_fl|tests)/[\w./]*)`", README)
    ) | set(re.findall(r"\]\(((?!http)[\w./]+)\)", README))
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
