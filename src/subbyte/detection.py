"""What a detector's raw network gives, in one sentence, and how images become what it reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from subbyte.data import preprocessing as images
from subbyte.utils.validation import Checked

__all__ = ["Outputs", "Preprocessing"]

FORMS = ("decoded", "levels", "queries", "detections")
CHOSEN = ("queries", "detections")  # in which nothing is suppressed
# YOLOv5's, for strides of 8, 16 and 32: width and height in pixels.
ANCHORS = (
    (10.0, 13.0, 16.0, 30.0, 33.0, 23.0),
    (30.0, 61.0, 62.0, 45.0, 59.0, 119.0),
    (116.0, 90.0, 156.0, 198.0, 373.0, 326.0),
)
CORNERS = ("cxcywh", "xyxy", "xywh")  # how four numbers are a box
CODED = ("distances", "yolox", "anchors")  # how four numbers at a cell are a box
DFL_BINS = 16  # as YOLOv8 to YOLO11 have them
NMS_IOU = 0.65

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]

# Keys that every form has, and those that it has besides.
_EVERY = ("form", "classes", "take", "score")
_SUPPRESSED = ("nms", "before", "after")
_SCORED = ("box", "activation", "background", "order")
_KEYS = {
    "decoded": (*_SCORED, *_SUPPRESSED, "unit", "objectness"),
    "levels": (
        *_SCORED,
        *_SUPPRESSED,
        "strides",
        "anchors",
        "bins",
        "point",
        "objectness",
    ),
    "queries": (*_SCORED, "unit", "top"),
    "detections": ("box", "unit", "top"),
}


class Outputs(Checked):
    """What a detector's network gives, and which of its boxes count.

    Attributes:
        form: "decoded", boxes and scores; "levels", undecoded maps or vectors of one or several
            strides; "queries", logits and boxes of a transformer's queries; "detections", rows of a
            box, a score and a class's number that the network has chosen; or FILE.py:FUNCTION (or
            package.module:function), `function(outputs, size) -> (boxes, scores)`, with boxes
            [N, B, 4] as x0, y0, x1, y1 in pixels of the network's input of `size` (height, width)
            and scores [N, B, classes]; it gets the network's one output, or a tuple of all.
        box: What the four numbers are. Of "levels": "distances" from a point to the four sides in
            strides (the default), "yolox" (centre = (xy + cell) · stride, size = exp(wh) · stride)
            or "anchors" (YOLOv5 and 7: centre = (2σ(xy) − 0.5 + cell) · stride, size = (2σ(wh))² ·
            anchor). Of the other forms: "cxcywh" (the default), "xyxy" (that of "detections") or
            "xywh".
        unit: Of "decoded" ("pixels" by default) and "queries" ("relative" by default): pixels of
            the network's input, or shares of its width and height.
        objectness: Each box has a score of its own, by which those of its classes are multiplied.
            By default "yolox" and "anchors" do, and all else does not.
        activation: What makes scores of the network's numbers, "none" (the default of "decoded"),
            "sigmoid" (of the others) or "softmax".
        background: Of which class the score does not count, "none", "first" or "last"; by default
            "last" for queries with a softmax, else "none".
        order: What comes first where shapes do not tell, "boxes" (the default) or "classes" (that
            of two tensors of queries).
        strides: Of "levels": pixels of a cell, one for each level.
        anchors: Of box "anchors": for each level width and height of each anchor in pixels, one
            after the other.
        bins: Of box "distances": how many values the distribution of each distance has (GFL, DFL),
            16 by default; 1: the distance itself.
        point: Of box "distances": where a cell measures from, its "centre", its upper left
            "corner", or "half", half a pixel before its centre.
        top: Of "queries" and "detections": how many detections an image has at most.
        classes: How many classes there are; `None`: as the shapes tell.
        take: Which of the network's outputs are read, by number from 0 on, or by name where it
            gives a dictionary; `None`: all.
        score: Scores up to this one are left out.
        nms: The overlap (IoU) from which on a box of the same class with a lower score is left out;
            `None`: boxes are as they are.
        before: How many scores of an image are looked at, the highest ones.
        after: How many detections an image has at most.

    Raises:
        SubbyteError: A key does not exist, has no meaning for the form, or has a wrong value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: str
    box: Literal["cxcywh", "xyxy", "xywh", "distances", "yolox", "anchors"] | None = None
    unit: Literal["pixels", "relative"] | None = None
    objectness: bool | None = None
    activation: Literal["none", "sigmoid", "softmax"] | None = None
    background: Literal["none", "first", "last"] | None = None
    order: Literal["boxes", "classes"] | None = None
    strides: tuple[_Count, ...] = (8, 16, 32)
    anchors: tuple[tuple[float, ...], ...] | None = None
    bins: _Count | None = None
    point: Literal["centre", "corner", "half"] = "centre"
    top: _Count = 300
    classes: _Count | None = None
    take: tuple[int | str, ...] | None = None
    score: _Share = 0.001
    nms: _Share | None = NMS_IOU
    before: _Count = 3000
    after: _Count = 300

    @field_validator("form")
    @classmethod
    def _known_form(cls, value: str) -> str:
        if value not in FORMS and ":" not in value:
            raise ValueError(
                f"'{value}' is not a form of outputs: give decoded, levels, queries, detections or "
                "FILE.py:FUNCTION"
            )
        return value

    @field_validator("anchors", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """Pairs as well as one list of numbers for each level."""
        if not isinstance(value, list | tuple):
            return value
        return [
            [x for pair in level for x in (pair if isinstance(pair, list | tuple) else [pair])]
            if isinstance(level, list | tuple)
            else level
            for level in value
        ]

    @model_validator(mode="after")
    def _consistent(self) -> Outputs:
        problem = self._key_problem() or self._box_problem() or self._anchor_problem()
        if problem:
            raise ValueError(problem)
        return self

    def _key_problem(self) -> str | None:
        named = self.form if self.form in FORMS else "FILE.py:FUNCTION"
        keys = (*_EVERY, *_KEYS.get(self.form, _SUPPRESSED))
        for key in (key for key in type(self).model_fields if key in self.model_fields_set):
            if key not in keys and getattr(self, key) is not None:
                return f"{key} has no meaning with form: {named}, whose keys are {', '.join(keys)}"
        if self.form == "detections" and self.classes is None:
            return "form: detections has the numbers of classes: give classes, how many there are"
        return None

    def _box_problem(self) -> str | None:
        if self.form in FORMS and self.box is not None:
            known = CODED if self.form == "levels" else CORNERS
            if self.box not in known:
                names = ", ".join(known)
                return f"box: {self.box} does not go with form: {self.form}: give one of {names}"
        if self.bins is not None and self.how != "distances":
            return f"bins are those of distances: leave them out with box: {self.how}"
        if "point" in self.model_fields_set and self.how != "distances":
            return f"point is that of distances: leave it out with box: {self.how}"
        return None

    def _anchor_problem(self) -> str | None:
        if self.anchors is not None and self.how != "anchors":
            return f"anchors need box: anchors, and box is {self.how}"
        if not self.strides:
            return "strides are empty: give one for each level, as [8, 16, 32]"
        if len(set(self.strides)) < len(self.strides):
            return "each level has a stride of its own: give strides that differ"
        if self.how == "anchors":
            levels = self.anchors_of_levels
            if len(levels) != len(self.strides):
                return (
                    f"anchors are given for {len(levels)} levels, and there are "
                    f"{len(self.strides)} strides: give a list of anchors for each stride"
                )
            if any(not level or len(level) % 2 or min(level) <= 0 for level in levels):
                return "anchors of a level are pairs of width and height in pixels, above 0"
            if len({len(level) for level in levels}) > 1:
                return "every level has as many anchors as the others"
        return None

    @property
    def how(self) -> str:
        """`box`, resolved."""
        return self.box or {"levels": "distances", "detections": "xyxy"}.get(self.form, "cxcywh")

    @property
    def is_relative(self) -> bool:
        """Whether boxes are shares of the input's width and height."""
        return (self.unit or ("relative" if self.form == "queries" else "pixels")) == "relative"

    @property
    def has_objectness(self) -> bool:
        """`objectness`, resolved."""
        return self.how in ("yolox", "anchors") if self.objectness is None else self.objectness

    @property
    def scores_by(self) -> str:
        """`activation`, resolved."""
        by = "none" if self.form in ("decoded", "detections") else "sigmoid"
        return self.activation or by

    @property
    def without(self) -> str:
        """`background`, resolved."""
        if self.background is not None:
            return self.background
        return "last" if (self.form, self.scores_by) == ("queries", "softmax") else "none"

    @property
    def classes_first(self) -> bool:
        """Whether classes come before boxes in tensors of their own."""
        return (self.order or ("classes" if self.form == "queries" else "boxes")) == "classes"

    @property
    def width(self) -> int:
        """How many numbers a box is."""
        return 4 * self.bins_of_side

    @property
    def bins_of_side(self) -> int:
        """`bins`, resolved."""
        return (self.bins or DFL_BINS) if self.how == "distances" else 1

    @property
    def anchors_of_levels(self) -> tuple[tuple[float, ...], ...]:
        """`anchors`, resolved."""
        return ANCHORS if self.anchors is None else self.anchors

    @property
    def overlap(self) -> float | None:
        """The overlap of suppression; `None`: nothing is suppressed."""
        return None if self.form in CHOSEN else self.nms

    @property
    def limit(self) -> int:
        """How many detections an image has at most."""
        return self.top if self.form in CHOSEN else self.after


class Preprocessing(Checked, images.Preprocessing):
    """How images of any size, RGB in [0, 1], become what a detector's network reads.

    Letterbox or resize, colours, range, mean and std, in this order. By default nothing is done.

    Attributes:
        letterbox: A square's side, or (height, width), in pixels, into which an image is resized as
            far as it fits, in its own ratio of sides; `None`: as it is.
        fill: What the rest of the letterbox is filled with, a pixel's value from 0 to 255, or one
            for each channel in the order of `colours`.
        place: Where the image lies in the letterbox, in its "centre" or in its upper left "corner".
        resize: Instead of a letterbox: (height, width) in pixels, to which images are stretched.
        colours: The order of the network's input channels, "rgb" or "bgr".
        range: What white is in the network's input before `mean` and `std`, 1 or 255.
        mean: Is subtracted, in the units of `range` and the order of `colours`.
        std: What is left is divided by it, likewise.
        antialias: Images are resized as PIL does, else by plain bilinear interpolation, as OpenCV
            does.

    Raises:
        SubbyteError: A key does not exist, has no meaning for a detector, or has a wrong value.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _for_detectors(self) -> Preprocessing:
        if self.crop is not None:
            raise ValueError("crop is for classifiers: give a detector's letterbox or resize")
        if isinstance(self.resize, int):
            side = self.resize
            raise ValueError(
                f"resize is {side}, a side of classifiers' images: give letterbox: {side}, which "
                f"keeps the ratio of the sides, or resize: [{side}, {side}], which stretches"
            )
        if self.interpolation != "bilinear":
            raise ValueError(
                f"interpolation: {self.interpolation} is for classifiers: leave it out"
            )
        if self.channels != 3:
            raise ValueError("detectors read three channels: give three values of mean and std")
        return self


def preprocessing_of(given: images.Preprocessing | None) -> Preprocessing:
    """What a detector's network reads, as `data.preprocessing` says it.

    Raises:
        SubbyteError: A key has no meaning for a detector.
    """
    if isinstance(given, Preprocessing):
        return given
    return Preprocessing(**({} if given is None else given.model_dump(exclude_unset=True)))
