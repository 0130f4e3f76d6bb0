"""What a run does once: one capture, one export for each variant, few passes over the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import subbyte
from subbyte.app import runner
from subbyte.app.experiment import Experiment


@pytest.mark.slow
def test_a_run_captures_once_and_exports_each_variant_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    captures: list[bool] = []
    exports: list[bool] = []
    capture, export = torch.export.export, torch.onnx.export

    def counting_capture(*args: Any, **kwargs: Any) -> Any:
        captures.append(bool(exports) and exports[-1])
        return capture(*args, **kwargs)

    def counting_export(*args: Any, **kwargs: Any) -> Any:
        exports.append(True)  # while it lasts, captures are the exporter's own
        try:
            return export(*args, **kwargs)
        finally:
            exports[-1] = False

    monkeypatch.setattr(torch.export, "export", counting_capture)
    monkeypatch.setattr(torch.onnx, "export", counting_export)
    variants = {name: {"weights": w, "method": "range"} for name, w in (("a", 8), ("b", 4))}
    experiment = Experiment(
        model={"name": "digits"},
        data={"name": "digits", "calibration_images": 32},
        variants=variants,
    )
    folder, _ = runner.run(experiment, tmp_path / "run")
    assert len(exports) == 1 + len(variants)  # the float model's and the variants'
    assert captures.count(False) == 1
    files = sorted(path.name for path in (folder / "variants" / "a").glob("*.onnx"))
    assert "model.onnx" in files


class Counted:
    """Batches that count the images that are taken from them."""

    def __init__(self, images: torch.Tensor, size: int) -> None:
        self.batches, self.taken = images.split(size), 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in self.batches:
            self.taken += len(batch)
            yield batch


def test_the_default_at_8_bits_takes_the_images_at_most_three_times() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    batches = Counted(torch.randn(512, 1, 8, 8), 32)
    subbyte.quantize(model, batches)
    assert 512 <= batches.taken <= 3 * 512
