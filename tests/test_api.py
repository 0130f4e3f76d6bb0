from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import subbyte
from subbyte.errors import SubbyteError
from subbyte.targets import onnxruntime, openvino


class Small(nn.Module):
    """Two convolutions with batch norm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.dropout(F.relu(self.body(x))).mean((2, 3)))


class Sum(nn.Module):
    """Takes two arguments, the second of which may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, image: Tensor, other: Tensor | None = None) -> Tensor:
        return self.left(image) if other is None else self.left(image) - self.right(other)


class Dictionary(Sum):
    def forward(self, image: Tensor) -> dict[str, Any]:
        return {"logits": self.left(image), "more": [self.right(image), image.shape[1]]}


class Branches(Sum):
    def forward(self, image: Tensor) -> Tensor:
        return self.left(image) if image.sum() > 0 else self.right(image)


class FixedBatch(Sum):
    def forward(self, image: Tensor) -> Tensor:
        return self.left(image.view(8, 3))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = normal(8, 3, 7, 7)
ROWS = normal(8, 3)


def test_the_model_is_left_as_it_was() -> None:
    model = seeded(Small).train()
    model.body.eval()
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    quantized = subbyte.quantize(model, [IMAGES], subbyte.Recipe(weights=4, activations=4))
    quantized(IMAGES)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_8_bits_are_close_to_the_model_in_evaluation_mode() -> None:
    model = seeded(Small)
    expected = model(IMAGES)
    quantized = subbyte.quantize(model.train(), [IMAGES])
    assert isinstance(quantized, nn.Module)
    assert quantized(IMAGES).shape == expected.shape
    noise = (quantized(IMAGES) - expected).square().mean()
    assert noise < 1e-3 * expected.var()
    quantized.train()
    assert torch.equal(quantized(IMAGES), quantized(IMAGES))  # no dropout, whatever the mode


def test_all_forms_of_batches_are_one() -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    forms = [
        [ROWS],
        [(ROWS,)],
        [(ROWS, labels)],
        [[ROWS, labels]],
        [{"inputs": ROWS, "targets": labels}],
        [{"inputs": (ROWS,)}],
        DataLoader(TensorDataset(ROWS), batch_size=8),
        DataLoader(TensorDataset(ROWS, labels), batch_size=8),
    ]
    model = seeded(Sum)
    first, *others = (subbyte.layers(subbyte.quantize(model, form)) for form in forms)
    assert all(rows == first for rows in others)


def test_calibration_sees_every_batch() -> None:
    model, recipe = seeded(Small), subbyte.Recipe(ranges="minmax")
    calibration = [IMAGES[:3], 5 * IMAGES[3:]]
    first = subbyte.layers(subbyte.quantize(model, calibration, recipe))[0]
    low, high = float(5 * IMAGES[3:].min()), float(5 * IMAGES[3:].max())
    assert first["scale"] == pytest.approx((high - low) / 255)
    assert first["zero_point"] == round(-low / first["scale"])


def test_a_tuple_is_the_models_arguments() -> None:
    model, other = seeded(Sum), normal(8, 3, seed=2)
    quantized = subbyte.quantize(model, [(ROWS, other), (other, ROWS)])
    torch.testing.assert_close(quantized(ROWS, other), model(ROWS, other), rtol=0, atol=0.05)
    torch.testing.assert_close(quantized(other, ROWS), model(other, ROWS), rtol=0, atol=0.05)


