"""Images with objects to be found: COCO's, Pascal VOC's and YOLO's forms."""

from subbyte.data.detection.coco import read_coco
from subbyte.data.detection.dataset import DetectionBatches, DetectionDataset, of_arrays, of_listing
from subbyte.data.detection.listing import Listing, Objects, coco_form
from subbyte.data.detection.voc import read_voc
from subbyte.data.detection.yolo import read_yolo

__all__ = [
    "DetectionBatches",
    "DetectionDataset",
    "Listing",
    "Objects",
    "coco_form",
    "of_arrays",
    "of_listing",
    "read_coco",
    "read_voc",
    "read_yolo",
]
