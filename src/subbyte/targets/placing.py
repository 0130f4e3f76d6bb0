"""What a target makes of a recipe and of a placement, so that the simulation is that of its file.

A target's file may have two functions:

- `fitted(recipe) -> (recipe, notes)`: the nearest recipe that the target can represent, which
  gives itself again, and a sentence for each thing that is another one; `SubbyteError` where the
  recipe asks for something that contradicts the target.
- `adjusted(float_model, placement) -> placement`: the placement as the target's file has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from subbyte import targets
from subbyte.graph.float_model import FloatModel
from subbyte.placement.place import place
from subbyte.placement.placement import Placement
from subbyte.recipe import Recipe


@dataclass(frozen=True)
class Fitted:
    """A recipe as its target takes it.

    Attributes:
        recipe: The recipe.
        notes: What is another than was asked for, as sentences.
    """

    recipe: Recipe
    notes: tuple[str, ...] = ()


def fitted(recipe: Recipe) -> Fitted:
    """The recipe as its target takes it; one without a target stays as it is.

    Raises:
        SubbyteError: It contradicts its target.
    """
    fit = None if recipe.target is None else getattr(targets.module(recipe.target), "fitted", None)
    if fit is None:
        return Fitted(recipe)
    found, notes = fit(recipe)
    return Fitted(found, tuple(notes))


def placed(float_model: FloatModel, recipe: Recipe) -> Placement:
    """Decide which tensors of a model are quantized: for all targets, or for the recipe's own one.

    Raises:
        SubbyteError: An override matches no layer, or the recipe contradicts its target.
    """
    recipe = fitted(recipe).recipe
    placement = place(float_model, recipe, targets.hints())
    if recipe.target is None:
        return placement
    placement = placement.for_target(recipe.target)
    adjust = getattr(targets.module(recipe.target), "adjusted", None)
    return placement if adjust is None else adjust(float_model, placement)
