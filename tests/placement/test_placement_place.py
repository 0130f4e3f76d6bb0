"""Which tensor is quantized how, on small models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte.calibration.observe import observe
from subbyte.errors import SubbyteError
from subbyte.numerics.fake_quantize import BiasQuantize, Quantizer
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Choice
from subbyte.targets import hints
from subbyte.utils.progress import Silent

Place = Callable[..., Simulation]
Bits = Callable[[Simulation, str], dict[str, int]]
Stands = Callable[[Simulation, str], tuple[list[str], list[str]]]
IMAGES = torch.randn(2, 4, 8, 8)


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Convs(nn.Module):
    """Four convolutions, of which `forward` uses what it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(), conv(), conv(), conv()


class Residual(Convs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x))
        return self.d(F.relu(self.c(F.relu(self.b(y))) + y))


def quantizers(placed: Simulation) -> list[Quantizer]:
    return [q for _, q in placed.quantizers()]


def test_every_layer_and_its_input_has_the_recipes_bits(place: Place, bits: Bits) -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv())
    placed = place(model, IMAGES, weights=3, activations=5)
    assert bits(placed, "weight") == {"0": 3, "2": 3, "4": 3}
    assert bits(placed, "activation") == {"0": 5, "2": 5, "4": 5}
    assert [(x.name, x.operation, x.integer, x.reason) for x in placed.placement.layers] == [
        ("0", "conv", True, ""),
        ("2", "conv", True, ""),
        ("4", "conv", True, ""),
    ]
    assert {q.has_params for q in quantizers(placed)} == {False}


def test_the_quantizer_stands_behind_the_relu(place: Place, stands: Stands) -> None:
    placed = place(nn.Sequential(conv(), nn.ReLU(), conv()), IMAGES)
    assert stands(placed, "0") == (["placeholder"], ["conv2d"])
    assert stands(placed, "2") == (["relu"], ["conv2d"])


def test_a_residual_block(place: Place, bits: Bits, stands: Stands) -> None:
    placed = place(Residual(), IMAGES)
    assert bits(placed, "activation") == {"a": 4, "b": 4, "c": 4, "add": 8, "d": 4}
    # The sum reads what the convolution reads, on its bits; the other summand has its own.
    assert stands(placed, "b") == (["relu"], ["add", "conv2d"])
    assert stands(placed, "add") == (["conv2d"], ["add"])
    assert stands(placed, "d") == (["relu"], ["conv2d"])
    readers = {t.layer: t.readers for t, _ in placed.quantizers("activation")}
    assert readers["b"] == ("b",)
    assert readers["add"] == ()


