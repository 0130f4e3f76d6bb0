"""From what an SSD gives to its detections: all that a deployment must know."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

ATTRIBUTE = "subbyte_postprocessing"  # by which a model hands out its `Anchored`


@dataclass(frozen=True)
class Anchored:
    """What happens around the network of an SSD (Liu et al. 2016).

    The network gives regressions [N, A, 4] and logits [N, A, C], of which class 0 is the
    background. mean, std: of R, G and B, on the scale of 0 to 1. size: height and width in pixels
    to which images are resized, antialias: as PIL does, else by plain bilinear interpolation.
    boxes: the default boxes [A, 4] in the centre form (cx, cy, w, h), relative to the image.
    variances: of centres and of sides, by which regressions are multiplied; limit: of the logarithm
    of a ratio of sides (`None`: none). Of each class the `candidates` highest scores above
    `score_threshold` go into non-maximum suppression at the overlap `nms_iou`; the `detections`
    highest of all classes come out. clips_first: boxes are clipped to the image before the
    suppression and not behind it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    boxes: Tensor
    score_threshold: float
    nms_iou: float
    candidates: int
    detections: int
    variances: tuple[float, float] = (0.1, 0.2)
    limit: float | None = None
    clips_first: bool = False
    antialias: bool = False
