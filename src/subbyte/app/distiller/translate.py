"""What a configuration of Distiller means, as a recipe, with a sentence on each of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from subbyte.app.distiller.config import Configuration, InputKeys, LayerKeys, QuantizerKeys
from subbyte.app.distiller.names import Network, Reading, reading_of
from subbyte.errors import SubbyteError

NOT_READ = "Distiller reads it in training alone; nothing follows from it here either"


@dataclass(frozen=True)
class Settings:
    """What a module is quantized by."""

    activations: int | None
    weights: int | None
    mode_activations: str
    mode_weights: str
    clip: str
    deviations: float | None
    half: bool
    scale_bits: int | None
    per_channel: bool

    def grid(self, *, as_input: bool = False) -> dict[str, Any] | None:
        """The grid of what a module gives; as that of an input it is of no ReLU."""
        if self.activations is None:
            return None
        found: dict[str, Any] = {"bits": self.activations}
        if self.mode_activations.startswith("SYMMETRIC"):
            found["symmetric"] = True
        if self.mode_activations == "SYMMETRIC_RESTRICTED":
            found["restricted"] = True
        found["clip"] = self.clip.lower()
        if self.clip == "N_STD":
            found["deviations"] = self.deviations
        if self.half and not as_input:
            found["half"] = True
        if self.scale_bits is not None:
            found["scale_bits"] = self.scale_bits
        return found

    def weight_rule(self) -> Any:
        """The range rule of weights, which are never clipped."""
        if self.mode_weights == "SYMMETRIC":
            return {"name": "absmax", "full": 1}
        return "absmax" if self.mode_weights == "SYMMETRIC_RESTRICTED" else "minmax"


@dataclass
class Translation:
    """A recipe, and what became of each line.

    Attributes:
        recipe: The recipe's fields.
        lines: (key, what became of it), in the file's order.
    """

    recipe: dict[str, Any]
    lines: list[tuple[str, str]] = field(default_factory=list)

    def say(self, key: str, became: str) -> None:
        """Note what became of a key."""
        self.lines.append((key, became))


def translated(configuration: Configuration, network: Network | None, folder: Path) -> Translation:
    """The recipe that a configuration means.

    Args:
        configuration: Distiller's keys.
        network: The model's operations; `None`: it is not known yet.
        folder: Where the configuration lies, from which its paths start.

    Raises:
        SubbyteError: A key cannot be honoured, and is named.
    """
    keys, where = configuration.keys, f"quantizers.{configuration.name}"
    defaults = _defaults(keys)
    symmetric = defaults.mode_weights.startswith("SYMMETRIC")
    made = Translation(
        {
            "weights": defaults.weights,
            "activations": defaults.activations,
            "symmetric_weights": symmetric,
            "per_channel": defaults.per_channel,
            "ranges": {"weights": defaults.weight_rule(), "activations": "minmax"},
            "method": "range",
            "first_last": None,
            "balance": False,
        }
    )
    if keys.bits_accum != 32:
        made.recipe["accumulator"] = keys.bits_accum
    _say_defaults(made, configuration, folder)
    outputs, inputs, overrides = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    met: set[str] = set()
    for pattern, override in keys.overrides.items():
        place = f"{where}.overrides['{pattern}']"
        reading = reading_of(pattern, place, network)
        settings = _overridden(defaults, override)
        outputs[reading.regex] = settings.grid()
        inputs |= _inputs(reading.regex, override, settings, keys)
        fields = _weights(settings, defaults)
        if fields and (reading.operations is None or reading.layers):
            overrides[reading.of_layers] = fields
        _say_override(made, configuration, pattern, reading)
        before = [name for name in reading.operations or () if name in met]
        if before:
            said = "an earlier pattern matches, and the first match wins"
            made.say(f"overrides['{pattern}'] at {_listed(before)}", said)
        met.update(reading.operations or ())
    outputs.setdefault(".*", defaults.grid())
    if keys.inputs_quant_auto_fallback:
        inputs.setdefault(r".*#\d+", defaults.grid(as_input=True))
    if network is not None:
        _say_fused(made, outputs, network)
        for layer, reason in network.without_weights.items():
            overrides = {_exactly(layer): {"weights": None}, **overrides}
            made.say(f"bits_parameters of {layer}", f"stays in float: {reason}")
    if any(grid is not None for grid in outputs.values()):
        made.recipe |= {"outputs": outputs, "inputs": inputs}
    made.recipe["overrides"] = overrides
    return made


def _exactly(name: str) -> str:
    return name.replace(".", r"\.")


def _modes(mode: Any, before: tuple[str, str]) -> tuple[str, str]:
    """The modes of activations and of weights."""
    if mode is None:
        return before
    if isinstance(mode, str):
        return mode, mode
    return mode.get("activations", before[0]), mode.get("weights", before[1])


def _defaults(keys: QuantizerKeys) -> Settings:
    activations, weights = _modes(keys.mode, ("SYMMETRIC", "SYMMETRIC"))
    return Settings(
        keys.bits_activations,
        keys.bits_parameters,
        activations,
        weights,
        keys.clip_acts or "NONE",
        keys.clip_n_stds,
        bool(keys.clip_half_range),
        keys.scale_approx_mult_bits,
        keys.per_channel_wts,
    )


def _overridden(settings: Settings, keys: LayerKeys | InputKeys) -> Settings:
    """Settings with what an override gives."""
    given = keys.model_fields_set
    modes = _modes(keys.mode, (settings.mode_activations, settings.mode_weights))
    changed: dict[str, Any] = {"mode_activations": modes[0], "mode_weights": modes[1]}
    if "bits_activations" in given:
        changed["activations"] = keys.bits_activations
    if keys.clip_acts is not None:
        changed["clip"] = keys.clip_acts
    if keys.clip_n_stds is not None:
        changed["deviations"] = keys.clip_n_stds
    if isinstance(keys, LayerKeys):
        for key in ("bits_parameters", "bits_weights"):
            if key in given:
                changed["weights"] = getattr(keys, key)
        if keys.clip_half_range is not None:
            changed["half"] = keys.clip_half_range
        if "scale_approx_mult_bits" in given:
            changed["scale_bits"] = keys.scale_approx_mult_bits
        if keys.per_channel_wts is not None:
            changed["per_channel"] = keys.per_channel_wts
        if keys.fake:
            changed["weights"] = None
        elif keys.fpq_module is not None:
            changed |= {"weights": None, "activations": None}
    return replace(settings, **changed)


def _inputs(
    regex: str, override: LayerKeys, settings: Settings, keys: QuantizerKeys
) -> dict[str, Any]:
    """Grids of what these modules read without one."""
    found: dict[str, Any] = {}
    for index, given in (override.input_overrides or {}).items():
        own = settings if given.from_output else _overridden(settings, given)
        found[f"(?:{regex})#{index}"] = own.grid(as_input=True)
    fallback = override.inputs_quant_auto_fallback
    fallback = keys.inputs_quant_auto_fallback if fallback is None else fallback
    wanted = fallback and override.quantize_inputs is not False
    found[rf"(?:{regex})#\d+"] = settings.grid(as_input=True) if wanted else None
    return found


def _weights(settings: Settings, defaults: Settings) -> dict[str, Any]:
    """The fields of an override of Subbyte's for the weights of these modules."""
    fields: dict[str, Any] = {}
    if settings.weights != defaults.weights:
        fields["weights"] = settings.weights
    if settings.mode_weights != defaults.mode_weights:
        fields["symmetric_weights"] = settings.mode_weights.startswith("SYMMETRIC")
        fields["ranges"] = {"weights": settings.weight_rule(), "activations": "minmax"}
    if settings.per_channel != defaults.per_channel:
        fields["per_channel"] = settings.per_channel
    return fields


