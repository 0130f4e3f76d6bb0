"""Calibration and evaluation images: folders of image files, with objects to find, and digits."""

from subbyte.data.config import DataConfig
from subbyte.data.dataset import Batches, read_image_tensor
from subbyte.data.detection.opening import (
    DetectionData,
    open_detection,
    open_detection_calibration,
    open_detection_evaluation,
)
from subbyte.data.folders import image_roots
from subbyte.data.labels import Evaluation
from subbyte.data.loading import Data, Unlabelled, open_calibration, open_data, open_evaluation

__all__ = [
    "Batches",
    "Data",
    "DataConfig",
    "DetectionData",
    "Evaluation",
    "Unlabelled",
    "image_roots",
    "open_calibration",
    "open_data",
    "open_detection",
    "open_detection_calibration",
    "open_detection_evaluation",
    "open_evaluation",
    "read_image_tensor",
]
