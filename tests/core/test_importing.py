"""Importing what a user names: from the working folder, with one message for all that can fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tardis_fl.core.importing import (
    ImportFailure,
    import_callable,
    import_module,
    import_object,
)
from tardis_fl.errors import ConfigError

WriteModule = Callable[[str, str], str]


def test_a_module_of_the_working_folder_is_found(write_module: WriteModule) -> None:
    name = write_module(
        "here", "class Outer:\n    @staticmethod\n    def double(x):\n        return 2 * x\n"
    )
    assert import_object(f"{name}:Outer.double")(4) == 8


def test_the_working_folder_wins_while_importing_and_comes_last_afterwards(
    write_module: WriteModule,
) -> None:
    name = write_module(
        "lazy",
        "import sys\nFIRST = sys.path[0]\n\ndef later():\n    import NEIGHBOUR\n    return NEIGHBOUR.VALUE\n",
    )
    neighbour = write_module("neighbour", "VALUE = 7\n")
    source = Path(f"{name}.py")
    source.write_text(source.read_text().replace("NEIGHBOUR", neighbour))
    module = import_module(name)
    assert str(Path.cwd()) == module.FIRST
    assert sys.path[0] != str(Path.cwd())
    assert module.later() == 7


def test_a_missing_module_leaves_the_search_path_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(ImportFailure) as caught:
        import_module("no_such_module_anywhere")
    assert caught.value.missing
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", "importing it fails with SyntaxError: invalid syntax (MODULE.py:1)"),
        (
            "x = 1\nraise RuntimeError('no\\nluck')\n",
            "importing it fails with RuntimeError: no luck (MODULE.py:2)",
        ),
        (
            "import no_such_thing\n",
            "importing it fails with ModuleNotFoundError: No module named 'no_such_thing' (MODULE.py:1)",
        ),
        (
            "from os import no_such_name\n",
            "importing it fails with ImportError: cannot import name 'no_such_name' from 'os' (",
        ),
        (
            "error = ValueError('odd')\nerror.add_note('a note')\nraise error\n",
            "importing it fails with ValueError: odd (MODULE.py:3)",
        ),
        ("raise StopIteration\n", "importing it fails with StopIteration (MODULE.py:1)"),
        ("exit(3)\n", "importing it fails with SystemExit: 3 (MODULE.py:1)"),
        (
            "def f():\n    raise KeyError('k')\n\nf()\n",
            "importing it fails with KeyError: 'k' (MODULE.py:2)",
        ),
        ("g = 1\n", "wanted MODULE:FUNCTION (module 'MODULE' has no attribute 'f')"),
    ],
)
def test_what_fails_is_one_message_with_its_place(
    write_module: WriteModule, source: str, message: str
) -> None:
    name = write_module("broken", source)
    with pytest.raises(ConfigError) as caught:
        import_callable(f"{name}:f", "some.key")
    text = str(caught.value)
    wanted = message.replace("MODULE.py", f"{name}.py").replace("'MODULE'", repr(name))
    assert text.startswith(f"some.key: got '{name}:f'; {wanted}")
    assert "Traceback" not in text
    assert "\n" not in text


def test_a_module_that_failed_is_tried_again_when_it_was_mended(write_module: WriteModule) -> None:
    name = write_module("mended", "raise ValueError\n")
    with pytest.raises(ImportFailure):
        import_module(name)
    Path(f"{name}.py").write_text("f = len  # mended, and longer than before\n")
    assert import_object(f"{name}:f") is len


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "no_such_module_anywhere:f",
            "some.key: got 'no_such_module_anywhere:f'; wanted MODULE:CLASS (No module named 'no_such_module_anywhere')",
        ),
        (
            "json.nothing.deeper:f",
            "some.key: got 'json.nothing.deeper:f'; wanted MODULE:CLASS (No module named 'json.nothing')",
        ),
        (
            "json:nothing",
            "some.key: got 'json:nothing'; wanted MODULE:CLASS (module 'json' has no attribute 'nothing')",
        ),
        (
            "math:pi",
            "some.key: got 'math:pi', which is a float and can't be called; wanted MODULE:CLASS",
        ),
        (
            "json",
            "some.key: got 'json'; wanted MODULE:CLASS (that isn't a module's name, a colon and an object's name)",
        ),
        (
            ":f",
            "some.key: got ':f'; wanted MODULE:CLASS (that isn't a module's name, a colon and an object's name)",
        ),
        (
            "a/b.py:f",
            "some.key: got 'a/b.py:f'; wanted MODULE:CLASS (that isn't a module's name, a colon and an object's name)",
        ),
    ],
)
def test_names_of_nothing_that_can_be_called(reference: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_callable(reference, "some.key", "MODULE:CLASS")
    assert str(caught.value) == message
