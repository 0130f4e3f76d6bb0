from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from subbyte.errors import SubbyteError
from subbyte.tasks.scenes import draw_scenes


@dataclass(frozen=True)
class Found:
    boxes: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]


def found(*rows: tuple[float, tuple[float, ...]]) -> Found:
    """Detections of label 1 on one image, from (score, box)."""
    return Found(
        (np.array([box for _, box in rows], np.float32).reshape(-1, 4),),
        (np.array([score for score, _ in rows], np.float32),),
        (np.ones(len(rows), np.int64),),
    )


NOTHING = found()
GREY = torch.full((3, 320, 320), 0.5)
LEFT, TOP, RIGHT = 8, 26, 336  # where the two pictures begin


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_each_side_has_its_own_boxes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "scenes.png"
    draw_scenes([GREY], found((0.9, (40, 60, 120, 200))), NOTHING, ["cat"], path)
    page = drawn(path)
    one, other = (page[TOP : TOP + 320, x : x + 320] for x in (LEFT, RIGHT))
    assert (other == 128).all()
    changed = (one != 128).any(-1)
    assert changed[60, 40:121].all()
    assert changed[60:201, 40].all()
    assert changed[60:201, 120].all()
    assert changed[200, 40:121].all()
    assert not changed[70:190, 50:110].any()  # within
    assert not changed[205:].any()
    assert [p.name for p in path.parent.iterdir()] == ["scenes.png"]


def test_low_scores_and_broken_boxes_are_left_out(tmp_path: Path) -> None:
    nan, path = float("nan"), tmp_path / "a.png"
    rows = found((0.4, (40, 60, 120, 200)), (nan, (1, 1, 50, 50)), (0.9, (nan, 1, 50, 50)))
    draw_scenes([GREY], rows, rows, ["cat"], path)
    assert (drawn(path)[TOP : TOP + 320, LEFT : LEFT + 320] == 128).all()
    draw_scenes([GREY], rows, rows, ["cat"], path, threshold=0.3)
    assert (drawn(path)[TOP : TOP + 320, LEFT : LEFT + 320] != 128).any()


def test_boxes_beyond_the_image_and_small_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    one = found((0.9, (-20, -20, 5, 5)), (0.9, (3, 3, 90, 90)), (0.9, (60, 60, 70, 70)))
    draw_scenes([torch.zeros(1, 20, 32)], one, NOTHING, [], path)
    page = drawn(path)
    assert page.shape == (TOP + 200 + 8, 3 * 8 + 2 * 320, 3)  # enlarged ten times
    corner = page[TOP : TOP + 200, LEFT : LEFT + 320]
    assert (corner[50, :50] > 0).any(-1).all()  # the lower edge of the first, at 5 · 10


def test_large_images_are_reduced_and_each_has_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    two = Found((NOTHING.boxes[0],) * 2, (NOTHING.scores[0],) * 2, (NOTHING.labels[0],) * 2)
    draw_scenes([torch.ones(3, 480, 1280), torch.ones(3, 320, 320)], two, two, ["cat"], path)
    assert drawn(path).shape == (8 * 3 + 18 + 240 + 320, 3 * 8 + 2 * 640, 3)


def test_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(SubbyteError, match="2 images are to be drawn and there are detections on"):
        draw_scenes([GREY, GREY], NOTHING, NOTHING, [], path)
    with pytest.raises(SubbyteError, match="give at least one image"):
        draw_scenes([], NOTHING, NOTHING, [], path)
    with pytest.raises(SubbyteError, match=r"has shape \(320, 320\)"):
        draw_scenes([GREY[0]], NOTHING, NOTHING, [], path)
    assert not path.exists()
