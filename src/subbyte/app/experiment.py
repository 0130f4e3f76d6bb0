"""What a run needs: one model, one data set, and any number of variants; from YAML."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from subbyte import targets
from subbyte.app.distiller.config import is_configuration
from subbyte.app.tracking import LogConfig
from subbyte.bit_search.settings import read_recipe
from subbyte.data import DataConfig
from subbyte.errors import SubbyteError, unknown
from subbyte.models import ModelConfig
from subbyte.models.config import TRANSFORMERS
from subbyte.recipe import Recipe
from subbyte.training.config import Training, TrainingExperiment
from subbyte.utils.tagged_yaml import load_tagged
from subbyte.utils.validation import Checked, Device, FaultsError, gathered, refuse, told

# Keys whose values are paths, relative to the folder of the YAML file that names them.
PATHS = (
    ("model", "checkpoint"),
    ("model", "onnx"),
    ("training", "checkpoint"),
    ("training", "backbone"),
    ("data", "root"),
    ("data", "calibration"),
    ("data", "evaluation"),
    ("data", "classes"),
    ("data", "annotations"),
)
# Where one of these is set, what the file has for the other one no longer counts.
EITHER_OR = (
    ("model", "weights", "checkpoint"),
    ("model", "weights", "checkpoint_key"),
    ("model", "checkpoint", "weights"),
)
SOURCES = ("name", "root", "calibration", "evaluation")


class ExportConfig(BaseModel):
    """How files are written.

    Attributes:
        postprocess: A detector's with the whole way from images to boxes, non-maximum suppression
            and all, or with its raw outputs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    postprocess: bool = True


class Experiment(Checked):
    """What a run needs. `model`, `data` and `variants` are needed; every other key has a default.

    Attributes:
        name: Of the run, and of its folder.
        model: The model.
        data: Where images come from, and how many.
        variants: Name → recipe.
        runtimes: Where each variant is run besides the simulation.
        batch_size: Images a batch.
        device: Where the simulation runs, "cpu" or "cuda".
        export: How files are written.
        seed: Of the choice of images, and of every variant that has none of its own.
        simulation_images: On how many evaluation images the simulation runs; `None`: on all.
        diagnose: Whether the error of each layer is measured.
        log: Where else the run is logged, in TensorBoard or MLflow.

    Raises:
        SubbyteError: A key that does not exist, is missing, or has a value it cannot have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "run"
    model: ModelConfig
    data: DataConfig
    variants: dict[str, Recipe]
    runtimes: tuple[str, ...] = ("onnxruntime", "openvino")
    batch_size: int = Field(default=64, ge=1)
    device: Device = "cpu"
    export: ExportConfig = ExportConfig()
    seed: int = Field(default=0, ge=0)
    simulation_images: int | None = Field(default=2000, ge=1)
    diagnose: bool = True
    log: LogConfig = LogConfig()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", value):
            raise ValueError(f"'{value}' cannot name a folder: use letters, digits, '-' and '_'")
        return value

    @field_validator("runtimes", mode="before")
    @classmethod
    @told
    def _known_runtimes(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(names, list | tuple):
            raise ValueError(f"{value!r} is not a list: give names, as [onnxruntime, openvino]")
        strange = [str(name) for name in names if name not in targets.names()]
        refuse([str(unknown("runtime", name, targets.names())) for name in strange])
        return names

    @field_validator("variants", mode="before")
    @classmethod
    @told
    def _read_variants(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            raise ValueError("give at least one, as NAME: {weights: 8, activations: 8}")
        read, faults = dict[str, Recipe](), list[str]()
        for name, fields in value.items():
            with gathered(faults):
                read[str(name)] = _variant(str(name), fields)
        refuse(faults)
        return read

    def with_seed(self) -> Experiment:
        """The same, with the experiment's seed in each variant that has none of its own."""
        variants = {
            name: recipe
            if "seed" in recipe.model_fields_set
            else recipe.model_copy(update={"seed": self.seed})
            for name, recipe in self.variants.items()
        }
        return self.model_copy(update={"variants": variants})


def builtin() -> dict[str, Path]:
    """The experiments that come with the package: name → file."""
    root = Path(str(resources.files("subbyte.app") / "experiments"))
    return {
        str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.yaml"))
    }


