"""Distiller's keys for quantization after training, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from subbyte.errors import SubbyteError, unknown
from subbyte.utils.validation import Checked, gathered, refuse, short

QUANTIZER = "PostTrainLinearQuantizer"
MODES = ("SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_UNSIGNED", "ASYMMETRIC_SIGNED")
CLIPS = ("NONE", "AVG", "N_STD", "GAUSS", "LAPLACE")
OLD_BITS = {"acts": "bits_activations", "wts": "bits_weights", "bias": "bits_bias"}

Mode = str | dict[str, str]


def _bits(value: Any) -> Any:
    if value is None or (type(value) is int and 2 <= value <= 8):
        return value
    raise ValueError(f"{short(value)} bits are not supported: give 2 to 8, or null for float")


def _mode(value: Any) -> Any:
    """One mode, or those of `activations` and `weights`."""
    given = value.values() if isinstance(value, dict) else [value]
    if isinstance(value, dict):
        for key in value:
            if key not in ("activations", "weights"):
                raise ValueError(str(unknown("key", str(key), ("activations", "weights"))))
    for mode in given:
        if mode not in MODES:
            raise ValueError(str(unknown("mode", str(mode), MODES)))
    return value


def _clip(value: Any) -> Any:
    if value is None:
        return None
    name = str(value).upper()
    if name not in CLIPS:
        raise ValueError(str(unknown("clipping mode", str(value), CLIPS)))
    return name


class Keys(Checked):
    """The keys that say how activations become integers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits_activations: int | None = None
    mode: Mode | None = None
    clip_acts: str | None = None
    clip_n_stds: float | None = Field(None, gt=0, allow_inf_nan=False)

    _check_bits = field_validator("bits_activations", mode="before")(_bits)
    _check_clip = field_validator("clip_acts", mode="before")(_clip)

    @field_validator("mode", mode="before")
    @classmethod
    def _check_mode(cls, value: Any) -> Any:
        return None if value is None else _mode(value)


class InputKeys(Keys):
    """What `input_overrides` says of one input.

    Attributes:
        from_output: All as for what the module gives.
    """

    from_output: bool = False


