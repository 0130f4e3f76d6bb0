"""From a `DataConfig` to the batches that a detector is calibrated and evaluated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from subbyte.data.config import BUNDLED_SCENES, DataConfig
from subbyte.data.decoded import Decoded
from subbyte.data.detection.dataset import PLAIN, DetectionBatches, of_listing
from subbyte.data.detection.labels import LabelMap, label_map, without_background
from subbyte.data.detection.layout import find, format_of, formats_in, unlabelled
from subbyte.data.detection.listing import Annotated, Listing, settle, size_fault
from subbyte.data.detection.scenes import COUNTS, Split, scenes
from subbyte.data.detection.yolo import read_names
from subbyte.data.digits import CLASSES
from subbyte.data.images import MISSING, ImageInfo, image_files, inspect, refuse_broken
from subbyte.data.loading import oddities, refuse_classes
from subbyte.data.selection import calibration_indices, evaluation_indices, overlap
from subbyte.errors import SubbyteError
from subbyte.utils.progress import Progress, Silent

_SILENT = Silent()


@dataclass(frozen=True)
class DetectionData:
    """The images of an experiment with a detector, and what is on them.

    Attributes:
        calibration: The images to calibrate with.
        evaluation: The images to evaluate.
        classes: What the labels from 1 on stand for.
        category_ids: Label → the data set's own number.
        listed: Whether the classes are in the order that `data.classes` has them in.
        overlap: How many calibration images are also evaluation images.
        skipped: Broken files left out.
        notes: What the reader of figures must know of the images.
    """

    calibration: DetectionBatches
    evaluation: DetectionBatches
    classes: tuple[str, ...]
    category_ids: Mapping[int, int]
    listed: bool = False
    overlap: int = 0
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def labelled(self, outputs: int | None, known: Sequence[str] | None = None) -> DetectionData:
        """The same with the labels of a model.

        Args:
            outputs: How many labels it has, the background among them, if that is known.
            known: Its own names for them, if it has any.

        Raises:
            SubbyteError: As `label_map`.
        """
        found = label_map(self.classes, self.category_ids, outputs, known, listed=self.listed)
        return replace(
            self,
            calibration=_relabelled(self.calibration, found),
            evaluation=_relabelled(self.evaluation, found),
            classes=found.classes,
            category_ids={
                found.labels[label]: number for label, number in self.category_ids.items()
            },
            notes=(*self.notes, found.note) if found.note else self.notes,
        )


def open_detection(
    config: DataConfig,
    *,
    seed: int,
    batch_size: int,
    progress: Progress = _SILENT,
    whole: bool = False,
) -> DetectionData:
    """Find, check and choose the images that `config` names, and what is on them.

    Every chosen file is decoded once here, so that nothing is found broken later.

    Args:
        config: Where images come from, and how many.
        seed: Of the choice of images.
        batch_size: Images a batch.
        progress: Shows how far it is.
        whole: Calibrate with all images there are, whatever `config` says.

    Raises:
        SubbyteError: A file or folder is missing or not laid out as it should be, annotations are
            cut off or do not fit the images, or there are fewer images than asked for.
    """
    if config.name is not None:
        if config.name not in BUNDLED_SCENES:
            raise SubbyteError(
                f"data.name is {config.name}, images in classes, and a detector needs images with "
                "objects: give data.name: digit-scenes, or a data set as data.root"
            )
        return _open_scenes(_whole(config, COUNTS["train"], whole), seed, batch_size)
    calibration, labelled = find(config, "calibration")
    evaluation, _ = find(config, "evaluation")
    if labelled and calibration.classes != evaluation.classes:
        raise SubbyteError(
            f"calibration has the classes {_shown(calibration.classes)} and evaluation "
            f"{_shown(evaluation.classes)}: give both the same"
        )
    calibrating, evaluated = calibration.annotated, evaluation.annotated
    # To train on, images are read by other processes, and each but once an epoch.
    decoded = None if whole else Decoded(PLAIN)
    infos: dict[Path, ImageInfo] = {}
    faults: dict[Path, str | None] = {}
    if config.skip_broken:  # all there are, of which few may be used: nothing is kept
        infos, faults = _looked(calibrating, evaluated, progress)
        calibrating, evaluated = (_without(side, faults) for side in (calibrating, evaluated))
    chosen = calibration_indices(len(calibrating), _whole(config, len(calibrating), whole), seed)
    calibrating = tuple(calibrating[i] for i in chosen)
    evaluated = tuple(evaluated[i] for i in evaluation_indices(len(evaluated), config, seed))
    if not config.skip_broken:
        infos, faults = _looked(calibrating, evaluated, progress, decoded)
        refuse_broken(faults)
    first = settle(
        calibrating, evaluation.classes, evaluation.category_ids, infos, labelled=labelled
    )
    second = settle(evaluated, evaluation.classes, evaluation.category_ids, infos)
    data = DetectionData(
        calibration=_batches(first, infos, batch_size, "calibration", decoded),
        evaluation=_batches(second, infos, batch_size, "evaluation", decoded),
        classes=evaluation.classes,
        category_ids=evaluation.category_ids,
        overlap=overlap(first.paths, second.paths),
        skipped=tuple(str(path) for path, fault in faults.items() if fault),
    )
    notes = dict.fromkeys((*data.calibration.notes, *data.evaluation.notes))
    return _listed(replace(data, notes=tuple(notes)), config)


def open_detection_calibration(
    source: str, *, images: int, seed: int, batch_size: int, progress: Progress = _SILENT
) -> DetectionBatches:
    """Calibration images alone, without labels: those of a folder, or of the bundled scenes.

    Of a data set in a layout that is known, the images of its training split; else all images in
    the folder.

    Args:
        source: A folder, or the name of bundled data.
        images: How many at most.
        seed: Of the choice of images.
        batch_size: Images a batch.
        progress: Shows how far it is.

    Raises:
        SubbyteError: As `open_detection`.
    """
    if source in BUNDLED_SCENES:
        config = DataConfig(name=source, calibration_images=min(images, COUNTS["train"]))
        return replace(_scenes("train", config, seed, batch_size), labelled=False)
    folder = Path(source).expanduser()
    known = folder.is_dir() and not _holds_images(folder) and formats_in(folder)
    found = find(DataConfig(root=folder), "calibration")[0] if known else unlabelled(folder)
    chosen = np.random.default_rng(seed).permutation(len(found.annotated))[:images]
    annotated = tuple(found.annotated[i] for i in chosen)
    decoded = Decoded(PLAIN)
    infos, faults = _looked(annotated, (), progress, decoded)
    refuse_broken(faults, of_experiment=False)
    listing = settle(annotated, found.classes, found.category_ids, infos, labelled=False)
    return _batches(listing, infos, batch_size, "calibration", decoded)


def open_detection_evaluation(
    source: str, *, classes: Path | None = None, batch_size: int, progress: Progress = _SILENT
) -> tuple[DetectionData, bool]:
    """Evaluation images alone, on both sides of the data, and whether they are in VOC's form.

    Args:
        source: A data set in a layout that is known, of which its split val is taken; a folder of
            images with what is on them; or the name of bundled data.
        classes: As in `DataConfig`.
        batch_size: Images a batch.
        progress: Shows how far it is.

    Raises:
        SubbyteError: As `open_detection`.
    """
    if source in BUNDLED_SCENES:
        refuse_classes(source, classes)
        scenes_ = _scenes("evaluation", DataConfig(name=source), 0, batch_size)
        return DetectionData(scenes_, scenes_, CLASSES, _SCENE_IDS), False
    folder = Path(source).expanduser()
    _check_source(folder)
    keys = ("calibration", "evaluation") if _holds_images(folder) else ("root",)
    config = DataConfig(**dict.fromkeys(keys, folder), classes=classes)
    found, _ = find(config, "evaluation")
    decoded = Decoded(PLAIN)
    infos, faults = _looked(found.annotated, (), progress, decoded)
    refuse_broken(faults, of_experiment=False)
    listing = settle(found.annotated, found.classes, found.category_ids, infos)
    batches = _batches(listing, infos, batch_size, "evaluation", decoded)
    data = DetectionData(batches, batches, found.classes, found.category_ids, notes=batches.notes)
    return _listed(data, config), format_of(config) == "voc"


def _check_source(folder: Path) -> None:
    """Refuse a folder whose files do not show what is on its images."""
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "does not exist"
        raise SubbyteError(f"folder {folder} {fault}: name a data set, or a folder of images")
    found = formats_in(folder)
    if len(found) != 1:
        shown = f"may be {' or '.join(found)}" if found else "holds no annotations that are known"
        raise SubbyteError(
            f"{folder} {shown}: name a data set in the layout of COCO, Pascal VOC or YOLO, or a "
            "folder of images with its annotations inside"
        )


def _holds_images(folder: Path) -> bool:
    """Whether images lie in a folder itself, and not in folders below it."""
    return folder.is_dir() and any(path.parent == folder for path in image_files(folder))


_SCENE_IDS = {label: label - 1 for label in range(1, len(CLASSES) + 1)}  # the digit itself


def _open_scenes(config: DataConfig, seed: int, batch_size: int) -> DetectionData:
    calibration = _scenes("train", config, seed, batch_size)
    evaluation = _scenes("evaluation", config, seed, batch_size)
    return DetectionData(calibration, evaluation, CLASSES, _SCENE_IDS)


def _scenes(split: Split, config: DataConfig, seed: int, batch_size: int) -> DetectionBatches:
    choose = calibration_indices if split == "train" else evaluation_indices
    return DetectionBatches(scenes(split, choose(COUNTS[split], config, seed)), batch_size)


def _looked(
    calibrating: Sequence[Annotated],
    evaluated: Sequence[Annotated],
    progress: Progress,
    decoded: Decoded | None = None,
) -> tuple[dict[Path, ImageInfo], dict[Path, str | None]]:
    """What is known of every image, and what is wrong with it or with its annotations.

    Args:
        calibrating: The images to calibrate with.
        evaluated: The images to evaluate.
        progress: Shows how far it is.
        decoded: Keeps what is decoded meanwhile.
    """
    paths = list(dict.fromkeys(image.path for image in (*calibrating, *evaluated)))
    infos = inspect(paths, progress, decoded)
    faults = {path: seen.fault for path, seen in infos.items()}
    for image in (*calibrating, *evaluated):
        if faults[image.path] == MISSING:
            faults[image.path] = f"{MISSING}, though {image.where} lists it"
        faults[image.path] = faults[image.path] or size_fault(image, infos[image.path])
    return infos, faults


def _without(
    annotated: Sequence[Annotated], faults: Mapping[Path, str | None]
) -> tuple[Annotated, ...]:
    kept = tuple(image for image in annotated if not faults[image.path])
    if not kept:
        raise SubbyteError(
            f"every image of {annotated[0].where} is broken or missing: give the folder that holds "
            "whole ones"
        )
    return kept


def _batches(
    listing: Listing,
    infos: Mapping[Path, ImageInfo],
    batch_size: int,
    purpose: str,
    decoded: Decoded | None,
) -> DetectionBatches:
    odd = oddities([infos[path] for path in listing.paths], PLAIN, purpose)
    return DetectionBatches(
        of_listing(listing, decoded),
        batch_size,
        notes=(*listing.notes, *odd),
        labelled=listing.labelled,
    )


def _listed(data: DetectionData, config: DataConfig) -> DetectionData:
    """The data with labels in the order in which `data.classes` lists the names, if it is given."""
    if config.classes is None:
        return data
    names = without_background(read_names(config.classes))
    strangers = [name for name in data.classes if name not in names]
    if strangers:
        raise SubbyteError(
            f"data.classes {config.classes} does not list {_shown(strangers)}, which the data has: "
            "give a name for each of the model's labels, in their order"
        )
    labels = {label: names.index(name) + 1 for label, name in enumerate(data.classes, 1)}
    found = LabelMap(labels, names)
    return replace(
        data,
        calibration=_relabelled(data.calibration, found),
        evaluation=_relabelled(data.evaluation, found),
        classes=names,
        category_ids={labels[label]: number for label, number in data.category_ids.items()},
        listed=True,
    )


def _relabelled(batches: DetectionBatches, found: LabelMap) -> DetectionBatches:
    dataset = batches.dataset.relabelled(found.labels, found.classes)
    return replace(batches, dataset=dataset)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", … {len(names)} in all" if len(names) > 4 else "")


def _whole(config: DataConfig, available: int, whole: bool) -> DataConfig:
    if not whole:
        return config
    return config.model_copy(update={"calibration_images": available})
