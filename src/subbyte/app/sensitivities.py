"""What each layer of a model loses at each width: measured, as a table, as CSV, in a sentence."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from subbyte import api
from subbyte.app.loading import load_model
from subbyte.bit_search import sensitivity
from subbyte.bit_search.sensitivity import LayerLoss, Sensitivity
from subbyte.data.batches import ArgumentsOf, read_batch, to_device
from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError
from subbyte.graph.batch import EVERY
from subbyte.models import ModelConfig
from subbyte.recipe import Recipe
from subbyte.tasks.base import task_file
from subbyte.utils import files
from subbyte.utils.progress import Progress

COLUMNS = ("layer", "role", "bits", "loss", "residual", "count")
MOST = 0.5  # of the loss at the fewest bits, which the layers to protect have together
FEW = 5  # layers that the sentence names at most
FEWEST_JUDGES = 8  # images, with fewer of which nothing is said of what to protect


def measure_model(
    config: ModelConfig,
    calibration: str,
    widths: Mapping[str, Sequence[int]],
    *,
    images: int,
    batch_size: int,
    seed: int,
    device: str,
    preprocessing: Preprocessing | None = None,
    progress: Progress,
) -> tuple[Sensitivity, list[str]]:
    """Measure a model on a folder of images.

    Args:
        config: The model.
        calibration: A folder of images, or the name of bundled data.
        widths: "weights" and "activations" → bits.
        images: How many to take at most.
        batch_size: Images a batch.
        seed: Of the choice of images.
        device: "cpu" or "cuda".
        preprocessing: Of images, instead of that of the weights.
        progress: Shows how far it is.

    Returns:
        What each layer loses, and what must be known of the weights and the images.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise SubbyteError(f"device is '{device}', but there is no CUDA device here: give cpu")
    spec = load_model(config, preprocessing)
    spec.module.to(device)
    asked = {
        "images": images,
        "seed": seed,
        "batch_size": batch_size,
        # A raw network's is a part of its detector.
        "preprocessing": preprocessing if spec.outputs is None else None,
    }
    batches, _ = task_file(spec.task).calibration(calibration, spec, asked, device, progress)
    first = to_device(read_batch(next(iter(batches))).args, torch.device(device))
    with progress.working("capturing the model"):
        float_model = api.capture(spec.module, first)
    taken = ArgumentsOf(batches, torch.device(device))
    recipe = Recipe(activations=max(widths["activations"]), first_last=None, seed=seed)
    prepared = api.prepared(float_model, taken, recipe, progress)
    found, _ = sensitivity.measure(
        prepared,
        recipe,
        taken,
        lambda layer: widths["weights"],
        widths["activations"],
        progress,
    )
    return found, [*spec.notes, *batches.notes]


def write_csv(path: Path, measured: Sensitivity) -> None:
    """Write a row for each tensor and width."""
    with files.atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in measured.tensors:
            for bits, loss in one.losses.items():
                residual = one.residual.get(bits, "")
                writer.writerow((one.layer, one.role, bits, loss, residual, one.count or ""))


def table(measured: Sensitivity) -> Table:
    """A row for each tensor, a column for each width; what each loses alone."""
    widths = sorted({bits for one in measured.tensors for bits in one.losses})
    found = Table(
        caption=f"what each tensor, quantized alone, adds to the output loss; calibration images: "
        f"solved with {measured.solved}, judged on {measured.images}",
        caption_justify="left",
    )
    for name in ("layer", "role"):
        found.add_column(name, no_wrap=True)
    for name in ("weights", *(f"{bits} bits" for bits in widths)):
        found.add_column(name, justify="right", no_wrap=True)
    for one in measured.tensors:
        if one.role == "weight" or len(one.losses) > 1:
            losses = (_short(one.losses.get(bits)) for bits in widths)
            found.add_row(escape(one.layer), one.role, f"{one.count or ''}", *losses)
    return found


def advice(measured: Sensitivity) -> str:
    """Which layers to protect: those few that have most of what is lost at the fewest bits."""
    weights = measured.of_role("weight")
    if not weights:
        return "the model has no layer with a weight that can be quantized"
    if measured.images < FEWEST_JUDGES:
        return (
            f"{measured.images} image{'s' * (measured.images > 1)} to judge on are too few to say "
            f"which layers to protect: give {EVERY * FEWEST_JUDGES} calibration images or more, of "
            "which a fifth judges"
        )
    bits = min(min(one.losses) for one in weights)
    ordered = sorted(weights, key=lambda one: -one.losses[min(one.losses)])
    total = sum(one.losses[min(one.losses)] for one in weights)
    if total <= 0:
        return f"no layer loses anything at {bits} bits"
    protected: list[LayerLoss] = []
    for one in ordered[:FEW]:
        protected.append(one)
        if _sum(protected) >= MOST * total:
            break
    share, numbers = _sum(protected) / total, sum(one.count for one in protected)
    names = ", ".join(one.layer for one in protected)
    of_all = numbers / max(sum(one.count for one in weights), 1)
    return (
        f"protect {names}: with {100 * of_all:.0f} % of the weights "
        f"{'it has' if len(protected) == 1 else 'they have'} {100 * share:.0f} % of what all "
        f"layers lose at {bits} bits"
    )


def _sum(layers: Sequence[LayerLoss]) -> float:
    return sum(one.losses[min(one.losses)] for one in layers)


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.2g}"
