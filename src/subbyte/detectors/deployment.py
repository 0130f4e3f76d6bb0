"""A detector as one module that can be written: images in, boxes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from subbyte.detectors import faster_rcnn as two_stage
from subbyte.detectors import nms as suppression
from subbyte.detectors import retinanet_fcos as levels
from subbyte.detectors import ssd as anchored
from subbyte.detectors.nms import OUTPUTS
from subbyte.detectors.preprocessing import Frame, frame_of
from subbyte.errors import SubbyteError
from subbyte.graph.batch import are_images
from subbyte.placement.simulation import Captured
from subbyte.postprocessing import ATTRIBUTE, Anchored

OF_DETECTORS = suppression.TRANSLATIONS | two_stage.TRANSLATIONS  # operator → ONNX

RAW = ("bbox_regression", "cls_logits")  # as torchvision's heads call what they give


@dataclass(frozen=True)
class Deployment:
    """A module to write, its arguments for one batch, and what its outputs are called.

    shapes: which dimensions are dynamic; `None`: the first of all that has as many entries as the
    first argument. raw: names of the last outputs, which are what the network gives and no part of
    the file, but of one without post-processing.
    """

    module: nn.Module
    args: tuple[Any, ...]
    outputs: tuple[str, ...] | None = None
    shapes: Any = None
    raw: tuple[str, ...] = ()


class Whole(nn.Module):
    """Images → frame → network → boxes (where there is such a part)."""

    def __init__(self, frame: Frame, network: nn.Module, boxes: nn.Module | None) -> None:
        super().__init__()
        self.frame, self.network, self.boxes = frame, network, boxes

    def forward(self, images: Tensor) -> Any:
        """Detections and, behind these, what the network gives; or that alone."""
        outputs = self.network(self.frame(images))
        if self.boxes is None:
            return outputs
        return *detections(self.boxes, outputs), *pytree.tree_leaves(outputs)


class OneStage(nn.Module):
    """torchvision's way from the batch to the outputs of a head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, batch: Tensor) -> Any:
        """A dictionary of [N, A, …]."""
        features = self.backbone(batch)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))


class Chain(nn.Module):
    """The regions of a model by themselves; what none of them gives are the chain's inputs."""

    def __init__(self, model: nn.Module, captured: Captured) -> None:
        super().__init__()
        self.names, self.flow = captured.region_names, captured.flow
        self.regions = nn.ModuleList([model.get_submodule(name) for name in self.names])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the regions give that no other of them reads."""
        waiting, given, outputs = iter(inputs), dict[tuple[str, int], Any](), []
        for name, region in zip(self.names, self.regions, strict=True):
            places = [n for n in region.graph.nodes if n.op == "placeholder"]  # type: ignore[union-attr]
            leaves = []
            for i, node in enumerate(places):
                source = self.flow.links.get((name, i))
                tensor = isinstance(node.meta.get("val"), Tensor)
                leaves.append(given[source] if source else next(waiting) if tensor else None)
            args, kwargs = pytree.tree_unflatten(leaves, region._in_spec)  # type: ignore[arg-type]
            for i, leaf in enumerate(pytree.tree_leaves(region(*args, **kwargs))):
                given[name, i] = leaf
                if not self.flow.readers((name, i)) and isinstance(leaf, Tensor):
                    outputs.append(leaf)
        return tuple(outputs)


def deployment(
    model: nn.Module, captured: Captured, args: tuple[Any, ...], postprocess: bool
) -> Deployment:
    """What to write of `model`, a lowered copy of the captured one, for batches like `args`.

    With `postprocess` the whole way from images to boxes, where it is known; without, from the
    images to what the network gives, or where the way of the images is not known, from what the
    first regions read.

    Raises:
        SubbyteError: The whole way cannot be written for this kind of model.
    """
    facts = getattr(model, ATTRIBUTE, None)
    if isinstance(facts, Anchored):
        network = model.get_submodule(captured.region_names[0])
        return _anchored(network, facts, _images(args), postprocess)
    if isinstance(model, SSD):
        images = _images(args)
        return _anchored(OneStage(model), _facts_of(model, images), images, postprocess)
    if isinstance(model, RetinaNet | FCOS):
        return _of_levels(model, _images(args), postprocess)
    if isinstance(model, FasterRCNN) and postprocess:
        return _of_stages(model, captured, _images(args))
    if not postprocess:
        inputs = _read(captured, _as_called(captured, args))
        shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
        return Deployment(Chain(model, captured), inputs, shapes=(shapes,))
    if any(are_images(arg) for arg in (*args, *captured.facts.example)):
        raise SubbyteError(
            f"how {type(model).__name__} makes boxes of its outputs cannot be written as ONNX: "
            "export with postprocess=False (in an experiment export.postprocess: false), which "
            "gives the raw outputs of its regions"
        )
    return Deployment(model, args)


def _anchored(network: nn.Module, facts: Anchored, images: Tensor, post: bool) -> Deployment:
    given = _size(images)
    frame = Frame(facts.mean, facts.std, given, facts.size, antialias=facts.antialias)
    boxes = anchored.Boxes(facts, given) if post else None
    return _whole(Whole(frame, network, boxes), images)


def _facts_of(model: SSD, images: Tensor) -> Anchored:
    """What torchvision's SSD does around its network."""
    transform: Any = model.transform
    frame = frame_of(transform, _size(images))
    height, width = frame.resized
    corners = _anchors(model, frame, images.device)[0]
    low, high = corners[:, :2], corners[:, 2:]
    centred = torch.cat([(low + high) / 2, high - low], -1)
    coder: Any = model.box_coder
    return Anchored(
        mean=tuple(transform.image_mean),
        std=tuple(transform.image_std),
        size=frame.resized,
        boxes=centred / corners.new_tensor([width, height, width, height]),
        score_threshold=model.score_thresh,
        nms_iou=model.nms_thresh,
        candidates=model.topk_candidates,
        detections=model.detections_per_img,
        variances=(1 / coder.weights[0], 1 / coder.weights[2]),
        limit=coder.bbox_xform_clip,
        clips_first=True,
    )


