"""From what an SSD gives to its detections: all that a deployment must know."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

ATTRIBUTE = "subbyte_postprocessing"  # by which a model hands out its `Anchored`


@dataclass(frozen=True)
class Anchored:
    """What happens around the network of an SSD (Liu et al. 2016).

    The network gives regressions [N, A, 4] and logits [N, A, C], of which class 0 is the
    background. Of each class the highest scores go into non-maximum suppression (NMS); the highest
    of all classes come out.

    Attributes:
        mean: Of R, G and B, on the scale of 0 to 1.
        std: The same.
        size: Height and width in pixels to which images are resized.
        boxes: The default boxes [A, 4] in the centre form (cx, cy, w, h), relative to the image.
        score_threshold: Scores up to this one are left out.
        nms_iou: The overlap above which NMS leaves out the box of the lower score.
        candidates: How many scores of each class go into NMS at most.
        detections: How many boxes of an image come out at most.
        variances: By which regressions are multiplied, those of centres and those of sides.
        limit: Of the logarithm of a ratio of sides; `None`: none.
        clips_first: Boxes are clipped to the image before NMS, else behind it.
        antialias: Images are resized as PIL does, else by plain bilinear interpolation.
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