class Left(nn.Module):
    """Its one argument is a dictionary, or a list, of two batches of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, inputs: Any) -> Tensor:
        left, right = inputs.values() if isinstance(inputs, dict) else inputs
        return self.conv(left) - right[:, :1, 2:, 2:]


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("make", [lambda a, b: {"left": a, "right": b}, lambda a, b: [a, b]])
def test_a_dictionary_or_a_list_of_images_is_one_argument(
    make: Callable[[Tensor, Tensor], Any], batches: int, tmp_path: Any
) -> None:
    model, path = seeded(Left), tmp_path / "model.onnx"
    a, b = normal(4, 3, 6, 6), normal(4, 3, 6, 6, seed=2)
    argument = make(a, b)
    quantized = subbyte.quantize(model, [(argument,)] * batches)
    reference = model.double()(make(a.double(), b.double()))
    noise = (quantized(argument) - reference).square().mean()
    assert noise < 1e-3 * reference.square().mean()
    subbyte.export(quantized, path, (argument,))
    for runtime in (onnxruntime, openvino):
        (given,) = runtime.load(path, 1).run(a[:3].numpy(), b[:3].numpy())
        expected = quantized(make(a[:3], b[:3])).numpy()
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)
    subbyte.save(quantized, tmp_path / "saved")
    again = subbyte.load(model.float(), tmp_path / "saved")
    assert torch.equal(again(argument), quantized(argument))


def test_structures_come_out_as_they_do_of_the_model() -> None:
    model = seeded(Dictionary)
    quantized = subbyte.quantize(model, [ROWS], subbyte.Recipe(weights=8))
    found, expected = quantized(ROWS[:3]), model(ROWS[:3])
    assert found.keys() == expected.keys()
    assert found["more"][1] == 3
    for one, other in (
        (found["logits"], expected["logits"]),
        (found["more"][0], expected["more"][0]),
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0.05)


def test_arguments_by_name() -> None:
    quantized = subbyte.quantize(seeded(Sum), [ROWS])
    assert torch.equal(quantized(image=ROWS), quantized(ROWS))


@pytest.mark.parametrize(
    "recipe",
    [subbyte.Recipe(), subbyte.Recipe(weights=2, activations=3, ranges="percentile", seed=5)],
    ids=["default", "low"],
)
def test_the_same_again_is_the_same(recipe: subbyte.Recipe) -> None:
    loader = DataLoader(TensorDataset(IMAGES), batch_size=4, shuffle=True)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(subbyte.quantize(seeded(Small), loader, recipe))
    assert subbyte.layers(results[0]) == subbyte.layers(results[1])
    assert torch.equal(results[0](IMAGES), results[1](IMAGES))


def test_no_recipe_is_8_bits_throughout() -> None:
    model = seeded(Small)
    rows = subbyte.layers(subbyte.quantize(model, [IMAGES]))
    assert rows == subbyte.layers(subbyte.quantize(model, [IMAGES], subbyte.Recipe()))
    assert {row["bits"] for row in rows} == {8}


def test_rows_of_layers() -> None:
    recipe = subbyte.Recipe(weights=4, activations=5)
    rows = subbyte.layers(subbyte.quantize(seeded(Small), [IMAGES], recipe))
    fields = {"layer", "role", "bits", "symmetric", "per_channel", "scale", "zero_point"}
    assert all(row.keys() == fields | {"sqnr_db", "readers"} for row in rows)
    assert json.loads(json.dumps(rows)) == rows
    by_role = {
        role: [(row["layer"], row["bits"], row["symmetric"]) for row in rows if row["role"] == role]
        for role in ("activation", "weight")
    }
    # Pooling feeds the head, whose input is on 8 bits, and so is what it pools.
    assert by_role == {
        "activation": [
            ("stem", 8, False),
            ("body", 5, False),
            ("mean", 8, False),
            ("head", 8, False),
        ],
        "weight": [("stem", 8, True), ("body", 4, False), ("head", 8, True)],
    }
    readers = {(row["layer"], row["role"]): row["readers"] for row in rows}
    assert readers["body", "activation"] == readers["body", "weight"] == ["body"]
    assert readers["mean", "activation"] == []
    for row in rows:
        assert row["per_channel"] == (row["role"] == "weight")
        channels = {"stem": 4, "body": 4, "head": 5}.get(row["layer"])
        for field in ("scale", "zero_point"):
            assert len(row[field]) == channels if row["per_channel"] else row[field] >= 0


def test_rows_are_in_the_order_of_the_graph() -> None:
    rows = subbyte.layers(subbyte.quantize(seeded(Small), [IMAGES]))
    layers = [row["layer"] for row in rows]
    assert [name for i, name in enumerate(layers) if name not in layers[:i]] == sorted(
        set(layers), key=["stem", "body", "mean", "head"].index
    )
    assert max(i for i, name in enumerate(layers) if name == "stem") < layers.index("body")


def test_sqnr_of_a_weight_and_of_an_activation_by_hand() -> None:
    model = nn.Linear(3, 2, bias=False)
    weight = torch.tensor([[0.7, -0.8, 0.26], [-0.31, 0.02, 0.5]])
    with torch.no_grad():
        model.weight.copy_(weight)
    x = torch.tensor([[0.0, 1.0, 3.2], [0.4, 7.0, 2.6]])
    recipe = subbyte.Recipe(
        weights=4,
        activations=3,
        symmetric_weights=True,
        per_channel=False,
        first_last=None,
        ranges="minmax",
        method="range",
    )
    activation, weights = subbyte.layers(subbyte.quantize(model, [x], recipe))
    # Weights −0.8 … 0.7 on −8 … 7: a step of 0.1. Rounding errors: 0.04, 0.01 and 0.02.
    assert weights["scale"] == pytest.approx(0.1)
    signal = float(weight.double().square().sum())
    expected = 10 * torch.log10(torch.tensor(signal / (0.04**2 + 0.01**2 + 0.02**2)))
    assert weights["sqnr_db"] == pytest.approx(float(expected), abs=1e-3)
    # Activations 0 … 7 on 0 … 7: a step of 1. Rounding errors: 0.2, 0.4 and 0.4.
    assert activation["scale"] == pytest.approx(1.0)
    signal = float(x.double().square().sum())
    expected = 10 * torch.log10(torch.tensor(signal / (0.2**2 + 0.4**2 + 0.4**2)))
    assert activation["sqnr_db"] == pytest.approx(float(expected), abs=0.2)  # from a histogram


def test_a_weight_without_any_noise_has_no_sqnr() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, -0.5, 0.0, 0.5]]))
    recipe = subbyte.Recipe(
        weights=2, symmetric_weights=True, first_last=None, ranges="minmax", method="range"
    )
    rows = subbyte.layers(subbyte.quantize(model, [normal(8, 4)], recipe))
    (weight,) = (row for row in rows if row["role"] == "weight")
    assert (weight["scale"], weight["sqnr_db"]) == ([0.5], None)


def test_neither_weights_nor_activations_is_the_model_itself() -> None:
    model = seeded(Small)
    recipe = subbyte.Recipe(weights=None, activations=None)
    quantized = subbyte.quantize(model, [IMAGES], recipe)
    assert subbyte.layers(quantized) == []
    torch.testing.assert_close(quantized(IMAGES), model(IMAGES), rtol=0, atol=1e-6)


def test_a_copy_of_a_quantized_model_is_its_own() -> None:
    quantized = subbyte.quantize(seeded(Small), [IMAGES])
    before = quantized(IMAGES)
    other = copy.deepcopy(quantized)
    assert torch.equal(other(IMAGES), before)
    for _, quantizer in other.quantizers():
        quantizer.scale.mul_(2)
    assert not torch.equal(other(IMAGES), before)
    assert torch.equal(quantized(IMAGES), before)


class Only3d(nn.Module):
    """No layer that could be quantized, though there are convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x[:, None, None, None]))


