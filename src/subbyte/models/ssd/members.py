"""The members of the SSD family: what each is put together from.

Figures are those of the projects whose checkpoints are read: NVIDIA DeepLearningExamples
(PyTorch/Detection/SSD), amdegroot/ssd.pytorch and qfgaohao/pytorch-ssd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from subbyte.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from subbyte.models.ssd import backbones
from subbyte.models.ssd.boxes import BoxOrder, Level, default_boxes, shapes
from subbyte.models.ssd.detector import SSD
from subbyte.models.ssd.layers import ConvReLU, InvertedResidual, ScaledNorm, conv_bn, separable
from subbyte.models.ssd.network import Backbone, Names, Network
from subbyte.models.ssd.settings import Settings

COCO, VOC = 81, 21  # classes with the background

Head = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Member:
    """One SSD but for its number of classes.

    Attributes:
        names: Of its parts in the published checkpoints.
        settings: What happens before and after the network.
        levels: The default boxes for a number of classes, feature map by feature map.
        backbone: Makes the backbone.
        extras: Makes the layers behind the backbone, one for each further feature map.
        channels: Of each feature map.
        heads: Each makes a head for a feature map from its channels and what it puts out.
        classes: Of the published checkpoints.
        order: Of the default boxes.
        norm: Makes what normalizes the first feature map, if anything does.
        stride: Of the first head's boxes.
    """

    names: Names
    settings: Settings
    levels: Callable[[int], tuple[Level, ...]]
    backbone: Callable[[], Backbone]
    extras: Callable[[], list[nn.Module]]
    channels: tuple[int, ...]
    heads: tuple[Head, ...]
    classes: int = VOC
    order: BoxOrder = "place"
    norm: Callable[[], nn.Module] | None = None
    stride: int = 1


def make(member: Member, num_classes: int) -> SSD:
    """The SSD with random weights; `num_classes` counts the background."""
    levels = member.levels(num_classes)
    extras = member.extras()
    counts = [len(level.shapes) for level in levels]
    parts = list(zip(member.heads, member.channels, counts, strict=True))
    heads = [
        [head(channels, count * width) for head, channels, count in parts]
        for width in (4, num_classes)
    ]
    network = Network(
        member.names,
        member.backbone(),
        extras,
        (heads[0], heads[1]),
        num_classes=num_classes,
        order=member.order,
        norm=None if member.norm is None else member.norm(),
        stride=member.stride,
    )
    for part in (*extras, *network.heads()):
        part.apply(_xavier)
    boxes = default_boxes(levels, member.settings.size, member.order)
    return SSD(network, boxes, member.settings)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _levels(
    cells: tuple[int, ...],
    steps: tuple[int, ...],
    sides: tuple[int, ...],
    ratios: tuple[tuple[float, ...], ...],
) -> tuple[Level, ...]:
    rows = zip(cells, steps, sides[:-1], sides[1:], ratios, strict=True)
    return tuple(
        Level(cell, step, shapes(low, high, lying)) for cell, step, low, high, lying in rows
    )


_SSD300 = partial(
    _levels,
    (38, 19, 10, 5, 3, 1),
    (8, 16, 32, 64, 100, 300),
    ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)
_SSD300_COCO = _SSD300(sides=(21, 45, 99, 153, 207, 261, 315))
_SSD300_VOC = _SSD300(sides=(30, 60, 111, 162, 213, 264, 315))


def _mobile_levels(first: int) -> tuple[Level, ...]:
    sides = (60, 105, 150, 195, 240, 285, 330)
    return _levels((first, 10, 5, 3, 2, 1), (16, 32, 64, 100, 150, 300), sides, ((2, 3),) * 6)


def _levels_of(levels: tuple[Level, ...]) -> Callable[[int], tuple[Level, ...]]:
    return lambda num_classes: levels


def _amdegroot_levels(num_classes: int) -> tuple[Level, ...]:
    """The project takes its boxes for VOC where there are 21 classes, otherwise those for COCO."""
    return _SSD300_VOC if num_classes == VOC else _SSD300_COCO


def _conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1)


def _nvidia_extras(channels: tuple[int, ...]) -> list[nn.Module]:
    """Blocks from one feature map to the next; the last two do without padding and stride."""
    blocks: list[nn.Module] = []
    widths = (256, 256, 128, 128, 128)
    for index, (inputs, outputs, width) in enumerate(
        zip(channels[:-1], channels[1:], widths, strict=True)
    ):
        stride, padding = (2, 1) if index < 3 else (1, 0)
        last = conv_bn(width, outputs, 3, stride, padding=padding)
        blocks.append(nn.Sequential(*conv_bn(inputs, width, 1), *last))
    return blocks


def _vgg_extras() -> list[tuple[int, int, int, int, int]]:
    """Inputs, width, outputs, stride and padding of each pair of convolutions after VGG."""
    last = (256, 128, 256, 1, 0)
    return [(1024, 256, 512, 2, 1), (512, 128, 256, 2, 1), last, last]


def _amdegroot_extras() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, width, outputs, stride, padding in _vgg_extras():
        layers += [ConvReLU(inputs, width, 1), ConvReLU(width, outputs, 3, stride, padding)]
    return layers


def _plain_extras(rows: list[tuple[int, int, int, int, int]]) -> list[nn.Module]:
    return [
        nn.Sequential(
            nn.Conv2d(inputs, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 3, stride, padding),
            nn.ReLU(),
        )
        for inputs, width, outputs, stride, padding in rows
    ]


def _lite_extras(rows: list[tuple[int, int, int, int]]) -> list[nn.Module]:
    """Pairs whose second convolution is separable; no activation follows, as in the project."""
    return [
        nn.Sequential(
            nn.Conv2d(inputs, width, 1), nn.ReLU(), separable(width, outputs, 2, padding=padding)
        )
        for inputs, width, outputs, padding in rows
    ]


def _mobilenet_v2_extras() -> list[nn.Module]:
    rows = [(1280, 512, 256), (512, 256, 128), (256, 256, 128), (256, 64, 64)]
    return [InvertedResidual(inputs, outputs, 2, hidden) for inputs, outputs, hidden in rows]


def _nvidia(depth: int) -> Member:
    first = 256 if depth in (18, 34) else 1024
    channels = (first, 512, 512, 256, 256, 128 if depth == 18 else 256)
    return Member(
        names=Names("feature_extractor.feature_extractor", "additional_blocks", "loc", "conf"),
        settings=Settings(IMAGENET_MEAN, IMAGENET_STD, 0.05, 0.5, antialias=True),
        levels=_levels_of(_SSD300_COCO),
        backbone=partial(backbones.resnet, depth),
        extras=partial(_nvidia_extras, channels),
        channels=channels,
        heads=(_conv,) * 6,
        classes=COCO,
        order="shape",
    )


def _eight_bit(mean: tuple[int, int, int], std: float) -> Settings:
    """Settings of a project that reads pixels as 0 to 255."""
    r, g, b = mean
    return Settings((r / 255, g / 255, b / 255), (std / 255,) * 3, 0.01, 0.45)


_GAOHAO = Names(
    "base_net", "extras", "regression_headers", "classification_headers", "source_layer_add_ons.0"
)
_VGG_SETTINGS = _eight_bit((123, 117, 104), 1)
_VGG_CHANNELS = (512, 1024, 512, 256, 256, 256)
_MOBILE_EXTRAS = [(1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256)]
_SQUEEZE_EXTRAS = [(512, 128, 256, 1), (256, 128, 256, 1), (256, 128, 256, 1)]

_MB1_SSD = Member(
    names=_GAOHAO,
    settings=_eight_bit((127, 127, 127), 128),
    levels=_levels_of(_mobile_levels(19)),
    backbone=backbones.mobilenet_v1,
    extras=partial(_plain_extras, [(*row, 2, 1) for row in _MOBILE_EXTRAS]),
    channels=(512, 1024, 512, 256, 256, 256),
    heads=(_conv,) * 6,
)


# For scenes of digits, 16 to 48 pixels high on 128 × 128: boxes of a digit's shapes.
_SMALL_LEVELS = (
    Level(16, 8, ((12, 17), (12, 23), (17, 22), (16, 30), (23, 29), (26, 38))),
    Level(8, 16, ((22, 36), (30, 36), (24, 46), (35, 46))),
)
_SMALL = Member(
    names=Names("backbone", "extras", "boxes", "classes"),
    settings=Settings((0.5,) * 3, (0.25,) * 3, 0.05, 0.45, size=128, candidates=100, detections=50),
    levels=_levels_of(_SMALL_LEVELS),
    backbone=backbones.small,
    extras=list,
    channels=(80, 96),
    heads=(_conv,) * 2,
    classes=11,
)

MEMBERS: dict[str, Member] = {
    **{f"nvidia_ssd300_resnet{depth}": _nvidia(depth) for depth in (18, 34, 50, 101, 152)},
    "ssd300_vgg16_amdegroot": Member(
        names=Names("vgg", "extras", "loc", "conf", "L2Norm"),
        settings=_VGG_SETTINGS,
        levels=_amdegroot_levels,
        backbone=backbones.vgg16,
        extras=_amdegroot_extras,
        channels=_VGG_CHANNELS,
        heads=(_conv,) * 6,
        norm=partial(ScaledNorm, 512),
        stride=2,
    ),
    "mb1_ssd": _MB1_SSD,
    "mb1_ssd_lite": replace(
        _MB1_SSD,
        extras=partial(_lite_extras, [(*row, 1) for row in _MOBILE_EXTRAS]),
        heads=(*(separable,) * 5, _pointwise),
    ),
    "mb2_ssd_lite": replace(
        _MB1_SSD,
        backbone=backbones.mobilenet_v2,
        extras=_mobilenet_v2_extras,
        channels=(576, 1280, 512, 256, 256, 64),
        heads=(*(partial(separable, norm=True),) * 5, _pointwise),
    ),
    "vgg16_ssd": Member(
        names=_GAOHAO,
        settings=_VGG_SETTINGS,
        levels=_levels_of(_SSD300_VOC),
        backbone=backbones.vgg16,
        extras=lambda: _plain_extras(_vgg_extras()),
        channels=_VGG_CHANNELS,
        heads=(_conv,) * 6,
        norm=partial(nn.BatchNorm2d, 512),
    ),
    "digit_scenes": _SMALL,
    "sq_ssd_lite": replace(
        _MB1_SSD,
        levels=_levels_of(_mobile_levels(17)),
        backbone=backbones.squeezenet,
        extras=partial(_lite_extras, [(512, 256, 512, 2), (512, 256, 512, 1), *_SQUEEZE_EXTRAS]),
        channels=(512, 512, 512, 256, 256, 256),
        heads=(*(separable,) * 5, _pointwise),
    ),
}
