"""libreyolo's detectors: their raw networks, what these give and how images become their input."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subbyte import detection
from subbyte.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from subbyte.errors import SubbyteError
from subbyte.models.checkpoint import load_state, plain_values, read_checkpoint
from subbyte.models.config import ModelConfig
from subbyte.models.libreyolo_names import named
from subbyte.models.spec import ModelSpec

CLASSES = 80  # of a model without weights
# Made anew by the network for each size of images, and part of some files all the same.
MADE = ("anchors", "valid_mask")

Take = Callable[[Any], Any]


class Network(nn.Module):
    """A network of libreyolo's that returns only what is read of its outputs.

    Args:
        model: The network.
        take: From what it gives to what is read.
    """

    def __init__(self, model: nn.Module, take: Take) -> None:
        super().__init__()
        self.model, self.take = model, take

    def forward(self, images: Tensor) -> Any:
        """What is read of a batch's outputs."""
        return self.take(self.model(images))


@dataclass(frozen=True)
class Kind:
    """What libreyolo does around a network.

    Attributes:
        outputs: Keys of `detection.Outputs`.
        preprocessing: Keys of `detection.Preprocessing`, without the size.
        take: From what the network gives to what is read.
        stretched: Images are stretched to the size of the input, else letterboxed.
    """

    outputs: Mapping[str, Any]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    take: Take = lambda raw: raw
    stretched: bool = False


def _queries(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"pred_logits": raw["pred_logits"], "pred_boxes": raw["pred_boxes"]}


def _predictions(raw: Mapping[str, Tensor]) -> Tensor:
    return raw["predictions"]


def _decoded(raw: Any) -> tuple[Tensor, Tensor]:
    boxes, scores = raw[0]
    return boxes, scores


def _maps(raw: Any) -> list[Tensor]:
    return list(raw)


def _classes_and_distances(raw: Any) -> list[Tensor]:
    return [*raw[0], *raw[1]]


def _in_strides(raw: Any) -> list[Tensor]:
    """Distances in pixels as those in strides."""
    scaled = [maps / stride for maps, stride in zip(raw[1], (8, 16, 32), strict=True)]
    return [*raw[0], *scaled]