class LayerKeys(Keys):
    """What `overrides` says of the modules that a pattern matches."""

    bits_weights: int | None = None
    bits_parameters: int | None = None
    bits_bias: int | None = None
    clip_half_range: bool | None = None
    scale_approx_mult_bits: int | None = Field(None, ge=1, le=31)
    per_channel_wts: bool | None = None
    input_overrides: dict[int, InputKeys] | None = None
    quantize_inputs: bool | None = None
    inputs_quant_auto_fallback: bool | None = None
    fpq_module: int | None = None
    fp16: bool | None = None
    fake: bool | None = None

    _check_weights = field_validator("bits_weights", "bits_parameters", mode="before")(_bits)

    @field_validator("input_overrides", mode="before")
    @classmethod
    def _read_inputs(cls, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ValueError("give a mapping from the number of an input to its keys")
        read = {}
        for index, fields in value.items():
            if not str(index).isdigit() or not isinstance(fields, dict):
                raise ValueError(f"{short(index)} is not the number of an input with a mapping")
            read[int(index)] = InputKeys(**{str(key): part for key, part in fields.items()})
        return read

    @model_validator(mode="after")
    def _check_precision(self) -> LayerKeys:
        _check_float(self.fp16, self.fpq_module)
        if self.fpq_module is not None and self.fake is None:
            raise ValueError(
                "fpq_module does not say whether what the module gives is quantized: give fake "
                "as well"
            )
        return self


class QuantizerKeys(Keys):
    """What the quantizer itself is given: the defaults of all modules."""

    kind: str = Field(QUANTIZER, alias="class")
    bits_activations: int | None = 8
    bits_parameters: int | None = 8
    bits_accum: int = 32
    mode: Mode | None = "SYMMETRIC"
    clip_half_range: bool | None = False
    scale_approx_mult_bits: int | None = Field(None, ge=1, le=31)
    per_channel_wts: bool = False
    inputs_quant_auto_fallback: bool = True
    model_activation_stats: str | None = None
    overrides: dict[str, LayerKeys] = Field(default_factory=dict)
    fp16: bool | None = None
    fpq_module: int | None = None
    save_fp_weights: bool = False
    also_clip_weights: bool = False

    _check_weights = field_validator("bits_parameters", mode="before")(_bits)

    @field_validator("bits_accum", mode="before")
    @classmethod
    def _check_accumulator(cls, value: Any) -> Any:
        if type(value) is int and 2 <= value <= 32:
            return value
        raise ValueError(f"an accumulator of {short(value)} bits is not supported: give 2 to 32")

    @model_validator(mode="after")
    def _check_rest(self) -> QuantizerKeys:
        _check_float(self.fp16, self.fpq_module)
        if self.fpq_module is not None:
            raise ValueError("fpq_module keeps every module in float: leave it out")
        if self.clip_acts == "N_STD" and self.clip_n_stds is None:
            raise ValueError("clip_n_stds is missing: clip_acts is N_STD")
        if self.also_clip_weights and self.clip_acts not in (None, "NONE"):
            raise ValueError(
                "also_clip_weights is not supported beside clip_acts: ranges of weights are never "
                "clipped; leave it out"
            )
        return self


def _check_float(fp16: bool | None, fpq_module: int | None) -> None:
    if fp16:
        raise ValueError("fp16 is not supported: what is not quantized is computed in float32")
    if fpq_module not in (None, 32):
        raise ValueError(
            f"fpq_module {fpq_module} is not supported: all else is computed in float32"
        )


@dataclass(frozen=True)
class Configuration:
    """A configuration that has been read.

    Attributes:
        name: What the file calls the quantizer.
        keys: What it is given.
        given: The same as it stands in the file, for comments.
    """

    name: str
    keys: QuantizerKeys
    given: Mapping[str, Any]


def is_configuration(raw: Mapping[str, Any]) -> bool:
    """Whether a YAML file is one of Distiller's."""
    return "quantizers" in raw


def read_configuration(raw: Mapping[str, Any]) -> Configuration:
    """The one quantizer of a file.

    Raises:
        SubbyteError: A key that is unknown, or has a value that it cannot have; each is named.
    """
    faults = [
        f"{key} is not supported: a run quantizes after training"
        for key in raw
        if key not in ("version", "quantizers")
    ]
    quantizers = raw["quantizers"]
    if not isinstance(quantizers, dict) or len(quantizers) != 1:
        refuse([*faults, "quantizers must hold one quantizer: NAME: {class: …}"])
    name, fields = next(iter(quantizers.items()))
    where = f"quantizers.{name}"
    if not isinstance(fields, dict):
        refuse([*faults, f"{where} is {short(fields)}: give its keys, as {{bits_activations: 8}}"])
    kind = fields.get("class", QUANTIZER)
    if kind != QUANTIZER:
        faults.append(f"{where}.class is {short(kind)}: only {QUANTIZER} can be had")
        refuse(faults)
    fields = dict(fields)
    overrides = fields.pop("overrides", None)
    read = {}
    with gathered(faults):
        read = _overrides(f"{where}.overrides", overrides)
    keys = QuantizerKeys()
    with gathered(faults, f"{where}: "):
        keys = QuantizerKeys(**{str(key): value for key, value in fields.items()})
    refuse(faults)
    keys = keys.model_copy(update={"overrides": read})
    _check_overrides(where, keys)
    return Configuration(str(name), keys, {**fields, "overrides": overrides or {}})


def _overrides(where: str, given: Any) -> dict[str, LayerKeys]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise SubbyteError(f"{where} is {short(given)}: give patterns with their keys")
    read, faults = {}, list[str]()
    for pattern, fields in given.items():
        place = f"{where}['{pattern}']"
        if not isinstance(fields, dict):
            faults.append(f"{place} is {short(fields)}: give its keys, as {{bits_weights: 8}}")
            continue
        for key, instead in OLD_BITS.items():
            if key in fields:
                faults.append(f"{place}.{key} has another name: write {instead}")
        if any(key in fields for key in OLD_BITS):
            continue
        with gathered(faults, f"{place}: "):
            read[str(pattern)] = LayerKeys(**{str(key): part for key, part in fields.items()})
    refuse(faults)
    return read


def _check_overrides(where: str, keys: QuantizerKeys) -> None:
    """Refuse overrides that say how something is quantized which is not."""
    faults = []
    for pattern, override in keys.overrides.items():
        given = override.model_fields_set
        place = f"{where}.overrides['{pattern}']"
        acts = override.bits_activations if "bits_activations" in given else keys.bits_activations
        clip = override.clip_acts or keys.clip_acts
        if clip == "N_STD" and override.clip_n_stds is None and keys.clip_n_stds is None:
            faults.append(f"{place}.clip_n_stds is missing: clip_acts is N_STD")
        about = ("clip_acts", "clip_n_stds", "clip_half_range", "input_overrides", "mode")
        weights = {"bits_weights", "bits_parameters"} & given
        wts = next((getattr(override, key) for key in weights), keys.bits_parameters)
        half = (
            keys.clip_half_range if override.clip_half_range is None else override.clip_half_range
        )
        if acts is None and half:
            faults.append(
                f"{place}.clip_half_range is not supported where activations stay in float: it "
                "would add a ReLU to the model; set it to false there"
            )
        elif acts is None and wts is None and not override.fake:
            extra = [key for key in about if key in given and getattr(override, key)]
            if extra:
                faults.append(f"{place}.{extra[0]} has no meaning: nothing is quantized there")
    refuse(faults)
