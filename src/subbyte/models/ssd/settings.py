"""What belongs to an SSD beside its network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What happens before and after the network; a deployment needs all of it.

    Non-maximum suppression (NMS) sees boxes as the network gives them; they are clipped to the
    image afterwards.

    Attributes:
        mean: Of R, G and B, on the scale of 0 to 1.
        std: The same.
        score_threshold: Scores up to this one are left out.
        nms_iou: The overlap above which NMS leaves out the box of the lower score.
        size: The side in pixels of the square to which images are resized.
        antialias: Images are resized as PIL does, else by plain bilinear interpolation, as OpenCV
            does.
        variances: Of centres and of sides, by which the network's outputs are multiplied.
        candidates: How many scores of each class go into NMS at most.
        detections: How many boxes of all classes come out at most.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    score_threshold: float
    nms_iou: float
    size: int = 300
    antialias: bool = False
    variances: tuple[float, float] = (0.1, 0.2)
    candidates: int = 200
    detections: int = 200
