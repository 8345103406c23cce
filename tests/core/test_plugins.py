"""Plug-ins of a process: listed modules, entry points, and what a node lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tardis_fl.core import plugins
from tardis_fl.core.plugins import (
    load_plugins,
    missing_plugins,
    plugin_fingerprint,
    plugin_problems,
)
from tardis_fl.errors import ConfigError

WriteModule = Callable[[str, str], str]


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", set())


def give_entry_points(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    found = tuple(
        EntryPoint(f"e{number}", value, plugins.GROUP) for number, value in enumerate(values)
    )
    monkeypatch.setattr(plugins, "_entry_points", lambda: found)


def test_plug_ins_are_imported_once_a_process(write_module: WriteModule, tmp_path: Path) -> None:
    name = write_module("counted", "with open('count.txt', 'a') as file:\n    file.write('x')\n")
    load_plugins([name])
    load_plugins([name, name])
    assert (tmp_path / "count.txt").read_text() == "x"


def test_entry_points_of_installed_packages_are_imported(
    write_module: WriteModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write_module(
        "entry",
        "with open('count.txt', 'a') as file:\n    file.write('m')\n\ndef register():\n    pass\n",
    )
    give_entry_points(monkeypatch, module, f"{module}:register")
    load_plugins()
    load_plugins()
    assert (tmp_path / "count.txt").read_text() == "m"


def test_every_plug_in_that_fails_has_its_line(
    write_module: WriteModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising = write_module("raising", "\nraise OSError('no disk')\n")
    good = write_module("good", "")
    give_entry_points(monkeypatch, f"{raising}:thing")
    with pytest.raises(ConfigError) as caught:
        load_plugins([good, "no_such_module_anywhere", raising, "a file.py"])
    assert str(caught.value).splitlines() == [
        f"entry point tardis_fl.plugins: got '{raising}:thing' of an installed package; importing it fails with "
        f"OSError: no disk ({raising}.py:2); mend or uninstall that package",
        f"plugins.1: got 'no_such_module_anywhere'; wanted a module that is installed, or lies in {tmp_path} "
        "(No module named 'no_such_module_anywhere')",
        f"plugins.2: got '{raising}'; importing it fails with OSError: no disk ({raising}.py:2)",
        "plugins.3: got the text 'a file.py'; wanted a module's name, such as my_package.my_plugins",
    ]


def test_a_name_that_is_taken_is_the_plug_ins_failure(write_module: WriteModule) -> None:
    name = write_module(
        "taken",
        "from tardis_fl.core.registry import Registry\n"
        "R = Registry('thing', key='k', wants='w')\n"
        "R.register('x', 'math:sin')\n"
        "R.register('x', 'math:cos')\n",
    )
    (problem,) = plugin_problems([name])
    assert "ConfigError: thing 'x': registered twice, as math:sin and as math:cos" in str(problem)


def test_a_node_tells_what_it_lacks(write_module: WriteModule) -> None:
    good = write_module("good", "def f(): pass\n")
    raising = write_module("raising", "raise OSError('no disk')\n")
    assert missing_plugins([good, f"{good}:f", "math:hypot"]) == []
    assert missing_plugins(["no_such_module_anywhere.plugins", f"{good}:g", raising]) == [
        "lacks the plug-in no_such_module_anywhere.plugins: No module named 'no_such_module_anywhere'; install it there",
        f"lacks the plug-in {good}:g: module '{good}' has no attribute 'g'; install it there",
        f"can't import the plug-in {raising}: OSError: no disk ({raising}.py:1)",
    ]


def test_fingerprints_tell_whether_two_sources_are_the_same(write_module: WriteModule) -> None:
    source = "def f(): pass\n"
    names = [
        write_module("one", source),
        write_module("two", source),
        write_module("three", source + "\n"),
    ]
    load_plugins(names)
    first, second, third = (plugin_fingerprint(name) for name in names)
    assert first == second == hashlib.sha256(source.encode()).hexdigest()[:16]
    assert plugin_fingerprint(f"{names[0]}:f") == first
    assert third != first
    assert plugin_fingerprint("sys") == plugin_fingerprint("never_imported_module") == ""
