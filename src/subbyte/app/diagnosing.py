"""The diagnosis of a variant in a run: cheap beside the run, written into the variant's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subbyte import api, models
from subbyte.calibration import clipping
from subbyte.data.batches import ArgumentsOf
from subbyte.data.preprocessing import Preprocessing
from subbyte.data.selection import simulation_indices
from subbyte.diagnosis.diagnose import diagnose, diagnosed
from subbyte.diagnosis.errors import decibels
from subbyte.diagnosis.result import ERRORS, Diagnosis, LayerErrors
from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig
from subbyte.numerics.fake_quantize import Clipping
from subbyte.placement.simulation import Simulation
from subbyte.tasks.base import Task, task_file
from subbyte.utils import files
from subbyte.utils.progress import Progress

FILE = "diagnosis.json"
# A layer alone costs half a run of the network. All of them together cost so much of the images
# that the run takes anyway.
SHARE = 0.1
LEAST_ALONE, MOST_ALONE = 2, 32  # images
CLEARLY_LOST = 15.0  # dB of the outputs, from which on the worst layer is named below the table
MORE = 4  # times as many for what adds up, at most `MOST_ALONE`


def diagnose_variant(
    name: str,
    quantized: Simulation,
    task: Task,
    counts: tuple[Sequence[Clipping], Sequence[Clipping]],
    progress: Progress,
) -> Diagnosis:
    """Diagnose a variant on a few of the evaluation images that its simulation ran on.

    Args:
        name: The variant's.
        quantized: Its model.
        task: The images.
        counts: What each tensor of its placement clips of the evaluation images, and of those of
            calibration.
        progress: Shows how far it is.
    """
    placement = quantized.placement
    simulated, calibration = task.simulated_images, task.data.calibration.images
    quantizers = len(placement.layers) + sum(not t.readers for t in placement.of_role("activation"))
    affordable = int(SHARE * (len(simulated) + calibration) / max(1, quantizers))
    alone = min(MOST_ALONE, max(LEAST_ALONE, affordable))
    chosen = simulation_indices(len(simulated), min(MOST_ALONE, MORE * alone))
    # Each tenth image and so on: those that are measured alone come first, from all classes.
    spread = sorted(range(len(chosen)), key=lambda i: (i % MORE, i))
    images = task.data.evaluation.take([simulated[chosen[i]] for i in spread])
    shares = {
        tensor.key: (clipping.share(now), clipping.share(before))
        for tensor, now, before in zip(placement.tensors, *counts, strict=True)
    }
    batches = ArgumentsOf(images, quantized.float_model.device)
    described = f"{name}: measuring each layer alone"
    return diagnosed(quantized, batches, alone, shares, progress, described)


def diagnose_saved(
    config: ModelConfig,
    quantized: Path,
    source: str,
    asked: Mapping[str, Any],
    alone_images: int,
    device: str,
    progress: Progress,
) -> Diagnosis:
    """Diagnose a quantized model that was saved.

    Args:
        config: The float model.
        quantized: The saved file.
        source: A folder of images, or the name of bundled ones.
        asked: `images`, `seed` and `batch_size` of these.
        alone_images: On how many of them each layer is quantized alone.
        device: "cpu" or "cuda".
        progress: Shows how far it is.

    Raises:
        SubbyteError: The file is not of the model, or the images cannot be used.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise SubbyteError(f"device is '{device}', but there is no CUDA device here: give cpu")
    spec = models.load(config)
    simulation = api.load(spec.module.to(device), quantized)
    prepared = simulation.metadata.get("preprocessing")
    if simulation.metadata.get("detector") is not None:  # the file says what a raw network gives
        spec = replace(spec, module=simulation.float_model.original, task="detection")
    if isinstance(prepared, dict):  # and how images were prepared, whatever the weights' own is
        spec = replace(spec, preprocessing=Preprocessing(**prepared))
    batches, _ = task_file(spec.task).calibration(source, spec, asked, device, progress)
    return diagnose(simulation, batches, alone_images=alone_images, progress=progress)


def write(folder: Path, found: Diagnosis, rows: Sequence[dict[str, Any]]) -> None:
    """Write `diagnosis.json`, and put what was measured into the rows of `layers.csv`.

    Args:
        folder: The variant's.
        found: Its diagnosis.
        rows: Of each quantized tensor, as `subbyte.layers` gives them; they get the errors.
    """
    files.write_json(folder / FILE, found.as_dict())
    by_name = {layer.layer: layer for layer in found.layers}
    for row in rows:
        layer = by_name.get(row["layer"])
        if layer is not None and (row["role"] == "weight" or layer.kind == "operation"):
            row |= _errors(layer)


def entry(found: Diagnosis | None) -> dict[str, Any] | None:
    """What stands in `results.json` of a diagnosis; `None` where there is none."""
    if found is None:
        return None
    return {
        "summary": found.summary,
        "layers": [advice.layers[0] for advice in found.advice],
        "overrides": [advice.overrides for advice in found.advice if advice.overrides],
    }


def note(found: Diagnosis | None) -> str | None:
    """A sentence on the worst layer and what usually helps, where the outputs have clearly lost."""
    db = None if found is None else decibels(found.output_error)
    if found is None or db is None or db > CLEARLY_LOST or not found.advice:
        return None
    worst = found.advice[0]
    pasted = f" ({worst.overrides})" if worst.overrides else ""
    return f"{worst.sentence}; what usually helps: {worst.helps}{pasted}"


def _errors(layer: LayerErrors) -> dict[str, Any]:
    found = {kind: decibels(getattr(layer, f"{kind}_error")) for kind in ERRORS}
    return {f"{kind}_db": None if db is None else round(db, 2) for kind, db in found.items()}
