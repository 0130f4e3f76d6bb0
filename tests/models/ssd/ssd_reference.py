"""The SSD family again, as plain functions of a state dict with the published names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def random_state(state: State, seed: int = 0) -> State:
    """Other values for everything in `state`, such that nothing explodes or is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            drawn[name] = torch.tensor(7)
        elif name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            drawn[name] = torch.rand(value.shape, generator=generator) + 0.5
        elif value.ndim == 1:
            drawn[name] = 0.1 * torch.randn(value.shape, generator=generator)
        else:
            spread = (2 / value[0].numel()) ** 0.5
            drawn[name] = spread * torch.randn(value.shape, generator=generator)
    return drawn


def conv(s: State, name: str, x: Tensor, **options: int) -> Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **options)


def norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        s[f"{name}.{part}"].view(1, -1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def rows(x: Tensor, width: int) -> Tensor:
    """Heads whose channels are sorted by default box first: row, column, box."""
    n = x.shape[0]
    return x.permute(0, 2, 3, 1).contiguous().view(n, -1, width)


def nvidia(s: State, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    p = "feature_extractor.feature_extractor"
    x = F.relu(norm(s, f"{p}.1", conv(s, f"{p}.0", x, stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in (4, 5, 6):
        block = 0
        while f"{p}.{stage}.{block}.conv1.weight" in s:
            x = _residual(s, f"{p}.{stage}.{block}", x, 2 if (stage, block) == (5, 0) else 1)
            block += 1
    features = [x]
    for index in range(5):
        name = f"additional_blocks.{index}"
        options = {"stride": 2, "padding": 1} if index < 3 else {}
        x = F.relu(norm(s, f"{name}.1", conv(s, f"{name}.0", x)))
        x = F.relu(norm(s, f"{name}.4", conv(s, f"{name}.3", x, **options)))
        features.append(x)
    n = len(x)
    boxes = [conv(s, f"loc.{i}", f, padding=1).reshape(n, 4, -1) for i, f in enumerate(features)]
    scores = [
        conv(s, f"conf.{i}", f, padding=1).reshape(n, classes, -1) for i, f in enumerate(features)
    ]
    return torch.cat(boxes, 2).mT, torch.cat(scores, 2).mT


def _residual(s: State, name: str, x: Tensor, stride: int) -> Tensor:
    shortcut = x
    if f"{name}.downsample.0.weight" in s:
        shortcut = conv(s, f"{name}.downsample.0", x, stride=stride)
        shortcut = norm(s, f"{name}.downsample.1", shortcut)
    if f"{name}.conv3.weight" in s:  # torchvision strides in the 3×3 convolution
        y = F.relu(norm(s, f"{name}.bn1", conv(s, f"{name}.conv1", x)))
        y = F.relu(norm(s, f"{name}.bn2", conv(s, f"{name}.conv2", y, stride=stride, padding=1)))
        y = norm(s, f"{name}.bn3", conv(s, f"{name}.conv3", y))
    else:
        y = F.relu(norm(s, f"{name}.bn1", conv(s, f"{name}.conv1", x, stride=stride, padding=1)))
        y = norm(s, f"{name}.bn2", conv(s, f"{name}.conv2", y, padding=1))
    return F.relu(y + shortcut)


def _vgg(s: State, p: str, x: Tensor) -> tuple[Tensor, Tensor]:
    for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21):
        if index in (5, 10, 17):
            x = F.max_pool2d(x, 2, 2, ceil_mode=index == 17)
        x = F.relu(conv(s, f"{p}.{index}", x, padding=1))
    conv4_3 = x
    x = F.max_pool2d(x, 2, 2)
    for index in (24, 26, 28):
        x = F.relu(conv(s, f"{p}.{index}", x, padding=1))
    x = F.max_pool2d(x, 3, 1, 1)
    x = F.relu(conv(s, f"{p}.31", x, padding=6, dilation=6))
    return conv4_3, F.relu(conv(s, f"{p}.33", x))


def amdegroot(s: State, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    conv4_3, x = _vgg(s, "vgg", x)
    length = conv4_3.pow(2).sum(1, keepdim=True).sqrt()
    scaled = conv4_3 / (length + 1e-10) * s["L2Norm.weight"].view(1, -1, 1, 1)
    features = [scaled, x]
    for index in range(8):
        options = {1: {"stride": 2, "padding": 1}, 3: {"stride": 2, "padding": 1}}.get(index, {})
        x = F.relu(conv(s, f"extras.{index}", x, **options))
        if index % 2:
            features.append(x)
    boxes = [rows(conv(s, f"loc.{i}", f, padding=1), 4) for i, f in enumerate(features)]
    scores = [rows(conv(s, f"conf.{i}", f, padding=1), classes) for i, f in enumerate(features)]
    return torch.cat(boxes, 1), torch.cat(scores, 1)


def _gaohao_heads(s: State, features: list[Tensor], classes: int) -> tuple[Tensor, Tensor]:
    results = []
    for kind, width in (("regression_headers", 4), ("classification_headers", classes)):
        parts = [rows(_head(s, f"{kind}.{i}", f), width) for i, f in enumerate(features)]
        results.append(torch.cat(parts, 1))
    return results[0], results[1]


def _head(s: State, name: str, x: Tensor) -> Tensor:
    if f"{name}.weight" in s:
        return conv(s, name, x, padding=s[f"{name}.weight"].shape[-1] // 2)
    x = conv(s, f"{name}.0", x, padding=1, groups=x.shape[1])
    if f"{name}.3.weight" in s:
        return conv(s, f"{name}.3", norm(s, f"{name}.1", x).clamp(0, 6))
    return conv(s, f"{name}.2", F.relu(x))


def vgg16_ssd(s: State, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    conv4_3, x = _vgg(s, "base_net", x)
    features = [norm(s, "source_layer_add_ons.0", conv4_3), x]
    for index in range(4):
        options = {"stride": 2, "padding": 1} if index < 2 else {}
        x = F.relu(conv(s, f"extras.{index}.0", x))
        x = F.relu(conv(s, f"extras.{index}.2", x, **options))
        features.append(x)
    return _gaohao_heads(s, features, classes)


def _mobilenet_v1(s: State, x: Tensor) -> list[Tensor]:
    x = F.relu(norm(s, "base_net.0.1", conv(s, "base_net.0.0", x, stride=2, padding=1)))
    features = []
    for index in range(1, 14):
        name, stride = f"base_net.{index}", 2 if index in (2, 4, 6, 12) else 1
        x = conv(s, f"{name}.0", x, stride=stride, padding=1, groups=x.shape[1])
        x = F.relu(norm(s, f"{name}.1", x))
        x = F.relu(norm(s, f"{name}.4", conv(s, f"{name}.3", x)))
        if index in (11, 13):
            features.append(x)
    return features


def mb1_ssd(s: State, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    features = _mobilenet_v1(s, x)
    for index in range(4):
        x = F.relu(conv(s, f"extras.{index}.0", features[-1]))
        features.append(F.relu(conv(s, f"extras.{index}.2", x, stride=2, padding=1)))
    return _gaohao_heads(s, features, classes)


def _lite_extra(s: State, name: str, x: Tensor, padding: int = 1) -> Tensor:
    x = F.relu(conv(s, f"{name}.0", x))
    x = conv(s, f"{name}.2.0", x, stride=2, padding=padding, groups=x.shape[1])
    return conv(s, f"{name}.2.2", F.relu(x))  # nothing follows


def mb1_ssd_lite(s: State, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    features = _mobilenet_v1(s, x)
    for index in range(4):
        features.append(_lite_extra(s, f"extras.{index}", features[-1]))
    return _gaohao_heads(s, features, classes)


def mb2_ssd_lite(s: State, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    x = conv(s, "base_net.0.0", x, stride=2, padding=1)
    x = norm(s, "base_net.0.1", x).clamp(0, 6)
    features = []
    for index in range(1, 18):
        name, stride = f"base_net.{index}.conv", 2 if index in (2, 4, 7, 14) else 1
        y, place = x, 0
        if index > 1:
            y, place = norm(s, f"{name}.1", conv(s, f"{name}.0", x)).clamp(0, 6), 3
        if index == 14:
            features.append(y)
        y = _depthwise(s, name, place, y, stride)
        x = x + y if stride == 1 and y.shape[1] == x.shape[1] else y
    x = norm(s, "base_net.18.1", conv(s, "base_net.18.0", x)).clamp(0, 6)
    features.append(x)
    for index in range(4):
        name = f"extras.{index}.conv"
        x = norm(s, f"{name}.1", conv(s, f"{name}.0", x)).clamp(0, 6)
        x = _depthwise(s, name, 3, x, 2)
        features.append(x)
    return _gaohao_heads(s, features, classes)


def _depthwise(s: State, name: str, place: int, x: Tensor, stride: int) -> Tensor:
    x = conv(s, f"{name}.{place}", x, stride=stride, padding=1, groups=x.shape[1])
    x = norm(s, f"{name}.{place + 1}", x).clamp(0, 6)
    return norm(s, f"{name}.{place + 4}", conv(s, f"{name}.{place + 3}", x))


def sq_ssd_lite(s: State, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    x = F.max_pool2d(F.relu(conv(s, "base_net.0", x, stride=2)), 3, 2)
    features = []
    for index in (3, 4, 6, 7, 9, 10, 11, 12):
        if index in (6, 9):
            x = F.max_pool2d(x, 3, 2)
        name = f"base_net.{index}"
        x = F.relu(conv(s, f"{name}.squeeze", x))
        wide = F.relu(conv(s, f"{name}.expand3x3", x, padding=1))
        x = torch.cat([F.relu(conv(s, f"{name}.expand1x1", x)), wide], 1)
        if index == 11:
            features.append(x)
    for index in range(5):
        x = _lite_extra(s, f"extras.{index}", x, padding=2 if index == 0 else 1)
        features.append(x)
    return _gaohao_heads(s, features, classes)


FORWARD = {
    "nvidia_ssd300_resnet18": nvidia,
    "nvidia_ssd300_resnet34": nvidia,
    "nvidia_ssd300_resnet50": nvidia,
    "ssd300_vgg16_amdegroot": amdegroot,
    "mb1_ssd": mb1_ssd,
    "mb1_ssd_lite": mb1_ssd_lite,
    "mb2_ssd_lite": mb2_ssd_lite,
    "vgg16_ssd": vgg16_ssd,
    "sq_ssd_lite": sq_ssd_lite,
}