def test_a_tensor_of_two_layers_takes_more_bits(place: Place) -> None:
    class Fork(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b(y) * self.c(y)

    placed = place(Fork(), IMAGES, activations=3, overrides={"c": {"activations": 6}})
    found = [(t.readers, q.spec.bits) for t, q in placed.quantizers("activation")]
    assert found == [(("a",), 3), (("b", "c"), 6)]


def test_first_and_last_layers_have_their_own_bits(place: Place, bits: Bits) -> None:
    placed = place(Residual(), IMAGES, weights=2, activations=3, first_last=7)
    assert bits(placed, "weight") == {"a": 7, "b": 2, "c": 2, "d": 7}
    assert bits(placed, "activation") == {"a": 7, "b": 3, "c": 3, "add": 8, "d": 7}


def test_every_head_is_a_last_layer(place: Place, bits: Bits) -> None:
    class Heads(Convs):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            y = self.b(F.relu(self.a(x)))
            return [self.c(y).sigmoid(), self.d(y)]

    placed = place(Heads(), IMAGES, first_last=8)
    assert bits(placed, "weight") == {"a": 8, "b": 4, "c": 8, "d": 8}
    assert bits(placed, "activation") == {"a": 8, "b": 4, "c": 8}


class PoolAndFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = conv(), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.linear(torch.flatten(y, 1))


def test_what_only_moves_values_has_no_quantizer(place: Place, bits: Bits, stands: Stands) -> None:
    placed = place(PoolAndFlatten(), IMAGES)
    assert bits(placed, "activation") == {"conv": 4, "linear": 4}
    assert stands(placed, "linear") == (["relu"], ["max_pool2d"])


@pytest.mark.parametrize(("value", "moves"), [(0.0, True), (1.0, False)])
def test_padding_moves_values_if_it_is_with_zeros(
    value: float, moves: bool, place: Place, stands: Stands
) -> None:
    class Pad(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(F.pad(self.a(x), (1, 1, 1, 1), value=value))

    behind, _ = stands(place(Pad(), IMAGES), "b")
    assert (behind == ["conv2d"]) is moves


def test_an_average_is_quantized_on_both_sides(place: Place, bits: Bits, stands: Stands) -> None:
    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = conv(), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1)
            return self.linear(torch.flatten(y, 1))

    placed = place(Average(), IMAGES)
    assert bits(placed, "activation") == {"conv": 4, "adaptive_avg_pool2d": 8, "linear": 4}
    assert stands(placed, "adaptive_avg_pool2d") == (["relu"], ["adaptive_avg_pool2d"])
    assert stands(placed, "linear")[0] == ["adaptive_avg_pool2d"]


class Concatenation(Convs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([F.relu(self.a(x)), F.max_pool2d(self.b(x), 3, 1, 1), self.c(x)], dim=2)
        return self.d(y)


def test_the_inputs_of_a_concatenation_share_one_quantizer(
    place: Place, bits: Bits, stands: Stands
) -> None:
    placed = place(Concatenation(), IMAGES)
    assert bits(placed, "activation") == {"a": 4, "d": 4}
    assert stands(placed, "d") == (["conv2d", "conv2d", "relu"], ["cat", "cat", "max_pool2d"])


def test_a_concatenations_quantizer_suits_the_finest_reader_of_its_inputs(
    place: Place, bits: Bits
) -> None:
    class Dense(Convs):
        def __init__(self) -> None:
            super().__init__()
            self.c = conv(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.c(torch.cat([y, self.b(y)], dim=1))

    placed = place(Dense(), IMAGES, overrides={"b": {"activations": 6}})
    assert bits(placed, "activation") == {"a": 4, "b": 6}
    assert [t.readers for t, _ in placed.quantizers("activation")] == [("a",), ("b", "c")]


class AddConstant(Convs):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, 8, 8))
        self.register_buffer("mask", torch.zeros(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.a(x) + self.position)
        return self.c((y + self.mask) + 1)


def test_a_constant_is_not_quantized(place: Place, bits: Bits, stands: Stands) -> None:
    placed = place(AddConstant(), IMAGES)
    # The sums read the convolutions' quantized results beside the constants.
    assert bits(placed, "activation") == {"a": 4, "b": 4, "c": 4, "add": 8, "add#2": 8}
    assert stands(placed, "add")[0] == ["conv2d"]
    assert stands(placed, "add#2")[0] == ["conv2d"]


def test_only_plain_sums_are_quantized(place: Place, bits: Bits) -> None:
    class Weighted(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.add(self.a(x), self.b(x), alpha=2))

    placed = place(Weighted(), IMAGES)
    # The sum's inputs are quantized because convolutions gave them, and for one runtime alone.
    assert bits(placed, "activation") == {"a": 4, "c": 4, "add": 8, "add#2": 8}


@pytest.mark.slow
def test_a_result_that_is_read_in_float_is_quantized_for_some_targets(place: Place) -> None:
    class Patches(Convs):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x) + 1  # only floats
            z = F.relu(self.b(x) + self.c(x))  # a sum on integers, whose result a layer reads
            return self.last(self.norm(y.flatten(2).transpose(1, 2))).mean(1), self.d(z)

    placed = place(Patches(), IMAGES)
    found = {t.layer: t.only_for for t, _ in placed.quantizers("activation")}
    targets = sorted(found.pop(name) for name in [n for n in found if "add" in n])
    # Of the second sum OpenVINO has one summand within the other one's kernel.
    wanting = tuple(hint.name for hint in hints() if hint.quantized_results)
    assert targets == [(), wanting, wanting]
    assert {"onnxruntime", "openvino"} & set(wanting) == {"onnxruntime"}
    assert set(found.values()) == {()}


def test_a_sum_that_is_also_read_before_its_relu_stays_in_float(place: Place, bits: Bits) -> None:
    class Preactivation(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x) + self.b(x)
            return self.c(F.relu(y)) + y

    assert bits(place(Preactivation(), IMAGES), "activation") == {"a": 4, "c": 4}


class TransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        q, k, v = self.query(y), self.key(y), self.value(y)
        x = x + self.out((q @ k.transpose(-2, -1)).softmax(-1) @ v)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x))