_PIL = {"antialias": True}
_IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_BGR = {"mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395)}
_CORNER = {"place": "corner"}
_YOLO9 = Kind({"form": "decoded", "box": "xyxy"}, _CORNER, _predictions)
_QUERIES = {"form": "queries", "activation": "sigmoid"}
_DETR = Kind(_QUERIES, _PIL, _queries, stretched=True)
_NORMALIZED = Kind(_QUERIES, {**_PIL, **_IMAGENET}, _queries, stretched=True)

KINDS: dict[str, Kind] = {
    "LibreYOLOX": Kind(
        {"form": "levels", "box": "yolox", "activation": "none"},
        {**_CORNER, **_PIL, "colours": "bgr", "range": 255},
        _maps,
    ),
    "LibreYOLO9": _YOLO9,
    "LibreYOLO9E2E": Kind({**_YOLO9.outputs, "nms": None}, _CORNER, _predictions),
    "LibreYOLO9P2": _YOLO9,
    "LibreYOLO7": Kind({"form": "levels", "box": "anchors"}, {**_CORNER, **_PIL}, _maps),
    # It makes images of 636 pixels and fills up to 640.
    "LibreYOLONAS": Kind({"form": "decoded", "box": "xyxy"}, {}, _decoded),
    "LibrePPYOLOE": Kind(
        {"form": "decoded", "box": "xyxy"}, {**_PIL, **_IMAGENET}, _decoded, stretched=True
    ),
    "LibrePICODET": Kind(
        {"form": "levels", "bins": 8, "strides": (8, 16, 32, 64), "order": "classes"},
        {**_PIL, **_IMAGENET},
        _classes_and_distances,
        stretched=True,
    ),
    "LibreRTMDet": Kind(
        {"form": "levels", "bins": 1, "point": "corner", "order": "classes"},
        {**_CORNER, **_PIL, **_BGR, "colours": "bgr", "range": 255},
        _in_strides,
    ),
    "LibreRTDETR": Kind(_QUERIES, {}, _queries, stretched=True),
    "LibreRTDETRv2": Kind(_QUERIES, {}, _queries, stretched=True),
    "LibreRTDETRv4": _DETR,
    "LibreDFINE": _DETR,
    "LibreDEIM": _DETR,
    "LibreDEIMv2": _DETR,
    "LibreEC": _NORMALIZED,
    "LibreGTR": _NORMALIZED,
    "LibreTinyFormer": _NORMALIZED,
}


def load(config: ModelConfig) -> ModelSpec:
    """A detector by its name, with published weights, a checkpoint's or random ones.

    Raises:
        SubbyteError: The weights cannot be fetched, read or fitted.
    """
    name, size = named(str(config.name))
    with _quiet():
        library = importlib.import_module("libreyolo")
        # A model is imported when it is asked for, and says itself what it misses.
        make = getattr(library, name) if name in library.__all__ else None
        if make is None or size not in make.INPUT_SIZES:
            raise SubbyteError(
                f"the installed libreyolo has no {name} of size {size}: install a newer one "
                "(pip install -U libreyolo)"
            )
        file = config.checkpoint
        if config.weights is not None:
            file = _published(name, size)
        wrapper, values = _built(make, size, file, config)
    kind = KINDS[name]
    return ModelSpec(
        name=str(config.name),
        module=Network(wrapper.model.eval(), kind.take),
        task="detection",
        preprocessing=_preprocessing(kind, wrapper, values),
        classes=None if file is None else _classes(values, wrapper.nb_classes),
        outputs=_outputs(kind, wrapper),
    )


def _built(
    make: Any, size: str, file: Path | None, config: ModelConfig
) -> tuple[Any, Mapping[str, Any]]:
    """The library's wrapper of a network with its weights, and what stands beside these."""
    state: Mapping[str, Tensor] = {}
    values: Mapping[str, Any] = {}
    if file is not None:
        state = read_checkpoint(file, key=config.checkpoint_key)
        state = make.convert_upstream_state_dict(dict(state)) or state
        values = plain_values(file)
        found = make.detect_size(state)
        if found not in (None, size):
            raise SubbyteError(
                f"'{file}' is {make.__name__} of size {found}, and {config.name} is of size "
                f"{size}: name the model libreyolo/{make.__name__}{found}"
            )
    classes = config.num_classes or values.get("nc") or make.detect_nb_classes(dict(state))
    wrapper = make(
        None, size=size, nb_classes=int(classes or CLASSES), device="cpu", _scratch_init=True
    )
    if file is not None:
        own = wrapper.model.state_dict()
        made = {key for key in {*own, *state} if key.rpartition(".")[2] in MADE}
        kept = {key: value for key, value in state.items() if key not in made}
        load_state(wrapper.model, {**kept, **{key: own[key] for key in made if key in own}}, file)
    return wrapper, values


def _published(name: str, size: str) -> Path:
    """The file of published weights, where libreyolo keeps it or after its download."""
    path = Path("weights") / f"{name}{size}.pt"
    if not path.exists():
        download = importlib.import_module("libreyolo.utils.download")
        try:
            download.download_weights(str(path), size)
        except Exception as error:
            raise SubbyteError(
                f"the weights {name}{size} could not be loaded ({type(error).__name__}): fetch "
                f"https://huggingface.co/LibreYOLO/{name}{size}/resolve/main/{name}{size}.pt and "
                "give it as model.checkpoint"
            ) from error
    return path


def _outputs(kind: Kind, wrapper: Any) -> detection.Outputs:
    keys = {**kind.outputs, "classes": int(wrapper.nb_classes)}
    if keys.get("box") == "anchors":
        keys |= {"anchors": wrapper.model.anchors, "strides": tuple(wrapper.model.strides)}
    return detection.Outputs(**keys)


def _preprocessing(kind: Kind, wrapper: Any, values: Mapping[str, Any]) -> detection.Preprocessing:
    size = wrapper.input_size
    if "imgsz_h" in values and "imgsz_w" in values:
        size = (int(values["imgsz_h"]), int(values["imgsz_w"]))
    height, width = size if isinstance(size, tuple | list) else (size, size)
    keys = dict(kind.preprocessing)
    if kind.stretched:
        keys["resize"] = (height, width)
    else:
        keys["letterbox"] = height if height == width else (height, width)
        if "place" in keys and str(values.get("letterbox_pad", "")).startswith("cent"):
            keys["place"] = "centre"
    if getattr(wrapper.model, "uses_imagenet_norm", False):
        keys |= _IMAGENET
    return detection.Preprocessing(**keys)


def _classes(values: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """The names beside a file's weights; of 80 classes without names COCO's."""
    names = values.get("names")
    if isinstance(names, list | tuple):
        names = dict(enumerate(names))
    if isinstance(names, Mapping):
        found = {int(key): str(name) for key, name in names.items()}
        if sorted(found) != list(range(count)):
            return None
        return tuple(found[i] for i in range(count))
    general = importlib.import_module("libreyolo.utils.general")
    return tuple(general.COCO_CLASSES) if count == CLASSES else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remarks; stdout is ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
