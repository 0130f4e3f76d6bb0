"""A search from the float model to the best configuration that was built."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeVar

from subbyte import api
from subbyte.bit_search import loop, recipes, sensitivity
from subbyte.bit_search.choose import Chosen, Unit
from subbyte.bit_search.costs import layer_multiply_adds
from subbyte.bit_search.error_model import Point
from subbyte.bit_search.latency import Profiles, units_by_latency
from subbyte.bit_search.settings import Search
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.batch import in_chunks
from subbyte.graph.float_model import FloatModel
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe, choice
from subbyte.tasks.metrics.paired import Paired
from subbyte.utils import files
from subbyte.utils.progress import Progress

T = TypeVar("T")
CACHE = "search.json"
# How many times as much is lost by what is put together as by what is built.
TUNED, UNTUNED = 6.0, 1.5
# Where tuning leaves more than this share of the loss of images held out, the configurations after
# that one are not tuned: they are alike, and tuning takes most of the time.
LEFT = 0.97
log = logging.getLogger("subbyte")


@dataclass(frozen=True)
class Judges:
    """How a simulation is judged.

    Attributes:
        lost: Its metric beside the float model's, on the images that search.
        cost: Of what is written of it, in the units of the objective.
        profiles: For the objective "latency": of a model with all layers on integers, what layers
            take there and in float.
    """

    lost: Callable[[Simulation], Paired]
    cost: Callable[[Simulation], float]
    profiles: Callable[[Simulation], Profiles] | None = None


@dataclass(frozen=True)
class Asked:
    """A search.

    Attributes:
        float_model: The captured model.
        batches: The calibration images.
        base: What holds for all configurations; overrides of bits are pins.
        search: What is asked for.
        budget: How much may be lost, as a fraction.
        judges: How a configuration is judged.
        show: A cost as text.
        folder: Where what is finished is kept, so that a killed search goes on; `None`: nowhere.
        shared: Where what was measured of layers is kept for other searches; `None`: nowhere.
        progress: Shows how far it is.
    """

    float_model: FloatModel
    batches: ArgumentsOf
    base: Recipe
    search: Search
    budget: float
    judges: Judges
    show: Callable[[float], str]
    folder: Path | None
    progress: Progress
    shared: Path | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        recipe: Of the best configuration.
        simulation: Built by it.
        best: What was measured of it.
        tried: All that was built.
        units: What was decided.
        sensitivity: What each layer loses at each width.
    """

    recipe: Recipe
    simulation: Simulation
    best: loop.Tried
    tried: Sequence[loop.Tried]
    units: Sequence[Unit]
    sensitivity: sensitivity.Sensitivity

    def frontier(self) -> list[dict[str, Any]]:
        """Every configuration that was measured, the cheapest first."""
        ordered = sorted(self.tried, key=lambda one: one.cost)
        return [{**loop.as_plain(one, self.units), "chosen": one is self.best} for one in ordered]


def run(asked: Asked) -> Found | None:
    """Search; `None` where the time passed before anything was built."""
    deadline = None
    if asked.search.time_limit is not None:
        deadline = time.monotonic() + 60 * asked.search.time_limit
    bench = _Bench(asked)
    units = bench.units()
    confidence = asked.search.confidence
    sure = 0.0 if confidence is None else NormalDist().inv_cdf(confidence)
    gain = TUNED if is_tuned(asked.base) else UNTUNED
    goal = loop.Goal(asked.budget, sure, asked.search.builds, gain, deadline, asked.show)
    tried, best = loop.search(units, bench, goal, bench.first())
    if best is None:
        return None
    recipe = bench.recipe(best.chosen)
    return Found(recipe, bench.simulation(best.chosen), best, tried, units, bench.measured)


def is_tuned(recipe: Recipe) -> bool:
    """Whether a recipe's method trains the network after its layers are solved."""
    name, options = choice(recipe.method)
    return name == "subbyte" and options.get("steps") != 0


def has_gained(tuning: Mapping[str, Any] | None) -> bool:
    """Whether a configuration lost clearly less behind its tuning.

    Args:
        tuning: What was reported of it; `None`: there was none.
    """
    if tuning is None or tuning.get("loss_before") is None:
        return True
    return bool(tuning["kept"] and tuning["loss"] <= LEFT * tuning["loss_before"])


