"""Registries: names without imports, references, options, and their messages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tardis_fl.core.registry import Registry
from tardis_fl.errors import ConfigError

WriteModule = Callable[[str, str], str]


def add(a: int, b: int, *, scale: float = 1.0) -> float:
    return (a + b) * scale


def subtract(a: int, b: int, *, shape: tuple[int, int]) -> float:
    return a - b + sum(shape)


@pytest.fixture
def sums() -> Registry[Callable[..., float]]:
    registry: Registry[Callable[..., float]] = Registry(
        "sum",
        key="maths.sum",
        wants="a function of (a, b)",
        supplied=2,
        options_key="maths.options",
    )
    registry.register("hypot", "math:hypot")
    registry.register("add", "tests.core.test_registry:add")
    return registry


def test_names_and_membership(sums: Registry[Any]) -> None:
    assert sums.names() == ("hypot", "add")
    assert "add" in sums
    assert "tests.core.test_registry:add" not in sums


def test_registered_texts_are_imported_when_they_are_used(sums: Registry[Any]) -> None:
    assert sums.resolve("hypot")(3, 4) == 5
    assert sums.resolve("add") is add


def test_names_are_known_without_an_import() -> None:
    code = (
        "import sys; from tardis_fl.core.registry import Registry; r = Registry('k', key='a.b', wants='w');"
        "r.register('x', 'torch:relu'); assert r.problem_with_name('x') is None; assert not r.problems('x');"
        "assert r.problem_with_name('torch:no') is None; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_decorator_registers_and_returns_the_function(sums: Registry[Any]) -> None:
    @sums.register("twice")
    def twice(a: int, b: int) -> float:
        return 2 * (a + b)

    assert sums.resolve("twice") is twice
    assert sums.names() == ("hypot", "add", "twice")


def test_references_need_no_registering(sums: Registry[Any]) -> None:
    assert sums.resolve("tests.core.test_registry:subtract") is subtract


def test_a_name_belongs_to_one_entry(sums: Registry[Any]) -> None:
    sums.register("add", add)
    sums.register("add", "tests.core.test_registry:add")
    with pytest.raises(ConfigError) as caught:
        sums.register("add", subtract)
    assert str(caught.value) == (
        "sum 'add': registered twice, as tests.core.test_registry:add and as "
        "tests.core.test_registry:subtract; give one of them another name"
    )
    assert sums.resolve("add") is add


def test_functions_made_inside_a_function_are_different_ones(sums: Registry[Any]) -> None:
    def make(number: int) -> Callable[..., float]:
        return lambda a, b: number

    first = make(1)
    sums.register("made", first)
    sums.register("made", first)
    with pytest.raises(ConfigError, match="registered twice"):
        sums.register("made", make(2))


def test_a_module_that_is_run_and_imported_is_one(write_module: WriteModule) -> None:
    source = (
        "from tardis_fl.core.registry import Registry\n"
        "import sys\n"
        "if __name__ == '__main__':\n"
        "    sys.modules['its_registry'] = Registry('sum', key='k', wants='w')\n"
        "REGISTRY = sys.modules['its_registry']\n"
        "@REGISTRY.register('mine')\n"
        "def mine(): pass\n"
        "if __name__ == '__main__':\n"
        "    import NAME\n"
        "    print(REGISTRY.resolve('mine') is NAME.mine)\n"
    )
    name = write_module("main", "")
    with open(f"{name}.py", "w") as file:
        file.write(source.replace("NAME", name))
    done = subprocess.run([sys.executable, "-m", name], check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("name", ["", "a:b"])
def test_names_that_would_be_references_are_refused(sums: Registry[Any], name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"sum: got the name {name!r}; wanted a name without a colon"
    ):
        sums.register(name, add)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ad",
            "maths.sum: got the text 'ad'; wanted 'hypot', 'add' or MODULE:FUNCTION; did you mean 'add'?",
        ),
        ("zzz", "maths.sum: got the text 'zzz'; wanted 'hypot', 'add' or MODULE:FUNCTION"),
        ("math:", "maths.sum: got the text 'math:'; wanted 'hypot', 'add' or MODULE:FUNCTION"),
        (
            "math:pi",
            "maths.sum: got 'math:pi', which is a float and can't be called; wanted MODULE:FUNCTION: a function of (a, b)",
        ),
        (
            "math:nothing",
            "maths.sum: got 'math:nothing'; wanted MODULE:FUNCTION (module 'math' has no attribute 'nothing')",
        ),
    ],
)
def test_what_cant_be_resolved(sums: Registry[Any], name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sums.resolve(name)
    assert str(caught.value) == message
    assert [str(problem) for problem in sums.problems(name)] == [message]
    with pytest.raises(ConfigError) as caught:
        sums.resolve(name, key="elsewhere.3")
    assert str(caught.value) == message.replace("maths.sum", "elsewhere.3")


def test_a_module_that_fails_is_one_message(sums: Registry[Any], write_module: WriteModule) -> None:
    name = write_module("failing", "import math\n\n1 / 0\n")
    (problem,) = sums.problems(f"{name}:f")
    assert str(problem) == (
        f"maths.sum: got '{name}:f'; importing it fails with ZeroDivisionError: division by zero ({name}.py:3)"
    )


def test_options_are_checked_and_given(sums: Registry[Any]) -> None:
    assert sums.problems("add", {"scale": 2}) == []
    assert sums.bound("add", {"scale": 2})(1, 2) == 6.0
    assert sums.bound("add") is add
    assert sums.bound("tests.core.test_registry:subtract", {"shape": [1, 2]})(4, 3) == 4
    assert [str(problem) for problem in sums.problems("add", {"sclae": 2})] == [
        "maths.options.sclae: got an unknown option with 2; did you mean 'scale'?"
    ]
    with pytest.raises(ConfigError) as caught:
        sums.bound("tests.core.test_registry:subtract", {"shape": "x", "y": 0})
    assert str(caught.value) == (
        "maths.options.shape: got the text 'x'; wanted a list\n"
        "maths.options.y: got an unknown option with 0; known options of 'tests.core.test_registry:subtract': shape"
    )


def test_a_plug_in_of_other_arguments_is_refused(sums: Registry[Any]) -> None:
    (problem,) = sums.problems("math:sqrt")
    assert (
        str(problem)
        == "maths.sum: got 'math:sqrt', which takes other arguments; wanted a function of (a, b)"
    )


def test_the_schema_lists_the_names(sums: Registry[Any]) -> None:
    schema = sums.json_schema()
    assert schema["anyOf"][0] == {"enum": ["hypot", "add"]}


def test_a_registry_without_names_asks_for_a_reference() -> None:
    registry: Registry[Any] = Registry("thing", key="a.b", wants="anything", form="MODULE:CLASS")
    assert str(registry.problem_with_name("x")) == "a.b: got the text 'x'; wanted MODULE:CLASS"
