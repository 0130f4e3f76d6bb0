"""What one variant asks for: bits, ranges, method."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from subbyte.errors import SubbyteError, unknown
from subbyte.utils.validation import Checked, gathered, refuse, short, told

# What a name stands for that people look for and that no method has.
INSTEAD = {"gptq": "{name: subbyte, steps: 0}, which rounds as GPTQ does and learns nothing more"}


def _bits(value: Any) -> Any:
    if value is None or (type(value) is int and 2 <= value <= 8):
        return value
    raise ValueError(f"{short(value)} bits are not supported: give 2 to 8, or null for float")


def _accumulator(value: Any) -> Any:
    if type(value) is int and 2 <= value <= 32:
        return value
    raise ValueError(f"sums of {short(value)} bits are not supported: give 2 to 32")


Bits = Annotated[int | None, BeforeValidator(_bits)]
Accumulator = Annotated[int, BeforeValidator(_accumulator)]
Named = str | dict[str, Any]


class Choice(NamedTuple):
    """A range rule or a method.

    Attributes:
        name: Which one.
        options: Its options by name.
    """

    name: str
    options: dict[str, Any]


def choice(value: Named) -> Choice:
    """Read `"lp"` or `{"name": "lp", "p": 3}`."""
    if isinstance(value, str):
        return Choice(value, {})
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise SubbyteError(f"{value!r} has no name: write it as {{name: NAME, option: value}}")
    return Choice(value["name"], {key: v for key, v in value.items() if key != "name"})


def unknown_method(name: str) -> SubbyteError:
    """The error for a method that does not exist."""
    if name.lower() in INSTEAD:
        return SubbyteError(f"'{name}' is no method by itself: give {INSTEAD[name.lower()]}")
    return unknown("method", name, method_names())


def method_names() -> list[str]:
    """The names of the files in `methods/`, and `auto`, which picks one of them."""
    folder = Path(__file__).parent / "methods"
    found = pkgutil.iter_modules([str(folder)])
    return ["auto", *(module.name for module in found if not module.ispkg)]


def _check_rule(rule: Named) -> None:
    """Refuse a range rule that does not exist, or not with these options."""
    # By its name, because numerics stands above recipes; this does not import PyTorch.
    importlib.import_module("subbyte.numerics.ranges").check(*choice(rule))


@told
def _checked_ranges(value: Any) -> Any:
    if isinstance(value, dict) and "name" not in value:
        strange = set(value) - {"weights", "activations"}
        if strange or not value:
            raise SubbyteError(
                f"ranges has the key {sorted(strange)[0] if strange else 'nothing'!r}: "
                "give a rule's name, {name: RULE, …} or {weights: RULE, activations: RULE}"
            )
        for role, rule in value.items():
            if not isinstance(rule, str | dict):
                raise SubbyteError(f"ranges.{role} is {short(rule)}: give a rule's name")
            _check_rule(rule)
    elif isinstance(value, str | dict):
        _check_rule(value)
    elif value is not None:
        raise SubbyteError(f"ranges is {value!r}: give a rule's name or {{name: RULE, …}}")
    return value


class Override(Checked):
    """What a regular expression changes for the layers it matches; what is not set stays.

    Attributes:
        weights: Bits, 2 to 8; `None`: they stay in float.
        activations: Bits of what the layer reads; `None`: it stays in float.
        ranges: A range rule, or one for `weights` and one for `activations`.
        symmetric_weights: Whether the zero point of the weight is 0.
        per_channel: Whether each output channel of the weight has a scale of its own.
        accumulator: Bits of the layer's integer sums, 2 to 32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Bits = None
    activations: Bits = None
    ranges: Named | None = None
    symmetric_weights: bool | None = None
    per_channel: bool | None = None
    accumulator: Accumulator | None = None

    _ranges = field_validator("ranges", mode="before")(_checked_ranges)


Clip = Literal["none", "avg", "n_std", "gauss", "laplace"]


