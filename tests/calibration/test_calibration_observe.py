from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte import layers
from subbyte.calibration.observe import activation_ranges, channel_rows, with_sqnr
from subbyte.errors import SubbyteError
from subbyte.methods import range as ranges_alone
from subbyte.methods.common.context import Context
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent

Place = Callable[..., Simulation]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.a(x)))


class Counting(Silent):
    def __init__(self) -> None:
        self.counts: list[int] = []

    def track(
        self, items: Iterable[object], description: str, total: int | None = None
    ) -> Iterator[object]:
        items = list(items)
        self.counts.append(len(items))
        yield from items


def batches_of(images: torch.Tensor, size: int) -> list[tuple[torch.Tensor]]:
    return [(batch,) for batch in images.split(size)]


def images(n: int = 64) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def scales(simulation: Simulation) -> dict[tuple[str, str], list[float]]:
    return {
        (t.role, t.layer): [*q.scale.tolist(), *q.zero_point.tolist()]
        for t, q in simulation.quantizers()
    }


def calibrated(
    placed: Simulation, images: torch.Tensor, size: int = 16, progress: Silent | None = None
) -> Simulation:
    """With ranges by their rules, as the method `range` chooses them."""
    float_model, placement = placed.float_model, placed.placement
    context = Context(progress=progress or Silent())
    options, batches = ranges_alone.Options(), batches_of(images, size)
    params = ranges_alone.quantize(float_model, placement, batches, options, context)
    return simulate(float_model, placement, params)


def test_ranges_by_hand(place: Place) -> None:
    model, x = Two(), images()
    simulation = calibrated(
        place(model, x[:2], weights=4, activations=4, ranges="minmax", first_last=8), x
    )
    found = {(t.role, t.layer): q for t, q in simulation.quantizers()}

    def expect(role: str, layer: str, low: np.ndarray, high: np.ndarray, steps: int) -> None:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        np.testing.assert_allclose(found[role, layer].scale, (high - low) / steps, rtol=1e-5)
        zero_point = np.rint(-low / ((high - low) / steps))
        np.testing.assert_array_equal(found[role, layer].zero_point, zero_point)

    expect("activation", "a", x.numpy().min(), x.numpy().max(), 255)
    a = model.a.weight.detach().flatten(1).numpy()
    scale = np.maximum(a.max(1) / 127, a.min(1) / -128)
    np.testing.assert_allclose(found["weight", "a"].scale, scale, rtol=1e-6)
    # What the second layer reads was computed with the first one's quantized weights.
    w = (np.rint(a / scale[:, None]) * scale[:, None]).reshape(8, 3, 3, 3).astype(np.float32)
    y = F.relu(F.conv2d(x, torch.from_numpy(w), model.a.bias.detach(), padding=1))
    expect("activation", "b", np.array(0.0), y.max().numpy(), 255)


def test_weights_of_each_channel_by_hand(place: Place) -> None:
    model = Two()
    simulation = calibrated(place(model, images(2), ranges="minmax"), images())
    for tensor, quantizer in simulation.quantizers("weight"):
        w = getattr(model, tensor.layer).weight.detach().flatten(1).numpy()
        low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
        np.testing.assert_allclose(quantizer.scale, (high - low) / 15, rtol=1e-5)


def test_the_same_batches_give_the_same_scales(place: Place) -> None:
    placed = place(Two(), images(2))
    first, second = calibrated(placed, images()), calibrated(place(Two(), images(2)), images())
    assert scales(first) == scales(second)
    assert scales(calibrated(placed, images())) == scales(first)


def test_the_size_of_the_batches_hardly_matters(place: Place) -> None:
    placed = place(Two(), images(2), ranges={"weights": "mse", "activations": "percentile"})
    one, other = (scales(calibrated(placed, images(), size)) for size in (64, 5))
    for key, values in one.items():
        assert other[key] == pytest.approx(values, rel=0.01, abs=1e-9)


def test_what_is_given_stays_as_it_was(place: Place) -> None:
    placed = place(Two(), images(2))
    before = placed(images())
    calibrated(placed, images())
    assert not any(q.has_params or q._forward_pre_hooks for _, q in placed.quantizers())
    assert torch.equal(placed(images()), before)


