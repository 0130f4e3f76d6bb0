"""Which tensor gets which grid, on small models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte.errors import SubbyteError
from subbyte.numerics.fake_quantize import BiasQuantize, FakeQuantize, State
from subbyte.placement.simulation import Captured
from subbyte.recipe import Choice

Place = Callable[..., Captured]
Bits = Callable[[Captured, str], dict[str, int]]
Stands = Callable[[Captured, str], tuple[list[str], list[str]]]
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


def quantizers(captured: Captured) -> list[FakeQuantize]:
    return [q for _, q in captured.quantizers()]


def test_every_layer_and_its_input_has_the_recipes_bits(place: Place, bits: Bits) -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv())
    captured = place(model, IMAGES, weights=3, activations=5)
    assert bits(captured, "weight") == {"0": 3, "2": 3, "4": 3}
    assert bits(captured, "activation") == {"0": 5, "2": 5, "4": 5}
    assert [(x.name, x.operation, x.integer, x.reason) for x in captured.layers] == [
        ("0", "conv", True, ""),
        ("2", "conv", True, ""),
        ("4", "conv", True, ""),
    ]
    assert {q.state for q in quantizers(captured)} == {State.OFF}


def test_a_grid_stands_behind_the_relu(place: Place, stands: Stands) -> None:
    captured = place(nn.Sequential(conv(), nn.ReLU(), conv()), IMAGES)
    assert stands(captured, "0") == (["placeholder"], ["conv2d"])
    assert stands(captured, "2") == (["relu"], ["conv2d"])


def test_a_residual_block(place: Place, bits: Bits, stands: Stands) -> None:
    captured = place(Residual(), IMAGES)
    assert bits(captured, "activation") == {"a": 4, "b": 4, "c": 4, "add": 8, "d": 4}
    # The sum reads what the convolution reads, on its bits; the other summand has its own grid.
    assert stands(captured, "b") == (["relu"], ["add", "conv2d"])
    assert stands(captured, "add") == (["conv2d"], ["add"])
    assert stands(captured, "d") == (["relu"], ["conv2d"])
    readers = {t.layer: t.readers for t, _ in captured.quantizers("activation")}
    assert readers["b"] == ("b",)
    assert readers["add"] == ()


def test_a_tensor_of_two_layers_takes_the_finer_grid(place: Place) -> None:
    class Fork(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b(y) * self.c(y)

    captured = place(Fork(), IMAGES, activations=3, overrides={"c": {"activations": 6}})
    found = [(t.readers, q.spec.bits) for t, q in captured.quantizers("activation")]
    assert found == [(("a",), 3), (("b", "c"), 6)]


def test_first_and_last_layers_have_their_own_bits(place: Place, bits: Bits) -> None:
    captured = place(Residual(), IMAGES, weights=2, activations=3, first_last=7)
    assert bits(captured, "weight") == {"a": 7, "b": 2, "c": 2, "d": 7}
    assert bits(captured, "activation") == {"a": 7, "b": 3, "c": 3, "add": 8, "d": 7}


def test_every_head_is_a_last_layer(place: Place, bits: Bits) -> None:
    class Heads(Convs):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            y = self.b(F.relu(self.a(x)))
            return [self.c(y).sigmoid(), self.d(y)]

    captured = place(Heads(), IMAGES, first_last=8)
    assert bits(captured, "weight") == {"a": 8, "b": 4, "c": 8, "d": 8}
    assert bits(captured, "activation") == {"a": 8, "b": 4, "c": 8}


class PoolAndFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = conv(), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.linear(torch.flatten(y, 1))


def test_what_only_moves_values_has_no_grid(place: Place, bits: Bits, stands: Stands) -> None:
    captured = place(PoolAndFlatten(), IMAGES)
    assert bits(captured, "activation") == {"conv": 4, "linear": 4}
    assert stands(captured, "linear") == (["relu"], ["max_pool2d"])


@pytest.mark.parametrize(("value", "moves"), [(0.0, True), (1.0, False)])
def test_padding_moves_values_if_it_is_with_zeros(
    value: float, moves: bool, place: Place, stands: Stands
) -> None:
    class Pad(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(F.pad(self.a(x), (1, 1, 1, 1), value=value))

    behind, _ = stands(place(Pad(), IMAGES), "b")
    assert (behind == ["conv2d"]) is moves


def test_an_average_has_a_grid_on_both_sides(place: Place, bits: Bits, stands: Stands) -> None:
    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = conv(), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1)
            return self.linear(torch.flatten(y, 1))

    captured = place(Average(), IMAGES)
    assert bits(captured, "activation") == {"conv": 4, "adaptive_avg_pool2d": 8, "linear": 4}
    assert stands(captured, "adaptive_avg_pool2d") == (["relu"], ["adaptive_avg_pool2d"])
    assert stands(captured, "linear")[0] == ["adaptive_avg_pool2d"]


class Concatenation(Convs):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([F.relu(self.a(x)), F.max_pool2d(self.b(x), 3, 1, 1), self.c(x)], dim=2)
        return self.d(y)


def test_the_inputs_of_a_concatenation_share_one_grid(
    place: Place, bits: Bits, stands: Stands
) -> None:
    captured = place(Concatenation(), IMAGES)
    assert bits(captured, "activation") == {"a": 4, "d": 4}
    assert stands(captured, "d") == (["conv2d", "conv2d", "relu"], ["cat", "cat", "max_pool2d"])


def test_a_concatenations_grid_suits_the_finest_reader_of_its_inputs(
    place: Place, bits: Bits
) -> None:
    class Dense(Convs):
        def __init__(self) -> None:
            super().__init__()
            self.c = conv(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.c(torch.cat([y, self.b(y)], dim=1))

    captured = place(Dense(), IMAGES, overrides={"b": {"activations": 6}})
    assert bits(captured, "activation") == {"a": 4, "b": 6}
    assert [t.readers for t, _ in captured.quantizers("activation")] == [("a",), ("b", "c")]


class AddConstant(Convs):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, 8, 8))
        self.register_buffer("mask", torch.zeros(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.a(x) + self.position)
        return self.c((y + self.mask) + 1)


def test_a_constant_is_not_put_on_a_grid(place: Place, bits: Bits, stands: Stands) -> None:
    captured = place(AddConstant(), IMAGES)
    # The sums' grids are those of the convolutions' results, which they read beside the constants.
    assert bits(captured, "activation") == {"a": 4, "b": 4, "c": 4, "add": 8, "add#2": 8}
    assert stands(captured, "add")[0] == ["conv2d"]
    assert stands(captured, "add#2")[0] == ["conv2d"]


def test_only_plain_sums_are_put_on_integers(place: Place, bits: Bits) -> None:
    class Weighted(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.add(self.a(x), self.b(x), alpha=2))

    captured = place(Weighted(), IMAGES)
    # The sum's inputs are on grids because convolutions gave them, and for one runtime alone.
    assert bits(captured, "activation") == {"a": 4, "c": 4, "add": 8, "add#2": 8}


def test_a_result_that_is_read_in_float_is_on_a_grid_for_one_runtime(place: Place) -> None:
    class Patches(Convs):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x) + 1  # only floats
            z = F.relu(self.b(x) + self.c(x))  # a sum on integers, whose result a layer reads
            return self.last(self.norm(y.flatten(2).transpose(1, 2))).mean(1), self.d(z)

    captured = place(Patches(), IMAGES)
    found = {t.layer: t.runtime for t, _ in captured.quantizers("activation")}
    runtimes = sorted(str(found.pop(name)) for name in [n for n in found if "add" in n])
    # Of the second sum OpenVINO has one summand within the other one's kernel.
    assert runtimes == ["None", "onnxruntime", "onnxruntime"]
    assert set(found.values()) == {None}


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
    captured = place(TransformerBlock(), torch.randn(2, 5, 8))
    inputs = {t.readers: q.spec.bits for t, q in captured.quantizers("activation")}
    # The residual stream, read by sums and layer norms only, has no grid of its own.
    assert set(bits(captured, "weight")) == {
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
    assert not [n for n in bits(captured, "activation") if "add" in n]
    products = [layer for layer in captured.layers if layer.operation == "matmul"]
    grids = [path for layer in products for path in layer.activations]
    assert len(set(grids)) == 4  # two for each of the two products
    assert all(layer.integer and layer.weight is None for layer in products)


def test_a_weight_called_twice_has_one_grid(place: Place) -> None:
    class Twice(Convs):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(F.relu(self.a(x)))

    captured = place(Twice(), IMAGES)
    assert [t.layer for t, _ in captured.quantizers("weight")] == ["a"]
    assert [t.layer for t, _ in captured.quantizers("activation")] == ["a", "a#2"]
    first, second = captured.layers
    assert first.weight == second.weight
    assert first.activations != second.activations
    nodes = captured.region("").graph.nodes
    assert sum(n.target == first.weight for n in nodes) == 1


def test_weights_have_a_scale_for_each_output(place: Place) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(4, 6, 3), nn.Linear(6, 5)
            self.table = nn.Parameter(torch.randn(5, 7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.conv(x).mean((2, 3))) @ self.table

    scales = {t.layer: q.scale.shape for t, q in place(Plain(), IMAGES).quantizers("weight")}
    assert scales == {"conv": (6,), "linear": (5,), "table": (7,)}
    single = place(Plain(), IMAGES, per_channel=False)
    assert {q.scale.shape for _, q in single.quantizers("weight")} == {(1,)}
    assert {q.spec.axis for _, q in single.quantizers()} == {None}


def test_weights_are_symmetric_at_eight_bits_and_asymmetric_below(place: Place) -> None:
    captured = place(Residual(), IMAGES, overrides={"b": {"weights": 8}})
    specs = {t.layer: q.spec for t, q in captured.quantizers("weight")}
    assert {name: spec.symmetric for name, spec in specs.items()} == {
        "a": False, "b": True, "c": False, "d": False
    }  # fmt: skip


def test_activations_are_asymmetric_unless_asked(place: Place) -> None:
    for asked in (False, True):
        captured = place(Residual(), IMAGES, symmetric_activations=asked)
        assert {q.spec.symmetric for _, q in captured.quantizers("activation")} == {asked}


def test_a_reduced_range_takes_one_bit_from_eight_bit_weights_only(
    place: Place, bits: Bits
) -> None:
    given: dict[str, Any] = {"weights": 8, "activations": 8, "overrides": {"b": {"weights": 5}}}
    captured = place(Residual(), IMAGES, reduce_range=True, **given)
    assert bits(captured, "weight") == {"a": 7, "b": 5, "c": 7, "d": 7}
    assert set(bits(captured, "activation").values()) == {8}
    specs = {t.layer: q.spec for t, q in captured.quantizers("weight")}
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
    captured = place(Residual(), IMAGES, reduce_range=True, **fields)
    specs = [q.spec for _, q in captured.quantizers("weight")]
    assert {(spec.bits, spec.symmetric) for spec in specs} == {expected}
    # An asymmetric grid has as many levels on one side of its zero point, if need be.
    assert all(max(-s.low, s.high) <= 64 for s in specs)


def test_a_reduced_range_holds_for_products_of_activations(place: Place, bits: Bits) -> None:
    captured = place(TransformerBlock(), torch.randn(2, 5, 8), activations=8, reduce_range=True)
    found = {t.layer: q.spec for t, q in captured.quantizers("activation")}
    factors = {name for name, spec in found.items() if spec.symmetric}
    assert {found[name].bits for name in factors} == {7}
    assert len(factors) == 3  # queries, keys and values; not the softmax
    assert {spec.bits for name, spec in found.items() if name not in factors} == {8}


def test_without_activations(place: Place, bits: Bits) -> None:
    captured = place(Residual(), IMAGES, activations=None, first_last=8)
    assert bits(captured, "activation") == {}
    assert bits(captured, "weight") == {"a": 8, "b": 4, "c": 4, "d": 8}
    assert not any(layer.integer for layer in captured.layers)
    assert not [m for m in captured.modules() if isinstance(m, BiasQuantize)]


def test_without_weights(place: Place, bits: Bits) -> None:
    captured = place(Residual(), IMAGES, weights=None, first_last=8)
    assert bits(captured, "weight") == {}
    assert bits(captured, "activation") == {"a": 8, "b": 4, "c": 4, "add": 8, "d": 8}
    assert not [m for m in captured.modules() if isinstance(m, BiasQuantize)]


def test_without_either_the_model_is_as_it_was(place: Place) -> None:
    model = Residual()
    captured = place(model, IMAGES, weights=None, activations=None)
    assert quantizers(captured) == []
    assert {layer.reason for layer in captured.layers} == {"the recipe leaves it in float"}
    torch.testing.assert_close(captured(IMAGES), model(IMAGES))


def test_biases_are_on_the_grid_of_their_sums(place: Place) -> None:
    captured = place(Residual(), IMAGES, overrides={"c": {"weights": None}})
    modules = {q: t.readers for t, q in captured.quantizers()}
    found = [m.grids for m in captured.modules() if isinstance(m, BiasQuantize)]
    assert [tuple(modules[grid] for grid in grids) for grids in found] == [
        (("a",), ("a",)), (("b",), ("b",)), (("d",), ("d",))
    ]  # fmt: skip


def test_the_first_override_that_matches_wins_and_beats_first_last(
    place: Place, bits: Bits
) -> None:
    overrides = {"[ab]": {"weights": 3}, "b|c": {"weights": 6, "activations": 5}}
    captured = place(Residual(), IMAGES, weights=2, activations=2, overrides=overrides)
    assert bits(captured, "weight") == {"a": 3, "b": 3, "c": 6, "d": 2}
    assert bits(captured, "activation") == {"a": 2, "b": 2, "c": 5, "add": 8, "d": 2}
    captured = place(Residual(), IMAGES, first_last=8, overrides=overrides)
    assert bits(captured, "weight") == {"a": 3, "b": 3, "c": 6, "d": 8}
    assert bits(captured, "activation")["a"] == 8  # of which the override says nothing


def test_an_override_can_leave_a_side_in_float(place: Place, bits: Bits) -> None:
    overrides = {"b": {"activations": None}, "c": {"weights": None, "activations": None}}
    captured = place(Residual(), IMAGES, overrides=overrides)
    assert bits(captured, "weight") == {"a": 4, "b": 4, "d": 4}
    assert "b" not in bits(captured, "activation")
    assert [layer.integer for layer in captured.layers] == [True, False, False, True]
    assert captured.layers[2].reason == "the recipe leaves it in float"


def test_an_override_can_change_the_grid_and_its_rule(place: Place) -> None:
    override = {
        "symmetric_weights": True,
        "per_channel": False,
        "ranges": {"name": "mse", "p": 3},
    }
    captured = place(Residual(), IMAGES, ranges="minmax", overrides={"b": override})
    found = {(t.role, t.layer): (t.rule, q.spec) for t, q in captured.quantizers()}
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


@pytest.mark.parametrize("model", [nn.ReLU(), nn.ConvTranspose2d(4, 4, 2)])
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
    captured = place(model(), torch.randn(shape))
    captured.set_state(State.OBSERVE)
    captured(torch.randn(shape))
    assert all(layer.integer for layer in captured.layers)
    assert all(q.statistics is not None for _, q in captured.quantizers("activation"))


def test_a_batched_weight_has_a_scale_for_each_column(place: Place) -> None:
    class Batched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.table = nn.Linear(8, 8), nn.Parameter(torch.randn(3, 8, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)[:, None] @ self.table

    captured = place(Batched(), torch.randn(2, 6, 8))
    assert [t.layer for t, _ in captured.quantizers("weight")] == ["linear"]
    assert {layer.name: layer.reason for layer in captured.layers}["table"]


def test_a_product_with_a_vector(place: Place) -> None:
    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.vector = nn.Linear(8, 8), nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) @ self.vector

    model = Vector()
    captured = place(model, torch.randn(2, 8))
    torch.testing.assert_close(captured(torch.ones(3, 8)), model(torch.ones(3, 8)))
