"""Form "levels": undecoded maps or vectors of one or several strides, or all levels in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subbyte.detection import Outputs
from subbyte.detectors.raw import geometry
from subbyte.detectors.raw.parts import Parts, columns, parts_of
from subbyte.detectors.raw.scores import scores_of

Size = tuple[int, int]
POINTS = {"centre": (0.5, 0.0), "corner": (0.0, 0.0), "half": (0.5, -0.5)}  # in cells, in pixels


@dataclass(frozen=True)
class Grid:
    """The cells of a level.

    Attributes:
        height: Rows of cells.
        width: Columns of cells.
        stride: Pixels of a cell.
        anchors: Width and height of each anchor, one after the other; empty: one box a cell.
    """

    height: int
    width: int
    stride: int
    anchors: tuple[float, ...] = ()

    @property
    def boxes_of_cell(self) -> int:
        """How many boxes a cell has."""
        return len(self.anchors) // 2 or 1

    @property
    def boxes(self) -> int:
        """How many boxes there are."""
        return self.height * self.width * self.boxes_of_cell


@dataclass(frozen=True)
class Read:
    """What was read of a network's outputs.

    Attributes:
        parts: Of each level, or of all in one.
        grids: The levels.
        cells_first: Boxes of one cell follow each other, else those of one anchor do.
    """

    parts: tuple[Parts, ...]
    grids: tuple[Grid, ...]
    cells_first: bool = False


@dataclass(frozen=True)
class _Rows:
    """A way to read a tensor.

    Attributes:
        values: [N, boxes, columns].
        cells_first: Boxes of one cell follow each other.
        last: The columns are the tensor's last dimension.
    """

    values: Tensor
    cells_first: bool = False
    last: bool = False


def grids_of(outputs: Outputs, size: Size) -> tuple[Grid, ...]:
    """The levels of an input of `size` (height, width); those at the edge may be cut off."""
    height, width = size
    anchors = (
        outputs.anchors_of_levels if outputs.how == "anchors" else ((),) * len(outputs.strides)
    )
    return tuple(
        Grid(-(-height // stride), -(-width // stride), stride, own)
        for stride, own in zip(outputs.strides, anchors, strict=True)
    )


def expected(outputs: Outputs, size: Size) -> str:
    """What fits, as it stands in a sentence."""
    grids = grids_of(outputs, size)
    maps = ", ".join(f"{grid.height} × {grid.width}" for grid in grids)
    vectors = ", ".join(str(grid.boxes) for grid in grids)
    each = f"{grids[0].boxes_of_cell} · ({columns(outputs)})" if grids[0].anchors else ""
    return (
        f"of strides {', '.join(map(str, outputs.strides))} maps of {maps} cells with "
        f"{each or columns(outputs)} channels, vectors of {vectors} boxes, or one of "
        f"{sum(grid.boxes for grid in grids)}, boxes and classes in one or apart"
    )


def read(outputs: Outputs, tensors: Sequence[Tensor], size: Size) -> Read | None:
    """Boxes, objectness and classes of each level; `None`: the shapes do not fit.

    Args:
        outputs: What the network is said to give.
        tensors: What it gives.
        size: Height and width of its input.
    """
    grids = grids_of(outputs, size)
    rows, alike = _read(outputs, tensors, grids, None)
    if rows is not None and alike:
        return rows
    # Where lengths are alike by chance, a shape by itself does not tell: all tensors have one form.
    whole = (_read(outputs, tensors, grids, last)[0] for last in (False, True))
    return next((found for found in whole if found is not None), rows)


def _read(
    outputs: Outputs, tensors: Sequence[Tensor], grids: tuple[Grid, ...], last: bool | None
) -> tuple[Read | None, bool]:
    """What `read` gives, and whether the columns of all tensors are in the same place.

    Args:
        outputs: What the network is said to give.
        tensors: What it gives.
        grids: The levels.
        last: Whether columns are the last dimension of all; `None`: as each shape tells.
    """
    of_level: dict[int, list[_Rows]] = {i: [] for i in range(len(grids))}
    joined: list[_Rows] = []
    total = sum(grid.boxes for grid in grids)
    for tensor in tensors:
        placed = ((i, _first(_rows(tensor, grid), last)) for i, grid in enumerate(grids))
        own = next(((i, rows) for i, rows in placed if rows is not None), None)
        if own is not None:
            of_level[own[0]].append(own[1])
            continue
        rows = _first(_vectors(tensor, total), last)
        if rows is None:
            return None, False
        joined.append(rows)
    alike = len({rows.last for level in (*of_level.values(), joined) for rows in level}) == 1
    if joined:
        whole = parts_of(outputs, [rows.values for rows in joined])
        alone = whole is not None and not any(of_level.values())
        return (Read((whole,), grids) if whole is not None and alone else None), alike
    orders = {rows.cells_first for level in of_level.values() for rows in level}
    parts = [parts_of(outputs, [rows.values for rows in level]) for level in of_level.values()]
    found = tuple(level for level in parts if level is not None)
    if len(found) < len(parts) or len(orders) > 1:
        return None, alike
    if len({level.classes.shape[-1] for level in found}) > 1:
        return None, alike
    return Read(found, grids, orders.pop()), alike


def decode(outputs: Outputs, found: Read, size: Size) -> tuple[Tensor, Tensor]:
    """Boxes [N, B, 4] in pixels and scores [N, B, classes].

    Args:
        outputs: What the network gives.
        found: That, as `read` has it.
        size: Height and width of the network's input.
    """
    del size
    groups = [found.grids] if len(found.parts) == 1 else [(grid,) for grid in found.grids]
    decoded = [
        (
            _boxes(outputs, parts.boxes, grids, found.cells_first),
            scores_of(outputs, parts.classes, parts.objectness),
        )
        for parts, grids in zip(found.parts, groups, strict=True)
    ]
    boxes, scores = zip(*decoded, strict=True)
    return torch.cat(boxes, 1), torch.cat(scores, 1)


def _boxes(outputs: Outputs, values: Tensor, grids: Sequence[Grid], cells_first: bool) -> Tensor:
    shift, pixels = POINTS[outputs.point] if outputs.how == "distances" else (0.0, 0.0)
    cells = torch.cat([_cells(grid, values, cells_first) for grid in grids])
    strides = torch.cat([values.new_full((grid.boxes, 1), float(grid.stride)) for grid in grids])
    if outputs.how == "distances":
        points = (cells + shift) * strides + pixels
        return geometry.by_distances(values, points, strides, outputs.bins_of_side)
    if outputs.how == "yolox":
        return geometry.yolox(values, cells, strides)
    anchors = torch.cat([_anchors(grid, values, cells_first) for grid in grids])
    return geometry.by_anchors(values, cells, strides, anchors)


def _cells(grid: Grid, like: Tensor, cells_first: bool) -> Tensor:
    """Column and row of each box's cell, [boxes, 2]; rows of cells follow each other."""
    rows = torch.arange(grid.height, dtype=like.dtype, device=like.device)
    columns_ = torch.arange(grid.width, dtype=like.dtype, device=like.device)
    shape = (grid.height, grid.width)
    x, y = columns_.view(1, -1).expand(shape), rows.view(-1, 1).expand(shape)
    cells = torch.stack([x, y], -1).reshape(-1, 2)
    if cells_first:
        return cells.repeat_interleave(grid.boxes_of_cell, 0)
    return cells.repeat(grid.boxes_of_cell, 1)


