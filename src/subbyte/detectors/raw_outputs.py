"""A raw network and a sentence about its outputs: whatever detector, and no code of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subbyte.data import preprocessing as data
from subbyte.detection import Outputs, Preprocessing, preprocessing_of
from subbyte.detectors.base import Deployment, Family, OneSize, Order
from subbyte.detectors.common.nms import OUTPUTS, Detections, clipped
from subbyte.detectors.common.one_stage import images_of, one_stage, size_of
from subbyte.detectors.common.output_loss import Readable, detection_loss, sides
from subbyte.detectors.letterbox import HeightWidth, Letterbox, Sizes
from subbyte.detectors.raw import decode
from subbyte.detectors.raw.check import check
from subbyte.detectors.raw.images import FileInput, Normalization, is_whole, letterbox_of
from subbyte.detectors.raw.select import select
from subbyte.detectors.raw.taken import numbers, tensors_of
from subbyte.graph.float_model import Regional
from subbyte.graph.output_loss import Args, OutputLoss
from subbyte.utils.arguments import Arguments

REGION = "network"


class RawDetector(nn.Module):
    """A detector as torchvision's are: images of any sizes in, boxes, scores and labels out.

    Args:
        network: From a batch [N, 3, H, W] to outputs.
        outputs: What these are.
        preprocessing: How images become the batch.
    """

    def __init__(self, network: nn.Module, outputs: Outputs, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.outputs, self.preprocessing = network, outputs, preprocessing
        self.normalization = Normalization(preprocessing)
        self.classes: int | None = outputs.classes

    def forward(self, images: Sequence[Tensor] | Tensor) -> list[dict[str, Tensor]]:
        """A dictionary of `boxes`, `scores` and `labels` (from 1) for each image [3, H, W].

        Boxes are clipped to the image, unless it has the letterbox's own size: then it may have
        been letterboxed before, and whoever did so knows where the image ends.
        """
        sizes = [size_of(image) for image in images]
        letterbox, raw = self._run(images)
        boxes, *rest, counts = select(self.outputs, *decode(self.outputs, raw, letterbox.size))
        found = []
        for i, (size, count) in enumerate(zip(sizes, counts.tolist(), strict=True)):
            own = letterbox.in_pixels(boxes[i, :count], size)
            scores, labels = (values[i, :count] for values in rest)
            if is_whole(letterbox, size):
                own = clipped(own, size)
            if is_whole(letterbox, size) and letterbox.fit == "pad":
                inside = (own[:, 2:] > own[:, :2]).all(1)
                own, scores, labels = own[inside], scores[inside], labels[inside]
            found.append({"boxes": own, "scores": scores, "labels": labels})
        return found

    def letterbox(self, images: Iterable[Tensor]) -> Letterbox:
        """How images become the network's one size."""
        return letterbox_of(self.preprocessing, {size_of(image) for image in images})

    def _run(self, images: Sequence[Tensor] | Tensor) -> tuple[Letterbox, Any]:
        """The letterbox of some images, and what the network gives for them."""
        letterbox = self.letterbox(images)
        return letterbox, self.network(self.normalization(letterbox.images(list(images))))

    def sentence(self) -> dict[str, Any]:
        """What was said of the network as plain data, from which `of_sentence` makes the same."""
        return {
            "outputs": self.outputs.model_dump(mode="json", exclude_unset=True),
            "preprocessing": self.preprocessing.model_dump(mode="json", exclude_unset=True),
        }

    @torch.no_grad()
    def tried(self, images: Sequence[Tensor] | Tensor) -> None:
        """Run the network on a first batch, and find out how many classes it has.

        Raises:
            SubbyteError: What it gives does not fit the sentence about it.
        """
        letterbox, raw = self._run(images)
        if self.outputs.take is not None:
            take = tuple(numbers(self.outputs.take, raw))
            self.outputs = self.outputs.model_copy(update={"take": take})
        self.classes = check(self.outputs, raw, letterbox.size)


