"""How four numbers are a box: every function is differentiable and changes nothing in place."""

from __future__ import annotations

import torch
from torch import Tensor

from subbyte.detection import Outputs


def corners(boxes: Tensor, form: str) -> Tensor:
    """Boxes [..., 4] of a form as x0, y0, x1, y1.

    Args:
        boxes: The boxes.
        form: "cxcywh" (centre, width and height), "xywh" (upper left corner, width and height) or
            "xyxy".
    """
    first, second = boxes[..., :2], boxes[..., 2:]
    if form == "xyxy":
        # Not the columns themselves: files would gather rows from the uncut tensor, for which ONNX
        # allows fewer columns of indices than of data, and OpenVINO does not.
        return torch.cat([first, second], -1)
    if form == "xywh":
        return torch.cat([first, first + second], -1)
    return torch.cat([first - second / 2, first + second / 2], -1)


def placed(boxes: Tensor, outputs: Outputs, size: tuple[int, int]) -> Tensor:
    """Decoded boxes [..., 4] of the form and unit that `outputs` says, as corners in pixels.

    Args:
        boxes: The boxes.
        outputs: What the network gives.
        size: Height and width of the network's input.
    """
    found = corners(boxes, outputs.how)
    return in_pixels(found, size) if outputs.is_relative else found


def in_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] that are shares of a width and height, in pixels of an image of `size`."""
    height, width = size
    return boxes * boxes.new_tensor([width, height, width, height])


def yolox(values: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Centre = (xy + cell) · stride, size = exp(wh) · stride.

    Args:
        values: [N, B, 4].
        cells: [B, 2], columns and rows.
        strides: [B, 1].
    """
    centres = (values[..., :2] + cells) * strides
    half = torch.exp(values[..., 2:]) * strides / 2
    return torch.cat([centres - half, centres + half], -1)


def by_anchors(values: Tensor, cells: Tensor, strides: Tensor, anchors: Tensor) -> Tensor:
    """Centre = (2σ(xy) − 0.5 + cell) · stride, size = (2σ(wh))² · anchor, as YOLOv5 and 7.

    Args:
        values: [N, B, 4].
        cells: [B, 2], columns and rows.
        strides: [B, 1].
        anchors: [B, 2], width and height in pixels.
    """
    doubled = 2 * torch.sigmoid(values)
    centres = (doubled[..., :2] - 0.5 + cells) * strides
    sides = doubled[..., 2:]
    half = sides * sides * anchors / 2
    return torch.cat([centres - half, centres + half], -1)


def by_distances(values: Tensor, points: Tensor, strides: Tensor, bins: int) -> Tensor:
    """Distances to the left, upper, right and lower side, in strides.

    Args:
        values: [N, B, 4 · bins].
        points: [B, 2], in pixels.
        strides: [B, 1].
        bins: A distance is the mean of a distribution over 0 … bins − 1, whose logits these are;
            1: the distance itself.
    """
    if bins > 1:
        logits = values.reshape(-1, values.shape[1], 4, bins)
        steps = torch.arange(bins, dtype=values.dtype, device=values.device)
        values = (logits.softmax(-1) * steps).sum(-1)
    distances = values * strides
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)