def test_what_the_quantized_model_computes(place: Place) -> None:
    x, model = images(), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    x = x.flatten()[:1800].reshape(300, 6)
    simulation = calibrated(place(model, x, weights=3, activations=4, ranges="minmax"), x)
    found = {(t.role, t.layer): q for t, q in simulation.quantizers()}
    y = x.double().numpy()
    for layer in ("0", "2"):
        activation, weight = found["activation", layer], found["weight", layer]
        a, s = (float(activation.zero_point), float(activation.scale))
        level = np.clip(np.rint(y / s) + a, 0, 15) - a
        scale, zero = weight.scale.double().numpy(), weight.zero_point.double().numpy()
        parameters = model.get_submodule(layer)
        w = parameters.weight.detach().double().numpy()
        w = np.clip(np.rint(w / scale[:, None]) + zero[:, None], 0, 7) - zero[:, None]
        bias = np.rint(parameters.bias.detach().double().numpy() / (s * scale))
        y = (level @ w.T + bias) * (s * scale)
        y = np.maximum(y, 0) if layer == "0" else y
    np.testing.assert_allclose(simulation(x).numpy(), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "counts"),
    [
        ({"ranges": "minmax"}, [2, 4]),
        ({}, [2, 4, 8]),  # and 64 of them again for the gradients, 8 at a time
        ({"ranges": {"activations": {"name": "mse", "p": 2}}}, [2, 4]),
        ({"activations": None}, [2]),
        ({"weights": None}, [0, 4, 8]),
    ],
)
def test_images_are_seen_only_as_often_as_needed(
    recipe: dict[str, object], counts: list[int], place: Place
) -> None:
    progress = Counting()
    calibrated(place(Two(), images(2), **recipe), images(), 16, progress)
    assert progress.counts == counts


def test_images_with_nan_name_the_layer(place: Place) -> None:
    x = images()
    x[40] = math.nan
    with pytest.raises(SubbyteError, match="the activations at layer 'a' hold NaN"):
        calibrated(place(Two(), x[:2]), x)


def test_noise_is_measured_on_what_was_seen(place: Place) -> None:
    model, x = Two(), images()
    simulation = calibrated(place(model, x[:2], ranges="minmax", weights=5), x)
    rows = {(row["role"], row["layer"]): row for row in layers(simulation)}
    for values, key in ((x, ("activation", "a")), (model.b.weight, ("weight", "b"))):
        values, row = values.detach().double(), rows[key]
        shape = (-1, 1, 1, 1) if row["per_channel"] else ()
        scale, zero = (
            torch.tensor(row[k]).double().reshape(shape) for k in ("scale", "zero_point")
        )
        highest = 2 ** row["bits"] - 1
        quantized = ((values / scale).round() + zero).clamp(0, highest).sub(zero) * scale
        noise = (quantized - values).square().sum()
        expected = 10 * math.log10(values.square().sum() / noise)
        assert row["sqnr_db"] == pytest.approx(expected, abs=0.05)


def test_noise_is_that_of_the_scales_as_they_are(place: Place) -> None:
    x = images()
    placed = place(Two(), x[:2], ranges="minmax", weights=None)
    found, samples = activation_ranges(placed, batches_of(x, 16), Silent())
    coarse = replace(found["a.activation"], scale=found["a.activation"].scale * 1.5)
    params = QuantParams({**found, "a.activation": coarse})
    now = with_sqnr(placed.placement, params, samples).tensors["a.activation"]
    scale, zero = float(coarse.scale), int(coarse.zero_point)
    quantized = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 15).double()
    noise = (quantized - x.double()).square().sum()
    expected = 10 * math.log10(x.double().square().sum() / noise)
    assert now.sqnr_db == pytest.approx(expected, abs=0.1)


def test_rows_of_a_weight() -> None:
    weight = torch.arange(24.0).reshape(2, 3, 4)
    assert channel_rows(weight, None).tolist() == [weight.flatten().tolist()]
    for axis in range(3):
        expected = [weight.select(axis, i).flatten().tolist() for i in range(weight.shape[axis])]
        assert channel_rows(weight, axis).tolist() == expected
