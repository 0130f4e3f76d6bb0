"""What belongs to an SSD beside its network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What happens before and after the network; a deployment needs all of it.

    `size`: side in pixels of the square to which images are resized, `antialias` how: as PIL does,
    or by plain bilinear interpolation, as OpenCV does. `mean`, `std`: of R, G and B, on the scale
    of 0 to 1. `variances`: of centres and of sides, by which the network's outputs are multiplied.
    Of each class the `candidates` highest scores above `score_threshold` go into non-maximum
    suppression at `nms_iou`, and the `detections` highest of all classes come out. Suppression sees
    boxes as the network gives them; they are clipped to the image afterwards.
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
