"""Resizing whose pixels runtimes choose otherwise than PyTorch, written as what it computes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch

from subbyte.targets.onnx.graph import array, attribute, constant, prune, put, replace, shape_of
from subbyte.targets.onnx.resizing import is_as_in_pytorch, nearest_pixels, resizing_matrix

A = torch.ops.aten
OUTER = 2  # dimensions that are not resized: images and channels


@dataclass(frozen=True)
class _Side:
    """One dimension that is resized.

    Attributes:
        axis: Which it is.
        before: Its length.
        after: That of the result.
        scale: The factor that the node names; `None`: it names the length.
    """

    axis: int
    before: int
    after: int
    scale: float | None


def write_resizing(model: ir.Model) -> None:
    """Write some resizings of fixed lengths as a Gather or as products.

    To the nearest pixel: runtimes divide by a scale where PyTorch multiplies by its inverse, and
    where that is rounded to another pixel a Gather names PyTorch's. (Where the node names scales,
    their last digits are lost; those are written before.) Bicubic to fewer pixels: ONNX
    Runtime cannot run it where it moves channels to the end. It is linear, and becomes a product
    with a matrix for each side.
    """
    for node in list(model.graph):
        if node.op_type != "Resize" or node.domain or attribute(node, "antialias", 0):
            continue
        mode, sides = attribute(node, "mode", "nearest"), _sides(node)
        named = any(side.scale is not None for side in sides)
        if mode == "nearest" and _is_floor(node) and not named and not _are_nearest(sides):
            _gather(model.graph, node, sides)
        elif mode == "cubic" and len(sides) == 2 and any(s.after < s.before for s in sides):
            _multiply(model.graph, node, sides)
    prune(model)


def _sides(node: ir.Node) -> list[_Side]:
    """The dimensions behind images and channels; none where a length is not known."""
    assert node.inputs[0] is not None
    before, after = (shape_of(value) or [] for value in (node.inputs[0], node.outputs[0]))
    factors = array(node.inputs[2]) if len(node.inputs) > 2 else None
    sides = []
    for axis in range(OUTER, len(before)):
        lengths = before[axis], after[axis] if axis < len(after) else None
        if not (isinstance(lengths[0], int) and isinstance(lengths[1], int)):
            return []
        named = factors is not None and factors.size == len(before)
        scale = float(factors[axis]) if factors is not None and named else None
        sides.append(_Side(axis, lengths[0], lengths[1], scale))
    return sides


def _is_floor(node: ir.Node) -> bool:
    kinds = attribute(node, "coordinate_transformation_mode"), attribute(node, "nearest_mode")
    return kinds == ("asymmetric", "floor")


def _are_nearest(sides: list[_Side]) -> bool:
    return all(is_as_in_pytorch(side.before, side.after) for side in sides)


def _gather(graph: ir.Graph, node: ir.Node, sides: list[_Side]) -> None:
    value = node.inputs[0]
    assert value is not None
    shape = shape_of(value)
    assert shape is not None
    for side in sides:
        if side.before != side.after:
            numbers = nearest_pixels(side.before, side.after).numpy()
            pixels = constant(graph, f"{node.outputs[0].name}_pixels", numbers)
            shape[side.axis] = side.after
            value = put(node, "Gather", [value, pixels], {"axis": side.axis}, shape=shape)
    replace(node.outputs[0], value)


def _multiply(graph: ir.Graph, node: ir.Node, sides: list[_Side]) -> None:
    corners = attribute(node, "coordinate_transformation_mode") == "align_corners"
    rows, columns = (
        resizing_matrix(A.upsample_bicubic2d.default, s.before, s.after, corners, s.scale).numpy()
        for s in sides
    )
    name = f"{node.outputs[0].name}_matrix"
    value = put(node, "MatMul", [node.inputs[0], constant(graph, name, columns)])
    value = put(node, "MatMul", [constant(graph, name, rows.T.copy()), value])
    replace(node.outputs[0], value)
