"""`subbyte.search`: a search on labelled batches or with a score of one's own, from Python."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte import api
from subbyte.bit_search import budget
from subbyte.bit_search import search as searching
from subbyte.bit_search.costs import file_bytes
from subbyte.bit_search.settings import WEIGHTS, SearchRecipe, read_recipe, shown
from subbyte.data.batches import ArgumentsOf, Batch, check_calibration
from subbyte.errors import BudgetMissedError, SubbyteError
from subbyte.graph.float_model import FloatModel, device_of
from subbyte.graph.flow import WHOLE
from subbyte.graph.output_loss import is_logits
from subbyte.methods.common.resume import claim, work_of
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe, fields_of
from subbyte.targets import base as runtimes_
from subbyte.targets import files as target_files
from subbyte.tasks.evaluation import check_batches, evaluating
from subbyte.tasks.metrics.paired import Paired, paired_scores, paired_shares
from subbyte.utils import cores
from subbyte.utils.arguments import could_be_images
from subbyte.utils.progress import Progress, Silent

Score = Callable[[Any, Any], Any]  # of a batch's outputs and targets: a number for each image


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        quantized: The best model that was found, as `quantize` returns it.
        recipe: With which `quantize` gives the same without a search.
        met: Whether the budget holds in each runtime.
        confirmed: Runtime → the metric of its file beside the float model's, on images that did
            not search: `lost`, its 95 % `interval`, `images`, `met`, `sentence` and more.
        frontier: Every configuration that was measured, the cheapest first.
        sensitivity: A dictionary for each tensor: what it loses alone, by bits.
    """

    quantized: Simulation
    recipe: Recipe
    met: bool
    confirmed: Mapping[str, Mapping[str, Any]]
    frontier: Sequence[Mapping[str, Any]]
    sensitivity: Sequence[Mapping[str, Any]]


