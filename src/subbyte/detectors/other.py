"""Any other detector: its regions are captured, and its own code around them makes the boxes."""

from __future__ import annotations

from typing import Any

from torch import nn

from subbyte.detectors.base import Deployment, Family, Order, unwritable
from subbyte.detectors.common.chain import chained
from subbyte.graph.float_model import Regional
from subbyte.utils.arguments import image_lists


def _deployment(
    model: nn.Module, captured: Regional, args: tuple[Any, ...], postprocess: bool
) -> Deployment:
    if not postprocess:
        return chained(model, captured, args)
    if image_lists(args) or image_lists(captured.example):
        raise unwritable(model)
    return Deployment(model, args, own_code=True)


FAMILY = Family(matches=lambda _: True, deployment=_deployment, order=Order.FALLBACK, whole=False)