def _say_defaults(made: Translation, configuration: Configuration, folder: Path) -> None:
    keys = configuration.keys
    became = {
        "class": "what this file is about",
        "bits_activations": "activations, and the bits of every grid in outputs and inputs",
        "bits_parameters": "weights",
        "bits_accum": "accumulator" if keys.bits_accum != 32 else "the sums of every runtime",
        "mode": "symmetric_weights and ranges.weights, and symmetric and restricted of the grids",
        "per_channel_wts": "per_channel",
        "clip_acts": "clip of the grids",
        "clip_n_stds": "deviations of the grids"
        if keys.clip_acts == "N_STD"
        else "not used: clip_acts is not N_STD",
        "clip_half_range": "half of the grids"
        if keys.clip_half_range
        else "no ReLU is added; what stands before one has half a range by itself",
        "scale_approx_mult_bits": "scale_bits of the grids",
        "inputs_quant_auto_fallback": "inputs['.*#\\d+']"
        if keys.inputs_quant_auto_fallback
        else "inputs holds no grid for all: what has none is an error",
        "fp16": "nothing is in float16",
        "fpq_module": "what is not quantized is computed in float32",
        "save_fp_weights": "float weights are always kept",
        "also_clip_weights": "ranges of weights are not clipped",
    }
    for key, value in configuration.given.items():
        if key == "overrides":
            continue
        if key == "model_activation_stats":
            made.say(f"{key}: {_shown(value)}", _statistics(made, keys, folder))
        else:
            made.say(f"{key}: {_shown(value)}", became[key])
    if "model_activation_stats" not in configuration.given:
        _statistics(made, keys, folder)
        made.say("model_activation_stats is missing", "collected on the calibration images")