class Grid(Checked):
    """The grid of what an operation gives or reads, as `Recipe.outputs` and `inputs` have it.

    Attributes:
        bits: 2 to 8.
        symmetric: Zero point 0, over [-m, m] with the larger end m of the range; else both ends.
        restricted: Of a symmetric one: as many integers below 0 as above it.
        clip: The range, of the float model's statistics: "none", the extremes; "avg", those of each
            image, averaged; "n_std", `deviations` standard deviations around the mean; "gauss" and
            "laplace", ACIQ's clips for these distributions, to two digits.
        deviations: Of "n_std", how many.
        half: Values below 0 become 0; of "gauss" and "laplace" the clip for what is behind a ReLU.
        scale_bits: Scales are whole numbers of so many bits over powers of two, and so are the
            factors by which integer sums become integers; `None`: any float32.
        ranges: A range rule, in the place of `clip`: the range is chosen from a histogram.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: Annotated[int, BeforeValidator(_bits)]
    symmetric: bool = False
    restricted: bool = False
    clip: Clip = "none"
    deviations: float | None = Field(None, gt=0, allow_inf_nan=False)
    half: bool = False
    scale_bits: int | None = Field(None, ge=1, le=31)
    ranges: Named | None = None

    _ranges = field_validator("ranges", mode="before")(_checked_ranges)

    @model_validator(mode="after")
    def _agrees(self) -> Grid:
        if self.restricted and not self.symmetric:
            raise ValueError("restricted is for symmetric grids: give symmetric: true as well")
        if self.clip == "n_std" and self.deviations is None:
            raise ValueError("clip is 'n_std' without deviations: give how many, as deviations: 4")
        if self.ranges is not None and (self.clip != "none" or self.scale_bits is not None):
            raise ValueError("ranges stands in the place of clip and scale_bits: give one of them")
        return self


Grids = dict[str, Grid | None]


def _by_pattern(value: Any, kind: type[Checked], name: str, wrong: str) -> Any:
    """A mapping from regular expressions to fields, with `kind` made of all fields.

    Args:
        value: What was given; anything but a dictionary stays.
        kind: What a pattern's fields are of.
        name: What the mapping is called where a field is wrong.
        wrong: What is said where `{pattern}` is not a regular expression.

    Raises:
        SubbyteError: A pattern or a field is wrong; all faults are told.
    """
    if not isinstance(value, dict):
        return value
    read, faults = {}, list[str]()
    for pattern, fields in value.items():
        read[pattern] = fields
        try:
            re.compile(str(pattern))
        except re.error as error:
            faults.append(f"{wrong.format(pattern=pattern)}: {error}")
        if isinstance(fields, dict):
            with gathered(faults, f"{name}['{pattern}']: "):
                read[pattern] = kind(**{str(key): part for key, part in fields.items()})
    refuse(faults)
    return read


class Recipe(Checked):
    """How to quantize one model. Every field has a default; `Recipe()` is 8 bits throughout.

    Attributes:
        weights: Bits, 2 to 8; `None`: they stay in float.
        activations: Bits of the inputs of convolutions, linear layers and matrix products, 2 to 8;
            `None`: they stay in float. A tensor that feeds only additions, concatenations or
            pooling has 8 bits.
        symmetric_weights: `None`: symmetric at 8 bits and asymmetric below, which costs nothing
            when deployed, because the integers less their zero point still fit into int8.
        symmetric_activations: Whether the zero point of activations is 0.
        per_channel: Whether each output channel of a weight has a scale of its own.
        ranges: The range rule, or one for `weights` and one for `activations`.
        method: How the parameters are found.
        equalize: Balance the ranges of neighbouring layers' channels first.
        balance: Divide channels of unlike ranges by powers of two where that changes no value.
        first_last: Bits of the weights and the input of layers that read the model's input or whose
            output reaches its outputs through no other quantized layer; `None`: as all others.
        overrides: Regular expression (full match on a layer's qualified name) → fields of
            `Override`; the first match wins, and beats `first_last`.
        regions: Submodules to quantize; `None`: they are found.
        outputs: Regular expression (full match on an operation's name) → grid of what it gives, or
            `None`, float; the first match wins. Where there are any, activations are quantized
            where operations give them, and what is said of activations elsewhere does not count.
        inputs: The same of what an operation reads where that has no grid yet, by NAME#INDEX.
        statistics: A file with Distiller's statistics of activations, by which the ranges of these
            grids are chosen; `None`: they are collected on the calibration images.
        accumulator: Bits of the integer sums of convolutions and linear layers, which saturate in
            the simulation; 32: as in the runtimes, where none does.
        reduce_range: Weights of 7 and 8 bits use symmetric 7 (asymmetric ones 6), for processors
            whose 16-bit sums would saturate.
        target: The name of the target that files are for: tensors are quantized as it has them, and
            the recipe is the nearest that it can represent; `None`: all runtimes.
        seed: Of all that a method draws at random.

    Raises:
        SubbyteError: A field that does not exist or has a value it cannot have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Bits = 8
    activations: Bits = 8
    symmetric_weights: bool | None = None
    symmetric_activations: bool = False
    per_channel: bool = True
    ranges: Named = "mse"
    method: Named = "auto"
    equalize: bool = False
    balance: bool = True
    first_last: Bits = 8
    overrides: dict[str, Override] = Field(default_factory=dict)
    regions: tuple[str, ...] | None = None
    outputs: Grids = Field(default_factory=dict)
    inputs: Grids = Field(default_factory=dict)
    statistics: str | None = None
    accumulator: Accumulator = 32
    reduce_range: bool = False
    target: str | None = None
    seed: int = 0

    _ranges = field_validator("ranges", mode="before")(_checked_ranges)

    @field_validator("overrides", mode="before")
    @classmethod
    @told
    def _override_keys_named(cls, value: Any) -> Any:
        return _by_pattern(
            value, Override, "overrides", "the override '{pattern}' is not a regular expression"
        )

    @field_validator("outputs", "inputs", mode="before")
    @classmethod
    @told
    def _grids_named(cls, value: Any, info: Any) -> Any:
        said = f"'{{pattern}}' in {info.field_name} is not a regular expression"
        return _by_pattern(value, Grid, info.field_name, said)

    @field_validator("method")
    @classmethod
    @told
    def _available(cls, value: Named) -> Named:
        name = choice(value).name
        if name not in method_names():
            raise unknown_method(name)
        return value

    @field_validator("target")
    @classmethod
    @told
    def _target_known(cls, value: str | None) -> str | None:
        # By its name, because targets stand above recipes; this does not import PyTorch.
        known = importlib.import_module("subbyte.targets").names()
        if value is not None and value not in known:
            raise unknown("target", value, known)
        return value

    def as_dict(self) -> dict[str, Any]:
        """Plain data from which `Recipe(**…)` gives the same recipe again."""
        overrides = {
            pattern: override.model_dump(mode="json", exclude_unset=True)
            for pattern, override in self.overrides.items()
        }
        grids = {
            name: {
                pattern: None if grid is None else grid.model_dump(mode="json", exclude_unset=True)
                for pattern, grid in found.items()
            }
            for name, found in (("outputs", self.outputs), ("inputs", self.inputs))
        }
        fields = self.model_dump(mode="json", exclude={"target"} if self.target is None else None)
        return {**fields, "overrides": overrides, **grids}

    def weights_symmetric(self, bits: int, asked: bool | None = None) -> bool:
        """Whether weights of `bits` bits are symmetric, `asked` by an override or by the recipe."""
        symmetric = self.symmetric_weights if asked is None else asked
        return bits == 8 if symmetric is None else symmetric

    def lowest_bits(self) -> int | None:
        """The fewest bits that are asked for anywhere; `None`: everything stays in float."""
        widths = [self.weights, self.activations]
        widths += [bits for o in self.overrides.values() for bits in (o.weights, o.activations)]
        grids = [*self.outputs.values(), *self.inputs.values()]
        widths += [grid.bits for grid in grids if grid is not None]
        asked = [bits for bits in widths if bits is not None]
        return min(asked, default=None)


def rule_of(ranges: Named, role: str) -> Choice:
    """The range rule that `ranges` names for `role`; where it names only the other one, `mse`."""
    if isinstance(ranges, dict) and "name" not in ranges:
        return choice(ranges.get(role, "mse"))
    return choice(ranges)


def recipe_of(given: Recipe | Mapping[str, Any] | None) -> Recipe:
    """A recipe, from itself, its fields or nothing; `SubbyteError` where it is none of these."""
    return given if isinstance(given, Recipe) else Recipe(**fields_of(given))


def fields_of(given: Recipe | Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields that a recipe was given; `SubbyteError` where it is no recipe or mapping."""
    if given is None:
        return {}
    if isinstance(given, Recipe):
        return {
            key: value for key, value in given.as_dict().items() if key in given.model_fields_set
        }
    if not isinstance(given, Mapping):
        raise SubbyteError(
            f"recipe is {short(given)}: give a subbyte.Recipe or a mapping of its fields"
        )
    return dict(given)
