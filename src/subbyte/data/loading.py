"""From a `DataConfig` to the batches it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from subbyte.data.config import BUNDLED, DataConfig
from subbyte.data.dataset import Batches, ImageArrays, ImageFiles, check_sizes
from subbyte.data.digits import CLASSES, digits_split
from subbyte.data.folders import Listing, image_roots, list_calibration, list_evaluation
from subbyte.data.images import broken, fault
from subbyte.data.selection import calibration_indices, evaluation_indices, overlap
from subbyte.errors import SubbyteError
from subbyte.preprocessing import Preprocessing
from subbyte.progress import Progress, Silent

_SILENT = Silent()


@dataclass(frozen=True)
class Data:
    """The images of an experiment.

    `classes`: the evaluation classes in the order of the model's outputs, if known; `overlap`:
    how many calibration images are also evaluation images; `skipped`: broken files left out;
    `preprocessing`: what the batches went through; `assumed`: its mean and std are ImageNet's for
    want of any that were given.
    """

    calibration: Batches
    evaluation: Batches
    classes: tuple[str, ...] | None
    overlap: int
    skipped: tuple[str, ...]
    preprocessing: Preprocessing
    assumed: bool


def open_data(
    config: DataConfig,
    preprocessing: Preprocessing | None,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = _SILENT,
) -> Data:
    """Find, check and choose the images that `config` names.

    `preprocessing` is that of the model's weights; `config.preprocessing` replaces it, except for
    a mean or std that it leaves out. `seed` chooses the images. Every chosen file is decoded once
    here, so that nothing is found broken later. Raises `SubbyteError` if a folder is missing or
    not laid out as it should be, a file is broken, there are fewer images than asked for, or
    images of different sizes would share a batch.
    """
    prepared, assumed = _resolve(config.preprocessing, preprocessing)
    if config.name is not None:
        return _open_digits(config, prepared, assumed, seed, batch_size)
    calibration_root, evaluation_root = image_roots(config)
    evaluation, classes = list_evaluation(evaluation_root, config.classes)
    calibration = list_calibration(calibration_root, classes)
    skipped: tuple[Path, ...] = ()
    if config.skip_broken:
        skipped = tuple(broken(_union(calibration, evaluation), progress))
        calibration = _keep(calibration, skipped, calibration_root)
        evaluation = _keep(evaluation, skipped, evaluation_root)
    calibration = calibration.take(calibration_indices(len(calibration.paths), config, seed))
    evaluation = evaluation.take(evaluation_indices(len(evaluation.paths), config, seed))
    if not config.skip_broken:
        _refuse_broken(_union(calibration, evaluation), progress)
    for listing in (calibration, evaluation):
        check_sizes(listing.paths, prepared, batch_size)
    return Data(
        calibration=Batches(
            ImageFiles(calibration.paths, calibration.labels, prepared), batch_size
        ),
        evaluation=Batches(ImageFiles(evaluation.paths, evaluation.labels, prepared), batch_size),
        classes=classes,
        overlap=overlap(calibration.paths, evaluation.paths),
        skipped=tuple(str(path) for path in skipped),
        preprocessing=prepared,
        assumed=assumed,
    )


def open_calibration(
    source: str,
    preprocessing: Preprocessing | None,
    *,
    images: int,
    seed: int,
    batch_size: int,
    progress: Progress = _SILENT,
) -> Batches:
    """Calibration images alone: those of a folder, or of the bundled "digits".

    `images`: how many at most, chosen by `seed`. Raises `SubbyteError` as `open_data` does.
    """
    prepared = preprocessing or Preprocessing()
    if source in BUNDLED:
        config = DataConfig(name=source)
        return open_data(
            config.model_copy(update={"calibration_images": images}),
            preprocessing,
            seed=seed,
            batch_size=batch_size,
        ).calibration
    listing = list_calibration(Path(source).expanduser(), ())
    chosen = np.random.default_rng(seed).permutation(len(listing.paths))[:images]
    listing = listing.take([int(i) for i in chosen])
    _refuse_broken(listing.paths, progress)
    check_sizes(listing.paths, prepared, batch_size)
    return Batches(ImageFiles(listing.paths, None, prepared), batch_size)


def open_evaluation(
    source: str,
    preprocessing: Preprocessing | None,
    *,
    classes: Path | None = None,
    batch_size: int,
    progress: Progress = _SILENT,
) -> Batches:
    """Evaluation images alone: those of class folders in a folder, or of the bundled "digits".

    `classes`: a file with one class folder's name per line, in the order of the model's outputs.
    Raises `SubbyteError` as `open_data` does.
    """
    prepared = preprocessing or Preprocessing()
    if source in BUNDLED:
        config = DataConfig(name=source)
        return open_data(config, preprocessing, seed=0, batch_size=batch_size).evaluation
    listing, _ = list_evaluation(Path(source).expanduser(), classes)
    _refuse_broken(listing.paths, progress)
    check_sizes(listing.paths, prepared, batch_size)
    return Batches(ImageFiles(listing.paths, listing.labels, prepared), batch_size)


def _open_digits(
    config: DataConfig, preprocessing: Preprocessing, assumed: bool, seed: int, batch_size: int
) -> Data:
    train, train_labels, held_out, held_out_labels = digits_split()
    first = calibration_indices(len(train), config, seed)
    second = evaluation_indices(len(held_out), config, seed)
    calibration = ImageArrays(train[first], train_labels[first].tolist(), preprocessing)
    evaluation = ImageArrays(held_out[second], held_out_labels[second].tolist(), preprocessing)
    return Data(
        calibration=Batches(calibration, batch_size),
        evaluation=Batches(evaluation, batch_size),
        classes=CLASSES,
        overlap=0,  # the two halves share no image
        skipped=(),
        preprocessing=preprocessing,
        assumed=assumed,
    )


def _resolve(
    given: Preprocessing | None, weights: Preprocessing | None
) -> tuple[Preprocessing, bool]:
    """The preprocessing to use, and whether its mean or std is only assumed."""
    if given is None:
        return weights or Preprocessing(), weights is None
    missing = {"mean", "std"} - given.model_fields_set
    if weights is None or not missing:
        return given, bool(missing)
    values = {key: getattr(weights if key in missing else given, key) for key in ("mean", "std")}
    try:
        return Preprocessing(**{**given.model_dump(), **values}), False
    except ValidationError as error:
        (other,) = missing
        channels = len(given.std if other == "mean" else given.mean)
        raise SubbyteError(
            f"data.preprocessing has {channels} channels and the {other} of the weights has "
            f"{len(values[other])}: give data.preprocessing.{other} as well"
        ) from error


def _union(calibration: Listing, evaluation: Listing) -> list[Path]:
    return list(dict.fromkeys((*calibration.paths, *evaluation.paths)))


def _keep(listing: Listing, skipped: Sequence[Path], root: Path) -> Listing:
    kept = listing.without(frozenset(skipped))
    if not kept.paths:
        raise SubbyteError(f"every image in {root} is broken: give a folder with whole images")
    return kept


def _refuse_broken(paths: Sequence[Path], progress: Progress) -> None:
    bad = broken(paths, progress)
    if not bad:
        return
    others = len(bad) - 1
    more = f", and {others} more of {len(paths)} images are broken" if others else ""
    raise SubbyteError(
        f"image {bad[0]} {fault(bad[0])}{more}: replace what is broken, "
        "or leave it out with data.skip_broken: true"
    )
