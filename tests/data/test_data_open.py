from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from subbyte.data import Batches, Data, DataConfig, open_calibration, open_data, open_evaluation
from subbyte.data.digits import digits_split
from subbyte.data.labels import Coverage
from subbyte.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

if TYPE_CHECKING:
    from .conftest import Draw, Refuses

WEIGHTS = Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
DIGITS = Preprocessing(resize=(8, 8), mean=(0.3,), std=(0.4,))


def opened(
    config: DataConfig,
    preprocessing: Preprocessing | None = WEIGHTS,
    seed: int = 0,
    outputs: int = 2,
    known: tuple[str, ...] | None = None,
) -> Data:
    found = open_data(config, preprocessing, seed=seed, batch_size=4)
    return found.labelled(outputs, known)


def inputs(batches: Batches) -> torch.Tensor:
    return torch.cat([batch["inputs"] for batch in batches])


def targets(batches: Batches) -> list[int]:
    return torch.cat([batch["targets"] for batch in batches]).tolist()


def test_root(pets: Path) -> None:
    data = opened(DataConfig(root=pets))
    assert data.classes == ("cat", "dog")
    assert targets(data.evaluation) == [0, 0, 0, 1, 1, 1]
    assert sorted(targets(data.calibration)) == [0, 0, 0, 1, 1, 1]
    assert inputs(data.evaluation).shape == (6, 3, 8, 8)
    assert (data.overlap, data.skipped, data.assumed) == (0, (), False)
    assert data.preprocessing == WEIGHTS
    assert (data.coverage, data.notes) == (Coverage(2, 2), ())


def test_calibration_is_chosen_by_seed(pets: Path) -> None:
    config = DataConfig(root=pets, calibration_images=4, evaluation_images=3)
    data, again, other = opened(config), opened(config), opened(config, seed=1)
    assert (data.calibration.images, data.evaluation.images) == (4, 3)
    assert torch.equal(inputs(data.calibration), inputs(again.calibration))
    assert torch.equal(inputs(data.evaluation), inputs(again.evaluation))
    assert not torch.equal(inputs(data.calibration), inputs(other.calibration))
    every = inputs(
        opened(DataConfig(calibration=pets / "val", evaluation=pets / "train")).evaluation
    )
    order = np.random.default_rng(0).choice(6, 4, replace=False)
    assert torch.equal(inputs(data.calibration), every[order])


def test_calibration_has_targets_if_they_can_be_told(pets: Path, draw: Draw) -> None:
    flat = opened(DataConfig(calibration=pets / "train" / "cat", evaluation=pets / "val"))
    assert flat.calibration.images == 3
    assert all("targets" not in batch for batch in flat.calibration)
    (pets / "train" / "cat").rename(pets / "train" / "mouse")
    other = opened(DataConfig(root=pets))
    assert all("targets" not in batch for batch in other.calibration)


def test_class_folders_get_the_models_numbers(pets: Path) -> None:
    known = ("dog", "bird", "cat", "mouse")
    data = opened(DataConfig(root=pets, calibration_images=6), outputs=4, known=known)
    assert data.classes == known
    assert targets(data.evaluation) == [2, 2, 2, 0, 0, 0]
    assert sorted(targets(data.calibration)) == [0, 0, 0, 2, 2, 2]
    assert data.coverage == Coverage(model=4, evaluated=2)
    assert data.notes == ("the evaluation covers 2 of the model's 4 classes",)


def test_coverage_is_that_of_the_images_that_are_evaluated(pets: Path) -> None:
    data = opened(DataConfig(root=pets, evaluation_images=1))
    assert data.coverage == Coverage(model=2, evaluated=1)
    assert len(targets(data.evaluation)) == 1


def test_class_folders_without_an_order_are_refused(pets: Path, refuses: Refuses) -> None:
    with refuses("there are 2 class folders (cat, dog), but the model has 3 outputs"):
        opened(DataConfig(root=pets), outputs=3)


