"""How long a run will take and how much memory, roughly, from one look at the float model."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from subbyte import methods
from subbyte.app.setup import Setup
from subbyte.bit_search.settings import SearchRecipe
from subbyte.graph.capture.export import try_model
from subbyte.graph.float_model import FloatModel
from subbyte.methods.subbyte import steps_for
from subbyte.recipe import Recipe, choice
from subbyte.utils.lines import duration

LONG = 60.0  # seconds from which on it is worth saying
TOO_LONG = 600.0  # from which on a shorter recipe is named
LOOKED_AT = 4  # images
# How often at least and at most, and for how long: on a busy machine most runs of a small network
# wait for a core.
LOOKS, MOST_LOOKS, LOOKING = 3, 30, 0.5
FEWEST = 16  # calibration images that are still worth naming

# What was measured, in runs of the float model on one image: of each calibration image, and of
# each image in a step of learning, forward and backward.
PASSES = {"range": 8, "bias_correction": 8, "subbyte": 25, "lapq": 30}
LEARNING, OF_A_STEP, OF_A_TUNING_STEP = 20, 4, 9
SIMULATED, DEPLOYED, WRITING = 3.0, 0.7, 15.0  # runs an image; seconds of export and latencies
COPIES = 6  # of the largest tensor of a batch that exist at a time
GB = 1e9


@dataclass(frozen=True)
class Look:
    """What one batch told.

    Attributes:
        seconds: That the float model takes for an image.
        largest: Bytes of its largest tensor for an image.
        multiply_adds: Of an image, forward.
        pixels: Of an image.
        detector: Whether it is one whose outputs are known.
    """

    seconds: float
    largest: int
    multiply_adds: float
    pixels: int
    detector: bool = False


def expected(setup: Setup, names: Sequence[str], *, one_by_one: bool = True) -> list[str]:
    """What is to be expected of the variants of a run, as sentences; none where that is short.

    Args:
        setup: The run's.
        names: The variants that are not yet finished.
        one_by_one: Whether this process runs them all, one after the other.
    """
    if not names:
        return []
    look = look_at(setup.captured[None].model, setup.task.example)
    images = setup.task.data.calibration.images
    evaluated = look.seconds * (
        SIMULATED * len(setup.task.simulated_images)
        + DEPLOYED * len(setup.experiment.runtimes) * setup.task.data.evaluation.images
    )
    recipes = {name: setup.experiment.variants[name] for name in names}
    return sentences(
        recipes, look, images, setup.experiment.batch_size, evaluated + WRITING, one_by_one
    )


def sentences(
    recipes: Mapping[str, Recipe],
    look: Look,
    images: int,
    batch: int,
    more: float = 0.0,
    one_by_one: bool = True,
) -> list[str]:
    """What is to be expected of some recipes; nothing where that is short.

    Args:
        recipes: Name → recipe.
        look: At their model.
        images: Of the calibration.
        batch: Images a batch.
        more: Seconds that each recipe takes besides.
        one_by_one: Whether this process does them all, one after the other.
    """
    quantizing = {name: seconds(recipe, look, images) for name, recipe in recipes.items()}
    total = sum(quantizing.values()) + len(recipes) * more
    if total < LONG:
        return []
    most = max(memory(recipe, look, images, batch) for recipe in recipes.values())
    how, where = ("", "") if one_by_one else (", one after the other", " in each process")
    said = [
        f"expect about {duration(total)} for {', '.join(recipes)}{how}, and up to "
        f"{most / GB:.1f} GB of memory{where}"
    ]
    for name, recipe in recipes.items():
        if is_auto(recipe) and quantizing[name] > TOO_LONG:
            said.append(
                f"{name}: `auto` takes about {duration(quantizing[name])}; "
                f"{shorter(recipe, look, images)}"
            )
    return said


def is_auto(recipe: Recipe) -> bool:
    """Whether a recipe leaves the method to Subbyte."""
    return choice(recipe.method).name == "auto"


@torch.no_grad()
def look_at(model: Any, example: tuple[Any, ...]) -> Look:
    """Run a model on a few images, some times; the fastest counts.

    Args:
        model: The float model.
        example: A batch's arguments.

    Raises:
        SubbyteError: The model does not run on them.
    """
    few = tuple(argument[:LOOKED_AT] for argument in example)
    count = len(few[0])
    with _Largest() as sizes, FlopCounterMode(display=False) as operations:
        if isinstance(model, nn.Module):
            try_model(model, few)
        else:
            model(*few)
    times: list[float] = []
    while len(times) < LOOKS or (len(times) < MOST_LOOKS and sum(times) < LOOKING):
        started = time.perf_counter()
        model(*few)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    pixels = few[0][0].shape[-1] * few[0][0].shape[-2] if few[0][0].dim() > 1 else 1
    flops = operations.get_total_flops()
    detector = isinstance(model, FloatModel) and model.output_loss.of_objects
    return Look(min(times) / count, sizes.bytes // count, flops / 2 / count, pixels, detector)


def seconds(recipe: Recipe, look: Look, images: int) -> float:
    """How long a recipe takes, roughly.

    Args:
        recipe: The variant's.
        look: At its model.
        images: Of the calibration.
    """
    if isinstance(recipe, SearchRecipe):
        # Measuring layers takes about as long as building a configuration.
        whole = (recipe.search.builds + 1) * seconds(recipe.base(), look, images)
        limit = recipe.search.time_limit
        return whole if limit is None else min(whole, 60 * limit)
    asked = methods.resolve(recipe, detector=look.detector)
    options: Any = methods.method(asked.name).Options(**asked.options)
    taken = min(images, getattr(options, "images", images))
    runs = float(PASSES.get(asked.name, LEARNING) * taken)
    if asked.name == "subbyte":
        steps, batch = options.steps, options.batch
        if steps is None:
            steps, batch = steps_for(look.pixels, look.multiply_adds, batch)
            steps = round(options.longer * steps)
        runs += OF_A_TUNING_STEP * steps * batch
    elif asked.name == "lapq":
        runs += options.max_evaluations * taken
    elif hasattr(options, "steps"):
        steps = options.steps + getattr(options, "activation_steps", 0)
        runs += OF_A_STEP * steps * options.batch
    return runs * look.seconds


def memory(recipe: Recipe, look: Look, images: int, batch: int) -> float:
    """Bytes that a recipe needs at most, roughly: what is taken already, batches, and its cache.

    Args:
        recipe: The variant's.
        look: At its model.
        images: Of the calibration.
        batch: Images a batch.
    """
    asked = methods.resolve(recipe, detector=look.detector)
    options: Any = methods.method(asked.name).Options(**asked.options)
    limit = getattr(options, "cache_memory", 0.0) * 2**30
    cached = min(limit, 3.0 * look.largest * min(images, getattr(options, "images", images)))
    return _taken() + cached + COPIES * look.largest * batch


def shorter(recipe: Recipe, look: Look, images: int) -> str:
    """Which recipe takes a minute, as the end of a sentence.

    Args:
        recipe: The variant's.
        look: At its model.
        images: Of the calibration.
    """
    for method in ("bias_correction", "range"):
        quick = recipe.model_copy(update={"method": method})
        if seconds(quick, look, images) <= LONG:
            return f"`method: {method}` takes about {duration(seconds(quick, look, images))}"
    quick = recipe.model_copy(update={"method": "range"})
    few = max(FEWEST, int(LONG / seconds(quick, look, 1)))
    return (
        f"`method: range` with `data.calibration_images: {min(few, images)}` takes about "
        f"{duration(seconds(quick, look, min(few, images)))}"
    )


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the size of the largest tensor that an operator makes; a view is none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if (
                isinstance(output, torch.Tensor)
                and output.untyped_storage().data_ptr() not in known
            ):
                self.bytes = max(self.bytes, output.numel() * output.element_size())
        return outputs


def _taken() -> float:
    """Bytes that this process holds at most so far."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