def search(
    model: nn.Module | str | Path,
    calibration: Any,
    evaluation: Any,
    *,
    max_drop: float,
    score: Score | None = None,
    objective: str = "size",
    relative: bool = False,
    weights: Sequence[int] = WEIGHTS,
    activations: Sequence[int] | None = None,
    confidence: float | None = None,
    time_limit: float | None = None,
    builds: int = 8,
    seed: int = 0,
    runtimes: Sequence[str] = ("onnxruntime",),
    recipe: Recipe | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> SearchResult:
    """Find the smallest model that loses at most so much; `model` is left as it is.

    Half of the evaluation images, chosen by `seed`, search; the others confirm what was found,
    once, on the file in each runtime.

    Args:
        model: As of `quantize`.
        calibration: As of `quantize`.
        evaluation: Batches as those of the calibration, with targets.
        max_drop: What may be lost: points of top-1, or so much of the mean of `score`.
        score: From a batch's outputs and targets to a number for each image, of which more is
            better; `None`: top-1 by integer labels.
        objective: "size", the bytes of the file, or "bits", multiply-adds × bits of weights × bits
            of activations.
        relative: `max_drop` is in per cent of the float model's metric.
        weights: The bits that a layer's weight may have.
        activations: The bits that activations may have; `None`: 8, and with "bits" 2 to 8.
        confidence: One-sided confidence with which the budget must hold; `None`: what is measured
            must be within it.
        time_limit: Minutes after which no further configuration is built.
        builds: How many configurations are built at most.
        seed: Of the split of the images.
        runtimes: Where the file is confirmed; empty: in simulation.
        recipe: Fields of a recipe that hold for all configurations, or a recipe, of which those
            count that were given; overrides of bits are pins.
        progress: Shows how far it is.
        resume: A folder in which what is finished is kept, so that a search goes on.

    Raises:
        SubbyteError: As of `quantize`; something asked for is wrong; there are no labels, or too
            few images; `resume` holds a search of another model, recipe or evaluation.
        BudgetMissedError: The time passed before anything was built.
    """
    if objective == "latency":
        raise SubbyteError("the objective latency is one of experiments: use subbyte run")
    asked = {
        "max_drop": max_drop,
        "objective": objective,
        "relative": relative,
        "weights": list(weights),
        "activations": None if activations is None else list(activations),
        "confidence": confidence,
        "time_limit": time_limit,
        "builds": builds,
        "seed": seed,
    }
    read = read_recipe({**fields_of(recipe), "search": asked})
    assert isinstance(read, SearchRecipe)
    runtimes = [runtimes] if isinstance(runtimes, str) else runtimes
    for name in runtimes:
        runtimes_.runtime(name).version()
    module, progress = api.module_of(model), progress or Silent()
    batches = ArgumentsOf(check_calibration(calibration), device_of(module))
    judge = _Judge(_labelled(evaluation, module), score)
    part = budget.split(sum(batch.size for batch in judge.batches), read.search.seed)
    first = next(iter(batches))
    with progress.working("capturing the model"):
        float_model = _captured(module, first, read, runtimes)
    with evaluating(module):
        before, confirming = (judge.scores(module, x) for x in (part.searching, part.confirming))
    judge.check(read, before)
    if resume is not None:
        claim(resume, {**work_of(float_model, read.base(), first), **_claimed(read, before)})
    found = searching.run(
        searching.Asked(
            float_model=float_model,
            batches=batches,
            base=read.base(),
            search=read.search,
            budget=judge.allowed(read, float(before.mean())),
            judges=searching.Judges(
                lambda simulation: judge.paired(before, judge.scores(simulation, part.searching)),
                lambda simulation: file_bytes(simulation, first),
            ),
            show=shown(read.search.objective),
            folder=resume,
            progress=progress,
        )
    )
    if found is None:
        raise BudgetMissedError(
            f"time_limit of {read.search.time_limit:g} minutes passed before any configuration was "
            "built: give a longer one"
        )
    with progress.working("confirming"):
        runs = _runs(found.simulation, batches, runtimes)
        afters = {name: judge.scores(run, part.confirming) for name, run in runs}
        confirmed = {key: judge.verdict(read, confirming, after) for key, after in afters.items()}
    return SearchResult(
        quantized=found.simulation,
        recipe=found.recipe,
        met=all(one["met"] for one in confirmed.values()),
        confirmed=confirmed,
        frontier=found.frontier(),
        sensitivity=found.sensitivity.as_dict()["tensors"],
    )


def _labelled(evaluation: Any, module: nn.Module) -> list[Batch]:
    """The batches of the evaluation, each with targets."""
    given = ArgumentsOf(check_batches(evaluation, "evaluation"), device_of(module))
    batches = list(given.labelled())
    if any(batch.targets is None for batch in batches):
        raise SubbyteError("the evaluation has no targets: give batches of (inputs, targets)")
    return batches


def _captured(
    module: nn.Module, args: tuple[Any, ...], read: SearchRecipe, runtimes: Sequence[str]
) -> FloatModel:
    """The float model, if it can be confirmed where it is asked for.

    Args:
        module: The user's.
        args: The arguments of a batch.
        read: What is asked for.
        runtimes: Where the file is confirmed.
    """
    float_model = api.capture(module, args, read.regions)
    if runtimes and float_model.region_names != WHOLE:
        raise SubbyteError(
            "only a model that is captured whole is confirmed in runtimes from Python: give "
            "runtimes=(), or use subbyte run"
        )
    return float_model


def _claimed(read: SearchRecipe, before: np.ndarray) -> dict[str, Any]:
    """What a search must have in common with one that it goes on with, beside model and recipe."""
    return {
        "objective": read.search.objective,
        "seed of the split": read.search.seed,
        "float scores": hashlib.sha256(before.tobytes()).hexdigest()[:16],
    }


@dataclass(frozen=True)
class _Judge:
    """Scores models on labelled images.

    Attributes:
        batches: The evaluation.
        score: The user's own; `None`: top-1.
    """

    batches: Sequence[Batch]
    score: Score | None

    @property
    def unit(self) -> str:
        """Of what is lost."""
        return "points" if self.score is None else "of the score"

    def check(self, read: SearchRecipe, before: np.ndarray) -> None:
        """Refuse what nothing can be lost of.

        Args:
            read: What is asked for.
            before: The float model's numbers.

        Raises:
            SubbyteError: One of them is NaN or infinite, or the budget is as much as the metric.
        """
        if self.score is None:
            read.search.check_metric(float(before.mean()))
        elif not np.isfinite(before).all():
            raise SubbyteError(
                "score returns NaN or infinity for outputs of the float model: return a finite "
                "number for each image"
            )

    def allowed(self, read: SearchRecipe, metric: float) -> float:
        """The budget, in the units of the metric."""
        if self.score is None:
            return read.search.budget(metric)
        drop = read.search.max_drop
        return drop / 100 * abs(metric) if read.search.relative else drop

    def paired(self, before: np.ndarray, after: np.ndarray) -> Paired:
        """The means of two models' numbers for the same images."""
        both = paired_shares if self.score is None else paired_scores
        return both(before, after)

    def verdict(self, read: SearchRecipe, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
        """What is said of two models' numbers for the images that confirm.

        Args:
            read: What is asked for.
            before: The float model's.
            after: Those of what was found.
        """
        paired = self.paired(before, after)
        return budget.verdict(paired, read.search, self.allowed(read, paired.before), self.unit)

    def scores(self, run: Callable[..., Any], numbers: Sequence[int]) -> np.ndarray:
        """A number for each image, or whether its top-1 is right.

        Args:
            run: From a batch's arguments to a model's outputs.
            numbers: Which images.
        """
        wanted, first, found = set(numbers), 0, list[np.ndarray]()
        for batch in self.batches:
            own = [i for i in range(batch.size) if first + i in wanted]
            first += batch.size
            if own:
                args, targets = _picked((batch.args, batch.targets), own, batch.size)
                with torch.no_grad():
                    found.append(self._of(run(*args), targets, len(own)))
        return np.concatenate(found)

    def _of(self, outputs: Any, targets: Any, count: int) -> np.ndarray:
        if self.score is None:
            if not is_logits(outputs):
                raise SubbyteError(
                    "the model does not return one matrix of logits: give a score, a function of "
                    "outputs and targets that returns a number for each image"
                )
            labels = torch.as_tensor(targets).to(outputs.device)
            right: np.ndarray = (outputs.argmax(1) == labels).cpu().numpy()
            return right
        given = self.score(outputs, targets)
        values = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given, np.float64)
        if values.shape != (count,):
            raise SubbyteError(
                f"score returns the shape {values.shape} for {count} images: return a number for "
                "each"
            )
        return values


def _picked(value: Any, images: Sequence[int], count: int) -> Any:
    """The entries of some images in the arguments and targets of a batch."""
    if isinstance(value, torch.Tensor):
        own = value.dim() > 0 and len(value) == count
        return value[torch.as_tensor(images)] if own else value
    of_images = could_be_images(value) or (
        isinstance(value, list) and len(value) == count and isinstance(value[0], Mapping)
    )
    if of_images:
        return [value[i] for i in images]
    if isinstance(value, tuple | list):
        return type(value)(_picked(part, images, count) for part in value)
    if isinstance(value, Mapping):
        return {key: _picked(part, images, count) for key, part in value.items()}
    return value


def _runs(
    simulation: Simulation, batches: ArgumentsOf, runtimes: Sequence[str]
) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The model's file in each runtime; the simulation where there is none."""
    if not runtimes:
        yield "simulation", simulation
    example = next(iter(batches))
    with torch.no_grad():
        form = pytree.tree_structure(simulation(*example))
    for name in runtimes:
        with TemporaryDirectory() as scratch:
            path = target_files.file_in(Path(scratch), name)
            target_files.export(simulation, path, example, name)
            session = runtimes_.runtime(name).load(path, cores.usable())

            def run(*args: Any, session: runtimes_.Session = session) -> Any:
                leaves = [leaf.cpu().numpy() for leaf in pytree.tree_leaves(args)]
                return pytree.tree_unflatten(map(torch.from_numpy, session.run(*leaves)), form)

            yield name, run
