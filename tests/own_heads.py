"""torchvision's detectors in small, each with a head that is not torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from small_detectors import CLASSES, detector

_ANCHORS = {"ssd": 4, "retinanet": 6, "fcos": 1}  # at a place of each feature map
_OUTPUTS = {"bbox_regression": 4, "cls_logits": CLASSES, "bbox_ctrness": 1, "scores": CLASSES}


class Head(nn.Module):
    """One convolution shared by both feature maps, and one for each raw output."""

    def __init__(self, anchors: int, names: Sequence[str]) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())
        self.outputs = nn.ModuleDict(
            {name: nn.Conv2d(32, anchors * _OUTPUTS[name], 3, 1, 1) for name in names}
        )

    def forward(self, maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each raw output [N, A, …]."""
        features = [self.shared(x) for x in maps]
        outputs = {
            name: torch.cat([_rows(layer(x), _OUTPUTS[name]) for x in features], 1)
            for name, layer in self.outputs.items()
        }
        if "bbox_ctrness" in outputs:  # FCOS's boxes are distances
            outputs["bbox_regression"] = nn.functional.softplus(outputs["bbox_regression"])
        return outputs


def _rows(x: torch.Tensor, columns: int) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, columns))


class Predictor(nn.Module):
    """Classes and boxes of proposals by a layer that both share."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(features, 16), nn.ReLU())
        self.classes, self.boxes = nn.Linear(16, CLASSES), nn.Linear(16, 4 * CLASSES)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and regressions, [proposals, …]."""
        shared = self.shared(x)
        return self.classes(shared), self.boxes(shared)


def with_own_head(name: str) -> nn.Module:
    """One of `small_detectors.NAMES` with such a head, in evaluation mode."""
    model = detector(name)
    torch.manual_seed(5)
    if name == "fasterrcnn":
        features = model.roi_heads.box_predictor.cls_score.in_features
        model.roi_heads.box_predictor = Predictor(features)
    else:
        names = tuple(_OUTPUTS)[: 3 if name == "fcos" else 2]
        model.head = Head(_ANCHORS[name], names)
    head = model.roi_heads.box_predictor if name == "fasterrcnn" else model.head
    with torch.no_grad():
        for key, parameter in head.named_parameters():
            if parameter.dim() > 1:  # boxes that differ little from the anchors, scores that spread
                nn.init.kaiming_normal_(parameter).mul_(0.3 if "box" in key else 2.0)
    return model.eval()