def refused(told: str, model: Any = None, calibration: Any = None, **fields: Any) -> None:
    calibration = [ROWS] if calibration is None else calibration
    with pytest.raises(SubbyteError, match=told) as caught:
        subbyte.quantize(seeded(Sum) if model is None else model, calibration, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("calibration", "told"),
    [
        (iter([ROWS]), "can be walked once only: make it a list"),
        ((batch for batch in [ROWS]), "can be walked once only: make it a list"),
        (ROWS, "a single batch: put it into a list"),
        ({"inputs": ROWS}, "a single batch: put it into a list"),
        ([], "calibration is empty"),
        (TensorDataset(ROWS), "put it into a DataLoader"),
        (5, "give a list of batches"),
        ([ROWS, "text"], "a batch is or has as inputs a str"),
        ([ROWS[:0]], "a batch is empty"),
        ([{"images": ROWS}], "name the model's inputs"),
        ([ROWS, ROWS * float("nan")], "the activations at layer 'left' hold NaN or infinity"),
    ],
)
def test_calibration_that_cannot_be_used(calibration: object, told: str) -> None:
    refused(told, calibration=calibration)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: "resnet18", "the model is a str: give a torch.nn.Module, or the path of an .onnx"),
        (lambda: "model.onnx", "there is no file model.onnx: name an ONNX file"),
        (lambda: Sum, "the model is a type: give a torch.nn.Module"),
        (lambda: scripted(Sum()), "TorchScript.*torch.nn.Module that it was scripted"),
        (lambda: nn.Sequential(scripted(Sum())), "the model's '0' is TorchScript"),
        (lambda: nn.Linear(5, 2), r"does not run on a batch of shape \(8, 3\)"),
        (lambda: nn.ReLU(), "has no convolution, linear layer or matrix product"),
        (
            lambda: Only3d(),
            r"no layer of the model can be .* 3-d .* \(first, second\); give one with",
        ),
        (lambda: Branches(), r"test_api\.py:\d+ .*rewrite that line"),
        (lambda: FixedBatch(), r"test_api\.py:\d+ fixes the batch size to 8"),
    ],
)
def test_models_that_cannot_be_quantized(make: Callable[[], Any], told: str) -> None:
    refused(told, model=make())


