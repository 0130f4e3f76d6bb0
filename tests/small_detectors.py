"""torchvision's detectors in small: its own classes, on a backbone of a few convolutions."""

from __future__ import annotations

import re
from collections import OrderedDict

import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

# torchvision's own, and a size of images for each.
LARGE = {
    "ssd300_vgg16": (300, 300),
    "ssdlite320_mobilenet_v3_large": (320, 320),
    "retinanet_resnet50_fpn": (128, 160),
    "retinanet_resnet50_fpn_v2": (128, 160),
    "fcos_resnet50_fpn": (128, 160),
    "fasterrcnn_resnet50_fpn": (128, 160),
    "fasterrcnn_resnet50_fpn_v2": (128, 160),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (128, 160),
}
# The last layers of all of them.
LAST = r"(cls_logits|cls_score|bbox_pred|bbox_reg)$|head\.module_list\.\d+(\.1)?$"
CLASSES = 4
NAMES = ("ssd", "retinanet", "fcos", "fasterrcnn")


class Backbone(nn.Module):
    """Two feature maps, a quarter and an eighth of the image, of 32 channels each."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.low = nn.Sequential(
            nn.Conv2d(16, 32, 3, 2, 1, bias=False), FrozenBatchNorm2d(32), nn.ReLU(inplace=True)
        )
        self.high = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """The maps by their names."""
        low = self.low(self.stem(x))
        return OrderedDict([("0", low), ("1", self.high(low))])


class Maps(Backbone):
    """The same, with the numbers of channels that an SSD asks for."""

    out_channels = (32, 32)


def detector(name: str, seed: int = 0) -> nn.Module:
    """One of `NAMES`, in evaluation mode, with random weights that give many detections.

    Images of 64×64 are not resized.
    """
    torch.manual_seed(seed)
    sizes = {"min_size": 64, "max_size": 96}
    model: nn.Module
    if name == "ssd":
        boxes = DefaultBoxGenerator([[2], [2]])
        model = SSD(Maps(), boxes, (64, 64), CLASSES, score_thresh=0.02, topk_candidates=50)
    elif name == "retinanet":
        anchors = AnchorGenerator(((8, 12), (16, 24)), ((0.5, 1.0, 2.0),) * 2)
        model = RetinaNet(
            Backbone(), CLASSES, anchor_generator=anchors, score_thresh=0.02, topk_candidates=100,
            detections_per_img=50, **sizes,
        )  # fmt: skip
    elif name == "fcos":
        anchors = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
        model = FCOS(
            Backbone(), CLASSES, anchor_generator=anchors, score_thresh=0.02,
            topk_candidates=100, **sizes,
        )  # fmt: skip
    else:
        anchors = AnchorGenerator(((8,), (16,)), ((0.5, 1.0, 2.0),) * 2)
        pool = MultiScaleRoIAlign(["0", "1"], output_size=3, sampling_ratio=2)
        model = FasterRCNN(
            Backbone(), CLASSES, rpn_anchor_generator=anchors, box_roi_pool=pool,
            rpn_post_nms_top_n_test=30, box_score_thresh=0.02, **sizes,
        )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                boxes = re.search(r"bbox|regression_head.module_list", name) is not None
                scores = re.search(r"cls|classification_head.module_list", name) is not None
                nn.init.kaiming_normal_(parameter).mul_(0.3 if boxes else 2.0 if scores else 1.0)
            else:
                parameter.normal_(0, 0.3)
    return model.eval()


def large(name: str) -> nn.Module:
    """One of torchvision's own, `LARGE`, with random weights that give many detections.

    Batch norms have the statistics of `pictures` and the last layers results that spread as those
    of trained ones do: else all scores are alike, or all are 1, and any order of boxes is right.
    """
    torch.manual_seed(0)
    sizes = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 160}
    build = getattr(detection, name)
    model = build(weights=None, weights_backbone=None, num_classes=6, **sizes).eval()
    images = pictures(4, LARGE[name], seed=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = None  # a plain average
    spreads: dict[nn.Module, list[float]] = {
        module: []
        for key, module in model.named_modules()
        if re.search(LAST, key) and isinstance(module, nn.Conv2d | nn.Linear)
    }
    names = {module: key for key, module in model.named_modules()}
    handles = [
        module.register_forward_hook(lambda m, _, y: spreads[m].append(float(y.std())))
        for module in spreads
    ]
    with torch.no_grad():
        model(images)
        model.eval()
        for values in spreads.values():
            values.clear()
        model(images)
        for module, values in spreads.items():
            boxes = re.search("bbox_pred|bbox_reg|regression", names[module])
            module.weight.mul_((0.5 if boxes else 2.0) / max(values))
    for handle in handles:
        handle.remove()
    return model


def pictures(count: int = 2, size: tuple[int, int] = (64, 64), seed: int = 1) -> list[torch.Tensor]:
    """Images with some structure, float32 in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    images = nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    return list(images)
