"""The settings of a ``SwarmCallback``: HPE's names in camelCase or the same in snake_case, checked once."""

from __future__ import annotations

import logging
import operator
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from coterie import registry
from coterie.errors import CoterieError, SpecError, near_miss
from coterie.protocols.swarm.checkin import LEAST_WEIGHT, MOST_WEIGHT
from coterie.protocols.swarm.records import MOST_NAME
from coterie.swarm.session import Session
from coterie.training.frameworks.base import Functions
from coterie.training.frameworks.choose import platform_named

LOOPBACK = "SWARM_LOOPBACK"
"""Environment variable: True lets a script train as if there were no callback."""
MERGES = ("mean", "coordmedian", "geomedian")
CheckInMode = Literal["snapshot", "active", "inactive"]
_POSITIONAL = ("sync_frequency", "min_peers", "training_contract")


class Options(TypedDict, total=False):
    """What a ``SwarmCallback`` takes, by either name. ``Settings`` says what each means."""

    sync_frequency: int
    min_peers: int
    training_contract: str
    use_adaptive_sync: bool
    ads_val_data: Any
    ads_val_batch_size: int | None
    checkin_model_on_train_end: CheckInMode
    node_weightage: int
    merge_method: str | Callable[..., Any]
    total_epochs: int
    loss_function: str | Callable[..., Any] | None
    loss_function_args: Mapping[str, Any] | None
    metric_function: str | Callable[..., Any] | None
    metric_function_args: Mapping[str, Any] | None
    ml_platform: str | None
    model: Any
    hf_mode: Literal["full", "peft"]
    logger: logging.Logger | None
    home: str | Path | None
    session: Session | None
    syncFrequency: int
    minPeers: int
    trainingContract: str
    useAdaptiveSync: bool
    adsValData: Any
    adsValBatchSize: int | None
    checkinModelOnTrainEnd: CheckInMode
    nodeWeightage: int
    mergeMethod: str | Callable[..., Any]
    totalEpochs: int
    lossFunction: str | Callable[..., Any] | None
    lossFunctionArgs: Mapping[str, Any] | None
    metricFunction: str | Callable[..., Any] | None
    metricFunctionArgs: Mapping[str, Any] | None
    mlPlatform: str | None
    hfMode: Literal["full", "peft"]


@dataclass(frozen=True)
class Settings:
    """The settings, checked."""

    sync_frequency: int
    """Batches between two merges; the first interval with ``use_adaptive_sync``. At least 1."""
    min_peers: int
    """Check-ins that a merge needs. At least 1."""
    training_contract: str = "defaultbb.cqdb.sml.hpe"
    """Name of the training; scripts with the same one train together."""
    use_adaptive_sync: bool = False
    """Whether the interval follows from the losses on ``ads_val_data``: longer while their mean falls."""
    ads_val_data: Any = None
    """The site's own held-out data, in the form its framework's adapter takes. Only loss and metric are shared."""
    ads_val_batch_size: int | None = None
    """Samples a batch of it; None: 256."""
    checkin_model_on_train_end: CheckInMode = "snapshot"
    """What the last merge gets: the model as trained (snapshot), as last merged (active), or nothing (inactive)."""
    node_weightage: int = 1
    """How much this site's model weighs, 1 to 100. May be changed at any time: ``callback.node_weightage = 5``."""
    merge_method: str | Callable[..., Any] = "mean"
    """mean, coordmedian, geomedian, a rule of ``coterie rules``, ``file.py:function``, or a rule as a function."""
    total_epochs: int = 0
    """Epochs this site means to train; 0: what the framework says, where it does."""
    functions: Functions = field(default_factory=Functions)
    """``loss_function``, ``metric_function`` and their arguments."""
    ml_platform: str | None = None
    """PYTORCH, KERAS, TF, HUGGINGFACE, HF or SKLEARN; None: told from the model."""
    model: Any = None
    """The model, where the framework does not hand it over; or a ``ModelAdapter``, which goes before what it does."""
    hf_mode: Literal["full", "peft"] = "full"
    """Hugging Face: whether the whole model travels, or its PEFT adapter alone."""
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("coterie.swarm"))
    home: Path | None = None
    """The node's folder; None: see ``coterie.swarm.opening``."""
    session: Session | None = None
    """What to talk to in place of the federation: for tests, and for transports of your own."""

    @classmethod
    def read(cls, positional: tuple[Any, ...], options: Mapping[str, Any]) -> Settings:
        """The settings a user gave. Raises SpecError naming the first that is wrong, as the user spelled it."""
        if len(positional) > len(_POSITIONAL):
            raise _wrong("", f"{len(positional)} arguments without a name", "Name all but the first three.")
        given = dict(zip(_POSITIONAL, positional, strict=False))
        spelled = dict.fromkeys(given, "") | {name: _camel(name) for name in given}
        for name, value in options.items():
            snake = _NAMES.get(name)
            if snake is None:
                raise _wrong(name, "there is no such setting", near_miss(name, _NAMES))
            if snake in given:
                raise _wrong(name, f"it is given twice, as {spelled[snake]} too", "Give it once.")
            given[snake], spelled[snake] = value, name
        for name in ("sync_frequency", "min_peers"):
            if name not in given:
                raise _wrong(_camel(name), "it is required", f"Give it: {_camel(name)}=<a whole number>.")
        for name, value in given.items():
            given[name] = _CHECKS[name](spelled[name], value) if name in _CHECKS else value
        functions = Functions(
            loss=given.pop("loss_function", None),
            loss_args=given.pop("loss_function_args", {}),
            metric=given.pop("metric_function", None),
            metric_args=given.pop("metric_function_args", {}),
        )
        if given.get("logger", ()) is None:
            del given["logger"]
        settings = cls(functions=functions, **given)
        settings._check_together(spelled)
        return settings

    def _check_together(self, spelled: Mapping[str, str]) -> None:
        if self.use_adaptive_sync and self.ads_val_data is None:
            name = spelled["use_adaptive_sync"]
            raise _wrong(name, "it needs the losses on held-out data", "Give adsValData.")
        for what, function, args in (
            ("loss_function_args", self.functions.loss, self.functions.loss_args),
            ("metric_function_args", self.functions.metric, self.functions.metric_args),
        ):
            if args and function is None:
                raise _wrong(spelled[what], "there is no function to give them to", "Name the function too.")


