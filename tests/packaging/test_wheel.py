"""The wheel: what is in it, and that it works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

from tests.conftest import ROOT

SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
QUICK = (
    "federation.rounds=1",
    "federation.final_server_epochs=1",
    "data.synthetic.num_train=600",
    "data.synthetic.num_test=100",
    "runtime.threads=1",
)


def call(arguments, folder):
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind, source, target):
    """Builds as `python -m build` does, without an environment of its own."""
    code = f"import setuptools.build_meta as b; print(b.build_{kind}({str(target)!r}))"
    return target / call([sys.executable, "-c", code], source).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the source distribution as a user's pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in ("tardis_fl", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    archive = build("sdist", source, folder)
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    return build("wheel", next((folder / "unpacked").iterdir()), folder)


def test_the_wheel_holds_every_module_and_all_that_they_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "tardis_fl"
    files = (path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    missing = {path.relative_to(ROOT).as_posix() for path in files} - names
    assert missing == set()
    assert "tardis_fl/py.typed" in names
    shipped = {f"tardis_fl/shipped_configs/{path.name}" for path in ROOT.glob("configs/*.yaml")}
    assert shipped
    assert shipped <= names
    assert not [name for name in names if name.startswith(("tests", "configs", "benchmarks"))]


def test_the_wheel_names_its_command_and_its_dependencies(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = {
        name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name
    }
    assert "tardis-fl = tardis_fl.cli:app" in archive.read(metadata["entry_points.txt"]).decode()
    assert "Requires-Dist: torch" in archive.read(metadata["METADATA"]).decode()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder with the commands of an environment that has the wheel, and no checkout.

    Its dependencies are those of this environment, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    bin_ = folder / "venv" / "bin"
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = call([bin_ / "python", "-c", code], folder).strip()
    call(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], folder
    )
    # A path in a .pth file is searched last, and .pth files there, such as that of an editable
    # install of the checkout, aren't read.
    (folder / site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return bin_


@pytest.mark.extended
def test_an_installed_wheel_runs_the_quickstart_by_name_outside_the_checkout(installed, tmp_path):
    settings = [part for setting in QUICK for part in ("--set", setting)]
    command = [installed / "python", "-m", "tardis_fl"]
    where = call(
        [installed / "python", "-c", "import tardis_fl; print(tardis_fl.__file__)"], tmp_path
    )
    assert str(installed.parent) in where
    call([*command, "simulate", "quickstart", *settings], tmp_path)
    assert (tmp_path / "runs" / "quickstart" / "report.html").exists()


EXAMPLES = sorted(path.stem for path in ROOT.glob("examples/*.yaml"))


def test_every_example_has_a_configuration():
    modules = {path.stem for path in ROOT.glob("examples/*.py")} - {"__init__"}
    assert modules
    assert modules == set(EXAMPLES)


@pytest.mark.extended
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_installed_wheel_runs_the_example_from_a_user_s_folder(installed, tmp_path, name):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=ignored)
    command = [installed / "python", "-m", "tardis_fl.simulate", f"examples/{name}.yaml"]
    call([*command, "--set", "runtime.threads=1", "--output", tmp_path / "run"], tmp_path)
    assert (tmp_path / "run" / "report.json").exists()
