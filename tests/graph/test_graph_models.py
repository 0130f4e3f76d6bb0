"""Placement on whole models: the bundled one, CIFAR's ResNet-20, and some of torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torchvision
from torch import fx, nn

from placed import placed
from subbyte.models import build
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe

pytestmark = pytest.mark.slow

Bits = Callable[[Simulation, str], dict[str, int]]
Stands = Callable[[Simulation, str], tuple[list[str], list[str]]]


@dataclass(frozen=True)
class Case:
    """A model with what is known of it: an image's shape, its first and last layer, its sums."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    ends: tuple[str, str]
    additions: int


CASES = {
    "digits": Case(lambda: build("digits"), (1, 8, 8), ("conv1", "linear"), 3),
    "cifar_resnet20": Case(lambda: build("cifar_resnet20"), (3, 32, 32), ("conv1", "linear"), 9),
    "resnet18": Case(torchvision.models.resnet18, (3, 64, 64), ("conv1", "fc"), 8),
    "mobilenet_v2": Case(
        torchvision.models.mobilenet_v2, (3, 64, 64), ("features.0.0", "classifier.1"), 10
    ),
    "googlenet": Case(
        lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
        (3, 64, 64),
        ("conv1.conv", "fc"),
        0,
    ),
}
ALL = pytest.mark.parametrize("name", CASES)


@cache
def model_and_simulation(name: str) -> tuple[nn.Module, Simulation]:
    torch.manual_seed(0)
    model = CASES[name].build().eval()
    return model, placed(model, (images(name),), Recipe(weights=4, activations=4))


def images(name: str) -> torch.Tensor:
    return torch.randn(3, *CASES[name].shape, generator=torch.Generator().manual_seed(0))


def nodes(simulation: Simulation, operator: str) -> list[fx.Node]:
    return [n for n in simulation.region("").graph.nodes if f"aten.{operator}." in str(n.target)]


def moved_from(node: fx.Node) -> fx.Node:
    """Where a tensor comes from before it was pooled, padded or cut out."""
    while any(
        f"aten.{op}." in str(node.target)
        for op in ("max_pool2d", "pad", "constant_pad_nd", "slice")
    ):
        node = node.args[0]
    return node


@ALL
def test_names_are_the_users_and_every_layer_can_have_an_int8_kernel(name: str) -> None:
    model, simulation = model_and_simulation(name)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert sorted(layer.name for layer in simulation.placement.layers) == sorted(layers)
    assert all(layer.integer for layer in simulation.placement.layers)


@ALL
def test_only_the_first_and_last_layer_have_eight_bits(name: str, bits: Bits) -> None:
    _, simulation = model_and_simulation(name)
    weights, activations = bits(simulation, "weight"), bits(simulation, "activation")
    ends = set(CASES[name].ends)
    assert {layer for layer, b in weights.items() if b == 8} == ends
    assert {b for layer, b in weights.items() if layer not in ends} == {4}
    inputs = {layer: b for layer, b in activations.items() if layer in weights}
    assert {layer for layer, b in inputs.items() if b == 8} == ends
    assert {b for layer, b in inputs.items() if layer not in ends} == {4}
    assert {b for layer, b in activations.items() if layer not in weights} <= {8}


@ALL
def test_both_inputs_of_every_sum_are_quantized(name: str) -> None:
    _, simulation = model_and_simulation(name)
    sums = nodes(simulation, "add")
    assert len(sums) == CASES[name].additions
    assert {moved_from(source).op for node in sums for source in node.args} <= {"call_module"}


@ALL
def test_without_quantizers_the_model_computes_what_it_did(name: str) -> None:
    model, simulation = model_and_simulation(name)
    x = images(name)[:1]
    with torch.no_grad():
        ours, theirs = simulation(x), model(x)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_digits_tensor_by_tensor(bits: Bits) -> None:
    _, simulation = model_and_simulation("digits")
    assert bits(simulation, "activation") == {
        "conv1": 8,
        "block1.conv1": 4,  # read by the sum as well: the shortcut is the identity
        "block1.conv2": 4,
        "block1.add": 8,
        "block2.conv1": 4,
        "block2.conv2": 4,
        "block2.add": 8,
        "block2.add#2": 8,
        "block3.conv1": 4,
        "block3.conv2": 4,
        "block3.add": 8,
        "block3.add#2": 8,
        "adaptive_avg_pool2d": 8,
        "linear": 8,
    }
    readers = {t.layer: t.readers for t, _ in simulation.quantizers("activation")}
    assert readers["block2.conv1"] == ("block2.conv1", "block2.shortcut.0")


def test_a_shortcut_that_drops_pixels_and_pads_has_no_grid_of_its_own(bits: Bits) -> None:
    _, simulation = model_and_simulation("cifar_resnet20")
    activations = bits(simulation, "activation")
    # The input, three tensors a block, the last block's sum, and its average.
    assert len(activations) == 1 + 9 * 3 + 2
    assert sum(name.endswith(".add") for name in activations) == 9


def test_resnets_max_pooling_has_no_grid_of_its_own(stands: Stands) -> None:
    _, simulation = model_and_simulation("resnet18")
    assert stands(simulation, "layer1.0.conv1") == (["relu"], ["max_pool2d"])
    assert stands(simulation, "layer2.0.conv1") == (["relu"], ["conv2d", "conv2d"])


def test_googlenets_concatenations_share_one_quantizer() -> None:
    _, simulation = model_and_simulation("googlenet")
    concatenations = nodes(simulation, "cat")
    scales = [{source.target for source in node.args[0]} for node in concatenations]
    assert [len(scale) for scale in scales] == [1] * 9
    assert len(set.union(*scales)) == 9
    assert not [u for node in concatenations for u in node.users if u.op == "call_module"]
