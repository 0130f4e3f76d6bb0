"""Corrections of the outputs' mean, which are kept only where they help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte.calibration.output_correction import Correction
from subbyte.graph.output_loss import OutputLoss, by_column, has_grown, image_losses
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate

# A mean over n images is wrong by chance, which adds 1 / n of the loss where nothing else is wrong.
CHANCE = 3.0  # times as much is allowed
CLEAR = 0.2  # of the loss: growth by less is taken for chance
LOST = 1.5  # times the error of a column
UNSEEN = 1e-3  # of a column's energy: an error below it is none


def with_correction(simulation: Simulation, correction: Correction) -> QuantParams:
    """A simulation's parameters with corrected biases, unless the outputs are worse with these.

    Where outputs saturate, their mean is wrong because of the saturated ones, on which a correction
    has no effect: it makes the others wrong. So images that had no part in it judge. If their loss
    has grown by more than its standard error, and clearly by more than the chance of a mean over
    few images explains, the biases stay. So they do where a column of the outputs has clearly
    lost, whatever the others gain: a detector's few objects are in one column (objectness), of
    which a mean over all boxes, nearly all background, says nothing. Outputs that are not one row
    an image are not judged.

    Args:
        simulation: With all parameters.
        correction: Found with this simulation.
    """
    params = simulation.params
    if not correction.biases:
        return params
    loss = simulation.float_model.output_loss
    before = _losses(correction, correction.found.outputs, loss)
    if before is None:
        return params.with_biases(correction.biases)
    trial = params.with_biases(correction.trial)
    trial_outputs = _outputs(_with(simulation, trial), correction)
    after = _losses(correction, trial_outputs, loss)
    assert after is not None
    chance = CHANCE / correction.learned if correction.learned else 0.0  # none where all judge
    lost = _a_column_lost(correction, trial_outputs, loss)
    kept = not lost and not has_grown(before * (1 + max(chance, CLEAR)), after)
    losses = {"loss_before": float(before.double().mean()), "loss": float(after.double().mean())}
    params = params.with_reported(output_correction={"kept": kept, **losses})
    return params.with_biases(correction.biases) if kept else params


def _with(simulation: Simulation, params: QuantParams) -> Simulation:
    """The same model and placement with other parameters."""
    return simulate(simulation.float_model, simulation.placement, params)


@torch.no_grad()
def _outputs(simulation: Simulation, correction: Correction) -> list[Any]:
    return [simulation.raw(*args) for args in correction.expected.judging.images]


def _losses(correction: Correction, found: list[Any], loss: OutputLoss) -> torch.Tensor | None:
    """The loss of each image that judges; `None` where outputs are not one row an image."""
    judging = correction.expected.judging
    return image_losses(loss, judging.images, judging.outputs, found)


def _a_column_lost(correction: Correction, found: list[Any], loss: OutputLoss) -> bool:
    """Whether the error of a column of outputs that nothing is known of has clearly grown."""
    judging = correction.expected.judging
    if not loss.by_column(judging.outputs[0]):
        return False
    expected, before, after = (
        [_joined(leaves) for leaves in zip(*map(_floats, outputs), strict=True)]
        for outputs in (judging.outputs, correction.found.outputs, found)
    )
    for right, one, other in zip(expected, before, after, strict=True):
        energy, errors = _energies(right), [_energies(x - right) for x in (one, other)]
        if bool((errors[1] > LOST * errors[0] + UNSEEN * energy).any()):
            return True
    return False


def _floats(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if leaf.is_floating_point()]


def _joined(leaves: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor of several chunks' outputs, a row for each column."""
    return torch.cat([by_column(x) for x in leaves], 1)


def _energies(rows: torch.Tensor) -> torch.Tensor:
    return rows.double().square().mean(1)
