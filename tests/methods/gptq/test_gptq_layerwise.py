"""Layer by layer: each is fitted to what it reads quantized, judged here in float64."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.methods.common.context import Context
from subbyte.methods.gptq.chunks import held_out_images
from subbyte.methods.gptq.layer_samples import Sampling
from subbyte.methods.gptq.layerwise import LayerwiseSettings, quantize_layers
from subbyte.numerics.qparams import QuantParams, dequantize, signed_integers
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent

SETTINGS = LayerwiseSettings(2**30, Sampling())
INPUTS = 5
# Inputs that go together, so that integers can make up for one another.
MIX = torch.randn(INPUTS, INPUTS, generator=torch.Generator().manual_seed(1))
X = torch.randn(200, INPUTS, generator=torch.Generator().manual_seed(0)) @ MIX + 0.5
BATCHES = [(X,)]
TRAIN = ~torch.isin(torch.arange(len(X)), held_out_images(len(X)))


class Two(nn.Module):
    """Two layers with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, INPUTS)
        self.second = nn.Linear(INPUTS, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(torch.relu(self.first(x)))
        return found


class Sum(nn.Module):
    """Two layers of the same input, added; of the second, integers have 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Linear(INPUTS, 4)
        self.fine = nn.Linear(INPUTS, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.coarse(x) + self.fine(x)
        return found


class Twice(nn.Module):
    """A layer that is used twice, and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(INPUTS, INPUTS)
        self.last = nn.Linear(INPUTS, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(torch.relu(self.again(torch.relu(self.again(x)))))
        return found


def rounded(model: nn.Module, **recipe: object) -> Simulation:
    """A model rounded to nearest."""
    given = {"weights": 2, "activations": 8, "first_last": None, "method": "range", **recipe}
    return quantize(model.eval(), [x for (x,) in BATCHES], Recipe(**given))


def fitted(before: Simulation, context: Context | None = None) -> QuantParams:
    own = (before.float_model, before.placement, before.params)
    return quantize_layers(*own, BATCHES, SETTINGS, context or Context())


def read_by(simulation: Simulation, layer: str) -> torch.Tensor:
    """What a linear layer reads, float64."""
    key = next(x for x in simulation.placement.layers if x.name == layer).activations[0]
    seen: list[torch.Tensor] = []
    quantizer = simulation.quantizer(key)
    handle = quantizer.register_forward_hook(lambda _, __, y: seen.append(y.double()))
    simulation(X)
    handle.remove()
    return seen[0]


def best_bias(inputs: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (target - inputs @ weight.T)[TRAIN].mean(0)


def error(inputs: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each output on the images fitted to, with the best bias."""
    outputs = inputs @ weight.T + best_bias(inputs, weight, target)
    return (outputs - target)[TRAIN].square().mean(0)


@pytest.fixture
def two() -> tuple[Two, Simulation, QuantParams]:
    model = Two().eval()
    before = rounded(model)
    return model, before, fitted(before)


Fitted = tuple[Two, Simulation, QuantParams]


def test_no_neighbour_of_the_integers_is_clearly_better(two: Fitted) -> None:
    """All 3⁵ neighbours of a row's integers, each with its least-squares scale and bias.

    Of the last layer, whose outputs count alike.
    """
    model, before, found = two
    inputs = read_by(simulate(before.float_model, before.placement, found), "second")
    target = model(X).detach().double()
    tensor = before.placement.tensor("second.weight")
    params = found.tensors[tensor.key]
    at_found = error(inputs, dequantize(params, tensor.spec).double(), target)
    nearest = dequantize(before.params.tensors[tensor.key], tensor.spec).double()
    assert float(at_found.sum()) < 0.7 * float(error(inputs, nearest, target).sum())
    signed, zero = signed_integers(params, tensor.spec).double(), params.zero_point
    x = (inputs - inputs[TRAIN].mean(0))[TRAIN]
    t = (target - target[TRAIN].mean(0))[TRAIN]
    steps = torch.tensor(list(itertools.product((-1, 0, 1), repeat=INPUTS)))
    for output in range(len(signed)):
        low, high = (int(end - zero[output]) for end in (tensor.spec.low, tensor.spec.high))
        given = x @ (signed[output] + steps).clamp(low, high).T
        scales = (given * t[:, output, None]).sum(0) / given.square().sum(0).clamp(min=1e-12)
        best = (given * scales - t[:, output, None]).square().mean(0).min()
        assert float(at_found[output]) <= 1.05 * float(best)


def test_biases_make_the_mean_outputs_those_of_the_float_network(two: Fitted) -> None:
    model, before, found = two
    after = simulate(before.float_model, before.placement, found)
    inputs = read_by(after, "second")
    tensor = before.placement.tensor("second.weight")
    weight = dequantize(found.tensors[tensor.key], tensor.spec).double()
    expected = best_bias(inputs, weight, model(X).detach().double())
    assert torch.allclose(found.biases["second.bias"].double(), expected, atol=1e-5)


def test_what_it_was_given_stays_as_it_is(two: Fitted) -> None:
    model, before, found = two
    assert torch.allclose(before.float_model(X), model(X), atol=1e-6)
    assert before.params.biases == {}
    assert before.params.reported == {"seconds": before.params.reported["seconds"]}
    assert set(found.tensors) == set(before.params.tensors)
    for tensor in before.placement.of_role("activation"):
        assert torch.equal(found.tensors[tensor.key].scale, before.params.tensors[tensor.key].scale)


def test_the_last_of_a_sum_makes_up_for_what_the_first_has_lost() -> None:
    model = Sum().eval()
    before = rounded(model, overrides={"fine": {"weights": 8}}, activations=None)
    found = fitted(before)
    after = simulate(before.float_model, before.placement, found)
    tensor = before.placement.tensor("coarse.weight")
    weight = dequantize(found.tensors[tensor.key], tensor.spec)
    with torch.no_grad():
        first = nn.functional.linear(X, weight, found.biases["coarse.bias"])
        lost = (first - model.coarse(X)).square().mean()
        left = (after(X) - model(X)).square().mean()
    assert float(left) < 1e-2 * float(lost)


def test_a_weight_that_two_layers_share_is_fitted_once() -> None:
    before = rounded(Twice())
    found = fitted(before)
    assert [note["block"] for note in found.reported["blocks"]] == ["again", "last"]
    after = simulate(before.float_model, before.placement, found)
    exact = before.float_model(X)
    errors = [float((x(X) - exact).square().mean()) for x in (before, after)]
    assert errors[1] < 0.8 * errors[0]


def test_a_layer_of_which_rounding_loses_nothing_keeps_its_integers() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 3))
    with torch.no_grad():  # 0 … 3 less 1, times 0.5
        model[0].weight.copy_(0.5 * (torch.arange(3 * INPUTS).reshape(3, INPUTS) % 4 - 1))
    before = rounded(model, activations=None, ranges="minmax")
    found = fitted(before)
    (note,) = found.reported["blocks"]
    assert note["fell_back"]
    assert "damping" not in note
    key = "0.weight"
    assert torch.equal(found.tensors[key].integers, before.params.tensors[key].integers)


class StopError(Exception):
    pass


class Stopping(Silent):
    """Stops when so many layers are done."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def track(self, items, description, total=None):  # type: ignore[no-untyped-def]
        for i, item in enumerate(items):
            if i == self.layers and description == "fitting layers":
                raise StopError
            yield item


@pytest.mark.parametrize("finished", [1, 2])
def test_a_killed_run_goes_on_to_the_same_result_bit_for_bit(finished: int, tmp_path: Path) -> None:
    class Three(nn.Module):
        """Two branches, so that several values wait at a time."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, INPUTS)
            self.right = nn.Linear(INPUTS, INPUTS)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.stem(x))
            found: torch.Tensor = self.left(y) + self.right(y)
            return found

    before = rounded(Three())
    whole = fitted(before)
    with pytest.raises(StopError):
        fitted(before, Context(progress=Stopping(finished), resume=tmp_path))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == finished
    again = fitted(before, Context(resume=tmp_path))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert len(list(tmp_path.iterdir())) == 3
    assert again.tensors.keys() == whole.tensors.keys()
    assert again.biases.keys() == whole.biases.keys()
    for key, params in whole.tensors.items():
        other = again.tensors[key]
        assert torch.equal(params.scale, other.scale)
        assert torch.equal(params.zero_point, other.zero_point)
        if params.integers is not None:
            assert torch.equal(params.integers, other.integers)
    for name, value in whole.biases.items():
        assert torch.equal(value, again.biases[name])
    gains = [[note.get("gain") for note in x.reported["blocks"]] for x in (whole, again)]
    assert gains[0] == gains[1]
