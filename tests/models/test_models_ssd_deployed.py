"""An SSD of the family, quantized and written: its file finds what the simulation finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import subbyte
from processor import FITTING
from subbyte import models


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [("digit_scenes", 128), pytest.param("mb2_ssd_lite", 300, marks=pytest.mark.whole)],
)
def test_its_network_is_the_region_and_its_file_gives_boxes(
    name: str, side: int, tmp_path: Path
) -> None:
    model = models.build(name, num_classes=5).eval()
    images = torch.rand(4, 3, side, side)
    quantized = subbyte.quantize(
        model, [list(images[:2]), list(images[2:])], subbyte.Recipe(method="range", **FITTING)
    )
    assert quantized.region_names == ("network",)
    subbyte.export(quantized, tmp_path / "model.onnx", images[:2])
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    assert names == ["boxes", "scores", "labels", "count"]
    found = session.run(None, {session.get_inputs()[0].name: images[:2].numpy()})
    with torch.no_grad():
        expected = quantized(list(images[:2]))
    for i in range(2):
        scores = torch.from_numpy(found[1][i])[: len(expected[i]["scores"])]
        assert torch.allclose(scores, expected[i]["scores"], atol=0.02)
        first = torch.from_numpy(found[0][i][0])
        assert float((expected[i]["boxes"] - first).abs().amax(1).min()) < 3  # one of them, in px
