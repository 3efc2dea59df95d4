"""A module in one flat vector: what the layout says, that views are views, and the traps that are named."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from coterie.errors import LayoutMismatch, ModelError, StorageReplaced
from coterie.layout import Slot
from coterie.training import VectorModule

torch.set_num_threads(1)


class Holder(nn.Module):
    """Whatever parameters and buffers a test needs."""

    def __init__(self, buffers=(), local=(), **parameters):
        super().__init__()
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))
        for name, value in dict(buffers).items():
            self.register_buffer(name, value)
        for name, value in dict(local).items():
            self.register_buffer(name, value, persistent=False)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))
        self.head = nn.ModuleDict({"out": nn.Linear(4, 2, bias=False)})

    def forward(self, x):
        return self.scale * self.head["out"](self.body(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.lstm(x)[0]


def convolutions():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    return layers.to(memory_format=torch.channels_last)


MODULES = {
    "nested": (Nested, (6, 3)),
    "tied": (Tied, (2, 4)),
    "lstm": (Sequence, (2, 7, 3)),
    "channels_last": (convolutions, (2, 3, 8, 8)),
    "channels_last_3d": (lambda: nn.Conv3d(2, 3, 2).to(memory_format=torch.channels_last_3d), (2, 2, 4, 4, 4)),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), (2, 3)),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), (2, 3)),
    "batch_norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 8, 8)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (2, 3, 4)),
}


@pytest.fixture(params=MODULES.values(), ids=MODULES.keys())
def case(request):
    factory, shape = request.param
    torch.manual_seed(3)
    return factory(), torch.randn(shape)


def part(vector: torch.Tensor, slot: Slot) -> torch.Tensor:
    return vector.as_strided(slot.shape, slot.stride, vector.storage_offset() + slot.offset)


def slot_of(bound: VectorModule, name: str) -> Slot:
    return next(slot for slot in bound.layout.slots if slot.name == name)


def names(bound: VectorModule) -> list[str]:
    return [slot.name for slot in bound.layout.slots]


# What the layout says


def test_nested_modules_are_laid_out_parameters_first():
    module = Nested()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    bound = VectorModule(module)
    assert names(bound) == [
        "scale",
        "body.0.weight",
        "body.0.bias",
        "body.1.0.weight",
        "body.1.0.bias",
        "head.out.weight",
        "body.1.0.running_mean",
        "body.1.0.running_var",
    ]
    ends = 0
    for slot in bound.layout.slots:
        assert slot.offset == ends
        assert slot.dtype == "float32"
        assert torch.equal(part(bound.vector, slot), before[slot.name])
        ends += slot.size
    assert bound.layout.size == ends == len(bound.vector)
    assert bound.layout.trainable == 1 + 12 + 4 + 4 + 4 + 8


def test_frozen_parameters_follow_the_trainable_ones():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    bound = VectorModule(module)
    assert names(bound) == ["1.weight", "1.bias", "0.weight", "0.bias"]
    assert bound.layout.trainable == 8
    assert len(bound.gradient) == 8
    bound.attach_gradient()
    module(torch.ones(1, 2)).sum().backward()
    assert module[0].weight.grad is None
    assert bound.gradient.abs().sum() > 0


def test_a_tied_parameter_has_one_slot():
    module = Tied()
    bound = VectorModule(module)
    assert names(bound) == ["encode.weight", "encode.bias", "decode.bias"]
    bound.vector.fill_(0.5)
    assert module.decode.weight is module.encode.weight
    assert torch.equal(module.decode.weight, torch.full((4, 4), 0.5))


def test_scalars_and_empty_tensors_have_slots():
    module = Holder(a=torch.tensor(1.5), b=torch.empty(0, 3), buffers={"c": torch.empty(0)})
    bound = VectorModule(module)
    assert [slot.size for slot in bound.layout.slots] == [1, 0, 0]
    bound.vector.mul_(2)
    assert module.a.shape == ()
    assert module.a.item() == 3.0
    bound.verify()


def test_an_expanded_parameter_gets_elements_of_its_own():
    bound = VectorModule(Holder(a=torch.ones(1).expand(3)))
    bound.vector.copy_(torch.arange(3.0))
    assert torch.equal(bound.module.a, torch.arange(3.0))


# Views are views


def test_the_vector_decides_the_output(case):
    module, x = case
    other, plain = copy.deepcopy(module), copy.deepcopy(module)
    for parameter in other.parameters():
        parameter.data.add_(torch.rand_like(parameter))
    bound = VectorModule(module)
    bound.vector.copy_(VectorModule(other).vector)
    plain.load_state_dict(other.state_dict())
    assert torch.equal(module.eval()(x), plain.eval()(x))
    bound.verify()


def test_the_module_writes_into_the_vector(case):
    module, x = case
    plain = copy.deepcopy(module)
    bound = VectorModule(module)
    for each in (module, plain):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each.train()(x).square().mean().backward()
        optimizer.step()
    bound.verify()
    state = plain.state_dict()
    for slot in bound.layout.slots:
        assert part(bound.vector, slot).data_ptr() == module.state_dict()[slot.name].data_ptr()
        torch.testing.assert_close(part(bound.vector, slot), state[slot.name], rtol=0, atol=0)


def test_the_gradient_is_one_vector(case):
    module, x = case
    plain = copy.deepcopy(module)
    bound = VectorModule(module)
    bound.gradient.fill_(7.0)
    bound.attach_gradient()
    module(x).square().mean().backward()
    bound.collect_gradient()
    expected = torch.autograd.grad(plain(x).square().mean(), list(plain.parameters()))
    for slot, gradient in zip(bound.layout.slots, expected, strict=False):
        torch.testing.assert_close(part(bound.gradient, slot), gradient, rtol=1e-6, atol=1e-8)


def test_channels_last_weights_stay_channels_last():
    bound = VectorModule(convolutions())
    weight = bound.module[0].weight
    assert slot_of(bound, "0.weight").stride == (27, 1, 9, 3)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    bound.vector[:3] = torch.tensor([1.0, 2.0, 3.0])
    assert weight[0, :, 0, 0].tolist() == [1.0, 2.0, 3.0]
    weight.data[0, 1, 0, 0] = 9.0
    assert float(bound.vector[1]) == 9.0


def test_volumes_stay_channels_last_too():
    bound = VectorModule(nn.Conv3d(2, 3, 2).to(memory_format=torch.channels_last_3d))
    assert slot_of(bound, "weight").stride == (16, 1, 8, 4, 2)
    assert bound.module.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_module_moves_between_the_rows_of_a_matrix():
    module = convolutions()
    bound = VectorModule(module)
    x = torch.randn(1, 3, 8, 8)
    matrix = torch.randn(3, bound.layout.size)
    outputs = []
    for row in matrix:
        bound.bind(row)
        bound.verify()
        outputs.append(module(x).detach())
    assert not torch.equal(outputs[0], outputs[1])
    before = matrix.clone()
    bound.bind(matrix[1])
    assert torch.equal(module(x), outputs[1])
    module[0].bias.data.fill_(4.0)
    assert torch.equal(matrix[[0, 2]], before[[0, 2]])
    assert torch.equal(part(matrix[1], slot_of(bound, "0.bias")), torch.full((4,), 4.0))


@pytest.mark.parametrize(
    "vector",
    [
        torch.zeros(7),
        torch.zeros(9),
        torch.zeros(8, dtype=torch.float64),
        torch.zeros(8, 3)[:, 0],
        torch.zeros(1, 8),
        torch.zeros(1).expand(8),
    ],
    ids=["short", "long", "float64", "column", "matrix", "expanded"],
)
def test_a_vector_that_does_not_fit_is_refused(vector):
    bound = VectorModule(nn.Linear(3, 2))
    before = bound.vector
    with pytest.raises(ModelError, match="8 contiguous elements"):
        bound.bind(vector)
    assert bound.vector is before
    bound.verify()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=6), st.randoms())
def test_every_element_has_one_place(shapes, random):
    tensors = {f"p{i}": torch.zeros(shape) for i, shape in enumerate([*shapes, [2]])}
    module = Holder(**tensors)
    for parameter in list(module.parameters())[:-1]:
        parameter.requires_grad_(random.random() < 0.5)
    bound = VectorModule(module)
    assert bound.layout.size == sum(math.prod(t.shape) for t in tensors.values())
    bound.bind(torch.arange(float(bound.layout.size)))
    seen = sorted(v for parameter in module.parameters() for v in parameter.flatten().tolist())
    assert seen == list(range(bound.layout.size))


# Other dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_copied_and_the_vector_leads(dtype):
    module = nn.Sequential(nn.Linear(3, 2).to(dtype), nn.Linear(2, 2))
    weight = module[0].weight
    first = weight.detach().clone()
    bound = VectorModule(module)
    slot = slot_of(bound, "0.weight")
    assert slot.dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(part(bound.vector, slot), first.float())
    fine = torch.rand(bound.layout.size) / 3
    bound.bind(fine.clone())
    assert weight.dtype is dtype
    assert torch.equal(weight, part(fine, slot).to(dtype))
    bound.store_copies()
    assert torch.equal(bound.vector, fine)  # no rounding went back
    bound.vector.mul_(2)
    bound.load_copies()
    assert torch.equal(weight, (2 * part(fine, slot)).to(dtype))
    bound.verify()


def test_gradients_of_other_dtypes_are_collected():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double())
    module[0].register_forward_hook(lambda _, __, output: output.double())
    bound = VectorModule(module)
    bound.attach_gradient()
    module(torch.ones(1, 3)).sum().backward()
    slot = slot_of(bound, "1.weight")
    assert not part(bound.gradient, slot).any()
    expected = module[1].weight.grad.float()
    bound.collect_gradient()
    assert torch.equal(part(bound.gradient, slot), expected)
    assert module[1].weight.grad is None


def test_a_frozen_parameter_of_another_dtype_is_not_rounded_in_the_vector():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16().requires_grad_(False))
    bound = VectorModule(module)
    fine = torch.rand(bound.layout.size)
    bound.bind(fine.clone())
    bound.store_copies()
    assert torch.equal(bound.vector, fine)


def test_a_buffer_of_another_dtype_travels():
    module = Holder(a=torch.zeros(2), buffers={"mean": torch.zeros(3, dtype=torch.float64)})
    bound = VectorModule(module)
    module.mean.add_(0.25)
    bound.store_copies()
    assert bound.vector[2:].tolist() == [0.25] * 3


# What stays local


def test_batch_norm_statistics_travel_and_the_count_stays():
    module = nn.BatchNorm1d(2)
    bound = VectorModule(module)
    assert names(bound) == ["weight", "bias", "running_mean", "running_var"]
    assert bound.local_state() is None
    module(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    torch.testing.assert_close(bound.vector[4:6], torch.tensor([0.2, 0.3]))
    state = bound.local_state()
    assert state is not None
    assert {name: int(value) for name, value in state.items()} == {"num_batches_tracked": 1}
    module(torch.ones(2, 2))
    assert int(state["num_batches_tracked"]) == 1  # a copy
    bound.restore_local(state)
    assert int(module.num_batches_tracked) == 1
    module(torch.ones(2, 2))
    assert int(state["num_batches_tracked"]) == 1
    bound.restore_local(None)
    assert int(module.num_batches_tracked) == 0
    assert bound.local_state() is None


def test_buffers_that_are_not_persistent_stay_local():
    module = Holder(a=torch.zeros(1), local={"cache": torch.ones(2)})
    bound = VectorModule(module)
    assert names(bound) == ["a"]
    module.cache.fill_(5.0)
    state = bound.local_state()
    bound.restore_local(None)
    assert module.cache.tolist() == [1.0, 1.0]
    bound.restore_local(state)
    assert module.cache.tolist() == [5.0, 5.0]


def test_a_local_buffer_may_be_replaced_and_may_grow():
    module = Holder(a=torch.zeros(1), local={"cache": torch.ones(2)})
    bound = VectorModule(module)
    first = module.cache
    module.cache = torch.arange(3.0)
    state = bound.local_state()
    assert state is not None
    assert state["cache"].tolist() == [0.0, 1.0, 2.0]
    bound.restore_local(None)
    assert module.cache is first
    assert module.cache.tolist() == [1.0, 1.0]
    bound.restore_local(state)
    assert module.cache.tolist() == [0.0, 1.0, 2.0]
    bound.verify()


# What cannot be held


def lazy_norm():
    return nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False))


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (nn.ReLU, "no parameter to train"),
        (lambda: nn.Linear(2, 2).requires_grad_(False), "no parameter to train"),
        (lambda: nn.LazyLinear(2), "weight is lazy"),
        (lazy_norm, "1.running_mean is lazy"),
        (lambda: nn.Linear(2, 2, device="meta"), "weight is on the meta device"),
        (lambda: Holder(a=torch.zeros(2, dtype=torch.complex64)), "a has dtype torch.complex64"),
        (lambda: Holder(a=torch.eye(2).to_sparse()), "a has layout torch.sparse_coo"),
    ],
    ids=["none", "all_frozen", "lazy", "lazy_buffer", "meta", "complex", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_module_that_cannot_be_held_is_refused(factory, words):
    with pytest.raises(ModelError, match=words) as caught:
        VectorModule(factory())
    assert caught.value.where
    assert caught.value.remedy


# Layout hashes


def test_equal_modules_have_equal_layouts():
    first, second = VectorModule(Nested()).layout, VectorModule(Nested()).layout
    assert first == second
    assert first.hash == second.hash
    assert len(first.hash) == 64
    first.require(second.hash, "peer 1")


def test_different_modules_have_different_layouts():
    frozen = nn.Conv2d(2, 3, 2)
    frozen.bias.requires_grad_(False)
    modules = [
        nn.Conv2d(2, 3, 2),
        nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last),
        nn.Conv2d(2, 3, 2).double(),
        nn.Conv2d(2, 3, 2, bias=False),
        nn.Conv2d(3, 2, 2),
        nn.Sequential(nn.Conv2d(2, 3, 2)),
        frozen,
    ]
    layouts = [VectorModule(module).layout for module in modules]
    assert len({layout.hash for layout in layouts}) == len(modules)
    with pytest.raises(LayoutMismatch, match="cannot meet") as caught:
        layouts[0].require(layouts[1].hash, "peer 3")
    assert caught.value.where == "peer 3"


# Traps


def replace(module):
    module[1].bias = nn.Parameter(torch.zeros(2))


def point_elsewhere(module):
    module[1].bias.data = torch.zeros(2)


def prune(module):
    module[1].bias.data = module[1].bias.data[:1]


def transpose(module):
    module[1].weight.data = module[1].weight.data.t()


@pytest.mark.parametrize(
    ("trap", "name", "words"),
    [
        (lambda m: m.half(), "0.weight", "changed from float32 to float16"),
        (lambda m: m.to(torch.float64), "0.weight", "changed from float32 to float64"),
        (lambda m: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True), "0.weight", "replaced"),
        (replace, "1.bias", "replaced by another tensor"),
        (point_elsewhere, "1.bias", "moved to other memory"),
        (prune, "1.bias", "changed its shape"),
        (transpose, "1.weight", "changed its stride"),
        (lambda m: setattr(m[1], "bias", None), "1.bias", "replaced"),
    ],
    ids=["half", "to_float64", "assign", "replace", "data", "prune", "transpose", "none"],
)
def test_a_module_that_left_its_vector_is_named(trap, name, words):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    bound = VectorModule(module)
    bound.verify()
    trap(module)
    with pytest.raises(StorageReplaced, match=words) as caught:
        bound.verify()
    assert caught.value.what.startswith(name + " ")


def test_replacing_one_end_of_a_tie_is_named():
    module = Tied()
    bound = VectorModule(module)
    module.decode.weight = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(StorageReplaced, match=r"encode\.weight was replaced"):
        bound.verify()


def test_replacing_a_buffer_that_travels_is_named():
    module = nn.BatchNorm1d(2)
    bound = VectorModule(module)
    module.running_mean = torch.zeros(2)
    with pytest.raises(StorageReplaced, match="running_mean was replaced"):
        bound.verify()


def test_loading_a_state_dict_in_place_is_fine():
    module = nn.Linear(2, 2)
    bound = VectorModule(module)
    module.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    bound.verify()
    assert bound.vector.tolist() == [1.0] * 4 + [0.0] * 2
