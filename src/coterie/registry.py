"""Named components - datasets, models, rules, protocols ... - and the plug-ins that stand beside them.

The upper packages register functions here; the spec refers to them by name. The settings of a component are the
keyword-only parameters of its function, with their annotations and defaults: one mechanism for built-in components and
for a user's own (``"file.py:function"`` or ``"package.module:function"``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from coterie.errors import CoterieError, PluginError, SpecError, near_miss

Function = Callable[..., Any]
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Component:
    """A registered function or a user's own, with what the spec may set on it."""

    name: str
    function: Function
    traits: Mapping[str, Any] = field(default_factory=dict)
    argument: str = ""
    """What followed the colon of a name that takes one, such as the path of ``csv:PATH``."""
    file: str = ""
    """A plug-in's source file, or its module where that has none; empty for a built-in component."""
    digest: str = ""
    """SHA-256 of that file when it was loaded."""

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def takes_arguments(self) -> bool:
        """Whether the function wants more than keyword-only settings."""
        kinds = {p.kind for p in inspect.signature(self.function).parameters.values()}
        return bool(kinds - {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD})

    def options(self) -> type[BaseModel]:
        """A pydantic model of the keyword-only parameters: names, types, bounds and defaults."""
        fields: dict[str, Any] = {}
        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
            for parameter in inspect.signature(self.function).parameters.values():
                if parameter.kind is parameter.KEYWORD_ONLY:
                    default = ... if parameter.default is parameter.empty else parameter.default
                    fields[parameter.name] = (hints.get(parameter.name, Any), default)
            return create_model("Options", __config__=_STRICT, **fields)
        except Exception as error:
            raise PluginError(
                f"the keyword-only parameters of {self.name!r} cannot be settings: {error}",
                where=self.file or self.name,
                remedy="Annotate them with types that exist and that TOML has.",
            ) from error

    def settings(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """``given`` checked, defaults filled in. Raises SpecError naming the key under ``where``."""
        model = self.options()
        try:
            return model(**given).model_dump()
        except ValidationError as error:
            raise explain(error, where, model.model_fields) from None


@contextmanager
def guarded(component: Component, where: str) -> Iterator[None]:
    """What a user's own ``component`` raises becomes a PluginError at ``where``; what a built-in one raises stays."""
    try:
        yield
    except CoterieError:
        raise
    except Exception as error:
        if not component.file:
            raise
        raise PluginError(
            f"{component.name!r} raised {type(error).__name__}: {error}", where=where, remedy="Mend that function."
        ) from error


def explain(error: ValidationError, where: str, known: Mapping[str, Any]) -> SpecError:
    """A fault of a pydantic error as a SpecError: the key, what is wrong, the remedy.

    The first one, but an unknown key before a missing one: the two are often one slip.
    """
    faults = error.errors(include_url=False)
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    key = ".".join(str(part) for part in fault["loc"])
    path = f"{where}.{key}" if where and key else where or key
    if fault["type"] == "extra_forbidden":
        remedy = near_miss(str(fault["loc"][0]), known) if len(fault["loc"]) == 1 else "Remove it."
        return SpecError("unknown key", where=path, remedy=remedy)
    if fault["type"] == "missing":
        return SpecError("this key is required", where=path, remedy="Add it.")
    message = fault["msg"].removeprefix("Value error, ")
    return SpecError(f"{message} (got {fault['input']!r})", where=path, remedy="Correct the value.")


class Registry:
    """The components of one kind, by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._components: dict[str, Component] = {}

    def register(self, name: str, **traits: Any) -> Callable[[Function], Function]:
        """Decorator: make a function known as ``name``. A name can be taken once."""

        def add(function: Function) -> Function:
            if name in self._components:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._components[name] = Component(name, function, traits)
            return function

        return add

    def __iter__(self) -> Iterator[Component]:
        return iter(self._components.values())

    def __contains__(self, name: str) -> bool:
        return name in self._components

    def resolve(self, reference: str, base: Path, where: str) -> Component:
        """The component a spec means by ``reference``; files are sought relative to ``base``.

        Raises SpecError for an unknown name, PluginError for a file or module that cannot be used.
        """
        if reference in self._components and not self._components[reference].traits.get("takes_path"):
            return self._components[reference]
        head, colon, tail = reference.partition(":")
        if colon and head in self._components and self._components[head].traits.get("takes_path"):
            found = self._components[head]
            return Component(reference, found.function, found.traits, argument=str(base / tail))
        if colon and tail:
            return _load_plugin(reference, head, tail, base, where)
        known = [c.name + (":PATH" if c.traits.get("takes_path") else "") for c in self]
        raise SpecError(
            f"unknown {self.kind} {reference!r}",
            where=where,
            remedy=f"{near_miss(reference, known)} Or name your own as 'file.py:function'.",
        )


def _load_plugin(reference: str, source: str, name: str, base: Path, where: str) -> Component:
    is_file = source.endswith(".py")
    if is_file and not os.path.exists(base / source):  # noqa: PTH110 - false for a name no file can have
        raise PluginError(
            f"there is no file {base / source}", where=where, remedy="Paths are relative to the spec's folder."
        )
    try:
        module = _load_file(base / source) if is_file else importlib.import_module(source)
    except ModuleNotFoundError as error:
        raise PluginError(
            f"{reference!r} needs the module {error.name!r}, which is not installed",
            where=where,
            remedy="Install it, or write 'file.py:function' for a file of your own.",
        ) from error
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{reference!r} cannot be imported: {type(error).__name__}: {error}", where=where, remedy="Mend the file."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise PluginError(f"{source} has no function {name!r}", where=where, remedy=near_miss(name, known))
    file = getattr(module, "__file__", None) or ""
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return Component(reference, function, file=file or source, digest=digest)


def _load_file(path: Path) -> Any:
    content = path.read_bytes()
    name = f"coterie_plugin_{hashlib.sha256(str(path.resolve()).encode() + content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


datasets = Registry("dataset")
partitions = Registry("partition")
models = Registry("model")
losses = Registry("loss")
rules = Registry("rule")
topologies = Registry("topology")
protocols = Registry("protocol")
attacks = Registry("attack")