def summary(path: Path) -> str:
    """The first comment of an experiment's file."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def load(name: str, settings: Iterable[str] = ()) -> Experiment:
    """The experiment of a built-in name or a YAML file, with `KEY=VALUE` settings on top.

    A section `training` in it is for `load_training`, and nothing here.

    Raises:
        SubbyteError: As `read`, and where a key or value is wrong.
    """
    raw = read(name, settings)
    raw.pop("training", None)
    return Experiment(**{str(key): value for key, value in raw.items()}).with_seed()


def load_training(name: str, settings: Iterable[str] = ()) -> TrainingExperiment:
    """The training that a built-in experiment or a YAML file describes, with settings on top.

    Its section `training` has the fields of `Training`; `model`, `device` and `seed` are those of
    the experiment where it has none of its own. What else an experiment has is not for training.

    Raises:
        SubbyteError: As `read`, and where a key or value is wrong.
    """
    raw = read(name, settings)
    known = {*Experiment.model_fields, "training"}
    faults = [str(unknown("key", str(key), known)) for key in raw if key not in known]
    section = raw.get("training")
    if not isinstance(section, dict):
        raise FaultsError(
            *faults,
            f"{name} has no section training: give one, as training: {{model: mb2_ssd_lite}}",
        )
    model = raw.get("model")
    outer: dict[str, Any] = {key: raw[key] for key in ("device", "seed") if key in raw}
    if isinstance(model, dict) and model.get("name") is not None:
        outer["model"] = model["name"]
    training = Training.model_construct(model="")  # in whose place the data are still checked
    with gathered(faults, "training: "):
        training = Training(**{**outer, **{str(key): value for key, value in section.items()}})
    with gathered(faults):
        fields = {key: raw[key] for key in ("name", "data") if key in raw}
        asked = TrainingExperiment(**fields, training=training)
    refuse(faults)
    return asked


def read(name: str, settings: Iterable[str] = ()) -> dict[str, Any]:
    """The keys of a built-in experiment or a YAML file, with `KEY=VALUE` settings on top.

    Paths in a file are relative to the file's folder, those in settings to the current one.
    `model.checkpoint` set takes the place of the file's `model.weights`, and the reverse.

    Raises:
        SubbyteError: There is no such experiment, the YAML does not parse (line and column are
            named), or a built-in one misses the folder of its images.
    """
    path = known = builtin().get(name)
    if path is None:
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise (
                unknown("experiment", name, builtin())
                if not path.is_file()
                else SubbyteError(f"{name} is not a YAML file: an experiment's file ends in .yaml")
            )
    raw = read_yaml(path)
    settings = list(settings)
    if is_configuration(raw):
        from subbyte.app.distiller.importing import imported  # it captures the model

        raw = imported(raw, path.resolve(), sections_of(settings)).fields
    _absolute(raw, path.resolve().parent)
    settled = [read_setting(setting) for setting in settings]
    _drop_excluded(raw, {key for key, value in settled if value is not None})
    for key, value in settled:
        _put(raw, key, value)
    if known is not None:
        _require_images(name, raw.get("data"))
    _absolute(raw, Path.cwd())
    raw.setdefault("name", _folder_name(path.stem))
    return raw


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read as data only; `SubbyteError` where there is none."""
    if not path.is_file():
        raise SubbyteError(f"there is no experiment {path}: name a YAML file or a built-in one")
    try:
        raw = load_tagged(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SubbyteError(f"{path} is not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubbyteError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise SubbyteError(f"{path} holds no mapping: an experiment has model, data and variants")
    return raw


def _folder_name(stem: str) -> str:
    """What names the folder of a run whose experiment has no name: its file's, made to fit."""
    fits = re.fullmatch(r"\w[\w.-]*", stem)
    return stem if fits else re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"


def sections_of(settings: Iterable[str]) -> dict[str, Any]:
    """What `KEY=VALUE` settings say by themselves, with paths made absolute."""
    raw: dict[str, Any] = {}
    for key, value in map(read_setting, settings):
        _put(raw, key, value)
    _absolute(raw, Path.cwd())
    return raw


def dump(experiment: Experiment) -> str:
    """The resolved experiment as YAML that `load` reads back to the same."""
    fields = experiment.model_dump(mode="json", exclude_none=False)
    fields["data"] = experiment.data.model_dump(mode="json", exclude_unset=True)
    fields["model"] = experiment.model.model_dump(mode="json", exclude_unset=True)
    fields["variants"] = {name: recipe.as_dict() for name, recipe in experiment.variants.items()}
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _variant(name: str, fields: Any) -> Recipe:
    if not re.fullmatch(r"\w[\w.-]*", name) or name == "float":
        raise SubbyteError(
            f"variants.{name} cannot be named so: use letters, digits, '-' and '_', and not 'float'"
        )
    if fields is not None and not isinstance(fields, dict | Recipe):
        raise SubbyteError(f"variants.{name} is {fields!r}: give a mapping of a recipe's fields")
    if isinstance(fields, Recipe):
        return fields
    faults: list[str] = []
    with gathered(faults, f"variants.{name}: "):
        return read_recipe({str(key): value for key, value in (fields or {}).items()})
    raise FaultsError(*faults)


def read_setting(setting: str) -> tuple[str, Any]:
    """Key and value of `KEY=VALUE`, the value read as YAML; `SubbyteError` where it is neither."""
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise SubbyteError(f"--set {setting} has no value: write it as KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise SubbyteError(f"--set {setting} has a value that is not valid YAML") from None


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    where = ""
    name, rest = _first_name(key, raw)
    while rest is not None:
        where = f"{where}.{name}".removeprefix(".")
        if raw.get(name) is None:
            raw[name] = {}
        raw = raw[name]
        if not isinstance(raw, dict):
            raise SubbyteError(f"--set {key} cannot be set: {where} is a value and not a mapping")
        name, rest = _first_name(rest, raw)
    raw[name] = value


def _first_name(key: str, known: Collection[Any]) -> tuple[str, str | None]:
    """The first name of a dotted path, and the rest; one that is `known` may have dots itself."""
    if key in known:
        return key, None
    ends = [place for place, sign in enumerate(key) if sign == "."]
    end = next((place for place in reversed(ends) if key[:place] in known), min(ends, default=-1))
    return (key, None) if end < 0 else (key[:end], key[end + 1 :])


def _drop_excluded(raw: dict[str, Any], keys: Collection[str]) -> None:
    """Take out of `raw` what excludes one of the `keys` that are about to be set."""
    for part, key, other in EITHER_OR:
        section = raw.get(part)
        if f"{part}.{key}" in keys and isinstance(section, dict):
            section.pop(other, None)


def _require_images(name: str, data: Any) -> None:
    """Refuse a built-in experiment for images of the user's own, as long as none are named."""
    if isinstance(data, dict) and all(data.get(key) is None for key in SOURCES):
        if data.get("format") is not None:
            raise SubbyteError(
                f"{name} runs on images of yours: give --set data.root=DIR, a data set in the "
                f"layout of {str(data['format']).upper()}"
            )
        raise SubbyteError(
            f"{name} runs on images of yours: give --set data.root=DIR, where DIR holds train/ and "
            "val/ with a folder of images for each class, or --set data.calibration=DIR and "
            "--set data.evaluation=DIR"
        )


def _absolute(raw: dict[str, Any], base: Path) -> None:
    """Make the paths in `raw` absolute, where a file or folder is found below `base`."""
    for part, key in PATHS:
        section = raw.get(part)
        if isinstance(section, dict) and isinstance(section.get(key), dict):
            section, keys = section[key], tuple(section[key])  # a path for each side
        else:
            keys = (key,)
        for name in keys:
            if isinstance(section, dict) and isinstance(section.get(name), str):
                found = base / Path(section[name]).expanduser()
                # A folder "imagenet" is no list of classes: these are built in by that name.
                if found.is_file() or (found.exists() and key != "classes"):
                    section[name] = str(found)
    variants = raw.get("variants")
    for fields in variants.values() if isinstance(variants, dict) else ():
        if isinstance(fields, dict) and isinstance(fields.get("statistics"), str):
            found = base / Path(fields["statistics"]).expanduser()
            fields["statistics"] = str(found) if found.is_file() else fields["statistics"]
    log = raw.get("log")
    if isinstance(log, dict) and isinstance(log.get("tensorboard"), str):  # it need not exist
        log["tensorboard"] = str(base / Path(log["tensorboard"]).expanduser())
    model = raw.get("model")
    if isinstance(model, dict):
        named = str(model.get("name", "")).removeprefix(TRANSFORMERS)
        if named != model.get("name", "") and (base / named / "config.json").exists():
            model["name"] = f"{TRANSFORMERS}{base / named}"
        for section, key in ((model, "factory"), (model.get("outputs"), "form")):
            if isinstance(section, dict) and isinstance(section.get(key), str):
                file, colon, function = section[key].rpartition(":")
                if file.endswith(".py") and (base / file).exists():
                    section[key] = f"{base / file}{colon}{function}"
