"""From a `DataConfig` to the batches it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from subbyte.data.classes import ClassOrder
from subbyte.data.config import BUNDLED, DataConfig
from subbyte.data.dataset import Batches, ImageArrays, ImageFiles, check_sizes
from subbyte.data.decoded import Decoded
from subbyte.data.digits import CLASSES, TRAIN_IMAGES, digits_split
from subbyte.data.folders import FolderListing, image_roots, list_calibration, list_evaluation
from subbyte.data.images import ImageInfo, inspect, refuse_broken
from subbyte.data.labels import Coverage, Evaluation
from subbyte.data.preprocessing import OF_DETECTORS, Preprocessing, is_padded
from subbyte.data.selection import calibration_indices, evaluation_indices, overlap
from subbyte.errors import SubbyteError
from subbyte.utils.progress import Progress, Silent

ASSUMED = "the preprocessing is assumed: images as they are, ImageNet's mean and std"
_ASSUMED_IN_PART = "the normalization is assumed: ImageNet's mean and std where none is given"
_SILENT = Silent()
Infos = Mapping[Path, ImageInfo]


@dataclass(frozen=True)
class Data:
    """The images of an experiment.

    Attributes:
        calibration: The images to calibrate with.
        evaluation: The images to evaluate.
        classes: What the model's outputs stand for, in their order.
        coverage: Of how many of the classes there are evaluation images.
        overlap: How many calibration images are also evaluation images.
        skipped: Broken files left out.
        preprocessing: What the batches went through.
        assumed: Its mean or std is ImageNet's for want of any that was given.
        notes: What the reader of figures must know of the images.
    """

    calibration: Batches
    evaluation: Batches
    classes: tuple[str, ...]
    coverage: Coverage
    overlap: int
    skipped: tuple[str, ...]
    preprocessing: Preprocessing
    assumed: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Unlabelled:
    """The images of an experiment, before it is known how many outputs the model has.

    Attributes:
        calibration: As in `Data`, as are all but the next two.
        calibration_folders: The folder of each calibration image; `None`: it lies in none.
        evaluation: The images to evaluate, whose labels depend on the model.
        overlap: How many calibration images are also evaluation images.
        skipped: Broken files left out.
        preprocessing: What the batches went through.
        assumed: Its mean or std is ImageNet's for want of any that was given.
        notes: What the reader of figures must know of the images.
    """

    calibration: Batches
    calibration_folders: tuple[str | None, ...]
    evaluation: Evaluation
    overlap: int
    skipped: tuple[str, ...]
    preprocessing: Preprocessing
    assumed: bool
    notes: tuple[str, ...]

    def labelled(self, outputs: int, known: Sequence[str] | None) -> Data:
        """The images with labels for a model.

        Calibration images get labels if all of them lie in folders of the model's classes.

        Args:
            outputs: How many outputs it has.
            known: Its own names for them, if it has any.

        Raises:
            SubbyteError: It is not known which class folder stands for which output.
        """
        labelled = self.evaluation.labelled(outputs, known)
        numbers = [labelled.order.numbers.get(name or "") for name in self.calibration_folders]
        found = [number for number in numbers if number is not None]
        whole = len(found) == len(numbers)
        calibration = self.calibration.labelled(found) if whole else self.calibration
        return Data(
            calibration=calibration,
            evaluation=labelled.batches,
            classes=labelled.order.names,
            coverage=labelled.coverage,
            overlap=self.overlap,
            skipped=self.skipped,
            preprocessing=self.preprocessing,
            assumed=self.assumed,
            notes=(*self.notes, *labelled.batches.notes, *calibration.notes),
        )


def open_data(
    config: DataConfig,
    preprocessing: Preprocessing | None,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = _SILENT,
) -> Unlabelled:
    """Find, check and choose the images that `config` names.

    Every chosen file is decoded once here, so that nothing is found broken later.

    Args:
        config: Where images come from, and how many.
        preprocessing: That of the model's weights; `config.preprocessing` replaces it, except for a
            mean or std that it leaves out.
        seed: Of the choice of images.
        batch_size: Images a batch.
        progress: Shows how far it is.

    Raises:
        SubbyteError: A folder is missing or not laid out as it should be, a file is broken, there
            are fewer images than asked for, or images of different sizes would share a batch.
    """
    if config.is_detection:
        raise SubbyteError(
            "data is of objects to be found, and a classifier needs images in class folders: give "
            "data.root or data.calibration and data.evaluation alone, or data.name: digits"
        )
    prepared, assumed = _resolve(config.preprocessing, preprocessing)
    if config.name is not None:
        return _open_digits(config, prepared, assumed, seed, batch_size)
    calibration_root, evaluation_root = image_roots(config)
    evaluation, classes = list_evaluation(evaluation_root)
    empty = frozenset(classes).difference(map(str, evaluation.folders))
    calibration = list_calibration(calibration_root)
    decoded = Decoded(prepared)
    infos: Infos = {}
    if config.skip_broken:  # all there are, of which few may be used: nothing is kept
        infos = inspect(_union(calibration, evaluation), progress)
        calibration = _keep(calibration, infos, calibration_root)
        evaluation = _keep(evaluation, infos, evaluation_root)
    calibration = calibration.take(calibration_indices(len(calibration.paths), config, seed))
    evaluation = evaluation.take(evaluation_indices(len(evaluation.paths), config, seed))
    if not config.skip_broken:
        infos = inspect(_union(calibration, evaluation), progress, decoded)
        refuse_broken({path: seen.fault for path, seen in infos.items()})
    return Unlabelled(
        calibration=_batches(calibration, infos, decoded, batch_size, "calibration"),
        calibration_folders=calibration.folders,
        evaluation=Evaluation(
            _batches(evaluation, infos, decoded, batch_size, "evaluation"),
            tuple(str(folder) for folder in evaluation.folders),
            classes,
            empty,
            config.classes,
        ),
        overlap=overlap(calibration.paths, evaluation.paths),
        skipped=tuple(str(path) for path, seen in infos.items() if seen.fault),
        preprocessing=prepared,
        assumed=assumed,
        notes=_assumption(config.preprocessing, assumed),
    )


def open_calibration(
    source: str,
    preprocessing: Preprocessing | None,
    *,
    images: int,
    seed: int,
    batch_size: int,
    given: Preprocessing | None = None,
    progress: Progress = _SILENT,
) -> Batches:
    """Calibration images alone: those of a folder, or of the bundled "digits".

    Args:
        source: A folder, or the name of bundled data.
        preprocessing: That of the model's weights, if any.
        images: How many at most.
        seed: Of the choice of images.
        batch_size: Images a batch.
        given: The user's own preprocessing, as `data.preprocessing`.
        progress: Shows how far it is.

    Raises:
        SubbyteError: As `open_data`.
    """
    prepared, assumed = _resolve(given, preprocessing)
    notes = _assumption(given, assumed)
    if source in BUNDLED:
        if given is not None:
            raise SubbyteError(
                f"preprocessing has no meaning for {source}, whose images are as the model takes "
                "them; leave it out"
            )
        config = DataConfig(name=source, calibration_images=min(images, TRAIN_IMAGES))
        found = open_data(config, preprocessing, seed=seed, batch_size=batch_size)
        return replace(found.calibration, notes=notes)
    listing = list_calibration(Path(source).expanduser())
    chosen = np.random.default_rng(seed).permutation(len(listing.paths))[:images]
    listing = listing.take([int(i) for i in chosen])
    decoded = Decoded(prepared)
    infos = inspect(listing.paths, progress, decoded)
    faults = {path: seen.fault for path, seen in infos.items()}
    refuse_broken(faults, of_experiment=False)
    batches = _batches(listing, infos, decoded, batch_size, "calibration")
    return replace(batches, notes=(*notes, *batches.notes))


def open_evaluation(
    source: str,
    preprocessing: Preprocessing | None,
    *,
    classes: Path | None = None,
    batch_size: int,
    progress: Progress = _SILENT,
) -> Evaluation:
    """Evaluation images alone: those of class folders in a folder, or of the bundled "digits".

    Args:
        source: A folder of class folders, or the name of bundled data.
        preprocessing: That of the model's weights, if any.
        classes: A file with one class folder's name per line, in the order of the model's outputs,
            or "imagenet".
        batch_size: Images a batch.
        progress: Shows how far it is.

    Raises:
        SubbyteError: As `open_data`.
    """
    prepared = preprocessing or Preprocessing()
    if source in BUNDLED:
        refuse_classes(source, classes)
        config = DataConfig(name=source)
        return open_data(config, preprocessing, seed=0, batch_size=batch_size).evaluation
    listing, names = list_evaluation(Path(source).expanduser())
    decoded = Decoded(prepared)
    infos = inspect(listing.paths, progress, decoded)
    faults = {path: seen.fault for path, seen in infos.items()}
    refuse_broken(faults, of_experiment=False)
    batches = _batches(listing, infos, decoded, batch_size, "evaluation")
    folders = tuple(str(folder) for folder in listing.folders)
    return Evaluation(batches, folders, names, frozenset(names).difference(folders), classes)


def refuse_classes(source: str, classes: Path | None) -> None:
    """Raise `SubbyteError` if classes are listed for bundled data, which have their own."""
    if classes is not None:
        raise SubbyteError(
            f"classes {classes} has no meaning for {source}, whose classes are known: leave it out"
        )


def oddities(
    infos: Sequence[ImageInfo], preprocessing: Preprocessing, purpose: str
) -> tuple[str, ...]:
    """What is odd about some of the images, and what is done with them, as sentences.

    Args:
        infos: What is known of each image.
        preprocessing: What images go through.
        purpose: What messages call the images: "calibration" or "evaluation".
    """
    counts = {
        "smaller than the crop, filled up with black": sum(
            is_padded(seen.size, preprocessing) for seen in infos
        ),
        "turned upright as their EXIF orientation says": sum(seen.turned for seen in infos),
        "transparent in places, which is ignored": sum(seen.transparent for seen in infos),
    }
    return tuple(
        f"{what}: {count} of the {len(infos)} {purpose} images"
        for what, count in counts.items()
        if count
    )


def _open_digits(
    config: DataConfig, preprocessing: Preprocessing, assumed: bool, seed: int, batch_size: int
) -> Unlabelled:
    train, train_labels, held_out, held_out_labels = digits_split()
    first = calibration_indices(len(train), config, seed)
    second = evaluation_indices(len(held_out), config, seed)
    calibration = ImageArrays(train[first], None, preprocessing)
    evaluation = ImageArrays(held_out[second], None, preprocessing)
    return Unlabelled(
        calibration=Batches(calibration, batch_size),
        calibration_folders=tuple(CLASSES[i] for i in train_labels[first]),
        evaluation=Evaluation(
            Batches(evaluation, batch_size),
            tuple(CLASSES[i] for i in held_out_labels[second]),
            CLASSES,
            fixed=ClassOrder(CLASSES, {name: i for i, name in enumerate(CLASSES)}),
        ),
        overlap=0,  # the two halves share no image
        skipped=(),
        preprocessing=preprocessing,
        assumed=assumed,
        notes=_assumption(None, assumed),
    )


def _batches(
    listing: FolderListing, infos: Infos, decoded: Decoded, batch_size: int, purpose: str
) -> Batches:
    preprocessing = decoded.preprocessing
    check_sizes(listing.paths, infos, preprocessing, batch_size)
    notes = oddities([infos[path] for path in listing.paths], preprocessing, purpose)
    files = ImageFiles(listing.paths, None, preprocessing, decoded)
    return Batches(files, batch_size, notes=notes)


def _assumption(given: Preprocessing | None, assumed: bool) -> tuple[str, ...]:
    if not assumed:
        return ()
    return (ASSUMED,) if given is None else (_ASSUMED_IN_PART,)


def _resolve(
    given: Preprocessing | None, weights: Preprocessing | None
) -> tuple[Preprocessing, bool]:
    """The preprocessing to use, and whether its mean or std is only assumed."""
    if given is None:
        return weights or Preprocessing(), weights is None
    detectors = [key for key in OF_DETECTORS if key in given.model_fields_set]
    if detectors:
        raise SubbyteError(
            f"data.preprocessing.{detectors[0]} is for detectors, and the model is a classifier: "
            "leave it out; for a detector's network give model.outputs"
        )
    missing = {"mean", "std"} - given.model_fields_set
    if weights is None or not missing:
        return given, bool(missing)
    values = {key: getattr(weights if key in missing else given, key) for key in ("mean", "std")}
    try:
        return Preprocessing(**{**given.as_classifiers(), **values}), False
    except ValidationError as error:
        (other,) = missing
        channels = len(given.std if other == "mean" else given.mean)
        raise SubbyteError(
            f"data.preprocessing has {channels} channels and the {other} of the weights has "
            f"{len(values[other])}: give data.preprocessing.{other} as well"
        ) from error


def _union(calibration: FolderListing, evaluation: FolderListing) -> list[Path]:
    return list(dict.fromkeys((*calibration.paths, *evaluation.paths)))


def _keep(listing: FolderListing, infos: Infos, root: Path) -> FolderListing:
    kept = listing.without({path for path, seen in infos.items() if seen.fault})
    if not kept.paths:
        raise SubbyteError(f"every image in {root} is broken: give a folder with whole images")
    return kept
