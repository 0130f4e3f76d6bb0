from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

import subbyte
import subbyte.api
from subbyte.graph.capture.export import capture
from subbyte.graph.equalize import equalize, equalized
from subbyte.graph.operators import A

Trained = Callable[[nn.Module], nn.Module]


def uneven(model: nn.Module) -> nn.Module:
    """Random weights whose channels differ a hundredfold, and biases that make activations large.

    Inputs of 10 · N(0, 1) then reach beyond 6 in some channels and stay below it in others.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            rows = torch.logspace(-1, 1, len(layer.weight))[torch.randperm(len(layer.weight))]
            with torch.no_grad():
                layer.weight *= rows.reshape(-1, *[1] * (layer.weight.dim() - 1))
                if layer.bias is not None:
                    layer.bias.normal_(1)
    with torch.no_grad():  # outputs of an order of magnitude on which 1e-5 means something
        layers = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
        layers[-1].weight /= 1000
    return model.eval()


def both(model: nn.Module, x: Tensor) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The model simulation, as it is and equalized, which must compute the same."""
    before, after = capture(model, (x,)), capture(model, (x,))
    equalize(after)
    expected = model(x)
    torch.testing.assert_close(after(x), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.01
    return before, after


def weight(module: fx.GraphModule, name: str) -> Tensor:
    value: Tensor = module.get_submodule(name).weight
    return value


def changed(before: fx.GraphModule, after: fx.GraphModule) -> set[str]:
    """The names of the layers whose weights have become others."""
    here, there = dict(before.named_parameters()), dict(after.named_parameters())
    names = {name for name in here if not torch.equal(here[name], there[name])}
    return {name.removesuffix(".weight") for name in names if name.endswith("weight")}


def ranges(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The largest magnitudes of the first weight's rows and of the second one's columns."""
    return first.abs().flatten(1).amax(1), second.abs().transpose(0, 1).flatten(1).amax(1)


def test_two_layers_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[8.0, -2.0], [0.5, 0.25]]))
        model[0].bias.copy_(torch.tensor([4.0, 3.0]))
        model[2].weight.copy_(torch.tensor([[2.0, -8.0]]))
    module = capture(model, (torch.randn(3, 2),))
    equalize(module)
    # r₁ = (8, 0.5), r₂ = (2, 8): s = √(r₁ r₂) / r₂ = (4 / 2, 2 / 8) = (2, 0.25).
    first, second = module.get_submodule("0"), module.get_submodule("2")
    torch.testing.assert_close(first.weight, torch.tensor([[4.0, -1.0], [2.0, 1.0]]))
    torch.testing.assert_close(first.bias, torch.tensor([2.0, 12.0]))
    torch.testing.assert_close(second.weight, torch.tensor([[4.0, -2.0]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "between"),
    [
        (1, []),
        (2, [nn.ReLU()]),
        (1, [nn.ReLU6()]),
        (4, [nn.ReLU6()]),
        (1, [nn.Hardtanh(0, 2)]),
        (1, [nn.LeakyReLU(0.1)]),
        (1, [nn.MaxPool2d(3, padding=1), nn.ReLU6()]),
        (1, [nn.ReLU6(), nn.AvgPool2d(2), nn.Dropout(), nn.ZeroPad2d(1)]),
    ],
)
def test_the_outputs_stay_and_the_ranges_meet(groups: int, between: list[nn.Module]) -> None:
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=groups)
    model = uneven(nn.Sequential(first, *between, second))
    x = 10 * torch.randn(2, 3, 12, 12)
    if between:
        values = first(x)
        assert ((values > 6).any(3).any(2) & (values > 0.1).any(3).any(2)).any()
    _, after = both(model, x)
    narrow, wide = after.get_submodule("0").weight, weight(after, str(len(between) + 1))
    columns = wide.abs().reshape(groups, 12 // groups, 8 // groups, 9).amax((1, 3)).flatten()
    torch.testing.assert_close(narrow.abs().flatten(1).amax(1), columns)


def test_relu6_is_hit_and_limits_each_channel() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1)))
    x = 10 * torch.randn(4, 3, 6, 6)
    before, after = both(model, x)
    hit = (model[0](x) > 6).float().mean((0, 2, 3))
    assert ((hit > 0.1) & (hit < 0.9)).sum() > 3
    clamp = next(node for node in after.graph.nodes if node.target is A.clamp.Tensor)
    limit = getattr(after, clamp.args[2].target).flatten()
    factors = weight(before, "0").flatten(1).amax(1) / weight(after, "0").flatten(1).amax(1)
    torch.testing.assert_close(limit, 6 / factors)


def test_a_chain_with_a_depthwise_convolution_is_balanced_at_every_place() -> None:
    model = uneven(
        nn.Sequential(
            *(nn.Conv2d(4, 16, 1), nn.ReLU6()),
            *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6()),
            nn.Conv2d(16, 4, 1),
        )
    )
    _, after = both(model, 10 * torch.randn(2, 4, 8, 8))
    expand, depthwise, project = (weight(after, name) for name in "024")
    by_channel = depthwise.abs().flatten(1).amax(1)
    torch.testing.assert_close(expand.abs().flatten(1).amax(1), by_channel, rtol=2e-3, atol=0)
    torch.testing.assert_close(ranges(depthwise, project)[1], by_channel, rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU6(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 2)),
        nn.Sequential(nn.Linear(9, 6), nn.ReLU6(), nn.Linear(6, 4, bias=False)),
        nn.Sequential(nn.Conv1d(3, 6, 3, bias=False), nn.ReLU6(), nn.Flatten(), nn.Linear(42, 2)),
        nn.Sequential(nn.Conv1d(3, 6, 3), nn.Flatten(), nn.ReLU6(), nn.Linear(42, 2)),
    ],
    ids=["conv1d", "linear", "conv1d-flatten-linear", "limited-behind-flattening"],
)
def test_other_layers(model: nn.Module) -> None:
    before, after = both(uneven(model), 10 * torch.randn(5, 3, 9))
    assert changed(before, after) == {"0", str(len(model) - 1)}


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(4), nn.Identity()])
def test_a_linear_layer_behind_a_convolution(pool: nn.Module) -> None:
    inputs = 8 * 16 if isinstance(pool, nn.Identity) else 8
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU6(), pool, nn.Flatten(), nn.Dropout(), nn.Linear(inputs, 5)
    )
    before, after = both(uneven(model), 10 * torch.randn(2, 3, 6, 6))
    assert changed(before, after) == {"0", "5"}
    columns = weight(after, "5").abs().amax(0).reshape(8, -1).amax(1)
    torch.testing.assert_close(weight(after, "0").abs().flatten(1).amax(1), columns)


def test_a_mean_over_the_positions_passes() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(F.relu6(self.conv(x)).mean((2, 3)))

    before, after = both(uneven(Mean()), 10 * torch.randn(2, 3, 6, 6))
    assert changed(before, after) == {"conv", "linear"}


class Between(nn.Module):
    """Two convolutions with a function of the first one's result between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda y: F.relu(y) + F.max_pool2d(y, 1),  # two readers
        lambda y: y + 1,
        F.silu,
        F.hardswish,
        lambda y: F.hardtanh(y, -1, 1),
        lambda y: F.pad(y, (1, 1), value=2.0),
        lambda y: F.pad(y, (0, 0, 0, 0, 1, 0))[:, 1:],  # its channels are moved
        lambda y: y.flip(1),
        lambda y: y.transpose(1, 2),
        lambda y: F.softmax(y, 1),
    ],
)
def test_what_lets_no_factor_pass_keeps_layers_apart(function: Callable[..., Tensor]) -> None:
    before, after = both(uneven(Between(function)), torch.randn(2, 4, 4, 4))
    assert changed(before, after) == set()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = F.relu6(x + self.second(F.relu6(self.first(x))))
        return self.last(x)


