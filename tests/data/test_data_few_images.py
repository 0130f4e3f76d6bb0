from __future__ import annotations

import pytest

from subbyte.data.few_images import note_on_few


@pytest.mark.parametrize(
    ("images", "says"), [(1, "1 calibration image is very few"), (31, "31 calibration images are")]
)
def test_few_images_are_noted(images: int, says: str) -> None:
    (note,) = note_on_few(images)
    assert note.startswith(says)


def test_enough_images_are_not() -> None:
    assert note_on_few(32) == ()