def test_a_transformer_block(place: Place, bits: Bits) -> None:
    placed = place(TransformerBlock(), torch.randn(2, 5, 8))
    inputs = {t.readers: q.spec.bits for t, q in placed.quantizers("activation")}
    # The residual stream, read by sums and layer norms only, has no quantizer of its own.
    assert set(bits(placed, "weight")) == {
        "embed", "query", "key", "value", "out", "up", "down", "head"
    }  # fmt: skip
    assert inputs == {
        ("embed",): 4,
        ("query", "key", "value"): 4,
        ("matmul",): 4,
        ("matmul_2",): 4,
        ("out",): 4,
        ("up",): 4,
        ("down",): 4,
        ("head",): 4,
    }
    assert not [n for n in bits(placed, "activation") if "add" in n]
    products = [layer for layer in placed.placement.layers if layer.operation == "matmul"]
    keys = [path for layer in products for path in layer.activations]
    assert len(set(keys)) == 4  # two for each of the two products
    assert all(layer.integer and layer.weight is None for layer in products)


def test_a_weight_called_twice_has_one_quantizer(place: Place) -> None:
    class Twice(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(F.relu(self.a(x)))

    placed = place(Twice(), IMAGES)
    assert [t.layer for t, _ in placed.quantizers("weight")] == ["a"]
    assert [t.layer for t, _ in placed.quantizers("activation")] == ["a", "a#2"]
    first, second = placed.placement.layers
    assert first.weight == second.weight
    assert first.activations != second.activations
    assert [i.key for i in placed.placement.insertions].count(str(first.weight)) == 1


def test_weights_have_a_scale_for_each_output(place: Place) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(4, 6, 3), nn.Linear(6, 5)
            self.table = nn.Parameter(torch.randn(5, 7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.conv(x).mean((2, 3))) @ self.table

    scales = {t.layer: t.channels for t, q in place(Plain(), IMAGES).quantizers("weight")}
    assert scales == {"conv": 6, "linear": 5, "table": 7}
    single = place(Plain(), IMAGES, per_channel=False)
    assert {t.channels for t, _ in single.quantizers("weight")} == {1}
    assert {q.spec.axis for _, q in single.quantizers()} == {None}


def test_weights_are_symmetric_at_eight_bits_and_asymmetric_below(place: Place) -> None:
    placed = place(Residual(), IMAGES, overrides={"b": {"weights": 8}})
    specs = {t.layer: q.spec for t, q in placed.quantizers("weight")}
    assert {name: spec.symmetric for name, spec in specs.items()} == {
        "a": False, "b": True, "c": False, "d": False
    }  # fmt: skip


def test_activations_are_asymmetric_unless_asked(place: Place) -> None:
    for asked in (False, True):
        placed = place(Residual(), IMAGES, symmetric_activations=asked)
        assert {q.spec.symmetric for _, q in placed.quantizers("activation")} == {asked}


def test_a_reduced_range_takes_one_bit_from_eight_bit_weights_only(
    place: Place, bits: Bits
) -> None:
    given: dict[str, Any] = {"weights": 8, "activations": 8, "overrides": {"b": {"weights": 5}}}
    placed = place(Residual(), IMAGES, reduce_range=True, **given)
    assert bits(placed, "weight") == {"a": 7, "b": 5, "c": 7, "d": 7}
    assert set(bits(placed, "activation").values()) == {8}
    specs = {t.layer: q.spec for t, q in placed.quantizers("weight")}
    assert specs["a"].symmetric


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"weights": 8}, (7, True)),
        ({"weights": 7}, (7, True)),
        ({"weights": 6}, (6, False)),
        ({"weights": 8, "symmetric_weights": False}, (6, False)),
        ({"weights": 7, "symmetric_weights": False}, (6, False)),
        ({"weights": 6, "symmetric_weights": True}, (6, True)),
    ],
)
def test_a_reduced_range_has_no_weight_beyond_64(
    fields: dict[str, Any], expected: tuple[int, bool], place: Place
) -> None:
    placed = place(Residual(), IMAGES, reduce_range=True, **fields)
    specs = [q.spec for _, q in placed.quantizers("weight")]
    assert {(spec.bits, spec.symmetric) for spec in specs} == {expected}
    # Asymmetric ones have as many integers on one side of its zero point, if need be.
    assert all(max(-s.low, s.high) <= 64 for s in specs)


