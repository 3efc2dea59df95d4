"""Which adapter a model needs: told from its class, without importing a framework that is not there."""

from __future__ import annotations

from typing import Any

from coterie.errors import ModelError, SpecError, near_miss
from coterie.training.frameworks.base import Functions, ModelAdapter
from coterie.training.frameworks.pytorch import PyTorchAdapter, unwrapped

PLATFORMS = {
    "PYTORCH": "PYTORCH",
    "KERAS": "KERAS",
    "TF": "KERAS",
    "HUGGINGFACE": "HUGGINGFACE",
    "HF": "HUGGINGFACE",
    "SKLEARN": "SKLEARN",
}
"""What ``mlPlatform`` may be, in any case, and what is meant."""
_ROOTS = {
    "keras": "KERAS",
    "transformers": "HUGGINGFACE",
    "peft": "HUGGINGFACE",
    "sklearn": "SKLEARN",
    "torch": "PYTORCH",
}


def platform_named(name: str) -> str:
    """The platform that ``mlPlatform`` names. Raises SpecError for one that is not known."""
    if name.upper() not in PLATFORMS:
        raise SpecError(f"unknown platform {name!r}", where="mlPlatform", remedy=near_miss(name.upper(), PLATFORMS))
    return PLATFORMS[name.upper()]


def platform_of(model: Any) -> str:
    """The platform of ``model``, by the packages of its base classes. Raises ModelError where there is none."""
    roots = [kind.__module__.partition(".")[0] for kind in type(unwrapped(model)).__mro__]
    for root, platform in _ROOTS.items():  # a Keras or transformers model may be a torch module as well
        if root in roots:
            return platform
    raise ModelError(
        f"there is no adapter for a {type(model).__name__}",
        where="model",
        remedy="Give a PyTorch, Keras, transformers or scikit-learn model, or an adapter of your own (ModelAdapter).",
    )


def adapter_for(
    model: Any, functions: Functions | None = None, *, platform: str | None = None, hf_mode: str = "full"
) -> ModelAdapter:
    """An adapter for ``model``, of ``platform`` or else of what its class says; an adapter is taken as it is.

    Raises ModelError where there is none, and where its framework is not installed.
    """
    if isinstance(model, ModelAdapter):
        return model
    kind = platform_named(platform) if platform else platform_of(model)
    if hf_mode == "peft" and kind != "HUGGINGFACE":
        raise ModelError(
            f"a {type(model).__name__} is no Hugging Face model with an adapter",
            where="hfMode",
            remedy="Leave hfMode out: the whole model travels then.",
        )
    if kind == "KERAS":
        from coterie.training.frameworks.keras import KerasAdapter

        return KerasAdapter(model, functions)
    if kind == "HUGGINGFACE":
        from coterie.training.frameworks.huggingface import HuggingFaceAdapter

        return HuggingFaceAdapter(model, functions, "peft" if hf_mode == "peft" else "full")
    if kind == "SKLEARN":
        from coterie.training.frameworks.scikit import ScikitAdapter

        return ScikitAdapter(model, functions)
    return PyTorchAdapter(model, functions)