def _statistics(made: Translation, keys: QuantizerKeys, folder: Path) -> str:
    if keys.model_activation_stats is None:
        return "collected on the calibration images"
    given = Path(keys.model_activation_stats).expanduser()
    for path in (folder / given, Path.cwd() / given):
        if path.is_file():
            made.recipe["statistics"] = str(path.resolve())
            return "statistics"
    return "not there: collected on the calibration images"


def _say_override(
    made: Translation, configuration: Configuration, pattern: str, reading: Reading
) -> None:
    where = f"overrides['{pattern}']"
    met = "" if reading.operations is None else f" ({_listed(reading.operations)})"
    how = f"; {reading.note}" if reading.note else ""
    made.say(where, f"outputs and inputs['{reading.regex}']{met}{how}")
    for key, value in (configuration.given["overrides"].get(pattern) or {}).items():
        made.say(f"{where}.{key}: {_shown(value)}", _became(key, value, reading))


def _say_fused(made: Translation, outputs: Mapping[str, Any], network: Network) -> None:
    """Name the ReLUs whose own grid is not used, because what is before them has one."""
    names = {its[0]: its for its in network.operations}

    def matched(name: str) -> str:
        found = (p for p in outputs if any(re.fullmatch(p, known) for known in names[name]))
        return next(found, "")

    lost: dict[str, list[str]] = {}
    for relu, before in network.fused.items():
        pattern = matched(relu)
        if outputs.get(matched(before)) is not None and pattern not in ("", ".*"):
            lost.setdefault(pattern, []).append(relu)
    for pattern, relus in lost.items():
        said = "computed along with what is before it, whose grid it has"
        made.say(f"outputs['{pattern}'] at {_listed(relus)}", said)


def _became(key: str, value: Any, reading: Reading) -> str:
    of_grid = {
        "bits_activations": "bits of its grid" if value is not None else "what it gives is float",
        "clip_acts": "clip of its grid",
        "clip_n_stds": "deviations of its grid",
        "clip_half_range": "half of its grid",
        "scale_approx_mult_bits": "scale_bits of its grid",
        "input_overrides": f"inputs['(?:{reading.regex})#N']",
        "quantize_inputs": "what it reads without a grid "
        + ("stays in float" if value is False else "gets one"),
        "inputs_quant_auto_fallback": "what it reads without a grid "
        + ("is an error" if value is False else "gets one"),
    }
    if key in of_grid:
        return of_grid[key]
    if key in ("bits_weights", "bits_parameters"):
        if reading.operations is not None and not reading.layers:
            return "it has no weights"
        return f"overrides['{reading.of_layers}'].weights"
    if key == "per_channel_wts":
        return f"overrides['{reading.of_layers}'].per_channel"
    if key == "mode":
        return "its grid, and overrides for weights"
    if key == "bits_bias":
        return NOT_READ
    if key == "fake":
        return "weights stay in float; what it gives has a grid" if value else "as all others"
    return "what is not quantized is computed in float32"


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(part)}" for key, part in value.items()) + "}"
    return "null" if value is None else str(value)


def check_inputs(
    configuration: Configuration, unquantized: list[str], held: list[str], network: Network
) -> None:
    """Refuse what Distiller refuses when it runs: inputs without a grid, or with two.

    Args:
        configuration: Distiller's keys.
        unquantized: What is read without a grid though integers are wanted, by NAME#INDEX.
        held: What has a grid already, by NAME#INDEX.
        network: The model's operations.
    """
    names = {its[0]: its for its in network.operations}
    where = f"quantizers.{configuration.name}"
    for name, index in _split(unquantized):
        override = _override_of(configuration, names[name], network)
        if override is None or override.quantize_inputs is not False:
            raise SubbyteError(
                f"{where}.inputs_quant_auto_fallback is false, and input {index} of '{name}' has "
                "no grid: give input_overrides there, or inputs_quant_auto_fallback: true"
            )
    for name, index in _split(held):
        override = _override_of(configuration, names[name], network)
        if override is not None and int(index) in (override.input_overrides or {}):
            raise SubbyteError(
                f"{where}.overrides: input_overrides for input {index} of '{name}', which has the "
                "grid of what gives it: leave them out"
            )


def _split(found: list[str]) -> Iterator[tuple[str, str]]:
    for text in found:
        name, _, index = text.rpartition("#")
        yield name, index


def _override_of(
    configuration: Configuration, names: tuple[str, ...], network: Network
) -> LayerKeys | None:
    for pattern, override in configuration.keys.overrides.items():
        reading = reading_of(pattern, "", network)
        if names[0] in (reading.operations or ()):
            return override
    return None
