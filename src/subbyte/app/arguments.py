"""What stands on a command line, read and checked before PyTorch is imported."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from subbyte import detection, models, targets
from subbyte.app.experiment import Experiment, read_setting
from subbyte.data.classes import listed_classes
from subbyte.data.config import BUNDLED, BUNDLED_SCENES
from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError, unknown
from subbyte.models import ModelConfig
from subbyte.models.config import missing_checkpoint
from subbyte.models.onnx.model import is_onnx
from subbyte.recipe import Recipe
from subbyte.training.config import TrainingExperiment
from subbyte.utils.validation import explain, gathered, refuse

SEARCHED = "small"  # the variant that --max-drop adds


def model_config(
    name: str,
    weights: str | None,
    checkpoint: Path | None,
    checkpoint_key: str | None,
    num_classes: int | None,
) -> ModelConfig:
    """The configuration of a model.

    Args:
        name: A name, FILE.py:FUNCTION or FILE.onnx.
        weights: Published weights by name.
        checkpoint: A file with the float weights.
        checkpoint_key: Under which of the file's keys they are.
        num_classes: How many outputs the model has.
    """
    kind = "onnx" if is_onnx(name) else "factory" if ":" in name else "name"
    try:
        return ModelConfig.model_validate(
            {
                kind: name,
                "weights": weights,
                "checkpoint": checkpoint,
                "checkpoint_key": checkpoint_key,
                "num_classes": num_classes,
            }
        )
    except ValidationError as error:
        raise explain(error, ModelConfig) from None


def recipe_of(bits: str, settings: Sequence[str], seed: int) -> Recipe:
    """The recipe of a command line.

    Args:
        bits: As "w4a8".
        settings: `KEY=VALUE` of its fields, on top.
        seed: Of the method.
    """
    match = re.fullmatch(r"w(\d+)a(\d+)", bits)
    if match is None:
        raise SubbyteError(f"bits is '{bits}': write weights and activations as w8a8 or w4a4")
    fields: dict[str, Any] = {"weights": int(match[1]), "activations": int(match[2]), "seed": seed}
    recipe = Recipe(**(fields | dict(map(read_setting, settings))))
    if recipe.seed < 0:
        raise SubbyteError(
            f"seed is {recipe.seed}: give 0 or more, for it chooses the calibration images too"
        )
    _check_statistics(recipe)
    return recipe


def _check_statistics(recipe: Recipe) -> None:
    """Refuse a file of statistics that does not exist."""
    if recipe.statistics is not None and not Path(recipe.statistics).is_file():
        raise SubbyteError(f"there is no file of statistics {recipe.statistics}")


def with_search(only: Sequence[str] | None) -> list[str]:
    """The variants that run with `--max-drop`; `SubbyteError` where its own is not among them."""
    if only and SEARCHED not in only:
        raise SubbyteError(
            f"--max-drop searches the variant {SEARCHED}, which --only leaves out: leave one of "
            f"them out, or give --only {SEARCHED} as well"
        )
    return list(only or [SEARCHED])


def check_experiment(experiment: Experiment, only: Sequence[str]) -> None:
    """Refuse variants in `only`, a model, weights and folders of images that do not exist.

    Raises:
        SubbyteError: As when the experiment is run.
    """
    strange = [name for name in only if name not in experiment.variants]
    faults = [str(unknown("variant", name, experiment.variants)) for name in strange]
    with gathered(faults):
        models.check(experiment.model)
    with gathered(faults):
        _check_preprocessing(experiment)
    if experiment.data.name is None and models.is_classifier(experiment.model):
        from subbyte.data import image_roots

        with gathered(faults):
            image_roots(experiment.data)
    elif experiment.data.name is None and _of_objects(experiment):
        from subbyte.data.detection.layout import check_names

        with gathered(faults):
            check_names(experiment.data)
    for name, recipe in experiment.variants.items():
        if name in (only or experiment.variants):
            with gathered(faults, f"variants.{name}: "):
                _check_statistics(recipe)
    refuse(faults)


def _of_objects(experiment: Experiment) -> bool:
    """Whether images are a detector's, before a factory or an ONNX file has said what it is."""
    from subbyte.data import image_roots
    from subbyte.data.detection.layout import formats_in

    data, model = experiment.data, experiment.model
    is_open = model.outputs is None and (model.factory is not None or model.onnx is not None)
    if data.is_detection or not is_open:
        return True
    try:
        image_roots(data)
    except SubbyteError:  # nothing that a classifier could take
        return data.root is not None and formats_in(data.root) == ["yolo"]
    return False


