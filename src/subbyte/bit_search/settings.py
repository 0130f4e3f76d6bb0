"""What a search is asked for; read without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from subbyte import targets
from subbyte.errors import SubbyteError, unknown
from subbyte.recipe import Recipe
from subbyte.utils.validation import Checked, gathered, refuse, short, told

WEIGHTS = (2, 3, 4, 5, 6, 8)
ALL_ACTIVATIONS = (2, 3, 4, 5, 6, 8)
# What `auto` stands for in a search: what is built is tuned longer, because few things are built.
METHOD = {"name": "subbyte", "longer": 4}
DECIDED = ("weights", "activations", "first_last")  # fields of a recipe that a search decides


class Search(Checked):
    """What a search is asked for.

    Attributes:
        max_drop: How much of the primary metric may be lost, in points (hundredths); with
            `relative` in per cent of the float model's metric.
        relative: Whether `max_drop` is a share of the float model's metric.
        objective: What is to be small: "size", the bytes of the file; "latency", milliseconds in
            `runtime` at batch 1; "bits", multiply-adds × bits of weights × bits of activations.
        runtime: Of `latency`, where it is measured.
        weights: The bits that a layer's weight may have.
        activations: The bits that an activation may have; `None`: 8, and with the objective "bits"
            2 to 8.
        confidence: The one-sided confidence with which the budget must hold; `None`: the measured
            drop itself must be within it.
        time_limit: Minutes after which no further configuration is tried; `None`: none.
        builds: How many configurations are built and measured at most.
        seed: Of the split of the evaluation images.

    Raises:
        SubbyteError: A key that does not exist or has a value it cannot have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_drop: float = Field(gt=0, allow_inf_nan=False)
    relative: bool = False
    objective: Literal["size", "latency", "bits"] = "size"
    runtime: str | None = None
    weights: tuple[int, ...] = WEIGHTS
    activations: tuple[int, ...] | None = None
    confidence: float | None = Field(default=None, gt=0.5, lt=1)
    time_limit: float | None = Field(default=None, gt=0)
    builds: int = Field(default=8, ge=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("weights", "activations", mode="before")
    @classmethod
    @told
    def _widths(cls, value: Any) -> Any:
        if value is None:
            return None
        given = [value] if isinstance(value, int) else value
        right = isinstance(given, list | tuple) and given
        if not right or any(type(bits) is not int or not 2 <= bits <= 8 for bits in given):
            raise SubbyteError(
                f"{short(value)} are not widths: give a list of 2 to 8, as [2, 4, 8]"
            )
        return tuple(sorted(set(given)))

    @model_validator(mode="after")
    def _fits(self) -> Search:
        if self.relative and self.max_drop >= 100:
            raise ValueError("max_drop is all of the metric: with relative give less than 100")
        if self.objective == "latency" and self.runtime is None:
            raise ValueError(
                "the objective latency has no runtime: give runtime, as runtime: onnxruntime"
            )
        if self.objective != "latency" and self.runtime is not None:
            raise ValueError("runtime has a meaning for the objective latency alone: leave it out")
        if self.runtime is not None and self.runtime not in targets.names():
            raise ValueError(str(unknown("runtime", self.runtime, targets.names())))
        return self

    @property
    def activation_widths(self) -> tuple[int, ...]:
        """The bits that an activation may have."""
        if self.activations is not None:
            return self.activations
        return ALL_ACTIVATIONS if self.objective == "bits" else (8,)

    def budget(self, metric: float) -> float:
        """How much of a float model's metric may be lost, as a fraction."""
        return self.max_drop / 100 * (metric if self.relative else 1.0)

    def check_metric(self, metric: float) -> None:
        """Refuse a float model of which nothing can be lost, or all may be.

        Args:
            metric: Of the float model, on the images that search.

        Raises:
            SubbyteError: It is no number, or the budget is as much as it, or more.
        """
        if math.isnan(metric):
            raise SubbyteError(
                "the float model has no metric on the half of the evaluation images that search: "
                "give more of them, with objects"
            )
        if self.budget(metric) >= metric:
            raise SubbyteError(
                f"max_drop is {self.max_drop:g} {'%' if self.relative else 'points'}, and the "
                f"float model has only {100 * metric:.2f} points: give less than that"
            )


class SearchRecipe(Recipe):
    """A recipe in which a search decides the bits; overrides of bits are pins.

    Attributes:
        search: What is asked of it.
    """

    search: Search

    def as_dict(self) -> dict[str, Any]:
        """Plain data from which the same is read again."""
        fields = super().as_dict()
        return {key: value for key, value in fields.items() if key not in DECIDED}

    def base(self) -> Recipe:
        """The recipe without the search, at 8 bits."""
        fields = Recipe.as_dict(self)
        fields.pop("search")
        if fields["method"] == "auto" and self.search.objective != "latency":
            fields["method"] = dict(METHOD)
        widest = max(self.search.activation_widths)
        return Recipe(**{**fields, "activations": widest, "first_last": None})


def read_recipe(fields: dict[str, Any]) -> Recipe:
    """A variant's recipe, with a search where `fields` has one.

    Raises:
        SubbyteError: As of both; or a field that the search decides is given beside it.
    """
    if "search" not in fields:
        return Recipe(**fields)
    decided = [key for key in DECIDED if key in fields]
    if decided:
        raise SubbyteError(
            f"{decided[0]} stands beside search, which decides it: leave it out, give "
            f"search.{'activations' if decided[0] == 'activations' else 'weights'}, or pin layers "
            "by overrides"
        )
    asked = fields["search"]
    if not isinstance(asked, dict | Search):
        raise SubbyteError(f"search is {short(asked)}: give a mapping, as {{max_drop: 0.5}}")
    faults: list[str] = []
    with gathered(faults, "search: "):
        search = asked if isinstance(asked, Search) else Search(**_named(asked))
    refuse(faults)
    return SearchRecipe(**{**fields, "search": search})


def _named(fields: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in fields.items()}


def shown(objective: str) -> Callable[[float], str]:
    """How a cost in the units of an objective is written."""
    units = {"size": (1e3, "kB", 0), "latency": (1, "ms", 3), "bits": (1e9, "G bit operations", 2)}
    factor, unit, digits = units[objective]
    return lambda cost: f"{cost / factor:.{digits}f} {unit}"