def scripted(model: nn.Module) -> nn.Module:
    """A model as `torch.jit.load` gives it back."""
    traced: nn.Module = torch.jit.trace(model.eval(), ROWS)
    return traced


def test_a_weight_that_is_not_a_number_names_its_layer() -> None:
    model = seeded(Sum)
    with torch.no_grad():
        model.right.weight[1, 1] = float("inf")
    refused("the weight of layer 'right' holds NaN or infinity", model=model)


def test_recipes_that_do_not_fit_the_model() -> None:
    refused("unknown region 'lefd': did you mean 'left'", recipe=subbyte.Recipe(regions=("lefd",)))
    recipe = subbyte.Recipe(overrides={"lefd": {"weights": 4}})
    refused("unknown layer in overrides 'lefd': did you mean 'left'", recipe=recipe)
    recipe = subbyte.Recipe(method={"name": "range", "steps": 5})
    refused("steps", recipe=recipe)


def test_a_quantized_model_is_not_quantized_again() -> None:
    refused("already", model=subbyte.quantize(seeded(Sum), [ROWS]))


@pytest.mark.parametrize(
    "use",
    [
        lambda model, path: subbyte.export(model, path, ROWS),
        lambda model, path: subbyte.save(model, path),
        lambda model, path: subbyte.layers(model),
    ],
    ids=["export", "save", "layers"],
)
def test_a_float_model_is_no_quantized_one(use: Callable[..., object], tmp_path: Any) -> None:
    with pytest.raises(SubbyteError, match="Sum is not a quantized model: give what"):
        use(seeded(Sum), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("example", ["text", None, ROWS[:0], [ROWS, "text"]])
def test_an_example_that_is_no_batch(example: object, tmp_path: Any) -> None:
    quantized = subbyte.quantize(seeded(Sum), [ROWS])
    with pytest.raises(SubbyteError, match=re.escape("a batch is")):
        subbyte.export(quantized, tmp_path / "model.onnx", example)


def test_an_example_of_another_shape_is_reported(tmp_path: Any) -> None:
    quantized = subbyte.quantize(seeded(Sum), [ROWS])
    with pytest.raises(SubbyteError, match="shape") as caught:
        subbyte.export(quantized, tmp_path / "model.onnx", normal(2, 5))
    assert str(caught.value).isprintable()
