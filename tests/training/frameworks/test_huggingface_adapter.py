"""Hugging Face models: the whole one or the adapter alone; no key loads nothing in silence."""

import pytest
import torch
from conformance_makers import lora, samples, tiny_bert
from safetensors.torch import load_file

from coterie.errors import DataError, ModelError, StorageReplaced
from coterie.training.frameworks import Functions, adapter_for

pytestmark = pytest.mark.filterwarnings("ignore")


def peft(model):
    adapter = adapter_for(model, hf_mode="peft")
    adapter.check_platform()
    return adapter


def saved(adapter):
    vector = torch.full((adapter.layout.size,), torch.nan)
    adapter.save_weights(vector)
    return vector


def test_the_adapter_alone_travels_under_the_keys_of_its_file(tmp_path):
    model = lora()
    adapter = peft(model)
    vector = torch.rand(adapter.layout.size)
    adapter.load_weights(vector)
    model.save_pretrained(tmp_path)
    file = load_file(tmp_path / "adapter_model.safetensors")
    *slots, base = adapter.layout.slots
    assert base.size == 0
    assert {slot.name for slot in slots} == set(file)
    for slot in slots:
        assert torch.equal(file[slot.name].flatten(), vector[slot.offset : slot.offset + slot.size]), slot.name
    whole = adapter_for(lora(), hf_mode="full")
    assert adapter.layout.size == sum(tensor.numel() for tensor in file.values()) < whole.layout.size / 5


def test_the_adapter_of_a_transformers_model():
    from peft import LoraConfig

    model = tiny_bert()
    model.add_adapter(LoraConfig(r=2, target_modules=["query"]))
    adapter = peft(model)
    wanted = torch.rand(adapter.layout.size)
    adapter.load_weights(wanted)
    assert torch.equal(saved(adapter), wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_of_a_wrapped_model_too_the_adapter_alone_travels(wrap):
    model = lora()
    assert peft(wrap(model)).layout.hash == peft(model).layout.hash
    assert adapter_for(wrap(model)).platform == "HUGGINGFACE"


def test_adapters_on_different_bases_cannot_meet():
    torch.manual_seed(3)
    model, other, third = tiny_bert(), tiny_bert(), tiny_bert()
    with torch.no_grad():
        other.classifier.weight.add_(1.0)  # a new head, drawn at each site; the one that travels is a copy of it
        third.bert.embeddings.word_embeddings.weight.add_(0.1)
    first, second, different = (peft(lora(each)).layout.hash for each in (model, other, third))
    assert first == second != different


def test_a_base_in_another_precision_is_the_same_base():
    one, other = lora(tiny_bert()), lora(tiny_bert().bfloat16())
    assert peft(one).layout.slots[-1] == peft(other).layout.slots[-1]


def test_modes_that_do_not_fit():
    with pytest.raises(ModelError, match="it has no PEFT adapter"):
        peft(tiny_bert())
    model = lora()
    model.base_model.model.bert.pooler.dense.weight.requires_grad_(True)
    with pytest.raises(ModelError, match=r"bert.pooler.dense.weight is trained but is no part of the adapter"):
        _ = peft(model).layout


def test_a_base_that_is_unfrozen_later_is_named():
    model = lora()
    adapter = peft(model)
    vector = saved(adapter)
    model.base_model.model.bert.pooler.dense.bias.requires_grad_(True)
    with pytest.raises(StorageReplaced, match=r"bert.pooler.dense.bias is trained, and was not"):
        adapter.save_weights(vector)


def test_a_method_whose_parameters_are_computed_is_refused():
    from peft import PrefixTuningConfig, get_peft_model

    model = get_peft_model(
        tiny_bert(), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3, prefix_projection=True)
    )
    with pytest.raises(ModelError, match=r"the adapter's prompt_embeddings is no parameter of its own"):
        _ = peft(model).layout


def test_weights_that_would_have_no_effect_are_refused():
    from peft import LoraConfig

    model = lora()
    adapter = peft(model)
    vector = saved(adapter)
    model.merge_adapter()
    with pytest.raises(ModelError, match="query is merged"):
        adapter.load_weights(vector)
    model.unmerge_adapter()
    with model.disable_adapter(), pytest.raises(ModelError, match="is disabled"):
        adapter.load_weights(vector)
    model.add_adapter("other", LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    adapter.load_weights(vector)
    model.set_adapter("other")
    with pytest.raises(ModelError, match="the active adapter changed from default to other"):
        adapter.load_weights(vector)


@pytest.mark.parametrize("mode", ["full", "peft"])
def test_the_loss_is_the_models_own(mode):
    model = lora() if mode == "peft" else tiny_bert()
    adapter = adapter_for(model, Functions(metric="accuracy"), hf_mode=mode)
    found = adapter.evaluate(adapter.unpack_validation(samples(), 7))
    words = torch.tensor([sample["input_ids"].tolist() for sample in samples()])
    labels = torch.tensor([sample["labels"] for sample in samples()])
    model.eval()
    with torch.no_grad():
        outputs = model(input_ids=words, labels=labels)
    assert found.loss == pytest.approx(outputs.loss.item(), rel=1e-5)
    assert found.metric == pytest.approx((outputs.logits.argmax(1) == labels).double().mean().item())
    other = adapter_for(model, Functions(loss="cross_entropy"), hf_mode=mode)
    assert other.evaluate(other.unpack_validation(samples(), 7)).loss == pytest.approx(found.loss, rel=1e-5)


class OwnHead(torch.nn.Module):
    """What a Trainer takes as well: a module that returns a dict."""

    def __init__(self, *returned):
        super().__init__()
        self.layer, self.returned = torch.nn.Linear(64, 10), returned

    def forward(self, input_ids, labels):
        logits = self.layer(input_ids.float() / 16)
        found = {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}
        return {name: found[name] for name in self.returned}


def test_a_model_that_returns_a_dict():
    model = OwnHead("loss", "logits")
    adapter = adapter_for(model, Functions(metric="accuracy"), platform="HF")
    found = adapter.evaluate(adapter.unpack_validation(samples(), None))
    words, labels = (torch.stack([torch.as_tensor(each[name]) for each in samples()]) for name in samples()[0])
    outputs = model(words, labels)
    assert found.loss == pytest.approx(outputs["loss"].item(), rel=1e-5)
    assert found.metric == pytest.approx((outputs["logits"].argmax(1) == labels).double().mean().item())


def test_a_model_without_logits_is_named():
    adapter = adapter_for(OwnHead("loss"), platform="HF")
    with pytest.raises(ModelError, match="OwnHead: its output, a dict, has no logits"):
        adapter.evaluate(adapter.unpack_validation(samples(), None))


@pytest.mark.parametrize(
    ("data", "says"),
    [(3, "int is no validation data"), (([1], [2]), "tuple is no validation data"), ([{"input_ids": [1]}], "labels")],
)
def test_wrong_validation_data(data, says):
    adapter = adapter_for(tiny_bert())
    with pytest.raises(DataError, match=says):
        adapter.evaluate(adapter.unpack_validation(data, None))