class _Bench:
    """Builds and measures configurations, and keeps what is finished in a folder.

    Attributes:
        measured: What each layer loses.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.folder = asked.folder
        self.kept: dict[str, Any] = {"assembled": {}, "tried": {}}
        if self.folder is not None and (self.folder / CACHE).is_file():
            self.kept = json.loads((self.folder / CACHE).read_text(encoding="utf-8"))
        self.float_model = api.prepared(
            asked.float_model, asked.batches, asked.base, asked.progress
        )
        self._solved: sensitivity.Solved | None = None
        self._loss: Callable[[Simulation], float] | None = None
        self._built_ones: dict[Any, Simulation] = {}  # by bits
        self.measured = self._known() or self._measure()

    def units(self) -> list[Unit]:
        """What is decided."""
        if self.asked.search.objective == "size":
            self._units = recipes.units_by_size(self.measured)
        elif self.asked.search.objective == "latency":
            self._units = units_by_latency(self.measured, self._profiles())
        else:
            one = next(in_chunks(self.asked.batches, 1, 1))
            self._units = recipes.units_by_bits(
                self.measured,
                self.solved.placement,
                layer_multiply_adds(self.float_model, one),
                lambda layer: recipes.override_of(self.asked.base, layer).activations,
            )
        return self._units

    def first(self) -> list[Chosen]:
        """What is built in any case: for latency all layers on integers, and all in float."""
        if self.asked.search.objective != "latency":
            return []
        return [Chosen(tuple(u.options[end] for u in self._units)) for end in (0, -1)]

    def _profiles(self) -> Profiles:
        """What layers take, of a model with all layers on integers that need not be accurate."""
        assert self.asked.judges.profiles is not None
        if "profiles" not in self.kept:
            quick = self.asked.base.model_copy(update={"method": "range"})
            simulation = api.quantize_captured(
                self.asked.float_model, self.asked.batches, quick, progress=self.asked.progress
            )
            self._keep(profiles=vars(self.asked.judges.profiles(simulation)))
        return Profiles(**self.kept["profiles"])

    def recipe(self, chosen: Chosen) -> Recipe:
        """The recipe of a configuration."""
        base = self.asked.base
        if is_tuned(base) and not self._is_tuned(chosen):
            method, options = choice(base.method)
            rest = {key: value for key, value in options.items() if key != "longer"}
            base = base.model_copy(update={"method": {"name": method, **rest, "steps": 0}})
        return recipes.recipe_for(base, self._units, chosen)

    def _is_tuned(self, chosen: Chosen) -> bool:
        """Whether a configuration is tuned, or was: not behind one that gained nothing by it."""
        known = self.kept["tried"].get(_key(self._units, chosen))
        if known is not None:
            return bool(known.get("tuned", True))
        return all(one.get("gained", True) for one in self.kept["tried"].values())

    @property
    def solved(self) -> sensitivity.Solved:
        """Each layer's integers at each width; they are solved for if they were not kept."""
        if self._solved is None:
            self._measure()
        assert self._solved is not None
        return self._solved

    def assembled(self, chosen: Chosen) -> Point:
        """What a configuration loses that is put together of what was solved once."""
        key = _key(self._units, chosen)
        if key not in self.kept["assembled"]:
            simulation = self.solved.simulation(self._bits(chosen))
            paired, loss = self.asked.judges.lost(simulation), self._output_loss(simulation)
            self.kept["assembled"][key] = [loss, paired.lost, paired.error]
            self._keep()
            log.info("put together: sum %.4g, loss %.4g, lost %.4f", chosen.loss, loss, paired.lost)
        loss, lost, error = self.kept["assembled"][key]
        return Point(chosen.loss, loss, lost, error, built=False)

    def tried(self, chosen: Chosen, told: str) -> loop.Tried:
        """Build a configuration by its recipe, and measure it."""
        key = _key(self._units, chosen)
        known = self.kept["tried"].get(key)
        if known is None:
            started, tuned = time.perf_counter(), self._is_tuned(chosen)
            simulation = self._built(chosen, told)
            known = {
                "tuned": tuned,
                "gained": not tuned or has_gained(simulation.reported.get("tuning")),
                "paired": vars(self.asked.judges.lost(simulation)),
                "loss": self._output_loss(simulation),
                "cost": self._cost(simulation, chosen),
                "seconds": time.perf_counter() - started,
            }
            self.kept["tried"][key] = known
            self._built_ones[chosen.bits] = simulation
            self._keep()
        paired = Paired(**known["paired"])
        log.info(
            "%s: %s, %.2f points lost on %d images, loss %.4g (expected sum %.4g)",
            told,
            self.asked.show(known["cost"]),
            100 * paired.lost,
            paired.images,
            known["loss"],
            chosen.loss,
        )
        return loop.Tried(chosen, paired, known["loss"], known["cost"], known["seconds"])

    def simulation(self, chosen: Chosen) -> Simulation:
        """A configuration that was built, built again where it is not at hand."""
        if chosen.bits in self._built_ones:
            return self._built_ones[chosen.bits]
        return self._built(chosen, "the best configuration")

    def _cost(self, simulation: Simulation, chosen: Chosen) -> float:
        if self.asked.search.objective == "bits":
            return chosen.cost
        return self.asked.judges.cost(simulation)

    def _built(self, chosen: Chosen, told: str) -> Simulation:
        resume = None if self.folder is None else self.folder / _key(self._units, chosen)
        return api.quantize_captured(
            self.asked.float_model,
            self.asked.batches,
            self.recipe(chosen),
            progress=Named(self.asked.progress, told),
            resume=resume,
        )

    def _known(self) -> sensitivity.Sensitivity | None:
        """What was measured of the layers before, in this search or another one of the run."""
        path = self._measured_path
        if path is None or not path.is_file():
            return None
        return sensitivity.read(json.loads(path.read_text(encoding="utf-8")))

    @property
    def _measured_path(self) -> Path | None:
        folder = self.asked.shared or self.folder
        if folder is None:
            return None
        asked = self.asked.search
        work = [self.asked.base.as_dict(), asked.weights, asked.activation_widths]
        text = json.dumps([*work, asked.objective == "latency"])
        return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def _measure(self) -> sensitivity.Sensitivity:
        asked = self.asked
        found, self._solved = sensitivity.measure(
            self.float_model,
            asked.base,
            asked.batches,
            lambda layer: recipes.weight_widths(asked.base, layer, asked.search),
            asked.search.activation_widths,
            asked.progress,
        )
        path = self._measured_path
        if path is not None:
            files.make_folder(path.parent)
            files.write_text(path, json.dumps(found.as_dict()))
        return found

    def _output_loss(self, simulation: Simulation) -> float:
        if self._loss is None:
            self._loss = sensitivity.loss_of(self.float_model, self.asked.batches)
        return self._loss(simulation)

    def _bits(self, chosen: Chosen) -> dict[str, int]:
        """Key of a tensor → its bits."""
        options = dict(zip([unit.name for unit in self._units], chosen.options, strict=True))
        found: dict[str, int] = {}
        for tensor in self.measured.tensors:
            if tensor.role == "weight" and tensor.layer in options:
                bits = options[tensor.layer].weights
                if bits is not None:
                    found[tensor.key] = bits
            elif tensor.role == "activation":
                asked = [options[r].activations for r in tensor.readers if r in options]
                widths = [bits for bits in asked if bits is not None]
                if widths:
                    found[tensor.key] = max(widths)
        return found

    def _keep(self, **more: Any) -> None:
        self.kept |= more
        if self.folder is not None:
            files.make_folder(self.folder)
            files.write_text(self.folder / CACHE, json.dumps(self.kept))


@dataclass(frozen=True)
class Named:
    """Progress that says which configuration it is of.

    Attributes:
        progress: Shows it.
        told: What it says in front.
    """

    progress: Progress
    told: str

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` unchanged, as `Progress.track` does.

        Args:
            items: What is looped over.
            description: What is done.
            total: How many items there are.
        """
        return self.progress.track(items, f"{self.told}: {description}", total)

    def working(self, description: str) -> AbstractContextManager[object]:
        """As `Progress.working`."""
        return self.progress.working(f"{self.told}: {description}")


def _key(units: Sequence[Unit], chosen: Chosen) -> str:
    """A name for a configuration, the same in every process."""
    pairs = zip(units, chosen.options, strict=True)
    text = json.dumps([[u.name, o.weights, o.activations] for u, o in pairs])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
