"""Small ONNX files, and what they give by the standard's own implementation and in a runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from subbyte.models.onnx.load import load_onnx

Constants = Mapping[str, np.ndarray]
Node = tuple[str, str, str] | tuple[str, str, str, dict[str, Any]]
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    """Values around 0 in float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def proto(
    nodes: Sequence[Node],
    shape: Sequence[int | str | None] = ("N", 4, 6, 8),
    constants: Constants | None = None,
    opset: int = 20,
    outputs: Sequence[str] = ("y",),
    **others: Sequence[int | str],
) -> onnx.ModelProto:
    """A file with an input `x` and the nodes (operator, "inputs", "outputs", attributes)."""
    made = []
    for node in nodes:
        operator, inputs, given, *rest = node
        names = ["" if name == "_" else name for name in inputs.split()]
        attributes = rest[0] if rest else {}
        name = attributes.get("name", given.split()[0])
        domain = attributes.get("domain", "")
        kept = {k: v for k, v in attributes.items() if k not in ("name", "domain")}
        made.append(
            helper.make_node(operator, names, given.split(), name=name, domain=domain, **kept)
        )
    inputs = {"x": shape, **others}
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def check(
    model: onnx.ModelProto, folder: Path, x: np.ndarray | None = None, *, reference: bool = True
) -> list[torch.Tensor]:
    """Compare the module with ONNX Runtime and, of new files, with `onnx.reference`.

    The batch of three is run as it is, and image by image. Where `onnx.reference` 1.23 is itself
    at fault, `reference` is false.
    """
    x = rand(3, 4, 6, 8) if x is None else x
    path = saved(model, folder)
    module = load_onnx(path)
    outputs = outputs_of(module, torch.from_numpy(x))
    name = model.graph.input[0].name
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = [session.run(None, {name: x})]
    if reference and model.opset_import[0].version >= 13:
        expected.append(ReferenceEvaluator(model).run(None, {name: x}))
    for values in expected:
        for found, value in zip(outputs, values, strict=True):
            same(found, value)
    single = [outputs_of(module, torch.from_numpy(x[i : i + 1])) for i in range(len(x))]
    for found, *parts in zip(outputs, *single, strict=True):
        same(torch.cat(parts), found.numpy())
    return outputs


def outputs_of(module: torch.nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        found = module(*inputs)
    return list(found) if isinstance(found, tuple) else [found]


def same(found: torch.Tensor, expected: np.ndarray) -> None:
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(
        found.double().numpy(), expected.astype(np.float64), rtol=1e-4, atol=1e-5
    )
