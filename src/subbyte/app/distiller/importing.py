"""From a configuration of Distiller, or options of its command line, to an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from subbyte.app.distiller.config import Configuration, read_configuration
from subbyte.app.distiller.names import Network
from subbyte.app.distiller.options import Options
from subbyte.app.distiller.translate import Translation, check_inputs, translated
from subbyte.errors import SubbyteError
from subbyte.recipe import Recipe

IMAGENET_VALIDATION = 50_000  # images, of which Distiller's shares are taken as a rule
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
PLACEHOLDERS = """# model: {name: resnet18, weights: IMAGENET1K_V1}     # needed: give your own
# data: {root: DIR}                                     # needed: DIR/train and DIR/val
"""


@dataclass(frozen=True)
class Imported:
    """An experiment that a configuration means.

    Attributes:
        fields: Its keys, as a YAML file has them.
        translation: The recipe, and what became of each line.
        source: What it was made of.
    """

    fields: dict[str, Any]
    translation: Translation
    source: str


def imported(
    raw: Mapping[str, Any],
    source: Path,
    sections: Mapping[str, Any],
    options: Options | None = None,
) -> Imported:
    """The experiment that a file of Distiller means.

    Args:
        raw: What the file holds.
        source: The file.
        sections: `model`, `data` and what else is set beside it.
        options: Of Distiller's command line, those of LAPQ and calibration.

    Raises:
        SubbyteError: A key that is unknown, wrong, or cannot be honoured.
    """
    configuration = read_configuration(raw)
    found = _experiment(configuration, source.parent, sections, options)
    return Imported(*found, str(source))


def imported_options(options: Options, sections: Mapping[str, Any]) -> Imported:
    """The experiment that options of Distiller's command line mean, without a file."""
    configuration = read_configuration({"quantizers": {"distiller": options.keys}})
    fields, translation = _experiment(configuration, Path.cwd(), sections, options)
    return Imported(fields, translation, f"--options {options.text!r}")


def _experiment(
    configuration: Configuration,
    folder: Path,
    sections: Mapping[str, Any],
    options: Options | None,
) -> tuple[dict[str, Any], Translation]:
    fields: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in sections.items()
        if key != "variants"
    }
    if options is not None:
        for part, values in options.sections.items():
            fields[part] = {**values, **(fields.get(part) or {})}
    float_model = _captured(fields.get("model"))
    network = None
    if float_model is not None:
        from subbyte.app.distiller.names import network_of

        network = network_of(float_model)
    translation = translated(configuration, network, folder)
    if options is not None:
        _apply_options(translation, options, fields)
    if network is not None:
        _check(configuration, translation, float_model, network)
    fields.setdefault("runtimes", [])
    fields["variants"] = {configuration.name: translation.recipe}
    return fields, translation


def _captured(model: Any) -> Any:
    """The model of an experiment, captured; `None` where none is named."""
    if not isinstance(model, dict) or not any(model.get(k) for k in ("name", "factory", "onnx")):
        return None
    from subbyte import api, models
    from subbyte.app.inspection import example_of
    from subbyte.models import ModelConfig
    from subbyte.utils.validation import explain

    try:
        config = ModelConfig(**{str(key): value for key, value in model.items()})
    except ValidationError as error:
        raise explain(error, ModelConfig, "model") from None
    models.check(config)
    spec = models.load(config)
    return api.capture(spec.module, example_of(spec))


def _check(
    configuration: Configuration, translation: Translation, float_model: Any, network: Network
) -> None:
    from subbyte.placement.place import check_overrides, output_plans, region_graphs

    recipe = Recipe(**translation.recipe)
    check_overrides(recipe, float_model)
    if not recipe.outputs:
        return
    plans = output_plans(float_model, region_graphs(float_model, recipe), recipe).values()
    unquantized = [name for plan in plans for name in plan.unquantized]
    carried = [name for plan in plans for name in plan.carried]
    check_inputs(configuration, unquantized, carried, network)


def _apply_options(made: Translation, options: Options, fields: dict[str, Any]) -> None:
    """Put what the command line says of calibration and LAPQ into an experiment."""
    data = fields.setdefault("data", {}) if options.calibration or options.lapq else None
    if options.calibration is not None and data is not None:
        count = _images(options.calibration, data)
        data.setdefault("calibration_images", count)
        made.say(f"--qe-calibration {options.calibration}", f"data.calibration_images: {count}")
    if options.lapq is None:
        return
    method: dict[str, Any] = {"name": "lapq", "search": options.lapq.search}
    rule = made.recipe["ranges"]["weights"]
    method["start"] = options.lapq.rule or rule
    if options.lapq.rounds is not None:
        method["rounds"] = options.lapq.rounds
    if options.lapq.evaluations is not None:
        method["max_evaluations"] = options.lapq.evaluations
    assert data is not None
    if options.lapq.share is not None:
        method["images"] = _images(options.lapq.share, data)
        have = data.get("calibration_images", 512)
        data["calibration_images"] = max(have, method["images"])
    for grids in ("outputs", "inputs"):
        for grid in made.recipe.get(grids, {}).values():
            if grid is not None and options.lapq.rule is not None:
                del grid["clip"]
                grid.pop("deviations", None)
                if grid.pop("scale_bits", None) is not None:
                    raise SubbyteError(
                        "--lapq-init-mode L1, L2 and L3 are not supported with "
                        "scale_approx_mult_bits: leave one of them out"
                    )
                grid["ranges"] = options.lapq.rule
            elif grid is not None:
                grid["clip"] = options.lapq.clip
    made.recipe["method"] = method
    for key, became in options.lapq.lines:
        made.say(key, became)


def _images(share: float, data: Mapping[str, Any]) -> int:
    """How many images a share of the evaluation images is."""
    folder = data.get("evaluation") or (Path(data["root"]) / "val" if data.get("root") else None)
    count = 0
    if folder is not None and Path(folder).is_dir():
        count = sum(path.suffix.lower() in SUFFIXES for path in Path(folder).rglob("*"))
    return max(1, round(share * (count or IMAGENET_VALIDATION)))


def written(found: Imported) -> str:
    """The experiment as YAML, with a comment for each line on what became of it."""
    lines = [f"# What {found.source} means, as an experiment of Subbyte."]
    lines.append("# Distiller quantizes what a module gives, and so do outputs and inputs below.")
    lines.append("# Its lines, and what became of them:")
    lines += [f"#   {key} → {became}" for key, became in found.translation.lines]
    missing = [key for key in ("model", "data") if not found.fields.get(key)]
    fields = {key: value for key, value in found.fields.items() if key not in missing}
    text = "\n".join(lines) + "\n"
    for line in PLACEHOLDERS.splitlines():
        if any(line.startswith(f"# {key}:") for key in missing):
            text += line + "\n"
    order = ["name", "model", "data", "variants", "runtimes"]
    ordered = {key: fields[key] for key in [*order, *fields] if key in fields}
    return text + yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which writes what stands in several places again at each of them."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True