def loopback() -> bool:
    """Whether the environment says SWARM_LOOPBACK. Raises SpecError for a value that is neither yes nor no."""
    value = os.environ.get(LOOPBACK, "").strip().lower()
    if value in ("true", "1", "yes"):
        return True
    if value in ("", "false", "0", "no"):
        return False
    raise SpecError(f"it is {value!r}", where=LOOPBACK, remedy="Set it to True or False.")


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value``, where it is one from ``least`` to ``most``. Raises SpecError, which names it."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise _wrong(name, f"it is {value!r}", f"Give it a whole number {bounds}.")
    return number


def weight(name: str, value: Any) -> int:
    """A node's weight, checked: 1 to 100."""
    return whole_number(name, value, LEAST_WEIGHT, MOST_WEIGHT)


def _camel(snake: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), snake)


def _wrong(name: str, what: str, remedy: str) -> SpecError:
    return SpecError(what, where=f"SwarmCallback: {name}" if name else "SwarmCallback", remedy=remedy)


def _at_least(least: int) -> Callable[[str, Any], int]:
    return lambda name, value: whole_number(name, value, least)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, f"it is {value!r}", "Give it True or False.")
    return value


def _one_of(*known: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in known:
            raise _wrong(name, f"it is {value!r}", near_miss(str(value), known))
        return str(value)

    return check


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MOST_NAME:
        raise _wrong(name, f"it is {value!r}", f"Give it a name of 1 to {MOST_NAME} characters.")
    return value


def _function(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str) and not callable(value):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give it a name or a function.")
    return value


def _arguments(name: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(name, f"it is {value!r}", "Give it a dict of the function's arguments.")
    return value


def _merge(name: str, value: Any) -> str | Callable[..., Any]:
    if callable(value) or value in MERGES:
        found: str | Callable[..., Any] = value
        return found
    import coterie.aggregation  # noqa: F401 - registers the rules

    if not isinstance(value, str):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give it a rule's name or a function.")
    try:
        registry.rules.resolve(value, Path.cwd(), f"SwarmCallback: {name}")
    except CoterieError as error:
        if ":" in value:
            raise
        known = {*MERGES, *(component.name for component in registry.rules)}
        raise _wrong(name, error.what, f"{near_miss(value, known)} Or name your own as 'file.py:function'.") from None
    return value


def _platform(name: str, value: Any) -> str | None:
    return None if value is None else platform_named(_text(name, value))


def _logger(name: str, value: Any) -> logging.Logger | None:
    if value is not None and not isinstance(value, logging.Logger):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give it a logging.Logger.")
    return value


def _folder(name: str, value: Any) -> Path | None:
    if value is not None and not isinstance(value, str | os.PathLike):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give it the path of a node's home.")
    return None if value is None else Path(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "sync_frequency": _at_least(1),
    "min_peers": _at_least(1),
    "training_contract": _text,
    "use_adaptive_sync": _flag,
    "ads_val_batch_size": lambda name, value: None if value is None else whole_number(name, value, 1),
    "checkin_model_on_train_end": _one_of("snapshot", "active", "inactive"),
    "node_weightage": weight,
    "merge_method": _merge,
    "total_epochs": _at_least(0),
    "loss_function": _function,
    "loss_function_args": _arguments,
    "metric_function": _function,
    "metric_function_args": _arguments,
    "ml_platform": _platform,
    "hf_mode": _one_of("full", "peft"),
    "logger": _logger,
    "home": _folder,
}
_NAMES = {name: name for name in Options.__annotations__ if name == name.lower()}
_NAMES |= {_camel(name): name for name in _NAMES}
"""Each name a setting may be given by, and the setting."""
