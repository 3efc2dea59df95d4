"""PyTorch modules as vectors: the layout of the simulation, the user's own storage, and figures."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from coterie.errors import DataError, LayoutMismatch, ModelError, SpecError, StorageReplaced
from coterie.training import VectorModule
from coterie.training.frameworks import Functions, adapter_for


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))


def saved(adapter):
    vector = torch.full((adapter.layout.size,), torch.nan)
    adapter.save_weights(vector)
    return vector


def test_the_layout_and_the_vector_are_those_of_the_simulation():
    module = small()
    adapter = adapter_for(module)
    vector = saved(adapter)
    held = VectorModule(small())
    assert adapter.layout == held.layout
    assert torch.equal(vector, held.vector)


def test_loading_writes_in_place_and_the_optimizer_goes_on():
    module, other = small(), small()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    adapter = adapter_for(module)
    places = [parameter.data_ptr() for parameter in module.parameters()]
    counter = module[1].num_batches_tracked
    counter.fill_(7)
    wanted = torch.arange(adapter.layout.size) / 100.0
    adapter.load_weights(wanted)
    assert [parameter.data_ptr() for parameter in module.parameters()] == places
    assert module[1].num_batches_tracked is counter
    assert counter == 7
    assert torch.equal(module[0].weight, wanted[:24].reshape(6, 4))
    held = VectorModule(other)
    held.bind(wanted.clone())
    x, y = torch.randn(8, 4), torch.randint(2, (8,))
    module.eval()
    other.eval()
    nn.functional.cross_entropy(module(x), y).backward()
    optimizer.step()
    twin = torch.optim.Adam(other.parameters(), lr=0.1)
    nn.functional.cross_entropy(other(x), y).backward()
    twin.step()
    assert torch.equal(saved(adapter), held.vector)


def test_a_graph_from_before_loading_is_refused_by_autograd():
    """Weights written behind autograd's back would give a gradient of neither model."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    loss = module(torch.randn(3, 4)).sum()
    adapter = adapter_for(module)
    adapter.load_weights(torch.zeros(adapter.layout.size))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: m.half(), "0.weight changed from float32 to float16"),
        (lambda m: m.load_state_dict(small().state_dict(), assign=True), "0.weight was replaced by another tensor"),
        (lambda m: setattr(m, "3", nn.Linear(6, 2)), "3.weight was replaced by another tensor"),
        (lambda m: m.append(nn.Linear(2, 2)), "4.weight is trained, and was not when the training began"),
        (lambda m: setattr(m[0].weight, "data", torch.zeros(3, 4)), r"0.weight changed its shape from \(6, 4\)"),
    ],
)
def test_replaced_storage_is_named(spoil, says):
    module = small()
    adapter = adapter_for(module)
    vector = saved(adapter)
    spoil(module)
    for method in (adapter.load_weights, adapter.save_weights):
        with pytest.raises(StorageReplaced, match=says):
            method(vector)


def test_a_buffer_may_be_replaced():
    module = small()
    adapter = adapter_for(module)
    vector = saved(adapter)
    module[1].running_mean = torch.full((6,), 3.0)
    found = saved(adapter)
    assert (found != vector).sum() == 6
    adapter.load_weights(vector)
    assert torch.equal(module[1].running_mean, torch.zeros(6))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_a_wrapped_module_meets_a_plain_one(wrap):
    assert adapter_for(wrap(small())).layout.hash == adapter_for(small()).layout.hash


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_module_on_a_device(device):
    adapter = adapter_for(small().to(device), Functions(loss="CrossEntropyLoss"))
    assert torch.equal(saved(adapter), saved(adapter_for(small())))
    wanted = torch.rand(adapter.layout.size)
    adapter.load_weights(wanted)
    assert torch.equal(saved(adapter), wanted)
    assert adapter.evaluate(adapter.unpack_validation((torch.randn(9, 4), torch.zeros(9).long()), 4)).loss > 0


def figures(functions, data, batch_size=None, module=None):
    adapter = adapter_for(module or small(), functions)
    return adapter.evaluate(adapter.unpack_validation(data, batch_size))


X, Y = torch.randn(50, 4, generator=torch.Generator().manual_seed(3)), torch.arange(50) % 2


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "cross_entropy", nn.CrossEntropyLoss, nn.CrossEntropyLoss()])
@pytest.mark.parametrize("batch_size", [7, None])
def test_loss_and_metric_are_those_of_the_whole_set(loss, batch_size):
    module = small().eval()
    with torch.no_grad():
        outputs = module(X)
    found = figures(Functions(loss=loss, metric="AUC"), (X, Y), batch_size)
    assert found.loss == pytest.approx(nn.functional.cross_entropy(outputs, Y).item(), rel=1e-6)
    assert found.metric == pytest.approx(roc_auc_score(Y, outputs[:, 1] - outputs[:, 0]))
    right = (outputs.argmax(1) == Y).double().mean().item()
    assert figures(Functions(metric="accuracy"), (X, Y), batch_size).metric == pytest.approx(right)


