"""Backbones of the SSD family; layers stand where the published checkpoints have them."""

from __future__ import annotations

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.squeezenet import Fire

from subbyte.models.ssd.layers import InvertedResidual, conv_bn
from subbyte.models.ssd.network import Backbone, Tap


def resnet(depth: int) -> Backbone:
    """A ResNet of torchvision up to the third of its four stages, which keeps the second's size."""
    whole = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    layers = list(whole.children())[:7]
    first = layers[-1][0]
    for convolution in (first.conv1, first.conv2, first.downsample[0]):
        convolution.stride = (1, 1)
    return Backbone(layers, [Tap(7)])


def vgg16() -> Backbone:
    """VGG-16 whose fully connected layers are convolutions, the first of them dilated.

    Liu et al. 2016, "SSD", section 3.
    """
    layers: list[nn.Module] = []
    inputs = 3
    # Width and number of convolutions of each stage; the third's pooling rounds up.
    for stage, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=stage == 2))
    layers[-1] = nn.MaxPool2d(3, 1, padding=1)
    layers += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU()]
    layers += [nn.Conv2d(1024, 1024, 1), nn.ReLU()]
    backbone = _drawn(Backbone(layers, [Tap(23), Tap(len(layers))]))
    with torch.no_grad():
        # The images that it reads have a standard deviation of about 64, and no layer normalizes.
        next(backbone.parameters()).div_(64)
    return backbone


def mobilenet_v1() -> Backbone:
    """MobileNet of Howard et al. 2017, table 1, up to its last convolution; with ReLU."""
    # Outputs and stride of each pair of a depthwise and a pointwise convolution.
    pairs = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    pairs += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 32, 3, 2))]
    inputs = 32
    for outputs, stride in pairs:
        depthwise = conv_bn(inputs, inputs, 3, stride, groups=inputs)
        layers.append(nn.Sequential(*depthwise, *conv_bn(inputs, outputs, 1)))
        inputs = outputs
    return _drawn(Backbone(layers, [Tap(12), Tap(14)]))


def mobilenet_v2() -> Backbone:
    """MobileNetV2 of Sandler et al. 2018, table 2, up to its last convolution.

    The first feature map is the expansion within the first block of the sixth stage.
    """
    # Expansion, outputs, number of blocks, and stride of the first, of each stage.
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    stages += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 32, 3, 2, act=nn.ReLU6))]
    inputs = 32
    for expansion, outputs, count, first in stages:
        for index in range(count):
            stride = first if index == 0 else 1
            layers.append(InvertedResidual(inputs, outputs, stride, expansion * inputs))
            inputs = outputs
    layers.append(nn.Sequential(*conv_bn(inputs, 1280, 1, act=nn.ReLU6)))
    return _drawn(Backbone(layers, [Tap(14, inner=3), Tap(19)]))


def squeezenet() -> Backbone:
    """SqueezeNet 1.1 (Iandola et al. 2016) whose poolings round down, unlike torchvision's.

    The extra layers read its last layer, the heads the one before it.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [Fire(64, 16, 64, 64), Fire(128, 16, 64, 64), nn.MaxPool2d(3, 2)]
    layers += [Fire(128, 32, 128, 128), Fire(256, 32, 128, 128), nn.MaxPool2d(3, 2)]
    layers += [Fire(256, 48, 192, 192), Fire(384, 48, 192, 192)]
    layers += [Fire(384, 64, 256, 256), Fire(512, 64, 256, 256)]
    return _drawn(Backbone(layers, [Tap(12)]))


def small() -> Backbone:
    """Residual blocks (He et al. 2016) for images of 128 pixels; maps of 16 × 16 and 8 × 8."""
    layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 16, 3, 2))]
    inputs = 16
    for outputs, stride in [(40, 2), (80, 2), (80, 1), (96, 2), (96, 1)]:
        shortcut = nn.Sequential(*conv_bn(inputs, outputs, 1, stride)[:2]) if stride > 1 else None
        layers.append(BasicBlock(inputs, outputs, stride, shortcut))
        inputs = outputs
    return _drawn(Backbone(layers, [Tap(4), Tap(6)]))


def _drawn(backbone: Backbone) -> Backbone:
    """With weights by He et al. 2015, "Delving Deep into Rectifiers", and biases of 0."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return backbone