def _anchors(grid: Grid, like: Tensor, cells_first: bool) -> Tensor:
    """Width and height of each box's anchor, [boxes, 2]."""
    anchors, cells = like.new_tensor(grid.anchors).view(-1, 2), grid.height * grid.width
    return anchors.repeat(cells, 1) if cells_first else anchors.repeat_interleave(cells, 0)


def _first(found: Sequence[_Rows], last: bool | None) -> _Rows | None:
    """The first of some ways to read a tensor that has its columns where `last` says."""
    return next((rows for rows in found if last in (None, rows.last)), None)


def _rows(tensor: Tensor, grid: Grid) -> list[_Rows]:
    """A level's rows, in each way in which the tensor can be one, the likelier first."""
    of_cell, (height, width) = grid.boxes_of_cell, (grid.height, grid.width)
    shape, found = tuple(tensor.shape[1:]), []
    if len(shape) == 2:
        return _vectors(tensor, grid.boxes)
    if len(shape) == 3 and shape[1:] == (height, width) and shape[0] % of_cell == 0:
        split = tensor.reshape(-1, of_cell, shape[0] // of_cell, height, width)
        found.append(_Rows(_rows_of_channels(split)))
    if len(shape) == 3 and shape[:2] == (height, width) and shape[2] % of_cell == 0:
        values = tensor.reshape(-1, grid.boxes, shape[2] // of_cell)
        found.append(_Rows(values, cells_first=True, last=True))
    if len(shape) == 4 and shape[:3] == (of_cell, height, width):
        found.append(_Rows(tensor.reshape(-1, grid.boxes, shape[3]), last=True))
    if len(shape) == 4 and (shape[0], *shape[2:]) == (of_cell, height, width):
        found.append(_Rows(_rows_of_channels(tensor)))
    return found


def _rows_of_channels(maps: Tensor) -> Tensor:
    """Maps [N, anchors, columns, height, width] as rows [N, boxes, columns]."""
    _, of_cell, numbers, height, width = maps.shape
    return maps.permute(0, 1, 3, 4, 2).reshape(-1, of_cell * height * width, numbers)


def _vectors(tensor: Tensor, boxes: int) -> list[_Rows]:
    """The rows of a tensor of so many boxes, which may be transposed."""
    found = []
    if tensor.dim() == 3 and tensor.shape[1] == boxes:
        found.append(_Rows(tensor, last=True))
    if tensor.dim() == 3 and tensor.shape[2] == boxes:
        found.append(_Rows(tensor.transpose(1, 2)))
    return found
