"""The part of an SSD that learns: a backbone, extra layers, and two heads a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from subbyte.models.ssd.boxes import BoxOrder


@dataclass(frozen=True)
class Names:
    """What a project calls its parts; by these names its checkpoints are read and written."""

    backbone: str
    extras: str
    boxes: str
    classes: str
    norm: str = "norm"


@dataclass(frozen=True)
class Tap:
    """Where a feature map is taken from a backbone.

    Attributes:
        layers: Behind how many of its layers.
        inner: Behind so many layers of the `conv` of the layer that follows these.
    """

    layers: int
    inner: int = 0


class Backbone(nn.Sequential):
    """Layers in a row, some of whose results are feature maps."""

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[Tap]) -> None:
        super().__init__(*layers)
        self.taps = tuple(taps)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images [N, 3, H, W] to the feature maps, and the last layer's result."""
        features = []
        inner = {tap.layers: tap.inner for tap in self.taps if tap.inner}
        outer = {tap.layers for tap in self.taps if not tap.inner}
        for index, layer in enumerate(self):
            if index in inner:
                # No shortcut leads around it: every tapped layer changes its input's size.
                for place, part in enumerate(cast(nn.Sequential, layer.conv)):
                    x = part(x)
                    if place + 1 == inner[index]:
                        features.append(x)
            else:
                x = layer(x)
            if index + 1 in outer:
                features.append(x)
        return features, x


class Network(nn.Module):
    """Normalized images [N, 3, H, W] to regressions [N, A, 4] and logits [N, A, C].

    A is the number of default boxes, in the project's own order, C that of classes with the
    background as class 0. Modules are called as in the project, whose state dict this one's is.

    `norm` is applied to the first feature map, for its heads alone; of `extras`, every `stride`th
    gives a feature map.
    """

    def __init__(
        self,
        names: Names,
        backbone: Backbone,
        extras: Sequence[nn.Module],
        heads: tuple[Sequence[nn.Module], Sequence[nn.Module]],
        *,
        num_classes: int,
        order: BoxOrder,
        norm: nn.Module | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.names, self.num_classes, self.order, self.stride = names, num_classes, order, stride
        self.has_norm = norm is not None
        _put(self, names.backbone, backbone)
        if norm is not None:
            _put(self, names.norm, norm)
        _put(self, names.extras, nn.ModuleList(extras))
        _put(self, names.boxes, nn.ModuleList(heads[0]))
        _put(self, names.classes, nn.ModuleList(heads[1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Regressions [N, A, 4] and logits [N, A, C]."""
        features = self.features(x)
        boxes = self._read(self.names.boxes, features, 4)
        classes = self._read(self.names.classes, features, self.num_classes)
        return boxes, classes

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps that the heads read, from fine to coarse."""
        features: list[Tensor]
        features, x = self.get_submodule(self.names.backbone)(x)
        if self.has_norm:
            features[0] = self.get_submodule(self.names.norm)(features[0])
        for index, layer in enumerate(self._list(self.names.extras)):
            x = layer(x)
            if (index + 1) % self.stride == 0:
                features.append(x)
        return features

    def heads(self) -> list[nn.Module]:
        """The heads for boxes, then those for classes."""
        return [*self._list(self.names.boxes), *self._list(self.names.classes)]

    def _read(self, name: str, features: list[Tensor], width: int) -> Tensor:
        rows = zip(self._list(name), features, strict=True)
        return torch.cat([self._rows(head(feature), width) for head, feature in rows], dim=1)

    def _rows(self, x: Tensor, width: int) -> Tensor:
        """What a head gives, as one row of `width` numbers a default box."""
        if self.order == "shape":
            return torch.unflatten(x, 1, (width, -1)).flatten(2).transpose(1, 2)
        return torch.unflatten(x.permute(0, 2, 3, 1).flatten(1), 1, (-1, width))

    def _list(self, name: str) -> nn.ModuleList:
        return cast(nn.ModuleList, self.get_submodule(name))


def _put(owner: nn.Module, name: str, module: nn.Module) -> None:
    first, _, rest = name.partition(".")
    if not rest:
        owner.add_module(first, module)
        return
    owner.add_module(first, nn.Module())
    _put(owner.get_submodule(first), rest, module)
