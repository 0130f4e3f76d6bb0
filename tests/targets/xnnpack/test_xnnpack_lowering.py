"""The lowered graph, run by PyTorch: it computes what the simulation does, in fit patterns."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from xnnpack_networks import (
    NETWORKS,
    Attention,
    Gated,
    Joined,
    Turned,
    images,
    quantized,
    shared,
    step_of,
)

import subbyte
from small_detectors import detector
from subbyte.graph.operators import A
from subbyte.placement.simulation import Simulation
from subbyte.targets.onnx.program import deployed_as
from subbyte.targets.xnnpack.lowering import lowered
from subbyte.targets.xnnpack.patterns import DEQUANTIZE, GEMM, OF_WEIGHTS, QUANTIZE

QUICK = [(Joined, 8), (Joined, 4), (Gated, 4), (Turned, 8), (Attention, 8)]
CASES = [
    pytest.param(network, bits, marks=() if (network, bits) in QUICK else pytest.mark.slow)
    for network in NETWORKS
    for bits in (8, 4)
]


def graph_of(simulation: Simulation) -> fx.Graph:
    model, _ = lowered(simulation)
    assert isinstance(model, fx.GraphModule)
    return model.graph


@pytest.mark.parametrize(("network", "bits"), CASES)
def test_a_lowered_model_gives_what_the_simulation_gives(
    network: type[nn.Module], bits: int
) -> None:
    simulation = shared(network, bits)
    model, _ = lowered(simulation)
    x = images(8, seed=2)
    with torch.no_grad():
        expected, found = simulation(x), model(x)
    assert found.shape == expected.shape
    # Scales are multiplied in another order, so that a value between two integers may turn.
    wrong = (expected - found).abs() > 1e-4 * expected.abs().max()
    assert float(wrong.float().mean()) < 0.02
    assert float((expected - found).abs().max()) < 2 * step_of(simulation)


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_read_integers_and_give_them_to_one_quantization(bits: int) -> None:
    graph = graph_of(shared(Joined, bits))
    layers = [node for node in graph.nodes if node.target in GEMM]
    assert len(layers) == 5
    for node in layers:
        source, weight = node.args[:2]
        assert source.target is DEQUANTIZE
        assert list(source.users) == [node]
        assert weight.target in OF_WEIGHTS
        (reader,) = node.users
        if reader.target is A.hardtanh.default:
            (reader,) = reader.users
        assert reader.target is QUANTIZE


def test_integers_are_int8_and_weights_have_zero_point_0() -> None:
    model, _ = lowered(quantized(Joined, 4, symmetric_weights=False))
    graph = model.graph  # type: ignore[union-attr]
    assert {node.args[-1] for node in graph.nodes if node.target is QUANTIZE} == {torch.int8}
    weights = {name: x for name, x in model.named_buffers() if "integers" in name}  # type: ignore[union-attr]
    assert weights
    assert all(x.dtype is torch.int8 for x in weights.values())
    spans = {name: int(x.max()) - int(x.min()) for name, x in weights.items()}
    ends = {name for name in spans if "first" in name or "last" in name}  # 8 bits, symmetric
    assert len(ends) == 2
    assert all((span > 30) == (name in ends) for name, span in spans.items())
    points = [x for name, x in model.named_buffers() if "zero_points" in name]  # type: ignore[union-attr]
    assert all(bool((x == 0).all()) for x in points)


def test_a_narrow_grid_has_its_ends_in_limits() -> None:
    simulation = shared(Joined, 4)
    x = images(8, seed=2) * 100  # far beyond every range
    model, _ = lowered(simulation)
    with torch.no_grad():
        torch.testing.assert_close(model(x), simulation(x), rtol=0, atol=2 * step_of(simulation))
    ends = [node.args[1:] for node in model.graph.nodes if node.target is A.hardtanh.default]  # type: ignore[union-attr]
    assert ends
    assert all(low < high for low, high in ends)


def test_the_addition_of_a_narrow_grid_stays_on_integers() -> None:
    graph = graph_of(shared(Joined, 4))
    (added,) = [node for node in graph.nodes if node.target is A.add.Tensor]
    assert all(source.target is DEQUANTIZE for source in added.args)
    (reader,) = added.users
    assert reader.target is QUANTIZE


@pytest.mark.parametrize(
    ("network", "names"), [(Joined, set()), (Turned, {"grouped"}), (Attention, set())]
)
def test_what_has_no_int8_kernel_is_named_and_has_float_weights(
    network: type[nn.Module], names: set[str]
) -> None:
    simulation = shared(network)
    model, floats = lowered(simulation)
    assert set(floats) == names
    layers = [node for node in model.graph.nodes if node.target in GEMM]  # type: ignore[union-attr]
    constant = [node for node in layers if node.args[1].op == "get_attr"]
    assert len(constant) == len(names)


def test_what_joins_a_single_tensor_is_left_out() -> None:
    graph = graph_of(shared(Gated, 4))
    assert not [node for node in graph.nodes if node.target is A.cat.default]


def test_without_the_target_the_last_layer_has_a_float_kernel() -> None:
    _, floats = lowered(quantized(Joined, target=None))
    assert floats == ("last",)


def test_a_model_without_parameters_is_the_float_model() -> None:
    simulation = shared(Joined)
    plain = Simulation(simulation.float_model, simulation.placement, type(simulation.params)())
    model, floats = lowered(plain)
    assert floats == ()
    x = images(seed=2)
    with torch.no_grad():
        expected = simulation.float_model.raw(x)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_the_simulation_stays_as_it_is() -> None:
    simulation = shared(Joined)
    x = images(seed=2)
    with torch.no_grad():
        before = simulation(x)
        lowered(simulation)
        torch.testing.assert_close(simulation(x), before, rtol=0, atol=0)


@pytest.mark.slow
def test_what_one_region_quantizes_others_read_as_integers() -> None:
    pictures = torch.rand(2, 3, 64, 64)
    recipe = subbyte.Recipe(method="range", target="executorch")
    simulation = subbyte.quantize(detector("ssd"), [list(pictures)], recipe)
    assert len(simulation.region_names) == 2
    model, floats = lowered(simulation)
    assert floats == ()
    raw = [
        deployed_as(simulation, own, (pictures,), postprocess=False).module(pictures)
        for own in (simulation.model, model)
    ]
    for expected, found in zip(*map(pytree.tree_leaves, raw), strict=True):
        assert float((expected - found).abs().max()) < 2 * step_of(simulation)