def raw_detector(
    network: nn.Module, outputs: Outputs, preprocessing: data.Preprocessing | None = None
) -> RawDetector:
    """The detector that a raw network is with what is said of its outputs and its images.

    Args:
        network: From a batch [N, 3, H, W] to outputs.
        outputs: What these are.
        preprocessing: How images become the batch; `None`: they are it.

    Raises:
        SubbyteError: The preprocessing has a key that is not for detectors.
    """
    detector = RawDetector(network, outputs, preprocessing_of(preprocessing))
    first = next(network.parameters(), None)
    detector.normalization.to(None if first is None else first.device)
    detector.train(network.training)
    return detector


def of_sentence(network: nn.Module, sentence: Mapping[str, Any]) -> RawDetector:
    """The detector that `RawDetector.sentence` was of."""
    given = {str(key): value for key, value in sentence["preprocessing"].items()}
    return raw_detector(network, Outputs(**sentence["outputs"]), Preprocessing(**given))


class _Named(nn.Module):
    """A network's outputs as a mapping from names of a file's outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        raw = self.network(batch)
        tensors = tensors_of(raw)
        keys = list(raw) if isinstance(raw, Mapping) else []
        flat = len(keys) == len(tensors) and not set(keys) & {*OUTPUTS, "input"}
        names = map(str, keys) if flat else (f"output_{i}" for i in range(len(tensors)))
        return dict(zip(["output"] if len(tensors) == 1 else names, tensors, strict=True))


class RawBoxes(nn.Module):
    """From a network's outputs, by their names, to the detections of images of one size.

    Args:
        outputs: What the network gives.
        letterbox: How images became its input.
        given: Their height and width.
    """

    def __init__(self, outputs: Outputs, letterbox: Letterbox, given: HeightWidth) -> None:
        super().__init__()
        self.outputs, self.letterbox, self.given = outputs, letterbox, given

    def forward(self, raw: Mapping[str, Tensor]) -> Detections:
        """Boxes [N, K, 4] in pixels, scores [N, K], labels [N, K], count [N]."""
        found = decode(self.outputs, list(raw.values()), self.letterbox.size)
        boxes, *rest = select(self.outputs, *found)
        boxes = self.letterbox.in_pixels(boxes, self.given)
        if is_whole(self.letterbox, self.given):
            boxes = clipped(boxes, self.given)
        return boxes, *rest  # type: ignore[return-value]


def _boxes(model: Any, images: Tensor) -> RawBoxes:
    given = size_of(images)
    return RawBoxes(model.outputs, letterbox_of(model.preprocessing, {given}), given)


def _deployment(
    model: Any, captured: Regional, args: tuple[Any, ...], postprocess: bool
) -> Deployment:
    images = images_of(args)
    network = _Named(model.get_submodule(captured.region_names[0]))
    given = FileInput(
        letterbox_of(model.preprocessing, {size_of(images)}), Normalization(model.preprocessing)
    ).to(images.device)
    return one_stage(given, network, _boxes(model, images) if postprocess else None, images)


def _output_loss(model: RawDetector) -> OutputLoss:
    def read(raw: Any, args: Args) -> Readable:
        boxes, scores = decode(model.outputs, raw, model.letterbox(args[0]).size)
        return Readable(boxes, sides(boxes), scores)

    return detection_loss(read)


def _one_size(model: RawDetector) -> OneSize | None:
    given = model.preprocessing
    if given.letterbox is None and given.resize is None:
        return None

    def fitted(args: tuple[Any, ...]) -> tuple[Any, ...]:
        images, *rest = args
        batch = model.letterbox(images).images(list(images))
        made = (batch if isinstance(images, Tensor) else list(batch), *rest)
        return Arguments(made, args.images) if isinstance(args, Arguments) else made

    return fitted


def _label_count(model: RawDetector) -> int | None:
    return None if model.classes is None else model.classes + 1


def _letterbox(model: RawDetector, sizes: Sizes) -> Letterbox:
    return letterbox_of(model.preprocessing, sizes)


FAMILY = Family(
    matches=lambda model: isinstance(model, RawDetector),
    order=Order.DECLARED,
    regions=lambda _: (REGION,),
    deployment=_deployment,
    boxes=_boxes,
    output_loss=_output_loss,
    one_size=_one_size,
    letterbox=_letterbox,
    label_count=_label_count,
    tried=lambda model, images: model.tried(images),
)