def test_only_what_is_inside_a_residual_block_is_equalized() -> None:
    before, after = both(uneven(Residual()), torch.randn(2, 3, 6, 6))
    assert changed(before, after) == {"first", "second"}


class Tied(nn.Module):
    """The second and third layer share a weight, or a bias, or there is one that is used twice."""

    def __init__(self, shared: str) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 1) for _ in range(3))
        if shared == "layer":
            self.third = self.second
        else:
            setattr(self.third, shared, getattr(self.second, shared))

    def forward(self, x: Tensor) -> Tensor:
        return self.third(F.relu(self.second(F.relu(self.first(x)))))


@pytest.mark.parametrize("shared", ["weight", "bias", "layer"])
def test_parameters_that_are_used_again_stay(shared: str) -> None:
    before, after = both(uneven(Tied(shared)), torch.randn(2, 4, 4, 4))
    assert changed(before, after) == set()


def test_channels_without_a_range_stay() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU6(), nn.Conv2d(6, 4, 1)))
    with torch.no_grad():
        model[0].weight[0] = 0  # gives its bias alone
        model[0].weight[1] = 1e-12
        model[2].weight[:, 2] = 0  # is read by nobody
        model[2].weight[:, 3] = -1e-12
    before, after = both(model, torch.randn(2, 3, 4, 4))
    assert torch.equal(weight(after, "0")[:4], weight(before, "0")[:4])
    assert torch.equal(weight(after, "2")[:, :4], weight(before, "2")[:, :4])
    assert not torch.isclose(weight(after, "0")[4:], weight(before, "0")[4:]).any()