def test_a_class_folder_without_images(pets: Path, refuses: Refuses) -> None:
    (pets / "val" / "bird").mkdir()
    with refuses("class folder 'bird' holds no images"):
        opened(DataConfig(root=pets), outputs=3)
    with refuses("class folder 'bird' holds no images"):
        open_evaluation(str(pets / "val"), WEIGHTS, batch_size=4).labelled(3, None)


def test_evaluation_alone_follows_the_same_rules(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    by_file = open_evaluation(
        str(pets / "val"), WEIGHTS, classes=tmp_path / "classes.txt", batch_size=4
    )
    assert targets(by_file.labelled(2, None).batches) == [1, 1, 1, 0, 0, 0]
    found = open_evaluation(str(pets / "val"), WEIGHTS, batch_size=4)
    assert targets(found.labelled(2, None).batches) == [0, 0, 0, 1, 1, 1]
    named = found.labelled(3, ["dog", "bird", "cat"])
    assert targets(named.batches) == [2, 2, 2, 0, 0, 0]
    assert named.batches.notes == ("the evaluation covers 2 of the model's 3 classes",)
    digits = open_evaluation("digits", DIGITS, batch_size=99).labelled(10, None)
    assert targets(digits.batches) == digits_split()[3].tolist()


def test_too_few_images(pets: Path, refuses: Refuses) -> None:
    assert opened(DataConfig(root=pets)).calibration.images == 6
    with refuses("data.calibration_images is 512, but there are 6 images"):
        opened(DataConfig(root=pets, calibration_images=512))
    with refuses("data.evaluation_images is 7, but there are 6 images"):
        opened(DataConfig(root=pets, evaluation_images=7))


def test_overlap_is_counted(pets: Path) -> None:
    shutil.copy(pets / "val" / "dog" / "1.png", pets / "train" / "cat" / "copy.png")
    assert opened(DataConfig(root=pets)).overlap == 1
    assert opened(DataConfig(calibration=pets / "val", evaluation=pets / "val")).overlap == 6


def damage(pets: Path) -> list[str]:
    """Two broken files, as paths: a JPEG that is cut off, and text that is named as an image."""
    cut, text = pets / "train" / "cat" / "cut.jpg", pets / "val" / "dog" / "1.png"
    whole = (pets / "whole.jpg").read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    text.write_text("not an image")
    return [str(cut), str(text)]


def test_broken_images_are_refused(pets: Path, draw: Draw, refuses: Refuses) -> None:
    draw(pets / "whole.jpg", size=(64, 64))
    cut, text = damage(pets)
    with refuses(f"image {cut} is cut off"):
        opened(DataConfig(root=pets))
    with refuses("and 1 more of 13 images are broken: replace what is broken, or leave it out"):
        opened(DataConfig(root=pets))
    Path(cut).unlink()
    with refuses(f"image {text} is not an image"):
        opened(DataConfig(root=pets))
    with refuses("data.skip_broken: true"):
        opened(DataConfig(root=pets))


def test_broken_images_are_skipped_before_the_choice(pets: Path, draw: Draw) -> None:
    draw(pets / "whole.jpg", size=(64, 64))
    before = opened(DataConfig(root=pets, calibration_images=4))
    broken = damage(pets)
    after = opened(DataConfig(root=pets, calibration_images=4, skip_broken=True))
    assert sorted(after.skipped) == sorted(broken)
    assert torch.equal(inputs(before.calibration), inputs(after.calibration))
    assert targets(after.evaluation) == [0, 0, 0, 1, 1]


def test_nothing_is_left(pets: Path, refuses: Refuses) -> None:
    for path in (pets / "val").rglob("*.png"):
        path.write_text("not an image")
    with refuses(f"every image in {pets / 'val'} is broken"):
        opened(DataConfig(root=pets, skip_broken=True))


def test_mixed_sizes_are_found_up_front(pets: Path, draw: Draw, refuses: Refuses) -> None:
    draw(pets / "val" / "cat" / "wide.png", size=(40, 10))
    opened(DataConfig(root=pets))
    with refuses("wide.png is 40 wide and 10 high"):
        opened(DataConfig(root=pets), None)


def test_given_preprocessing_stands_alone(pets: Path) -> None:
    given = Preprocessing(resize=6, crop=5)
    data = opened(DataConfig(root=pets, preprocessing=given))
    assert data.preprocessing == Preprocessing(resize=6, crop=5, mean=WEIGHTS.mean, std=WEIGHTS.std)
    assert not data.assumed
    whole = opened(DataConfig(root=pets, preprocessing=Preprocessing(std=(1.0, 1.0, 1.0))))
    assert whole.preprocessing == Preprocessing(mean=WEIGHTS.mean, std=(1.0, 1.0, 1.0))
    assert inputs(whole.evaluation).shape == (6, 3, 10, 12)


def test_preprocessing_that_nobody_gave_is_assumed(pets: Path) -> None:
    data = opened(DataConfig(root=pets), None)
    assert data.assumed
    assert data.preprocessing == Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    sizes = Preprocessing(resize=6, crop=5)
    assert opened(DataConfig(root=pets, preprocessing=sizes), None).assumed
    full = Preprocessing(mean=(0.5,), std=(0.5,))
    assert not opened(DataConfig(root=pets, preprocessing=full), None).assumed


def test_what_is_assumed_is_reported(pets: Path) -> None:
    told = "the preprocessing is assumed: images as they are, ImageNet's mean and std"
    assert opened(DataConfig(root=pets), None).notes == (told,)
    sizes = DataConfig(root=pets, preprocessing=Preprocessing(resize=6, crop=5))
    (note,) = opened(sizes, None).notes
    assert note.startswith("the normalization is assumed")
    keys = {"images": 4, "seed": 0, "batch_size": 4}
    alone = open_calibration(str(pets / "train"), None, **keys)  # type: ignore[arg-type]
    assert alone.notes == (told,)
    assert open_calibration("digits", None, **keys).notes == (told,)  # type: ignore[arg-type]
    assert open_calibration("digits", DIGITS, **keys).notes == ()  # type: ignore[arg-type]


def test_no_more_images_calibrate_than_there_are(pets: Path) -> None:
    for source, images in (("digits", 898), (str(pets / "train"), 6)):
        found = open_calibration(source, DIGITS, images=images + 1, seed=0, batch_size=1)
        assert found.images == images


def test_mean_and_std_of_different_channels(pets: Path, refuses: Refuses) -> None:
    given = Preprocessing(mean=(0.1, 0.2, 0.3))
    with refuses("has 3 channels and the std of the weights has 1"):
        opened(DataConfig(root=pets, preprocessing=given), DIGITS)


def test_digits() -> None:
    data = opened(DataConfig(name="digits", calibration_images=100), DIGITS, outputs=10)
    assert (data.calibration.images, data.evaluation.images) == (100, 899)
    assert data.classes == tuple("0123456789")
    assert (data.overlap, data.skipped, data.assumed) == (0, (), False)
    _, train_labels, held_out, held_out_labels = digits_split()
    expected = (torch.from_numpy(held_out).float() / 255 - 0.3) / 0.4
    torch.testing.assert_close(inputs(data.evaluation), expected.unsqueeze(1))
    assert targets(data.evaluation) == held_out_labels.tolist()
    order = np.random.default_rng(0).choice(898, 100, replace=False)
    assert targets(data.calibration) == train_labels[order].tolist()


def test_digits_need_ten_outputs(refuses: Refuses) -> None:
    with refuses("have 10 classes, but the model has only 9"):
        opened(DataConfig(name="digits"), DIGITS, outputs=9)
    data = opened(DataConfig(name="digits", evaluation_images=300), DIGITS, outputs=12)
    assert data.coverage == Coverage(model=12, evaluated=10)


def test_digits_have_an_end(refuses: Refuses) -> None:
    with refuses("data.calibration_images is 899, but there are 898 images"):
        opened(DataConfig(name="digits", calibration_images=899), DIGITS)


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_in_part(seed: int) -> None:
    config = DataConfig(name="digits", evaluation_images=50)
    assert opened(config, DIGITS, seed, outputs=10).evaluation.images == 50