def test_a_reduced_range_holds_for_products_of_activations(place: Place, bits: Bits) -> None:
    placed = place(TransformerBlock(), torch.randn(2, 5, 8), activations=8, reduce_range=True)
    found = {t.layer: q.spec for t, q in placed.quantizers("activation")}
    factors = {name for name, spec in found.items() if spec.symmetric}
    assert {found[name].bits for name in factors} == {7}
    assert len(factors) == 3  # queries, keys and values; not the softmax
    assert {spec.bits for name, spec in found.items() if name not in factors} == {8}


@pytest.mark.slow
def test_without_activations(place: Place, bits: Bits) -> None:
    placed = place(Residual(), IMAGES, activations=None, first_last=8)
    assert bits(placed, "activation") == {}
    assert bits(placed, "weight") == {"a": 8, "b": 4, "c": 4, "d": 8}
    assert not any(layer.integer for layer in placed.placement.layers)
    assert not [m for m in placed.modules() if isinstance(m, BiasQuantize)]


def test_without_weights(place: Place, bits: Bits) -> None:
    placed = place(Residual(), IMAGES, weights=None, first_last=8)
    assert bits(placed, "weight") == {}
    assert bits(placed, "activation") == {"a": 8, "b": 4, "c": 4, "add": 8, "d": 8}
    assert not [m for m in placed.modules() if isinstance(m, BiasQuantize)]


def test_without_either_the_model_is_as_it_was(place: Place) -> None:
    model = Residual()
    placed = place(model, IMAGES, weights=None, activations=None)
    assert quantizers(placed) == []
    assert {layer.reason for layer in placed.placement.layers} == {"the recipe leaves it in float"}
    torch.testing.assert_close(placed(IMAGES), model(IMAGES))


def test_biases_are_on_the_grid_of_their_sums(place: Place) -> None:
    placed = place(Residual(), IMAGES, overrides={"c": {"weights": None}})
    modules = {q: t.readers for t, q in placed.quantizers()}
    found = [m.operands for m in placed.modules() if isinstance(m, BiasQuantize)]
    assert [tuple(modules[one] for one in both) for both in found] == [
        (("a",), ("a",)), (("b",), ("b",)), (("d",), ("d",))
    ]  # fmt: skip


def test_the_first_override_that_matches_wins_and_beats_first_last(
    place: Place, bits: Bits
) -> None:
    overrides = {"[ab]": {"weights": 3}, "b|c": {"weights": 6, "activations": 5}}
    placed = place(Residual(), IMAGES, weights=2, activations=2, overrides=overrides)
    assert bits(placed, "weight") == {"a": 3, "b": 3, "c": 6, "d": 2}
    assert bits(placed, "activation") == {"a": 2, "b": 2, "c": 5, "add": 8, "d": 2}
    placed = place(Residual(), IMAGES, first_last=8, overrides=overrides)
    assert bits(placed, "weight") == {"a": 3, "b": 3, "c": 6, "d": 8}
    assert bits(placed, "activation")["a"] == 8  # of which the override says nothing