def _check_preprocessing(experiment: Experiment) -> None:
    """Refuse a preprocessing that is not for the model's task."""
    given = experiment.data.preprocessing
    own = given is not None and models.brings_outputs(experiment.model)
    if experiment.model.outputs is not None or own:
        try:
            detection.preprocessing_of(given)
        except SubbyteError as error:
            raise SubbyteError(f"data.preprocessing: {error}") from None
    elif experiment.data.is_detection and given is not None:
        raise SubbyteError(
            "data.preprocessing has no meaning for detectors that prepare images by themselves: "
            "leave it out, or give model.outputs as well if the model is a raw network"
        )


def check_training(asked: TrainingExperiment) -> None:
    """Refuse files to start from that do not exist."""
    for path in (asked.training.checkpoint, asked.training.backbone):
        if path is not None and not path.exists():
            raise missing_checkpoint(path)


def preprocessing_of(text: str | None) -> Preprocessing | None:
    """How images are prepared, by YAML as `data.preprocessing` has it."""
    if text is None:
        return None
    _, fields = read_setting(f"preprocessing={text}")
    if not isinstance(fields, dict):
        raise SubbyteError(
            f"preprocessing is {text}: give a mapping, as '{{resize: 256, crop: 224}}'"
        )
    try:
        return Preprocessing(**{str(key): value for key, value in fields.items()})
    except ValidationError as error:
        raise explain(error, Preprocessing, "preprocessing") from None


@dataclass(frozen=True)
class KnownOfImages:
    """What a command line says of the images that a file takes.

    Attributes:
        classes: Names in the order of the outputs; `None`: nothing is said.
        preprocessing: How images are prepared; `None`: nothing is said.
    """

    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None


def known_of_images(classes: Path | None, preprocessing: str | None) -> KnownOfImages:
    """What `--classes` and `--preprocessing` of `export` say."""
    names = None if classes is None else listed_classes(classes, "classes")
    return KnownOfImages(names, preprocessing_of(preprocessing))


def check_target(target: str | None) -> None:
    """Refuse a target that does not exist; `None` stands for all of them."""
    if target is not None and target not in targets.names():
        raise unknown("target", target, targets.names())


def check_runtime(runtime: str | None) -> None:
    """Refuse a runtime that does not exist; `None` stands for the file's own one."""
    if runtime is not None and runtime not in targets.names():
        raise unknown("runtime", runtime, targets.names())


def check_calibration(source: str) -> None:
    """Refuse a folder of calibration images that does not exist."""
    folder = Path(source).expanduser()
    if source not in (*BUNDLED, *BUNDLED_SCENES) and not folder.exists():
        raise SubbyteError(f"folder {folder} cannot be read ({os.strerror(errno.ENOENT)})")


def check_images(paths: Sequence[Path]) -> None:
    """Refuse image files that do not exist."""
    for path in paths:
        if not path.exists():
            raise SubbyteError(f"image {path} does not exist")


def check_quantized(path: Path) -> None:
    """Refuse a quantized model that does not exist."""
    if not path.is_file():
        raise SubbyteError(f"there is no file {path}: name one that subbyte.save has written")


def check_output(path: Path) -> None:
    """Refuse a folder where a file is to be written, and a place where there can be none."""
    if path.is_dir():
        raise SubbyteError(f"{path} is a folder: name a file to write")
    folder = next(str(above) for above in path.absolute().parents if os.path.lexists(above))
    if not os.path.isdir(folder):
        raise SubbyteError(f"{path} lies under {folder}, which is no folder: name another place")
    if not os.access(folder, os.W_OK):
        raise SubbyteError(f"{path} cannot be written, for {folder} may not be written to")


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file that does not exist."""
    if not path.exists():
        raise SubbyteError(f"there is no file {path}: name an ONNX file")