def test_arguments_of_a_loss():
    weighted = Functions(loss="cross_entropy", loss_args={"label_smoothing": 0.5})
    module = small().eval()
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(module(X), Y, label_smoothing=0.5).item()
    assert figures(weighted, (X, Y)).loss == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("data", [(X.numpy(), Y.numpy()), TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), 9)])
def test_forms_of_validation_data(data):
    functions = Functions(loss="CrossEntropyLoss")
    assert figures(functions, data, 13).loss == pytest.approx(figures(functions, (X, Y)).loss, rel=1e-6)


def test_evaluating_leaves_modes_as_they_were():
    module = small().train()
    module[1].eval()  # a frozen batch norm, inside a model in training mode
    figures(Functions(loss="CrossEntropyLoss"), (X, Y), 7, module)
    assert [each.training for each in module.modules()] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (3, "int is no validation data"),
        ((X,), r"a tuple of shapes \(50, 4\)"),
        ((X, Y[:3]), r"shapes \(50, 4\), \(3,\)"),
        ((X, ["a"] * 50), "can't convert"),
        (TensorDataset(X[:0], Y[:0]), "it is empty"),
        ([], "a tuple of shapes"),
    ],
)
def test_wrong_validation_data(data, says):
    with pytest.raises(DataError, match=says) as caught:
        figures(Functions(loss="CrossEntropyLoss"), data)
    assert caught.value.where == "adsValData"


def test_batches_without_targets():
    with pytest.raises(DataError, match="a batch is a Tensor"):
        figures(Functions(loss="CrossEntropyLoss"), DataLoader(X, 10))


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        (Functions(loss="CrossEntropyLos"), "lossFunction: torch has no loss 'CrossEntropyLos'. Did you mean 'Cross"),
        (Functions(loss="CrossEntropyLoss", loss_args={"colour": 1}), "lossFunctionArgs: TypeError"),
        (Functions(metric="acuracy"), "metricFunction: 'acuracy' with these arguments needs torchmetrics"),
    ],
)
def test_wrong_functions(functions, says):
    with pytest.raises(SpecError, match=says):
        adapter_for(small(), functions)


def test_a_function_that_raises_is_named():
    with pytest.raises(SpecError, match="metricFunction: it raised KeyError: 'no'"):
        figures(Functions(metric=lambda outputs, targets: {}["no"]), (X, Y))


def test_an_area_for_three_classes_is_refused():
    with pytest.raises(SpecError, match="metricFunction: auc is of two classes, and the outputs are of 3"):
        figures(Functions(metric="auc"), (X, Y), module=nn.Linear(4, 3))


@pytest.mark.parametrize(
    "functions", [Functions(loss="cross_entropy", loss_args={"reduction": "none"}), Functions(metric=lambda o, t: o)]
)
def test_a_function_that_returns_no_scalar_is_named(functions):
    with pytest.raises(SpecError, match=r"(loss|metric)Function: it raised .* and returns a scalar"):
        figures(functions, (X, Y))


class Twice(nn.Linear):
    def forward(self, x):
        return super().forward(x), super().forward(x)


def test_several_outputs_have_a_loss_and_no_metric():
    found = figures(Functions(loss=lambda outputs, targets: len(outputs)), (X, Y), module=Twice(4, 2))
    assert found.loss == 2.0
    with pytest.raises(SpecError, match="metricFunction: it needs outputs and targets of one tensor each, not a tuple"):
        figures(Functions(metric="accuracy"), (X, Y), module=Twice(4, 2))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Flatten(), "it has no parameter to train"),
        (nn.LazyLinear(3), "weight is lazy and has no shape yet"),
        (nn.Linear(2, 2, device="meta"), "weight is on the meta device"),
    ],
)
def test_modules_that_cannot_be_held(model, says):
    with pytest.raises(ModelError, match=says):
        _ = adapter_for(model).layout


def test_models_of_no_framework():
    with pytest.raises(ModelError, match="there is no adapter for a dict"):
        adapter_for({})
    with pytest.raises(SpecError, match=r"mlPlatform: unknown platform 'PYTORHC'\. Did you mean 'PYTORCH'"):
        adapter_for(small(), platform="PYTORHC")
    with pytest.raises(ModelError, match=r"it is no torch.nn.Module"):
        adapter_for({}, platform="pytorch").check_platform()
    with pytest.raises(ModelError, match=r"Sequential: it is no scikit-learn estimator"):
        adapter_for(small(), platform="sklearn")
    with pytest.raises(ModelError, match=r"hfMode: a Sequential is no Hugging Face model with an adapter"):
        adapter_for(small(), hf_mode="peft")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_is_named():
    with pytest.raises(ModelError, match="it is a ScriptModule"):
        adapter_for(torch.jit.script(small())).check_platform()


@pytest.mark.parametrize(
    "vector", [torch.zeros(3), torch.zeros(68, dtype=torch.float64), torch.zeros(68, 1), torch.zeros(136)[::2]]
)
def test_vectors_that_do_not_fit(vector):
    adapter = adapter_for(small())
    assert adapter.layout.size == 68
    for method in (adapter.load_weights, adapter.save_weights):
        with pytest.raises(LayoutMismatch):
            method(vector)
