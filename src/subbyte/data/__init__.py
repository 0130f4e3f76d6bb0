"""Calibration and evaluation images: folders of image files and the bundled digits."""

from subbyte.data.config import DataConfig
from subbyte.data.dataset import Batches, read_image_tensor
from subbyte.data.loading import Data, open_calibration, open_data, open_evaluation

__all__ = [
    "Batches",
    "Data",
    "DataConfig",
    "open_calibration",
    "open_data",
    "open_evaluation",
    "read_image_tensor",
]
