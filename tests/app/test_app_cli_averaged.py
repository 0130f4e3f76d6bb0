"""Checkpoints with averaged weights beside the last ones, in runs and commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

NOTE = (
    "the weights are those under model in net.pt, which holds others of the same form under "
    "ema.module (averaged): checkpoint_key, as ema.module, takes these"
)


@pytest.fixture
def both(own: Own) -> Own:
    """The right weights as averaged ones, beside weights that are wrong on every picture."""
    right = torch.load(own.path / "net.pt", weights_only=True)
    wrong = {**right, "head.weight": -right["head.weight"]}
    content = {"model": wrong, "ema": {"module": right, "updates": 9}, "epoch": 3}
    torch.save(content, own.path / "net.pt")
    return own


@pytest.mark.slow
def test_a_run_says_which_weights_it_took_and_a_key_chooses(both: Own, cli: Cli) -> None:
    file = both.yaml()
    result = cli("run", file, "--out", "last")
    assert result.exit_code == 0, result.stderr
    assert both.results("last")["float"]["metrics"] == {"top1": 0.0}
    assert NOTE in both.results("last")["notes"]
    assert f"note: {NOTE}" in " ".join(result.stdout.split())
    result = cli("run", file, "--set", "model.checkpoint_key=ema.module", "--out", "mean")
    assert result.exit_code == 0, result.stderr
    assert both.results("mean")["float"]["metrics"] == {"top1": 1.0}
    assert not [note for note in both.results("mean")["notes"] if "weights are those" in note]
    assert "checkpoint_key: ema.module" in (both.path / "mean/experiment.yaml").read_text()


@pytest.mark.slow
def test_quantize_says_it_too_and_export_takes_the_same_key(
    both: Own, cli: Cli, refusal: Refusal
) -> None:
    model = "net.py:build", "--checkpoint", "net.pt"
    rest = "--calibration", "pictures/train", "--set", "method=range", "--out"
    assert f"note: {NOTE}" in cli("quantize", *model, *rest, "last.safetensors").stdout
    chosen = *model, "--checkpoint-key", "ema"
    result = cli("quantize", *chosen, *rest, "mean.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "weights are those" not in result.stdout
    message = refusal("export", *model, "mean.safetensors", "--out", "mean.onnx")
    assert "other weights" in message or "head" in message
    result = cli("export", *chosen, "mean.safetensors", "--out", "mean.onnx")
    assert result.exit_code == 0, result.stderr
    missing = refusal("quantize", *model, "--checkpoint-key", "emma", *rest, "q.safetensors")
    assert "unknown checkpoint_key of 'net.pt' 'emma'" in missing