def test_an_override_can_leave_a_side_in_float(place: Place, bits: Bits) -> None:
    overrides = {"b": {"activations": None}, "c": {"weights": None, "activations": None}}
    placed = place(Residual(), IMAGES, overrides=overrides)
    assert bits(placed, "weight") == {"a": 4, "b": 4, "d": 4}
    assert "b" not in bits(placed, "activation")
    assert [layer.integer for layer in placed.placement.layers] == [True, False, False, True]
    assert placed.placement.layers[2].reason == "the recipe leaves it in float"


def test_an_override_can_change_the_bits_and_the_rule(place: Place) -> None:
    override = {
        "symmetric_weights": True,
        "per_channel": False,
        "ranges": {"name": "mse", "p": 3},
    }
    placed = place(Residual(), IMAGES, ranges="minmax", overrides={"b": override})
    found = {(t.role, t.layer): (t.rule, q.spec) for t, q in placed.quantizers()}
    rule, spec = found["weight", "b"]
    assert (rule, spec.symmetric, spec.axis) == (Choice("mse", {"p": 3}), True, None)
    assert found["activation", "b"][0] == Choice("mse", {"p": 3})
    assert found["activation", "add"][0] == Choice("minmax", {})
    rule, spec = found["weight", "c"]
    assert (rule, spec.symmetric, spec.axis) == (Choice("minmax", {}), False, 0)


def test_an_override_must_match_a_whole_name(place: Place) -> None:
    with pytest.raises(SubbyteError) as caught:
        place(PoolAndFlatten(), IMAGES, overrides={"linea": {"weights": 8}})
    assert "unknown layer in overrides 'linea': did you mean 'linear'?" in str(caught.value)
    assert "must match the whole name" in str(caught.value)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.AvgPool2d(2)])
def test_a_model_without_a_layer_is_refused(model: nn.Module, place: Place) -> None:
    with pytest.raises(SubbyteError, match="no convolution, linear layer or matrix product"):
        place(model, IMAGES)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(4, 8), conv()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.a(x).chunk(2, dim=1)
        return self.b(left) * right.sigmoid()


class Unbind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x.flatten(2)).unflatten(2, (3, 8)).unbind(2)
        return self.out((q @ k.transpose(-2, -1)).softmax(-1) @ v)


class Maximum(Convs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, _ = self.a(x).max(dim=2, keepdim=True)
        return self.b(values)


class BatchStatistics(Convs):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.norm(self.a(x)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Gate, (2, 4, 8, 8)),
        (Unbind, (2, 5, 8)),
        (Maximum, (2, 4, 8, 8)),
        (BatchStatistics, (2, 4, 8, 8)),
    ],
)
def test_an_operator_with_several_results(
    model: type[nn.Module], shape: tuple[int, ...], place: Place
) -> None:
    placed = place(model(), torch.randn(shape))
    seen = observe(placed, [(torch.randn(shape),)], Silent())
    assert all(layer.integer for layer in placed.placement.layers)
    assert seen.keys() == {t.key for t in placed.placement.of_role("activation")}


def test_a_batched_weight_has_a_scale_for_each_column(place: Place) -> None:
    class Batched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.table = nn.Linear(8, 8), nn.Parameter(torch.randn(3, 8, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)[:, None] @ self.table

    placed = place(Batched(), torch.randn(2, 6, 8))
    assert [t.layer for t, _ in placed.quantizers("weight")] == ["linear"]
    assert {layer.name: layer.reason for layer in placed.placement.layers}["table"]


def test_a_product_with_a_vector(place: Place) -> None:
    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.vector = nn.Linear(8, 8), nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) @ self.vector

    model = Vector()
    placed = place(model, torch.randn(2, 8))
    torch.testing.assert_close(placed(torch.ones(3, 8)), model(torch.ones(3, 8)))
