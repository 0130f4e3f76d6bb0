"""The placement of the target: XNNPACK's int8 kernels need quantized results."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from xnnpack_networks import NETWORKS, Attention, Joined, images, quantized, shared

import subbyte
from subbyte.errors import SubbyteError
from subbyte.graph.operators import clamp_of, tensor_readers
from subbyte.placement.placement import node_names


@pytest.mark.parametrize("network", NETWORKS)
def test_all_that_reads_a_layers_result_reads_integers(network: type[nn.Module]) -> None:
    simulation = shared(network)
    placement = simulation.placement
    nodes = node_names(simulation.float_model.region("").graph)
    read = {x.node: x.readers for x in placement.insertions}
    layers = [x for x in placement.layers if x.operation != "matmul"]
    assert layers
    assert all(layer.integer for layer in layers)
    for layer in layers:
        node = nodes[layer.node]
        readers = tensor_readers(node)
        if len(readers) == 1 and clamp_of(readers[0]) is not None:
            node = readers[0]
        assert read[node.name] == {reader.name for reader in tensor_readers(node)}


def test_products_of_activations_stay_in_float() -> None:
    placement = shared(Attention).placement
    products = [layer for layer in placement.layers if layer.operation == "matmul"]
    assert len(products) == 2
    assert all("XNNPACK" in layer.reason and not layer.activations for layer in products)


def test_tensors_stand_in_the_order_in_which_they_are_read() -> None:
    simulation = shared(Joined)
    assert [tensor.key for tensor in simulation.placement.tensors][-1] == "last.result"
    rows = subbyte.layers(simulation)
    assert rows[-1]["bits"] == 8
    assert rows[-1]["readers"] == []


def test_the_recipe_keeps_its_target(tmp_path: object) -> None:
    simulation = shared(Joined)
    assert simulation.metadata["recipe"]["target"] == "executorch"
    path = f"{tmp_path}/saved.safetensors"
    subbyte.save(simulation, path)
    torch.manual_seed(0)
    loaded = subbyte.load(Joined().eval(), path)
    assert loaded.placement == simulation.placement
    with torch.no_grad():
        torch.testing.assert_close(loaded(images()), simulation(images()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"symmetric_weights": False},
        {"overrides": {"last": {"symmetric_weights": False}}},
        {"weights": 4, "symmetric_weights": False, "overrides": {"last": {"weights": 8}}},
    ],
)
def test_asymmetric_weights_of_8_bits_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(SubbyteError, match="zero point 0 alone"):
        quantized(Joined, **fields)


def test_narrow_asymmetric_weights_are_taken() -> None:
    recipe = {"weights": 4, "symmetric_weights": False, "first_last": None}
    simulation = quantized(Joined, **recipe)
    specs = [tensor.spec for tensor, _ in simulation.weights()]
    assert all(not spec.symmetric and spec.bits == 4 for spec in specs)


def test_weights_of_first_and_last_layers_are_symmetric_where_they_have_8_bits() -> None:
    simulation = quantized(Joined, weights=4, symmetric_weights=False)
    specs = [tensor.spec for tensor, _ in simulation.weights()]
    assert {spec.bits for spec in specs} == {4, 8}
    assert all(spec.symmetric == (spec.bits == 8) for spec in specs)
    (note,) = [x for x in simulation.reported["target"] if "symmetric" in x]
    assert note.startswith("weights of 8 bits")


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(SubbyteError, match="executorch"):
        subbyte.Recipe(target="executorc")
