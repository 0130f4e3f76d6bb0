from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import subbyte
from small_detectors import detector, pictures
from subbyte import Recipe, quantize
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.a(x)).flatten(1))


def quantized() -> tuple[nn.Module, Simulation, torch.Tensor]:
    model, images = Model().eval(), torch.randn(4, 3, 6, 6)
    return (
        model,
        quantize(model, [images], Recipe(weights=3, activations=4, method="bias_correction")),
        images,
    )


def with_tensors(simulation: Simulation, role: str) -> Simulation:
    params = simulation.params
    kept = {t.key for t in simulation.placement.of_role(role)}
    some = {key: found for key, found in params.tensors.items() if key in kept}
    return simulate(simulation.float_model, simulation.placement, QuantParams(some))


def test_without_parameters_it_computes_what_the_float_model_does() -> None:
    model, simulation, images = quantized()
    empty = simulate(simulation.float_model, simulation.placement, QuantParams())
    torch.testing.assert_close(empty(images), model(images).detach())
    assert torch.equal(empty(images), simulation.float_model(images))


def test_tensors_without_parameters_pass_in_float() -> None:
    model, simulation, images = quantized()
    weights = with_tensors(simulation, "weight")
    rows = {(r["layer"], r["role"]): r for r in subbyte.layers(simulation)}

    def rounded(layer: str) -> torch.Tensor:
        row, w = rows[layer, "weight"], model.get_submodule(layer).weight.detach()
        shape = (-1, *[1] * (w.dim() - 1))
        scale, zero = (torch.tensor(row[k]).reshape(shape) for k in ("scale", "zero_point"))
        signed = simulation.params.tensors[f"{layer}.weight"].integers.to(torch.int32) - zero
        return signed * scale

    hidden = F.relu(F.conv2d(images, rounded("a"), model.a.bias)).flatten(1)
    expected = F.linear(hidden, rounded("b"), model.b.bias).detach()
    # The biases were corrected as well, which these parameters leave out.
    torch.testing.assert_close(weights(images), expected)


def test_the_float_model_shares_memory_and_is_never_written_to() -> None:
    model, simulation, images = quantized()
    float_model = simulation.float_model
    before = copy.deepcopy(float_model.model.state_dict())
    weight = simulation.region("").get_parameter("a.weight")
    assert weight.data_ptr() == float_model.region("").get_parameter("a.weight").data_ptr()
    simulation.put_bias("a.bias", torch.full((4,), 9.0))
    for _, quantizer in simulation.quantizers():
        quantizer.scale.mul_(2)
    simulation(images)
    after = float_model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    torch.testing.assert_close(float_model(images), model(images).detach())


def test_a_bias_that_is_put_is_among_the_parameters_and_no_other() -> None:
    _, simulation, _ = quantized()
    empty = simulate(simulation.float_model, simulation.placement, QuantParams())
    assert empty.params.biases == {}
    empty.put_bias("a.bias", torch.arange(4.0))
    assert empty.params.biases.keys() == {"a.bias"}
    assert torch.equal(empty.params.biases["a.bias"], torch.arange(4.0))


def test_the_same_parameters_give_the_same_simulation() -> None:
    _, simulation, images = quantized()
    again = simulate(simulation.float_model, simulation.placement, simulation.params)
    assert torch.equal(again(images), simulation(images))
    copied = copy.deepcopy(simulation)
    assert torch.equal(copied(images), simulation(images))


def test_another_target_has_fewer_quantizers_and_the_same_parameters() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b(y * torch.sigmoid(y)).mean((2, 3))

    images = torch.randn(4, 3, 6, 6)
    simulation = quantize(Gated().eval(), [images], Recipe(method="range"))
    placement = simulation.placement
    fewer = placement.for_target("openvino")
    assert len(fewer.tensors) < len(placement.tensors)
    assert placement.for_target("onnxruntime") is placement
    assert placement.for_target(None) is placement
    own = simulate(simulation.float_model, fewer, simulation.params)
    gone = {t.key for t in placement.tensors} - {t.key for t in fewer.tensors}
    with torch.no_grad():
        expected = simulate(
            simulation.float_model,
            placement,
            QuantParams(
                {k: v for k, v in simulation.params.tensors.items() if k not in gone},
                simulation.params.biases,
            ),
        )(images)
    assert torch.equal(own(images), expected)


def test_training_mode_changes_nothing() -> None:
    _, simulation, images = quantized()
    expected = simulation(images)
    assert not simulation.train().training
    assert torch.equal(simulation(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "ssd"])
def test_a_detector_is_called_as_it_was(name: str) -> None:
    model, images = detector(name), pictures()
    simulation = quantize(model, [images], Recipe(method="range"))
    empty = simulate(simulation.float_model, simulation.placement, QuantParams())
    for found, expected in zip(empty(images), model(images), strict=True):
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value.detach(), rtol=1e-4, atol=1e-4)
    raw = simulation.raw(images)
    assert isinstance(raw, tuple)
    assert all(len(x) == len(images) for x in raw)
