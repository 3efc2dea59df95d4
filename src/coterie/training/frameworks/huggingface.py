"""Hugging Face transformers models: the whole model, or its PEFT adapter alone.

In the mode "peft" the vector holds what ``save_pretrained`` would write for the one active adapter, under the same
keys. Each key is a parameter that is written in place; what is not, or would have no effect, is an error that names it.
The layout also names the base, by a fingerprint: adapters on different bases cannot meet.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch.utils.data import DataLoader

from coterie.errors import DataError, ModelError
from coterie.layout import Layout, Slot
from coterie.training.frameworks.base import Functions
from coterie.training.frameworks.extras import require
from coterie.training.frameworks.pytorch import PyTorchAdapter, device_of, moved
from coterie.training.vector import Place, survey

HfMode = Literal["full", "peft"]
_SAMPLED = 64


class HuggingFaceAdapter(PyTorchAdapter):
    """A transformers model, perhaps with a PEFT adapter.

    Validation data: a DataLoader of batches, or a Dataset of samples, that are mappings of the model's arguments,
    "labels" among them. The loss is the model's own, or ``lossFunction`` of (logits, labels); ``metricFunction`` as for
    PyTorch, of (logits, labels).
    """

    platform: ClassVar[str] = "HUGGINGFACE"
    has_own_loss: ClassVar[bool] = True

    def __init__(self, model: Any, functions: Functions | None = None, mode: HfMode = "full") -> None:
        super().__init__(model, functions)
        self.mode = mode
        self._adapter: str | None = None

    def check_platform(self) -> None:
        require("transformers", "hf")
        super().check_platform()
        if self.mode == "peft":
            require("peft", "hf")
            self._check_adapter()

    def _survey(self) -> tuple[list[Place], Layout]:
        if self.mode == "full":
            return survey(self.module)
        self._adapter = self._active()
        names = self._adapter_names(self._adapter)
        places, layout = survey(self.module, names)
        base = Slot(f"base {self._fingerprint(names)}", (0,), (1,), "float32", layout.size)
        return places, replace(layout, slots=(*layout.slots, base))

    def _fingerprint(self, held: Mapping[str, str]) -> str:
        """Of what does not travel: 16 hex digits of a hash of 64 elements, rounded to bfloat16, of each frozen tensor.

        Adapters on different bases must not meet: they would get the same vector and be different models.
        """
        found = hashlib.sha256()
        others = [f".{each}." for each in self.module.peft_config if each != self._adapter]  # type: ignore[union-attr]  # seen
        for name, parameter in self.module.named_parameters():
            unused = ".original_module." in name or any(other in name for other in others)
            if name not in held and not unused and not parameter.is_meta and parameter.numel():
                flat = parameter.detach().reshape(-1)
                chosen = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]
                found.update(f"{name} {tuple(parameter.shape)}".encode())
                found.update(chosen.to(torch.bfloat16).float().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def _active(self) -> str:
        if not getattr(self.module, "peft_config", None):
            raise ModelError("it has no PEFT adapter", where=self.where, remedy="Set hfMode='full', or add one.")
        # A PeftModel has a property; a transformers model with an adapter has the method active_adapters.
        active = getattr(self.module, "active_adapter", None)
        if active is None or callable(active):
            active = self.module.active_adapters()  # type: ignore[operator]  # see above
        names = [active] if isinstance(active, str) else list(active)
        if len(names) != 1:
            raise ModelError(
                f"{len(names)} adapters are active: {', '.join(names)}",
                where=self.where,
                remedy="Set the one to train together, by set_adapter.",
            )
        return str(names[0])

    def _adapter_names(self, adapter: str) -> dict[str, str]:
        """The key of each tensor of the adapter, by its name in the module."""
        from peft import get_peft_model_state_dict

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about embeddings, which travel if they are in modules_to_save
            state = get_peft_model_state_dict(self.module, adapter_name=adapter, save_embedding_layers=False)
        names: dict[tuple[int, torch.Size], str] = {}
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            names.setdefault((tensor.data_ptr(), tensor.shape), name)
        found: dict[str, str] = {}
        for key, tensor in state.items():
            held = names.get((tensor.data_ptr(), tensor.shape))
            if held is None or held in found:
                raise ModelError(
                    f"the adapter's {key} is no parameter of its own: it could not be loaded",
                    where=self.where,
                    remedy="Use a PEFT method that stores its parameters, such as LoRA.",
                )
            found[held] = key
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad and name not in found:
                raise ModelError(
                    f"{name} is trained but is no part of the adapter: it would never travel",
                    where=self.where,
                    remedy="Name its module in modules_to_save, freeze it, or set hfMode='full'.",
                )
        return found

    def _check_adapter(self) -> None:
        """Raise ModelError where weights written into the adapter would not be those that the model computes with."""
        active = self._active()
        if self._adapter is not None and active != self._adapter:
            raise ModelError(
                f"the active adapter changed from {self._adapter} to {active}",
                where=self.where,
                remedy="Train one adapter from on_train_begin to on_train_end.",
            )
        for name, module in self.module.named_modules():
            if getattr(module, "merged", False) is True:
                raise ModelError(f"{name} is merged", where=self.where, remedy="Call unmerge_adapter() before.")
            if getattr(module, "disable_adapters", False) is True:
                raise ModelError(f"the adapter of {name} is disabled", where=self.where, remedy="Enable it before.")

    def save_weights(self, vector: torch.Tensor) -> None:
        if self.mode == "peft":
            self._check_adapter()
        super().save_weights(vector)

    def load_weights(self, vector: torch.Tensor) -> None:
        if self.mode == "peft":
            self._check_adapter()
        super().load_weights(vector)

    def unpack_validation(self, data: Any, batch_size: int | None) -> Iterable[Any]:
        if isinstance(data, tuple) or not (isinstance(data, DataLoader) or hasattr(data, "__getitem__")):
            raise DataError(
                f"{type(data).__name__} is no validation data",
                where="adsValData",
                remedy="Give it a DataLoader or a Dataset of mappings with labels.",
            )
        return super().unpack_validation(_Samples(data) if isinstance(data, list) else data, batch_size)

    def _collate(self) -> Callable[[Any], Any] | None:
        from transformers import default_data_collator

        collate: Callable[[Any], Any] = default_data_collator
        return collate

    def _forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        inputs = self._inputs(batch)
        outputs = self.module(**inputs)
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise ModelError(
                f"its output, a {type(outputs).__name__}, has no logits",
                where=self.where,
                remedy="Use a model with a head, or return {'loss': ..., 'logits': ...}. Or leave adsValData out.",
            )
        return outputs["logits"], inputs["labels"], outputs.get("loss")

    def _inputs(self, batch: Any) -> dict[str, Any]:
        if not isinstance(batch, Mapping) or "labels" not in batch:
            raise DataError(
                "a batch is no mapping with labels",
                where="adsValData",
                remedy="Name the targets 'labels', as the Trainer does.",
            )
        inputs: dict[str, Any] = moved(batch, device_of(self.module))
        return inputs


class _Samples(torch.utils.data.Dataset[Any]):
    """A list of samples."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]
