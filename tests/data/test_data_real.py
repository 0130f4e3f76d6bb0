from __future__ import annotations

import os
from pathlib import Path

import pytest

from subbyte.data import DataConfig, open_data
from subbyte.data.labels import Coverage
from subbyte.data.preprocessing import Preprocessing
from subbyte.models.cifar_resnet import CLASSES

FOLDER = os.environ.get("SUBBYTE_DATA")


@pytest.mark.skipif(not FOLDER, reason="SUBBYTE_DATA, a folder of real data, is not set")
def test_cifar10() -> None:
    root = Path(str(FOLDER)) / "cifar10"
    config = DataConfig(
        calibration=root / "train", evaluation=root / "test", calibration_images=5000
    )
    found = open_data(config, Preprocessing(), seed=0, batch_size=100)
    data = found.labelled(10, CLASSES)
    assert data.calibration.images == 5000
    assert data.evaluation.images == 10000
    assert data.coverage == Coverage(10, 10)
    assert data.overlap == 0
    assert next(iter(data.evaluation))["inputs"].shape == (100, 3, 32, 32)
