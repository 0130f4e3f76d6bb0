"""The user's own function from outputs to boxes and scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from subbyte.detection import Outputs
from subbyte.detectors.raw import decode
from subbyte.errors import SubbyteError

FUNCTIONS = """
import torch

def boxes(outputs, size):
    first, second = outputs
    height, width = size
    return first * torch.tensor([width, height, width, height]), second.sigmoid()

def alone(output, size):
    return output[..., :4], output[..., 4:]

def one(outputs, size):
    return outputs

def flat(outputs, size):
    return outputs[0], outputs[0][..., 0]

def fails(outputs, size):
    raise ValueError("no boxes here")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(FUNCTIONS)
    return path


def test_it_gets_the_outputs_and_the_size(file: Path) -> None:
    raw = {"boxes": torch.rand(2, 5, 4), "scores": torch.randn(2, 5, 3)}
    boxes, scores = decode(Outputs(form=f"{file}:boxes"), raw, (32, 64))
    assert torch.equal(boxes, raw["boxes"] * torch.tensor([64, 32, 64, 32]))
    assert torch.equal(scores, raw["scores"].sigmoid())
    rows = torch.rand(2, 5, 7)
    boxes, scores = decode(Outputs(form=f"{file}:alone", classes=3), rows, (32, 64))
    assert torch.equal(torch.cat([boxes, scores], -1), rows)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", "failed: ValueError: no boxes here|failed: no boxes here"),
        ("one", r"returned \[2, 5, 3\], \[2, 5, 3\]: return boxes \[N, B, 4\]"),
        ("flat", r"returned \[2, 5, 3\], \[2, 5\]: return boxes"),
        ("boxs", "did you mean 'boxes'"),
    ],
)
def test_what_it_must_give_is_said(file: Path, function: str, message: str) -> None:
    raw = (torch.rand(2, 5, 3), torch.rand(2, 5, 3))
    with pytest.raises(SubbyteError, match=message):
        decode(Outputs(form=f"{file}:{function}"), raw, (32, 64))


def test_a_file_and_its_classes_are_checked(file: Path) -> None:
    with pytest.raises(SubbyteError, match="does not exist"):
        decode(Outputs(form=f"{file.parent}/other.py:boxes"), torch.rand(1, 5, 7), (32, 64))
    with pytest.raises(SubbyteError, match="scores of 3 classes"):
        decode(Outputs(form=f"{file}:alone", classes=4), torch.rand(1, 5, 7), (32, 64))
