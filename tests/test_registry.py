"""Components by name, plug-ins from files and modules, and settings from signatures."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from coterie.errors import PluginError, SpecError
from coterie.registry import Component, Registry, partitions


@pytest.fixture
def registry():
    made = Registry("shape")

    @made.register("circle", round=True)
    def circle(radius):
        """A circle.

        More about it.
        """

    @made.register("square")
    def square(*, side: int = 1):
        pass

    @made.register("drawn", takes_path=True)
    def drawn(path):
        pass

    return made


@pytest.fixture
def plugin(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return tmp_path

    return write


def failing(registry, reference, base):
    with pytest.raises(SpecError) as caught:
        registry.resolve(reference, base, "shape.kind")
    assert caught.value.where == "shape.kind"
    assert caught.value.remedy
    return caught.value


# Built-in components


def test_registering_and_resolving(registry):
    assert [c.name for c in registry] == ["circle", "square", "drawn"]
    assert "circle" in registry
    assert "triangle" not in registry
    found = registry.resolve("circle", Path(), "shape.kind")
    assert (found.name, found.traits, found.argument, found.file, found.digest) == (
        "circle",
        {"round": True},
        "",
        "",
        "",
    )
    assert found.summary == "A circle."
    assert found.takes_arguments
    square = registry.resolve("square", Path(), "shape.kind")
    assert (square.summary, square.takes_arguments) == ("", False)


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="shape 'circle' is registered twice"):
        registry.register("circle")(lambda: None)
    assert registry.resolve("circle", Path(), "").summary == "A circle."


def test_decorated_functions_stay_themselves(registry):
    def triangle():
        return 3

    assert registry.register("triangle")(triangle) is triangle


def test_unknown_names(registry):
    error = failing(registry, "sqare", Path())
    assert (type(error), error.what) == (SpecError, "unknown shape 'sqare'")
    assert error.remedy == "Did you mean 'square'? Or name your own as 'file.py:function'."
    assert failing(registry, "zzz", Path()).remedy.startswith("Known: circle, drawn:PATH, square.")
    for reference in ("", "square:", ":"):
        assert type(failing(registry, reference, Path())) is SpecError


def test_names_with_a_path(registry, tmp_path):
    found = registry.resolve("drawn:inner/a:b.csv", tmp_path, "shape.kind")
    assert (found.name, found.argument) == ("drawn:inner/a:b.csv", str(tmp_path / "inner" / "a:b.csv"))
    assert registry.resolve("drawn:/a.csv", tmp_path, "shape.kind").argument == "/a.csv"
    assert "drawn:PATH" in failing(registry, "drawn", tmp_path).remedy


# Plug-ins


def test_a_function_in_a_file(registry, plugin):
    base = plugin('def star(*, points: int = 5):\n    """A star."""\n    return points\n')
    found = registry.resolve("mine.py:star", base, "shape.kind")
    assert (found.name, found.summary, found.file) == ("mine.py:star", "A star.", str(base / "mine.py"))
    assert found.function(points=7) == 7
    assert found.settings({"points": 6}, "shape") == {"points": 6}
    assert len(found.digest) == 64


def test_a_file_is_imported_once_and_again_when_it_changes(registry, plugin):
    base = plugin("def star(): return 1\n")
    one = registry.resolve("mine.py:star", base, "")
    assert registry.resolve("mine.py:star", base, "").function is one.function
    before = one.digest
    plugin("def star(): return 2\n")
    other = registry.resolve("mine.py:star", base, "")
    assert (one.function(), other.function()) == (1, 2)
    assert other.digest != before


def test_files_of_one_name_in_two_folders(registry, tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "mine.py").write_text("from pathlib import Path\ndef star(): return Path(__file__)\n")
    found = [registry.resolve("mine.py:star", tmp_path / number, "") for number in "12"]
    assert [c.function() for c in found] == [tmp_path / "1" / "mine.py", tmp_path / "2" / "mine.py"]
    assert found[0].digest == found[1].digest


def test_dataclasses_work_in_plugins(registry, plugin):
    base = plugin(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass A:\n    x: int\n\ndef star(): return A(3)\n"
    )
    assert registry.resolve("mine.py:star", base, "").function().x == 3


def test_a_function_in_a_module(registry, plugin, monkeypatch):
    base = plugin("def star(*, points: int): return points\n", "coterie_test_plugin.py")
    monkeypatch.syspath_prepend(str(base))
    found = registry.resolve("coterie_test_plugin:star", Path("/elsewhere"), "shape.kind")
    assert found.function(points=3) == 3
    assert found.file == str(base / "coterie_test_plugin.py")
    assert found.digest
    error = failing(registry, "coterie_test_plugin:stra", base)
    assert error.remedy == "Did you mean 'star'?"
    del sys.modules["coterie_test_plugin"]
    assert registry.resolve("math:sqrt", base, "").function(4) == 2  # whatever its file is


def test_missing_things(registry, plugin):
    base = plugin("def star(): pass\ndef _hidden(): pass\nsize = 3\n")
    error = failing(registry, "other.py:star", base)
    assert type(error) is PluginError
    assert error.what == f"there is no file {base / 'other.py'}"
    assert "relative to the spec" in error.remedy
    error = failing(registry, "mine.py:stars", base)
    assert (error.what, error.remedy) == ("mine.py has no function 'stars'", "Did you mean 'star'?")
    assert failing(registry, "mine.py:zzzzz", base).remedy == "Known: star."
    error = failing(registry, "no_such_module_here:star", base)
    assert (type(error), "'no_such_module_here', which is not installed" in error.what) == (PluginError, True)


def test_not_callable(registry, plugin):
    base = plugin("def star(): pass\nstars = 3\n")
    assert failing(registry, "mine.py:stars", base).remedy == "Did you mean 'star'?"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def star(:\n", "SyntaxError"),
        ("x = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('not today')\n", "RuntimeError: not today"),
        ("open('/no/such/file')\n", "FileNotFoundError"),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye"),
        ("import no_such_module_here\n", "needs the module 'no_such_module_here', which is not installed"),
        ("from math import no_such_name\n", "ImportError"),
        ("from . import x\n", "ImportError"),
        ("x = '\udcff'\n", "SyntaxError"),
    ],
)
def test_files_that_cannot_be_imported(registry, tmp_path, text, what):
    (tmp_path / "mine.py").write_text(text, "utf-8", "surrogateescape")
    before = set(sys.modules)
    for _ in range(2):  # a failed import leaves nothing behind that would pass for a module
        error = failing(registry, "mine.py:star", tmp_path)
        assert type(error) is PluginError
        assert what in error.what
        assert "mine.py:star" in error.what
    assert not [name for name in set(sys.modules) - before if name.startswith("coterie_plugin")]


@pytest.mark.parametrize("reference", [":star", ".x:star", "folder.py:star", "a\0b.py:star", "a b:star", "x/y:star"])
def test_odd_references(registry, tmp_path, reference):
    (tmp_path / "folder.py").mkdir()
    assert type(failing(registry, reference, tmp_path)) is PluginError


# Settings


def options(
    own,
    /,
    other=3,
    *more,
    size: Annotated[int, Field(ge=1, le=9)],
    rate: float = 0.5,
    form: Literal["a", "b"] = "a",
    names: list[str] | None = None,
    table: dict[str, int] | None = None,
    anything=7,
    **rest,
):
    """Only keyword-only parameters are settings."""


def test_settings_come_from_the_signature():
    component = Component("options", options)
    assert list(component.options().model_fields) == ["size", "rate", "form", "names", "table", "anything"]
    full = {"size": 2, "rate": 0.5, "form": "a", "names": None, "table": None, "anything": 7}
    assert component.settings({"size": 2}, "shape") == full
    given = {"size": 9, "rate": 1, "form": "b", "names": ["x"], "table": {"a": 1}, "anything": [1]}
    assert component.settings(given, "shape") == given
    assert type(component.settings(given, "shape")["rate"]) is float


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ({}, "shape.size", "this key is required"),
        ({"size": 0}, "shape.size", "greater than or equal to 1 (got 0)"),
        ({"size": 10}, "shape.size", "less than or equal to 9 (got 10)"),
        ({"size": 2.0}, "shape.size", "valid integer (got 2.0)"),
        ({"size": True}, "shape.size", "valid integer (got True)"),
        ({"size": "2"}, "shape.size", "valid integer (got '2')"),
        ({"size": 2, "rate": "1"}, "shape.rate", "valid number"),
        ({"size": 2, "rate": float("nan")}, "shape.rate", "finite number"),
        ({"size": 2, "rate": float("inf")}, "shape.rate", "finite number"),
        ({"size": 2, "form": "c"}, "shape.form", "'a' or 'b'"),
        ({"size": 2, "names": ["x", 3]}, "shape.names.1", "valid string (got 3)"),
        ({"size": 2, "table": {"a": "b"}}, "shape.table.a", "valid integer (got 'b')"),
        ({"size": 2, "own": 1}, "shape.own", "unknown key"),
        ({"size": 2, "other": 1}, "shape.other", "unknown key"),
        ({"size": 2, "rest": 1}, "shape.rest", "unknown key"),
    ],
)
def test_wrong_settings(given, where, what):
    with pytest.raises(SpecError) as caught:
        Component("options", options).settings(given, "shape")
    assert caught.value.where == where
    assert what in caught.value.what
    assert caught.value.remedy


def test_near_misses_of_settings():
    with pytest.raises(SpecError, match=r"shape\.rtae: unknown key\. Did you mean 'rate'\?"):
        Component("options", options).settings({"size": 2, "rtae": 1}, "shape")
    with pytest.raises(SpecError, match=r"^rtae: unknown key"):
        Component("options", options).settings({"size": 2, "rtae": 1}, "")


@pytest.mark.parametrize(
    "text",
    [
        "def star(*, size: 'Missing'): pass",
        "class Thing: pass\ndef star(*, size: Thing): pass",
        "def star(*, model_dump: int = 3): pass",
        "star = max",
    ],
)
def test_signatures_that_cannot_be_settings(registry, plugin, text):
    component = registry.resolve("mine.py:star", plugin(text), "shape.kind")
    with pytest.raises(PluginError, match=r"parameters of 'mine\.py:star' cannot be settings"):
        component.settings({}, "shape")


def test_built_in_components_can_be_set():
    import coterie.runtime.catalog  # noqa: F401 - fills the registries
    from coterie import registry as module

    for known in vars(module).values():
        for component in known if isinstance(known, Registry) else ():
            assert component.options().model_fields is not None
            assert component.summary.endswith((".", ":")), f"{known.kind} {component.name} has no first sentence"
    assert partitions.resolve("dirichlet", Path(), "").settings({}, "data") == {"alpha": 0.5}