def _of_levels(model: RetinaNet | FCOS, images: Tensor, post: bool) -> Deployment:
    frame = frame_of(model.transform, _size(images)).to(images.device)
    boxes = levels.Boxes(model, frame, *_anchors(model, frame, images.device)) if post else None
    return _whole(Whole(frame, OneStage(model), boxes), images)


@torch.no_grad()
def _of_stages(model: FasterRCNN, captured: Captured, images: Tensor) -> Deployment:
    frame = frame_of(model.transform, _size(images)).to(images.device)
    anchors = _anchors(model, frame, images.device)
    captured(list(images[:1]))  # by which its pool learns how large the feature maps are
    inner: Any = captured.model
    pool: Any = model.roi_heads.box_roi_pool
    pool.scales, pool.map_levels = (
        getattr(inner.roi_heads.box_roi_pool, name) for name in ("scales", "map_levels")
    )
    module = _still(two_stage.TwoStages(model, frame, *anchors), images.device)
    return Deployment(module, (images,), OUTPUTS)


@torch.no_grad()
def _anchors(model: Any, frame: Frame, device: torch.device) -> tuple[Tensor, list[int]]:
    """A detector's anchors for one image, [A, 4] in the corner form, and how many a level has."""
    batch = torch.zeros(1, 3, *frame.padded, device=device)
    features = model.backbone(batch)
    maps = [features] if isinstance(features, Tensor) else list(features.values())
    generator = getattr(model, "anchor_generator", None) or model.rpn.anchor_generator
    anchors: Tensor = generator(ImageList(batch, [frame.resized]), maps)[0]
    places = [x.shape[-2] * x.shape[-1] for x in maps]
    return anchors, [n * len(anchors) // sum(places) for n in places]


def _as_called(captured: Captured, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images as one tensor become a list, if that is how the model is called."""
    listed = any(are_images(arg) for arg in captured.facts.example)
    if listed and isinstance(args[0], Tensor) and args[0].dim() == 4:
        return (list(args[0]), *args[1:])
    return args


@torch.no_grad()
def _read(captured: Captured, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What the regions read in the model that no other region gives."""
    seen: dict[str, list[Any]] = {}
    handles = []
    for name in captured.region_names:

        def hook(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            seen[name] = pytree.tree_leaves((args, kwargs))

        handles.append(captured.region(name).register_forward_pre_hook(hook, with_kwargs=True))
    try:
        captured(*args)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        leaf
        for name in captured.region_names
        for i, leaf in enumerate(seen[name])
        if (name, i) not in captured.flow.links and isinstance(leaf, Tensor)
    )


def _still(module: nn.Module, device: torch.device) -> nn.Module:
    """A module on a device and in evaluation mode, its regions too, which refuse `eval`."""
    module.to(device)
    for part in module.modules():
        part.training = False
    return module


@torch.no_grad()
def _whole(module: Whole, images: Tensor) -> Deployment:
    """What to write of a one-stage detector; a network that names its outputs names the file's."""
    _still(module, images.device)
    raw = module.network(module.frame(images[:1]))
    names = tuple(raw) if isinstance(raw, Mapping) else RAW
    if module.boxes is None:
        return Deployment(module, (images,), names)
    return Deployment(module, (images,), (*OUTPUTS, *names), raw=names)


def detections(boxes: nn.Module, outputs: Any) -> suppression.Detections:
    """Boxes, scores, labels and count of what a network gives, by the part that makes them."""
    made = boxes(outputs) if isinstance(boxes, levels.Boxes) else boxes(*_pair(outputs))
    found: suppression.Detections = made
    return found


def _pair(outputs: Any) -> tuple[Tensor, Tensor]:
    """Regressions and logits of what a network gives."""
    if isinstance(outputs, Mapping):
        return outputs[RAW[0]], outputs[RAW[1]]
    regression, logits = outputs
    return regression, logits


def _images(args: tuple[Any, ...]) -> Tensor:
    """The images of a batch as one tensor."""
    batch = args[0]
    if isinstance(batch, Tensor) and batch.dim() == 4:
        return batch
    if not are_images(batch) or len({tuple(image.shape) for image in batch}) > 1:
        raise SubbyteError(
            "a detector is written for images of one size: give an example [N, 3, H, W], or a list "
            "of images [3, H, W] that are all of the same height and width"
        )
    return torch.stack(list(batch))


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
