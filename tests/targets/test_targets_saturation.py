"""What processors without VNNI do to the sums of 8-bit products, and that a reduced range helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from targets_helpers import digit_images
from torch import Tensor, nn

import subbyte
from subbyte.models import build
from subbyte.numerics.qparams import signed_integers

INT16 = np.iinfo(np.int16)


def saturated(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of products of uint8 (n, k) and int8 (k, m) as `vpmaddubsw` and `vpmaddwd` give them.

    Each two products are added in 16 bits, in which a sum that is too large becomes the largest
    there is; these sums are added in 32 bits.
    """
    pairs = inputs[:, :, None].astype(np.int32) * weights.astype(np.int32)
    pairs = pairs.reshape(len(inputs), -1, 2, weights.shape[1]).sum(2)
    return pairs.clip(INT16.min, INT16.max).sum(1)


def convolution(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The 3 × 3 convolution (zero padding) of integers with those sums, (n·height·width, channels).

    Channels lie next to each other, as such processors' kernels have them.
    """
    columns = F.unfold(torch.from_numpy(inputs).float(), 3, padding=1).numpy()
    columns = columns.reshape(len(inputs), inputs.shape[1], 9, -1).transpose(0, 3, 2, 1)
    kernel = weights.transpose(2, 3, 1, 0).reshape(-1, len(weights))
    return saturated(columns.reshape(-1, len(kernel)).astype(np.uint8), kernel)


def test_two_products_worked_by_hand() -> None:
    # 255 · 127 + 255 · 127 = 64770 does not fit, 255 · −64 · 2 = −32640 does.
    inputs, weights = np.array([[255, 255, 1, 2]], np.uint8), np.array([[127], [127], [3], [4]])
    assert saturated(inputs, weights.astype(np.int8)).item() == 32767 + 11
    assert saturated(inputs, np.array([[-64], [-64], [3], [4]], np.int8)).item() == -32640 + 11


@pytest.fixture(scope="module", params=["its own", "positive"])
def layer(request: pytest.FixtureRequest) -> tuple[nn.Conv2d, Tensor]:
    """A convolution of the bundled model with its batch norm's factors, and what it is given.

    Weights that are all positive fill asymmetric integers on one side of the zero point.
    """
    model, seen = build("digits"), []
    conv, norm = model.block1.conv1, model.block1.bn1
    conv.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))
    with torch.no_grad():
        model(digit_images(128)[0])
        factors = norm.weight / (norm.running_var + norm.eps).sqrt()
        conv.weight *= factors[:, None, None, None]
        if request.param == "positive":
            conv.weight.abs_()
    return conv, seen[0].detach()


def sums(layer: tuple[nn.Conv2d, Tensor], **fields: object) -> tuple[np.ndarray, np.ndarray, int]:
    """The layer's integer sums as the simulation has them and as they saturate; largest weight."""
    conv, inputs = layer
    quantized = subbyte.quantize(conv, [inputs], subbyte.Recipe(**fields))
    ((tensor, weight),) = quantized.weights()
    weights = signed_integers(weight.params, tensor.spec).numpy()
    ((_, activation),) = quantized.activations()
    assert not activation.zero_point  # behind a ReLU
    assert activation.spec.bits == 8
    step = (activation.scale * weight.scale)[:, None, None]
    integers = (activation(inputs) / activation.scale).round()
    simulated = (quantized(inputs) / step).round().permute(0, 2, 3, 1).reshape(-1, len(weights))
    deployed = convolution(integers.numpy(), weights.astype(np.int8))
    return simulated.numpy(), deployed, int(np.abs(weights).max())


def test_eight_bits_saturate(layer: tuple[nn.Conv2d, Tensor]) -> None:
    simulated, deployed, _ = sums(layer)
    off = np.abs(simulated - deployed)
    assert off.max() > 10_000
    # Elsewhere the sums are those of the simulation: it is no other fault.
    assert 0.9 < (off == 0).mean() < 1


@pytest.mark.slow
def test_seven_bits_saturate_with_a_zero_point(layer: tuple[nn.Conv2d, Tensor]) -> None:
    positive = bool((layer[0].weight >= 0).all())
    simulated, deployed, largest = sums(layer, weights=7, first_last=None)
    assert (largest == 127) is positive
    assert np.array_equal(simulated, deployed) is not positive


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{}, {"weights": 7}, {"symmetric_weights": False}, {"weights": 6}, {"per_channel": False}],
    ids=str,
)
def test_a_reduced_range_does_not(
    layer: tuple[nn.Conv2d, Tensor], fields: dict[str, object]
) -> None:
    simulated, deployed, largest = sums(layer, reduce_range=True, first_last=None, **fields)
    np.testing.assert_array_equal(deployed, simulated)
    assert 2 * 255 * largest <= INT16.max
