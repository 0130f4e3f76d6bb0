"""torchvision's detectors, with published weights, a checkpoint's, or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn

from subbyte.errors import SubbyteError
from subbyte.models import torchvision as classifiers
from subbyte.models.checkpoint import load_state
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec

LABELS = 91  # of the published weights: COCO's category numbers, and 0 for the background

# The layer that scores classes and the one for boxes, by their biases: one value a label and four
# a box for each anchor. Two-stage detectors score each box once.
_HEADS = {
    "head.classification_head.cls_logits.bias": "head.regression_head.bbox_reg.bias",
    "head.classification_head.module_list.0.bias": "head.regression_head.module_list.0.bias",
    "head.classification_head.module_list.0.1.bias": "head.regression_head.module_list.0.1.bias",
    "roi_heads.box_predictor.cls_score.bias": None,
}
# Their published weights for COCO were trained with batch norms that add nothing to the variance.
_WITHOUT_EPSILON = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")


def load(config: ModelConfig) -> ModelSpec:
    """A torchvision detector by name.

    `num_classes` counts the background; without it the checkpoint decides, and without that it is
    that of the published weights. Raises `SubbyteError` if weights are unknown, missing, or do not
    fit.
    """
    name = str(config.name)
    entry: Any = classifiers.entry_of(name, config)  # every detector has published weights
    if config.weights is None and config.checkpoint is None:
        module = _architecture(name, config.num_classes or LABELS)
        return ModelSpec(name, module, "detection", preprocessing=None, classes=None)
    state, source = classifiers.state_of(entry, config)
    count = _labels(state)
    if config.num_classes not in (None, count) and count is not None:
        raise SubbyteError(
            f"'{source}' has {count} classes with the background, but num_classes is "
            f"{config.num_classes}: give {count}, or leave it out"
        )
    module = _architecture(name, count or config.num_classes or LABELS)
    load_state(module, state, source)
    if name in _WITHOUT_EPSILON and source.name == classifiers.file_name(entry):
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eps = 0.0
    known = tuple(entry.meta["categories"])[1:]
    classes = known if count == len(known) + 1 else None
    return ModelSpec(name, module, "detection", preprocessing=None, classes=classes)


def _architecture(name: str, num_classes: int) -> nn.Module:
    if num_classes < 2:
        raise SubbyteError("num_classes is 1, but counts the background: give at least 2")
    module: nn.Module = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes
    )
    return module


def _labels(state: Mapping[str, Tensor]) -> int | None:
    """How many labels a state dict's classifier has; `None` where it has none that is known."""
    for scores, boxes in _HEADS.items():
        if scores in state and (boxes is None or boxes in state):
            anchors = 1 if boxes is None else len(state[boxes]) // 4
            return len(state[scores]) // max(1, anchors)
    return None
