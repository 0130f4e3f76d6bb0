"""No file appears that is not valid, that its runtime cannot load, or that is the slower one."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from targets_helpers import RUNTIMES, TwoConvs, images, normal, placed_for, run, seeded
from torch import Tensor, nn

import subbyte
from subbyte.errors import SubbyteError
from subbyte.targets.onnx.files import save
from subbyte.targets.onnx.own_file import is_worth_it

pytestmark = pytest.mark.slow  # many files, each run in both runtimes


class TwoHeads(nn.Module):
    """Two heads, each with a flattening of its own of the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(32, 5))
        self.second = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return self.first(x), self.second(x)


class Determinants(nn.Module):
    """Has an operator that OpenVINO's reader lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.det(self.conv(x))


def test_two_flattenings_of_one_tensor(tmp_path: Path) -> None:
    batch, path = normal(4, 3, 12, 12), tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(TwoHeads), [batch], subbyte.Recipe(method="range"))
    for target in (None, *RUNTIMES):
        subbyte.export(quantized, path, batch, target=target)
        expected = placed_for(quantized, target)(batch)
        for runtime in RUNTIMES if target is None else (target,):
            for y, wanted in zip(run(runtime, path, batch), expected, strict=True):
                torch.testing.assert_close(torch.from_numpy(y), wanted, rtol=0, atol=1e-5)


def test_a_graph_that_is_not_valid_is_not_written(tmp_path: Path) -> None:
    x, nothing = (ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT)) for n in "xy")
    node = ir.node("Add", [x, nothing])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 21}, name="graph")
    with pytest.raises(SubbyteError, match=r"model\.onnx is not written, .* not valid"):
        save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_cannot_load_its_own_file(tmp_path: Path) -> None:
    batch, path = images(), tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(Determinants), [batch], subbyte.Recipe(method="range"))
    subbyte.export(quantized, path, batch, target="onnxruntime")
    before = path.read_bytes()
    with pytest.raises(SubbyteError) as caught:
        subbyte.export(quantized, path, batch, target="openvino")
    assert f"OpenVINO cannot load {path}" in str(caught.value)
    assert "export without a target" in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_file_with_fewer_kernels_than_the_one_for_all_is_not_worth_it(tmp_path: Path) -> None:
    batch, files = images(), {}
    for name, bits in (("float", None), ("int8", 8)):
        recipe = subbyte.Recipe(method="range", weights=bits, activations=bits, first_last=bits)
        quantized = subbyte.quantize(seeded(TwoConvs), [batch], recipe)
        files[name] = tmp_path / f"{name}.onnx"
        subbyte.export(quantized, files[name], batch)
    layers = RUNTIMES["openvino"].load(files["int8"], 1).int8_ops()
    assert layers == 2
    for own, common, expected in (("float", "int8", False), ("int8", "float", True)):
        path = files[common]
        found = is_worth_it(files[own], files[own], "openvino", 2, lambda _, path=path: path)
        assert found is expected
    assert is_worth_it(files["float"], files["float"], "openvino", 2, lambda _: files["float"])
