"""ResNet-20 for CIFAR-10 with its published weights and 1,024 real images, for the other scripts.

Both are in the folder `cifar10` of $SUBBYTE_DATA.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

from subbyte import models
from subbyte.data import open_calibration
from subbyte.data.batches import ArgumentsOf


def resnet20() -> tuple[nn.Module, ArgumentsOf]:
    """The model and its calibration images, decoded once, for one thread."""
    if "SUBBYTE_DATA" not in os.environ:
        sys.exit("SUBBYTE_DATA is not set: it names the folder of real data")
    root = Path(os.environ["SUBBYTE_DATA"]) / "cifar10"
    torch.set_num_threads(1)
    checkpoint = root / "resnet20-12fca82f.th"
    spec = models.load(models.ModelConfig(name="cifar_resnet20", checkpoint=checkpoint))
    found = open_calibration(
        str(root / "train"), spec.preprocessing, images=1024, seed=0, batch_size=64
    )
    return spec.module, ArgumentsOf(list(found), torch.device("cpu"))
