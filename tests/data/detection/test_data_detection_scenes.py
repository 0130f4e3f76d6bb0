from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from subbyte.data.detection import scenes as module
from subbyte.data.detection.scenes import COUNTS, SIZE, Split, scene, scenes
from subbyte.data.digits import digits_split


def test_scenes_are_as_promised() -> None:
    dataset = scenes("evaluation", range(60))
    assert len(dataset) == 60
    assert dataset.classes == tuple("0123456789")
    for i, found in enumerate(dataset.objects):
        assert found.image_id == i + 1
        assert found.size == (SIZE, SIZE) == (128, 128)
        assert 2 <= len(found) <= 7
        assert found.labels.min() >= 1
        assert found.labels.max() <= 10
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        assert found.boxes.min() >= 0
        assert found.boxes.max() <= SIZE
        assert sides.max() <= 2 * 48
        assert sides[:, 1].max() <= 48
        np.testing.assert_array_equal(found.area, sides.prod(1))
    image, target = dataset[0]
    assert image.shape == (3, SIZE, SIZE)
    assert 0 <= image.min() < image.max() <= 1
    assert target["boxes"].tolist() == dataset.objects[0].boxes.tolist()
    assert {len(found) for found in dataset.objects} == set(range(2, 8))
    assert len(np.unique(np.concatenate([found.labels for found in dataset.objects]))) == 10


def test_a_scene_is_its_own_whatever_others_are_made() -> None:
    pixels, found = scene("train", 7)
    dataset = scenes("train", [3, 7])
    np.testing.assert_array_equal(dataset.images.images[1], pixels)  # type: ignore[union-attr]
    np.testing.assert_array_equal(dataset.objects[1].boxes, found.boxes)
    again, _ = scene("train", 7)
    np.testing.assert_array_equal(again, pixels)
    other, _ = scene("evaluation", 7)
    assert (other != pixels).any()


def test_scenes_are_the_same_everywhere() -> None:
    pixels, found = scene("evaluation", 0)
    assert found.labels.tolist() == [1, 8]
    assert found.boxes.tolist() == [[85, 67, 119, 113], [79, 10, 102, 50]]
    assert pixels.mean() == pytest.approx(112.4405, abs=0.001)


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_boxes_are_tight_around_what_is_in_sight(split: Split) -> None:
    covered = 0
    for index in range(20):
        rng = np.random.Generator(np.random.PCG64([module.SEED, list(COUNTS).index(split), index]))
        module._ground(rng)
        drawn, owner = module._scatter(rng, split)
        _, found = scene(split, index)
        for number, (digit, box) in enumerate(zip(drawn, found.boxes, strict=True), 1):
            mask = Image.fromarray(np.where(owner == number, 255, 0).astype(np.uint8))
            assert mask.getbbox() == tuple(box)
            ink = int((digit.alpha >= 128).sum())
            in_sight = int((owner == number).sum())
            assert 0.85 * ink <= in_sight <= ink
            covered += in_sight < ink
    assert covered > 5  # some are partly under others


def test_digits_of_the_two_halves_are_not_shared() -> None:
    train, _, held_out, _ = digits_split()
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in held_out}
    halves = [
        {(label, cut.size, cut.tobytes()) for label in range(10) for cut in found[label]}
        for found in (module._digits("train"), module._digits("evaluation"))
    ]
    assert len(halves[0] & halves[1]) == 0
    assert sum(map(len, module._digits("train"))) == len(train)


def test_they_are_made_quickly() -> None:
    module._digits("train")
    start = time.process_time()
    scenes("train", range(100))
    assert time.process_time() - start < 2  # 0.2 where nothing else runs


def test_no_scenes() -> None:
    assert len(scenes("train", [])) == 0
