"""Small detectors as raw networks, one for each form of outputs, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from subbyte.detection import Outputs

# What the command line says of the network "dfl", and sizes of pictures for it.
OUTPUTS = "{form: levels, bins: 4, strides: [8, 16], point: half, score: 0.05}"
LETTERBOX = "{letterbox: 64, place: corner, fill: 10, mean: [0, 0, 0], std: [1, 1, 1]}"
SIZES = ((40, 60), (64, 48), (30, 90))

CLASSES = 3
STRIDES = (8, 16)


class Body(nn.Module):
    """Two feature maps of strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()
        )
        self.low = nn.Sequential(nn.Conv2d(24, 32, 3, 2, 1), nn.SiLU())
        self.high = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.SiLU())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps."""
        low = self.low(self.stem(x))
        return [low, self.high(low)]


class Yolox(nn.Module):
    """All levels in one, [N, B, 4 + 1 + classes], as YOLOX gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.heads = nn.ModuleList(nn.Conv2d(32, 5 + CLASSES, 1) for _ in STRIDES)

    def forward(self, x: torch.Tensor) -> Any:
        """[N, B, columns]."""
        levels = [head(y) for head, y in zip(self.heads, self.body(x), strict=True)]
        return torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)


class Dfl(nn.Module):
    """Class maps, then maps of distributions of 4 values, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.classes = nn.ModuleList(nn.Conv2d(32, CLASSES, 1) for _ in STRIDES)
        self.boxes = nn.ModuleList(nn.Conv2d(32, 16, 1) for _ in STRIDES)

    def forward(self, x: torch.Tensor) -> Any:
        """cls_8, cls_16, box_8, box_16."""
        levels = self.body(x)
        found = {}
        for name, heads in (("cls", self.classes), ("box", self.boxes)):
            for stride, head, y in zip(STRIDES, heads, levels, strict=True):
                found[f"{name}_{stride}"] = head(y)
        return found


class Anchors(nn.Module):
    """[N, 2, h, w, 5 + classes] of each level, as YOLOv5 gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.heads = nn.ModuleList(nn.Conv2d(32, 2 * (5 + CLASSES), 1) for _ in STRIDES)

    def forward(self, x: torch.Tensor) -> Any:
        """One tensor a level."""
        maps = [head(y) for head, y in zip(self.heads, self.body(x), strict=True)]
        split = [y.unflatten(1, (2, 5 + CLASSES)) for y in maps]
        return [y.permute(0, 1, 3, 4, 2) for y in split]


class Decoded(nn.Module):
    """[N, 4 + classes, B], boxes in pixels, scores behind their sigmoid, as YOLOv8 gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Conv2d(32, 4 + CLASSES, 1)

    def forward(self, x: torch.Tensor) -> Any:
        """One tensor, of the finer level."""
        values = self.head(self.body(x)[0]).flatten(2)
        boxes = values[:, :4].sigmoid() * 60
        return torch.cat([boxes, values[:, 4:].sigmoid()], 1)


class Corners(Decoded):
    """[N, B, 4 + classes], boxes as their corners."""

    def forward(self, x: torch.Tensor) -> Any:
        """One tensor."""
        rows = super().forward(x).transpose(1, 2)
        return torch.cat([rows[..., :2] / 2, 30 + rows[..., 2:4] / 2, rows[..., 4:]], -1)


class Queries(nn.Module):
    """Logits and boxes of 16 queries, which are the cells of the coarser level."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.logits, self.boxes = nn.Linear(32, CLASSES + 1), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits and boxes."""
        tokens = self.body(x)[1].flatten(2).transpose(1, 2)
        return self.logits(tokens), self.boxes(tokens).sigmoid()


class Chosen(Queries):
    """Rows of a box in pixels, a score and the number of a class, as YOLO26 gives them."""

    def forward(self, x: torch.Tensor) -> Any:
        """[N, 16, 6]."""
        logits, boxes = super().forward(x)
        scores, numbers = logits[..., :CLASSES].sigmoid().max(-1, keepdim=True)
        corners = torch.cat([boxes[..., :2] * 30, 30 + boxes[..., 2:] * 30], -1)
        return torch.cat([corners, scores, numbers.to(scores.dtype)], -1)


NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "yolox": (Yolox, {"form": "levels", "box": "yolox", "strides": STRIDES}),
    "dfl": (Dfl, {"form": "levels", "bins": 4, "strides": STRIDES, "point": "half"}),
    "anchors": (
        Anchors,
        {
            "form": "levels",
            "box": "anchors",
            "strides": STRIDES,
            "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
        },
    ),
    "decoded": (Decoded, {"form": "decoded"}),
    "corners": (Corners, {"form": "decoded", "box": "xyxy"}),
    "chosen": (Chosen, {"form": "detections", "classes": CLASSES, "top": 20}),
    "queries": (Queries, {"form": "queries", "activation": "softmax", "top": 20}),
}


def network(name: str) -> nn.Module:
    """One of `NETWORKS`, in evaluation mode."""
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter).mul_(1.3)
            else:
                parameter.normal_(0, 0.3)
        if name == "yolox":  # of whose sides these are logarithms
            for head in model.heads:
                head.weight[:4] *= 0.1
    return model.eval()


def sentence(name: str, **keys: Any) -> Outputs:
    """What one of `NETWORKS` gives; some thresholds by which few boxes are near-ties."""
    return Outputs(**{"score": 0.05, **NETWORKS[name][1], **keys})
