from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from placed import placed
from subbyte.graph.capture.export import capture
from subbyte.placement.placement import PlacedLayer
from subbyte.recipe import Recipe


class Standardized(nn.Conv2d):
    """Weight standardization (Qiao et al. 2019) by a batch norm over the weight, with a gain."""

    def __init__(self, inputs: int = 3) -> None:
        super().__init__(inputs, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, 4, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain * 0.3, training=True, momentum=0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1)


class Wrapped(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def layers(model: nn.Module, x: torch.Tensor) -> list[PlacedLayer]:
    """The layers of the captured model, which computes what the model does."""
    simulation = placed(model, (x,), Recipe())
    with torch.no_grad():
        torch.testing.assert_close(simulation(x), model(x), rtol=1e-5, atol=1e-5)
    return list(simulation.placement.layers)


def test_a_standardized_weight_is_the_layers_own() -> None:
    model, x = Wrapped(Standardized(), nn.ReLU(), Standardized(4)).eval(), torch.randn(2, 3, 6, 6)
    found = layers(model, x)
    assert [(layer.name, layer.integer) for layer in found] == [("body.0", True), ("body.2", True)]
    weight = capture(model, (x,)).get_submodule("body.0").weight
    flat = model.body[0].weight.double().flatten(1)
    standard = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0) + 1e-5).sqrt()[
        :, None
    ]
    expected = (standard * (model.body[0].gain[:, None].double() * 0.3)).reshape(4, 3, 3, 3)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_weight_by_parametrization_is_called_as_its_layer() -> None:
    model = Wrapped(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 3, 1, bias=False)),
    ).eval()
    found = layers(model, torch.randn(2, 3, 5)[:, :, :5])
    assert [(layer.name, layer.integer) for layer in found] == [("body.0", True), ("body.1", True)]


class OneWeightTwoWays(nn.Module):
    def __init__(self, computed: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.computed = computed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = self.weight.tanh() if self.computed else self.weight
        return F.linear(F.linear(x, self.weight.sigmoid()), other)


@pytest.mark.parametrize("computed", [True, False])
def test_a_parameter_that_is_read_in_two_ways_keeps_both(computed: bool) -> None:
    found = layers(OneWeightTwoWays(computed).eval(), torch.randn(3, 4))
    assert all(layer.integer for layer in found)
    assert len({layer.name for layer in found}) == 2


class OneFromAnother(nn.Module):
    """Two constants that the rest reads, the second of which is computed from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.steps = nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.steps.exp()
        second = first.cumsum(0)
        return self.linear(x * first) + second


def test_a_constant_that_is_computed_from_another_one() -> None:
    model, x = OneFromAnother().eval(), torch.randn(2, 3)
    module = capture(model, (x,))
    torch.testing.assert_close(module(x), model(x))
    steps = model.steps.detach().double().exp()
    read = [node for node in module.graph.nodes if node.op == "get_attr"]
    constants = [module.get_parameter(str(n.target)) for n in read if "linear" not in str(n.target)]
    torch.testing.assert_close([c.double() for c in constants], [steps, steps.cumsum(0)])
    assert not any("exp" in str(n.target) for n in module.graph.nodes if n.op == "call_function")


class MadeAsItRuns(nn.Module):
    """Constants that are no parameters, but numbers in the user's code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shown = torch.tensor([True, False, True]).to(x.dtype)  # the exporter checks its type
        return self.linear(x) * shown + (torch.tensor([1.0, 2.0, 4.0]) * 2).log2()


def test_what_is_computed_from_numbers_in_the_code() -> None:
    model, x = MadeAsItRuns().eval(), torch.randn(2, 3)
    module = capture(model, (x,))
    torch.testing.assert_close(module(x), model(x))
    added = torch.tensor([1.0, 2.0, 3.0])
    assert any(torch.equal(value, added) for value in module.parameters())


class SpreadOut(nn.Module):
    """Position biases of two heads in a table, spread out over all pairs of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.table = nn.Parameter(torch.randn(11, 2))
        at = torch.arange(6)
        self.register_buffer("index", at[:, None] - at[None] + 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)[:, :, None, None] + self.table[self.index]


def test_a_table_that_is_spread_out_stays_a_table() -> None:
    model, x = SpreadOut().eval(), torch.randn(3, 6)
    module = capture(model, (x,))
    before = sum(value.numel() for value in model.state_dict().values())
    assert sum(value.numel() for value in module.state_dict().values()) == before
    torch.testing.assert_close(module(x), model(x))


class OnPositions(nn.Module):
    """A small network on a table of positions gives the biases, as in Swin V2."""

    def __init__(self, positions: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("positions", torch.rand(positions, 2))
        self.inner, self.outer = nn.Linear(2, hidden), nn.Linear(hidden, 4, bias=False)
        self.linear = nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        biases = self.outer(self.inner(self.positions).relu())
        return self.linear(x)[:, None] + biases.repeat(10, 1)


@pytest.mark.parametrize(("positions", "hidden"), [(9, 8), (99, 8)])
def test_layers_on_constants_are_no_layers_and_nothing_is_spread_out(
    positions: int, hidden: int
) -> None:
    model, x = OnPositions(positions, hidden).eval(), torch.randn(3, 9)
    assert [layer.name for layer in layers(model, x)] == ["linear"]
    nodes = capture(model, (x,)).graph.nodes
    shapes = [tuple(node.meta["val"].shape) for node in nodes if node.op == "get_attr"]
    assert sorted(shapes) == sorted([(4, 9), (4,), (positions, 4)])


class Counts(nn.Module):
    """Adds up what it has seen: the buffer is written to, and what is computed from it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x) + self.calls * 2


def test_what_is_written_to_is_no_constant() -> None:
    model, x = Counts().eval(), torch.randn(2, 3)
    module = capture(model, (x,))
    first, second = module(x), module(x)
    torch.testing.assert_close(second - first, torch.full((2, 3), 2.0))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + torch.rand_like(self.scale)


def test_what_is_random_is_no_constant() -> None:
    module, x = capture(Noisy().eval(), (torch.randn(2, 3),)), torch.randn(2, 3)
    assert not torch.equal(module(x), module(x))