def test_a_layer_of_zeros_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    nn.init.zeros_(model[0].weight)
    before, after = both(model, torch.randn(2, 3, 4, 4))
    assert changed(before, after) == set()


@pytest.mark.whole
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_whole_networks_compute_what_they_did(name: str, trained: Trained) -> None:
    model = trained(torchvision.models.get_model(name, num_classes=10))
    x = torch.randn(2, 3, 64, 64)
    before, after = capture(model, (x,)), capture(model, (x,))
    equalize(after)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(after(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())
    inside = {"mobilenet_v2": "features.3.conv.1.0", "resnet18": "layer2.0.conv1"}[name]
    apart = {"mobilenet_v2": "classifier.0", "resnet18": "conv1"}[name]
    assert inside in changed(before, after)
    assert apart not in changed(before, after)
    limits = sum(node.target is A.clamp.Tensor for node in after.graph.nodes)
    assert limits == {"mobilenet_v2": 35, "resnet18": 0}[name]


def test_limits_belong_to_the_layer_that_they_stand_behind(
    stands: Callable[..., tuple[list[str], list[str]]],
) -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1)))
    recipe = subbyte.Recipe(equalize=True, method="range")
    simulation = subbyte.quantize(model, [torch.randn(2, 3, 6, 6)], recipe)
    assert stands(simulation, "2") == (["clamp"], ["conv2d"])
    assert len(simulation.placement.tensors) == 4


def test_the_captured_model_is_left_as_it_was() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1)))
    x = torch.randn(2, 3, 6, 6)
    float_model = subbyte.api.capture(model, (x,))
    before = {name: value.clone() for name, value in float_model.model.state_dict().items()}
    code = float_model.region("").code
    other = equalized(float_model)
    assert float_model.region("").code == code
    assert all(
        torch.equal(value, before[name]) for name, value in float_model.model.state_dict().items()
    )
    assert not torch.equal(other.region("").get_parameter("0.weight"), before["0.weight"])
    torch.testing.assert_close(other(x), float_model(x), rtol=1e-5, atol=1e-5)
    assert other.fingerprints == float_model.fingerprints


def test_what_moves_ranges_between_layers_is_taken_back() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    factors = torch.logspace(-1.5, 1.5, 16).reshape(-1, 1, 1, 1)
    with torch.no_grad():  # the model stays the same
        model[0].weight *= factors
        model[0].bias *= factors.flatten()
        model[2].weight /= factors.reshape(1, -1, 1, 1)
    x = torch.randn(16, 8, 12, 12)
    recipes = [
        subbyte.Recipe(per_channel=False, activations=None, method="range", equalize=on)
        for on in (False, True)
    ]
    plain, even = (subbyte.quantize(model, [x], recipe) for recipe in recipes)
    with torch.no_grad():
        errors = [(q(x) - model(x)).square().mean() for q in (plain, even)]
        torch.testing.assert_close(even.float_model(x), model(x), rtol=0, atol=1e-5)
    assert errors[1] < errors[0] / 10


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3)))
    x = 10 * torch.randn(4, 3, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    saved = subbyte.quantize(model, [x], subbyte.Recipe(equalize=True, per_channel=False))
    subbyte.save(saved, tmp_path / "file")
    loaded = subbyte.load(model, tmp_path / "file")
    assert torch.equal(loaded(x), saved(x))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
