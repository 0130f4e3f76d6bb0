"""What a user is told of the size of a detector's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotated import write_coco, write_images
from small_detectors import detector
from subbyte.data import DataConfig
from subbyte.models import ModelSpec
from subbyte.tasks.base import Asked
from subbyte.tasks.detection import open_task
from subbyte.utils.progress import Silent

ALONE = "all images are {} high and {} wide, and files take this size alone{}; an image of another"


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("ssd", (64, 64), None),  # its network's own
        ("ssd", (48, 72), ALONE.format(48, 72, ", which they resize to the network's 64 × 64")),
        ("retinanet", (64, 64), ALONE.format(64, 64, "")),
    ],
)
def test_the_one_size_of_files_is_said_unless_it_is_the_networks(
    name: str, size: tuple[int, int], told: str | None, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split, 2, 4, size)
        rows = [[(label, [2.0, 2.0, 30.0, 30.0]) for label in (1, 2, 3)]] * 2
        write_coco(tmp_path / f"annotations/instances_{split}.json", rows, [size] * 2)
    spec = ModelSpec(name, detector(name), "detection", None, None)
    task, _ = open_task(Asked(DataConfig(root=tmp_path)), spec, Silent())
    found = [note for note in task.data.notes if "high and" in note]
    assert len(found) == (told is not None)
    if told is not None:
        assert found[0] == f"{told} size is stretched to it"
