"""From an ONNX file to a `Network`: refused is what no vision model in float32 has."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from subbyte.errors import SubbyteError
from subbyte.models.onnx.names import scope_of
from subbyte.models.onnx.network import Input, Network, Node, pruned
from subbyte.models.onnx.validity import check_node, check_opset, check_values, sorted_or_refused

OLDEST = 9
QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "QLinearAdd",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
    "FakeQuantize",
}
CONTROL = {"If": "a branch", "Loop": "a loop", "Scan": "a loop"}
SEQUENCES = {
    "ConcatFromSequence",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SplitToSequence",
}
STANDARD = ("", "ai.onnx")


def read(path: Path) -> Network:
    """The graph of a file, functions inlined, constants apart from nodes, floats in float32.

    Raises:
        SubbyteError: The file is missing or broken, data beside it is missing, its opset is before
            9 or unknown, it is quantized already, has a branch, a loop or a sequence, or takes no
            images.
    """
    model = _model(path)
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    check_opset(opset, OLDEST, path)
    with _quiet():
        passes.InlinePass()(model)
        for node in model.graph:
            _check(node, path)
            check_node(node, opset, path)
        check_values(model.graph, path)
        sorted_or_refused(model, path)
        passes.IdentityEliminationPass()(model)
    graph = model.graph
    try:
        network = _network(graph, opset)
    except (FileNotFoundError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    _check_inputs(network, path)
    return pruned(network)


def _model(path: Path) -> ir.Model:
    if not path.is_file():
        raise SubbyteError(f"there is no file {path}: name an ONNX file")
    try:
        with _quiet():
            model = ir.load(path)
    except Exception as error:
        raise SubbyteError(f"{path} is not an ONNX file, or is broken: export it again") from error
    if not len(model.graph) or not model.graph.outputs:
        raise SubbyteError(f"{path} holds no network: export it again")
    return model


def _unreadable(path: Path, error: Exception) -> SubbyteError:
    if isinstance(error, FileNotFoundError):
        missing = Path(str(error.filename)).name if error.filename else "data"
        return SubbyteError(
            f"{path} keeps its weights in '{missing}', which is not there: put that file beside it"
        )
    return SubbyteError(f"weights of {path} cannot be read, the file is broken: export it again")


def _check(node: ir.Node, path: Path) -> None:
    what = f"node '{node.name}'" if node.name else "a node"
    if node.op_type in QUANTIZED:
        raise SubbyteError(
            f"{path} is quantized already ({what} is {node.op_type}): give the file in float that "
            "it was made from"
        )
    if node.op_type in CONTROL:
        raise SubbyteError(
            f"{path} has {CONTROL[node.op_type]} ({what} is {node.op_type}): export the model "
            "without it, such as with fixed sizes and without its post-processing"
        )
    if node.op_type in SEQUENCES or any(
        isinstance(v.type, ir.SequenceType | ir.OptionalType) for v in node.outputs
    ):
        raise SubbyteError(
            f"{path} has a sequence ({what} is {node.op_type}): export the model so that it gives "
            "tensors"
        )


def _network(graph: ir.Graph, opset: int) -> Network:
    constants = {
        name: _array(value.const_value)
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }
    nodes: list[Node] = []
    for place, node in enumerate(graph):
        converted = _node(node, opset, place)
        if node.op_type == "Constant" and node.domain in STANDARD:
            constants[converted.outputs[0]] = _constant(converted.attributes)
        else:
            nodes.append(converted)
    return Network(
        inputs=tuple(_input(value) for value in graph.inputs if value.name not in constants),
        outputs=tuple(str(value.name) for value in graph.outputs),
        nodes=tuple(nodes),
        constants=constants,
        ranks=tuple(None if v.shape is None else len(v.shape) for v in graph.outputs),
    )


def _node(node: ir.Node, opset: int, place: int) -> Node:
    own = node.domain in STANDARD
    name = node.name or f"{node.op_type}_{place}"
    return Node(
        operator=node.op_type if own else f"{node.domain}::{node.op_type}",
        name=name,
        inputs=tuple("" if value is None else str(value.name) for value in node.inputs),
        outputs=tuple(str(value.name or "") for value in node.outputs),
        attributes={key: _attribute(value) for key, value in node.attributes.items()},
        opset=opset if node.version is None else node.version,
        scope=scope_of(name, node.op_type, node.metadata_props),
    )


def _attribute(attribute: Any) -> Any:
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return _array(value)
    return tuple(value) if isinstance(value, list | tuple) else value


def _constant(attributes: Mapping[str, Any]) -> np.ndarray:
    key, value = next(iter(attributes.items()))
    if key == "value":
        array: np.ndarray = value
        return array
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64}
    return np.asarray(value, dtype=kinds.get(key, np.int64 if key == "value_ints" else None))


def _array(tensor: Any) -> np.ndarray:
    """A tensor's values; floats of any width in float32."""
    array = np.asarray(tensor.numpy())
    if tensor.dtype.is_floating_point():
        return array.astype(np.float32)
    return array


def _input(value: ir.Value) -> Input:
    lengths, batch = None, ""
    if value.shape is not None:
        lengths = tuple(n if isinstance(n, int) and n > 0 else None for n in value.shape)
        if len(value.shape) and isinstance(value.shape[0], ir.SymbolicDim):
            batch = str(value.shape[0].value or "")
    dtype = value.dtype
    if dtype is None or dtype.is_floating_point():
        return Input(str(value.name), "float32", lengths, batch)
    return Input(str(value.name), str(np.dtype(dtype.numpy())), lengths, batch)


def _check_inputs(network: Network, path: Path) -> None:
    shapes = [x.shape for x in network.inputs if x.dtype in ("float32", "uint8")]
    if not any(shape is None or len(shape) in (3, 4) for shape in shapes):
        given = ", ".join(f"{x.name} {list(x.shape or ())} {x.dtype}" for x in network.inputs)
        raise SubbyteError(
            f"{path} is not a vision model: it takes {given or 'nothing'}, and no images, a float "
            "tensor of 4 dimensions"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
