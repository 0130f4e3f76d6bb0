from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subbyte.calibration.observe import calibrate, rows, sqnr_db
from subbyte.errors import SubbyteError
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Silent

Place = Callable[..., Captured]


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


def grids(captured: Captured) -> dict[tuple[str, str], list[float]]:
    return {
        (t.role, t.layer): [*q.scale.tolist(), *q.zero_point.tolist()]
        for t, q in captured.quantizers()
    }


def calibrated(captured: Captured, images: torch.Tensor, size: int = 16) -> Captured:
    calibrate(captured, batches_of(images, size), Silent())
    return captured


def test_ranges_by_hand(place: Place) -> None:
    model, x = Two(), images()
    captured = calibrated(
        place(model, x[:2], weights=4, activations=4, ranges="minmax", first_last=8), x
    )
    found = {(t.role, t.layer): q for t, q in captured.quantizers()}

    def expect(role: str, layer: str, low: np.ndarray, high: np.ndarray, steps: int) -> None:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        np.testing.assert_allclose(found[role, layer].scale, (high - low) / steps, rtol=1e-5)
        zero_point = np.rint(-low / ((high - low) / steps))
        np.testing.assert_array_equal(found[role, layer].zero_point, zero_point)

    expect("activation", "a", x.numpy().min(), x.numpy().max(), 255)
    a = model.a.weight.detach().flatten(1).numpy()
    scale = np.maximum(a.max(1) / 127, a.min(1) / -128)
    np.testing.assert_allclose(found["weight", "a"].scale, scale, rtol=1e-6)
    # What the second layer reads was computed with the first one's weights on their grid.
    w = (np.rint(a / scale[:, None]) * scale[:, None]).reshape(8, 3, 3, 3).astype(np.float32)
    y = F.relu(F.conv2d(x, torch.from_numpy(w), model.a.bias.detach(), padding=1))
    expect("activation", "b", np.array(0.0), y.max().numpy(), 255)


def test_weights_of_each_channel_by_hand(place: Place) -> None:
    model = Two()
    captured = calibrated(place(model, images(2), ranges="minmax"), images())
    for tensor, quantizer in captured.quantizers("weight"):
        w = getattr(model, tensor.layer).weight.detach().flatten(1).numpy()
        low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
        np.testing.assert_allclose(quantizer.scale, (high - low) / 15, rtol=1e-5)


def test_the_same_batches_give_the_same_scales(place: Place) -> None:
    first = calibrated(place(Two(), images(2)), images())
    second = calibrated(place(Two(), images(2)), images())
    assert grids(first) == grids(second)
    before = grids(first)
    assert grids(calibrated(first, images())) == before


def test_the_size_of_the_batches_hardly_matters(place: Place) -> None:
    captured = place(Two(), images(2), ranges={"weights": "mse", "activations": "percentile"})
    one, other = (grids(calibrated(captured, images(), size)) for size in (64, 5))
    for key, values in one.items():
        assert other[key] == pytest.approx(values, rel=0.01, abs=1e-9)


def test_afterwards_all_quantize_and_nothing_is_remembered(place: Place) -> None:
    captured = calibrated(place(Two(), images(2)), images())
    quantizers = [q for _, q in captured.quantizers()]
    assert {q.state for q in quantizers} == {State.QUANTIZE}
    assert {q.statistics for q in quantizers} == {None}
    with captured.in_float():
        assert {q.state for q in quantizers} == {State.OFF}
    assert {q.state for q in quantizers} == {State.QUANTIZE}


def test_what_the_quantized_model_computes(place: Place) -> None:
    x, model = images(), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    x = x.flatten()[:1800].reshape(300, 6)
    captured = calibrated(place(model, x, weights=3, activations=4, ranges="minmax"), x)
    found = {(t.role, t.layer): q for t, q in captured.quantizers()}
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
    np.testing.assert_allclose(captured(x).numpy(), y, rtol=1e-4, atol=1e-4)


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
    captured = place(Two(), images(2), **recipe)
    calibrate(captured, batches_of(images(), 16), progress)
    assert progress.counts == counts


def test_images_with_nan_name_the_layer(place: Place) -> None:
    x = images()
    x[40] = math.nan
    with pytest.raises(SubbyteError, match="the activations at layer 'a' hold NaN"):
        calibrated(place(Two(), x[:2]), x)


def test_noise_is_measured_on_what_was_seen(place: Place) -> None:
    model, x = Two(), images()
    captured = calibrated(place(model, x[:2], ranges="minmax", weights=5), x)
    found = {(t.role, t.layer): q for t, q in captured.quantizers()}
    for values, quantizer in (
        (x, found["activation", "a"]),
        (model.b.weight, found["weight", "b"]),
    ):
        values = values.detach()
        noise = (quantizer.quantize(values) - values).double().square().sum()
        expected = 10 * math.log10(values.double().square().sum() / noise)
        assert quantizer.sqnr_db == pytest.approx(expected, abs=0.05)


def test_decibels() -> None:
    assert sqnr_db(100.0, 1.0) == pytest.approx(20.0)
    assert sqnr_db(1.0, 0.0) == math.inf
    assert sqnr_db(0.0, 1.0) == 0.0


def test_rows_of_a_weight() -> None:
    weight = torch.arange(24.0).reshape(2, 3, 4)
    assert rows(weight, None).tolist() == [weight.flatten().tolist()]
    for axis in range(3):
        expected = [weight.select(axis, i).flatten().tolist() for i in range(weight.shape[axis])]
        assert rows(weight, axis).tolist() == expected
