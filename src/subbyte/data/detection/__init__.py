"""Images with objects to be found: COCO's, Pascal VOC's and YOLO's forms."""

from subbyte.data.detection.dataset import DetectionBatches, DetectionDataset, of_arrays, of_listing
from subbyte.data.detection.listing import Listing, Objects, coco_form

__all__ = [
    "DetectionBatches",
    "DetectionDataset",
    "Listing",
    "Objects",
    "coco_form",
    "of_arrays",
    "of_listing",
]
