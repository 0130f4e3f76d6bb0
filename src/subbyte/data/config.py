"""The `data` part of an experiment: which images, how many, and how they are prepared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import unknown
from subbyte.utils.validation import HomePath

BUNDLED = ("digits",)
BUNDLED_SCENES = ("digit-scenes",)

Count = Annotated[int, Field(ge=1)]


Format = Literal["coco", "voc", "yolo"]


class Annotations(BaseModel):
    """A file of annotations for each side; those of calibration may be missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: HomePath | None = None
    evaluation: HomePath


class Splits(BaseModel):
    """The name of the part of a data set that each side takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: str = "train"
    evaluation: str = "val"


class DataConfig(BaseModel):
    """Where calibration and evaluation images come from; exactly one of three ways.

    Images are bundled (`name`), in a folder that holds train/ and val/ (`root`), or in any two
    folders (`calibration` and `evaluation`). For detectors, `root` is a data set in the layout that
    its tools know:

    - coco: ROOT/annotations/instances_SPLIT.json, with or without a year behind the split, and the
      images in ROOT/SPLIT or ROOT/images/SPLIT; or ROOT/SPLIT/_annotations.coco.json beside them.
    - voc: ROOT/JPEGImages, ROOT/Annotations and ROOT/ImageSets/Main/SPLIT.txt, or VOC's archive,
      VOCdevkit/VOC2007, below ROOT.
    - yolo: ROOT/images/SPLIT and ROOT/labels/SPLIT, or ROOT/SPLIT/images and ROOT/SPLIT/labels, or
      as in a data.yaml in ROOT; class names from that, from ROOT/classes.txt or from `classes`.

    Attributes:
        name: Of bundled data: "digits", for classifiers; "digit-scenes", for detectors.
        root: A folder that holds both sides.
        calibration: A folder of images; of a detector's data set in VOC's form, the data set.
        evaluation: Likewise.
        calibration_images: How many images calibrate.
        evaluation_images: How many are evaluated; `None`: all.
        classes: A text file with one class name per line. Of a classifier the names of the class
            folders in the order of the outputs, or "imagenet" (default: `data.classes.class_order`
            finds out); of a detector the names in the order of the labels, without the background.
        skip_broken: Leave out image files that cannot be decoded, instead of refusing them.
        preprocessing: Replaces that of the weights. Of detectors only those have one that are a raw
            network (`model.outputs`); all others prepare images by themselves.
        format: Of a detector's annotations; `None`: as the files show it.
        annotations: Files that lie elsewhere: a JSON file in COCO's form, which is that of both
            sides of a `root` (a folder of images) or that of `evaluation`; {calibration: FILE,
            evaluation: FILE}; or YOLO's data.yaml. Calibration images need no annotations in COCO's
            form.
        splits: Names of the parts; {calibration: train, evaluation: val} where nothing else is
            given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    root: HomePath | None = None
    calibration: HomePath | None = None
    evaluation: HomePath | None = None
    calibration_images: Count = 512
    evaluation_images: Count | None = None
    classes: HomePath | None = None
    skip_broken: bool = False
    preprocessing: Preprocessing | None = None
    format: Format | None = None
    annotations: HomePath | Annotations | None = None
    splits: Splits | None = None

    @property
    def is_detection(self) -> bool:
        """Whether a key is given that only detectors' data has; a `root` alone says nothing."""
        keys = (self.format, self.annotations, self.splits)
        return self.name in BUNDLED_SCENES or any(key is not None for key in keys)

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.name is not None:
            self._refuse_beside_name(self.name)
        elif self.root is not None:
            self._refuse_beside_root()
        elif self.calibration is None and self.evaluation is None:
            raise ValueError(
                "data needs name (bundled: digits), or root (a folder with train/ and val/), "
                "or calibration and evaluation (two folders); for detectors digit-scenes is bundled"
            )
        elif self.calibration is None or self.evaluation is None:
            given, missing = ("calibration", "evaluation")
            if self.calibration is None:
                given, missing = missing, given
            raise ValueError(
                f"data.{given} is given without data.{missing}: give both, or data.root"
            )
        return self

    def _refuse_beside_name(self, name: str) -> None:
        known = (*BUNDLED, *BUNDLED_SCENES)
        if name not in known:
            raise ValueError(str(unknown("data", name, known)))
        counts = ("name", "calibration_images", "evaluation_images")
        for key in [key for key in type(self).model_fields if key not in counts]:
            if getattr(self, key) not in (None, False):
                raise ValueError(
                    f"data.{key} has no meaning with data.name: {name}; leave one of them out"
                )

    def _refuse_beside_root(self) -> None:
        for key in ("calibration", "evaluation"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"data.{key} has no meaning with data.root: give either root, "
                    "or calibration and evaluation"
                )
