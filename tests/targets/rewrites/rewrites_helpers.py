"""Small graphs written as text, run by ONNX's reference, with numpy for operators of our own."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from subbyte.targets.base import Rewrite

QDQ = 'subbyte.QuantizeDequantize <scale = {}, zero_point = {}, low = {}, high = {}, only_for = "">'


class QuantizeDequantize(OpRun):
    op_domain = "subbyte"

    def _run(self, x, highest=None, **given):  # type: ignore[no-untyped-def]
        scale, zero_point = np.float32(given["scale"]), given["zero_point"]
        q = np.clip(np.rint(x / scale) + zero_point, given["low"], given["high"])
        q = q if highest is None else np.minimum(q, highest)
        return (((q - zero_point) * scale).astype(np.float32),)


class Linear(OpRun):
    op_domain = "subbyte"

    def _run(self, x, weight, bias=None, **_):  # type: ignore[no-untyped-def]
        y = x @ weight
        return (y if bias is None else y + bias,)


class Quant(OpRun):
    """QONNX's, by its description: clamped before it is rounded, which is half to even."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero_point, bits, **given):  # type: ignore[no-untyped-def]
        assert given["rounding_mode"] == "ROUND"
        half = 2 ** (int(bits) - 1)
        low, high = (given["narrow"] - half, half - 1) if given["signed"] else (0, 2 * half - 1)
        if not given["signed"]:
            high -= given["narrow"]
        q = np.rint(np.clip(x / scale + zero_point, low, high))
        return (((q - zero_point) * scale).astype(np.float32),)


def qdq(scale: float, zero_point: int, low: int = 0, high: int = 255) -> str:
    """Our own operator with these settings, as text."""
    return QDQ.format(f"{scale:.6f}", zero_point, low, high)


def model(text: str, **constants: Any) -> ir.Model:
    """A graph "(inputs) => (outputs) { nodes }" with constants, and the shapes that values have.

    The batch, N, is of any size.
    """
    head = '<ir_version: 10, opset_import: ["" : 21, "subbyte" : 1]> graph '
    proto = onnx.parser.parse_model(head + text)
    for name, content in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(content), name))
    found = ir.from_proto(proto)
    shapes = [_shapes(proto, size) for size in (2, 3)]
    for node in found.graph:
        for value in node.outputs:
            lengths = zip(shapes[0][value.name], shapes[1][value.name], strict=True)
            value.shape = ir.Shape([_length(two, three) for two, three in lengths])
            value.dtype = ir.DataType.FLOAT
    return found


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """Normally distributed values."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def evaluated(of: ir.Model, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of a graph."""
    feeds = {value.name: x for value, x in zip(of.graph.inputs, inputs, strict=True)}
    with warnings.catch_warnings():  # of a pooling of uint8, whose padding with −∞ it casts
        warnings.simplefilter("ignore")
        outputs: list[np.ndarray] = _reference(ir.to_proto(of)).run(None, feeds)
    return outputs


def rewritten(before: ir.Model, *rewrites: Rewrite, tolerance: float = 1e-6) -> ir.Model:
    """A copy after some rewrites, which give the same values as `before` at any batch size."""
    after = before.clone()
    for rewrite in rewrites:
        rewrite(after)
    onnx.checker.check_model(ir.to_proto(after))
    for size in (1, 5):
        shapes = [[n if isinstance(n, int) else size for n in x.shape] for x in before.graph.inputs]
        inputs = [normal(*shape, scale=2.0, seed=size) for shape in shapes]
        expected, found = evaluated(before, *inputs), evaluated(after, *inputs)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=tolerance)
    return after


def kinds(of: ir.Model) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in of.graph)


def _shapes(proto: onnx.ModelProto, size: int) -> dict[str, tuple[int, ...]]:
    """Of all values for a batch of so many."""
    feeds = {}
    for value in proto.graph.input:
        lengths = [d.dim_value or size for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = np.zeros(lengths, np.float32)
    found = _reference(proto).run(None, feeds, intermediate=True)
    return {name: np.shape(value) for name, value in found.items()}


def _length(two: int, three: int) -> int | str:
    """A length that is `two` for two images and `three` for three."""
    each = three - two
    return two if not each else "N" if each == 1 else f"{each}*N"


def _reference(proto: onnx.ModelProto) -> ReferenceEvaluator:
    return ReferenceEvaluator(proto, new_ops=[QuantizeDequantize, Linear, Quant])
