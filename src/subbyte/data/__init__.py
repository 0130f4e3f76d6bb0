"""Calibration and evaluation images: folders of image files, with objects to find, and digits.

Names other than `DataConfig` are imported when they are first used, because they need PyTorch.
"""

from typing import TYPE_CHECKING

from subbyte.data.config import DataConfig
from subbyte.utils import lazy

if TYPE_CHECKING:
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
else:
    __getattr__ = lazy.attributes(
        __name__,
        {
            "Batches": "subbyte.data.dataset",
            "Data": "subbyte.data.loading",
            "DetectionData": "subbyte.data.detection.opening",
            "Evaluation": "subbyte.data.labels",
            "Unlabelled": "subbyte.data.loading",
            "image_roots": "subbyte.data.folders",
            "open_calibration": "subbyte.data.loading",
            "open_data": "subbyte.data.loading",
            "open_detection": "subbyte.data.detection.opening",
            "open_detection_calibration": "subbyte.data.detection.opening",
            "open_detection_evaluation": "subbyte.data.detection.opening",
            "open_evaluation": "subbyte.data.loading",
            "read_image_tensor": "subbyte.data.dataset",
        },
    )

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
