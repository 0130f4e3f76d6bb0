"""`subbyte.verify`: a file in the runtimes, beside the simulation and the float model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from subbyte.data.batches import Batch, read_batch, to_device
from subbyte.detectors.common.nms import OUTPUTS
from subbyte.detectors.deployment import detections_of
from subbyte.detectors.letterbox import letterbox_of
from subbyte.errors import SubbyteError
from subbyte.graph.float_model import device_of
from subbyte.graph.flow import WHOLE
from subbyte.placement.example import check_like_example
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets import about as target_about
from subbyte.targets import base as targets
from subbyte.targets import files as target_files
from subbyte.targets import names as target_names
from subbyte.targets.onnx.own_file import is_installed
from subbyte.tasks import side_by_side
from subbyte.tasks.base import arrays, one_image
from subbyte.tasks.detector_runs import check_detector, deployed, simulated
from subbyte.tasks.evaluation import check_batches, check_known
from subbyte.tasks.side_by_side import FLOAT, SIMULATION, TWIN, Compared, Metrics
from subbyte.utils import cores, machine
from subbyte.utils.progress import Progress, Silent

LATENCY_BATCH = 1
Sessions = Mapping[str, targets.Session]


@dataclass(frozen=True)
class InRuntime:
    """What a file gives in one runtime.

    Attributes:
        version: The runtime's.
        agreement: Share of images with the same top-1 as in the simulation of the file; of
            detectors of matched detections; `None` for other models.
        max_abs_diff: Largest difference of an output from that simulation's; of detectors of the
            score of a matched detection.
        metrics: On labelled images, else empty.
        int8_ops: Convolutions and matrix products that run with int8 kernels.
        int8_candidates: Layers both of whose operands are quantized.
        latency_ms: Median of up to 50 runs (or 3 seconds), after 5 unmeasured ones.
        latency_batch: Images a run.
        latency_threads: On how many threads.
    """

    version: str
    agreement: float | None
    max_abs_diff: float | None
    metrics: Metrics
    int8_ops: int
    int8_candidates: int
    latency_ms: float
    latency_batch: int
    latency_threads: int


@dataclass(frozen=True)
class Verification:
    """A quantized model beside its float model, and its file beside both.

    Attributes:
        images: On how many images.
        size_bytes: Of the file.
        agreement_with_float: Share of images with the same top-1 as the float model, in the
            simulation; of detectors of matched detections; `None` for other models.
        sqnr_db: Energy of the float model's outputs over that of the simulation's error, in dB;
            `None` without any error. Of detectors of the raw outputs, on the first 64 images.
        sqnr_db_outputs: Output → the same of it alone.
        float_metrics: The float model's metrics, on labelled images, else empty.
        metrics: The simulation's.
        deployed: Runtime → what the file gives in it.
    """

    images: int
    size_bytes: int
    agreement_with_float: float | None
    sqnr_db: float | None
    sqnr_db_outputs: dict[str, float | None]
    float_metrics: Metrics
    metrics: Metrics
    deployed: dict[str, InRuntime]


def verify(
    quantized: torch.nn.Module,
    path: str | Path,
    batches: Any,
    *,
    runtimes: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare a quantized model with its float model, and its file with it, on the same images.

    Args:
        quantized: What `quantize` or `load` returned.
        path: What `export` has written of it.
        batches: Batches as the model takes them; with labels there are metrics as well.
        runtimes: Where the file runs; `None`: those that are installed, or the one that it is for.
        progress: Shows how far it is.

    Raises:
        SubbyteError: `quantized` is not from `quantize` or `load`, the file is not of it or cannot
            be read, or a runtime is not installed.
    """
    if not isinstance(quantized, Simulation):
        raise SubbyteError(
            f"{type(quantized).__name__} is not a quantized model: give what subbyte.quantize or "
            "subbyte.load returned"
        )
    path, progress = Path(path), progress or Silent()
    metadata = target_files.read_metadata(path)
    recipe = quantized.metadata.get("recipe")
    if metadata.get("recipe", recipe) != recipe:
        raise SubbyteError(
            f"{path} was written with another recipe than the model's: name the file that was "
            "exported from it"
        )
    names = _runtimes(runtimes, metadata.get("target"))
    batches = check_batches(batches, "batches")
    first = read_batch(next(iter(batches)))
    threads = cores.usable()
    sessions = {name: targets.runtime(name).load(path, threads) for name in names}
    if quantized.region_names == WHOLE:
        check_like_example(quantized, quantized.float_model.arguments(first.args, {})[0], "a batch")
        twin = _twin(quantized, metadata)
        found = side_by_side.whole_models(quantized, twin, sessions, batches, progress)
        example = to_device(first.args, device_of(quantized))
    else:
        example = _example(quantized, path, metadata, first)
        found = _detectors(quantized, path, metadata, sessions, example, batches, progress)
    return Verification(
        images=found.images,
        size_bytes=path.stat().st_size,
        agreement_with_float=found.agreement_with_float,
        sqnr_db=found.noise["sqnr_db"],
        sqnr_db_outputs=found.noise["sqnr_db_outputs"],
        float_metrics=dict(found.metrics.get(FLOAT, {})),
        metrics=dict(found.metrics.get(SIMULATION, {})),
        deployed={
            name: _in_runtime(quantized, path, name, sessions[name], found, example)
            for name in progress.track(names, "measuring latency")
        },
    )


def _runtimes(asked: Sequence[str] | None, target: str | None) -> list[str]:
    """Where a file is run."""
    if asked is None:
        several = [name for name in target_names() if not target_about(name).own_files]
        named = several if target is None else [target]
        asked = [name for name in named if is_installed(name)]
        if target is not None:
            targets.runtime(target).version()  # which says how it is installed
        if not asked:
            raise SubbyteError(
                f"none of {', '.join(named)} is installed: pip install 'subbyte[{named[0]}]'"
            )
    for name in [asked] if isinstance(asked, str) else asked:
        check_known(name)
        targets.runtime(name).version()
    return [asked] if isinstance(asked, str) else list(asked)


def _twin(quantized: Simulation, metadata: Mapping[str, Any]) -> Simulation:
    """The simulation of a file, which may have fewer quantizers than the model."""
    target = metadata.get("target")
    if target is None or all(tensor.stands_for(target) for tensor in quantized.placement.tensors):
        return quantized
    placement = quantized.placement.for_target(target)
    return simulate(quantized.float_model, placement, quantized.params)


def _example(
    quantized: Simulation, path: Path, metadata: Mapping[str, Any], first: Batch
) -> tuple[Any, ...]:
    """A batch of images as a detector's file takes them; `SubbyteError` if nobody knows how."""
    if "images" not in metadata:
        raise SubbyteError(
            f"{path} does not say how it takes images: name a detector's file that subbyte.export "
            "has written"
        )
    images = to_device((list(first.args[0]),), device_of(quantized))[0]
    check_detector(quantized, images)
    return (letterbox_of(metadata["images"]).images(images),)


def _detectors(
    quantized: Simulation,
    path: Path,
    metadata: Mapping[str, Any],
    sessions: Sessions,
    example: tuple[Any, ...],
    batches: Any,
    progress: Progress,
) -> Compared:
    """Compare a detector, of whose file there may be the raw outputs alone.

    Args:
        quantized: The simulation.
        path: The file.
        metadata: What stands in it.
        sessions: It in each runtime.
        example: A batch of images as it takes them.
        batches: Batches of images.
        progress: Shows how far it is.
    """
    device, letterbox = device_of(quantized), letterbox_of(metadata["images"])
    made: Any = list
    if not _has_boxes(path):
        made = detections_of(quantized, example)
        if made is None:
            raise SubbyteError(
                f"{path} gives raw outputs, of which nobody knows how they become boxes: export "
                "with postprocess=True"
            )
    runs = {
        FLOAT: simulated(quantized.float_model, device),  # type: ignore[arg-type]
        SIMULATION: simulated(quantized, device),
        TWIN: simulated(_twin(quantized, metadata), device, letterbox),
        **{name: deployed(session, letterbox, made) for name, session in sessions.items()},
    }
    classes = metadata.get("classes")
    return side_by_side.detectors(quantized, runs, batches, classes, progress)


def _in_runtime(
    quantized: Simulation,
    path: Path,
    name: str,
    session: targets.Session,
    found: Compared,
    example: tuple[Any, ...],
) -> InRuntime:
    """What was found in a runtime, and its latency and kernels.

    Args:
        quantized: The simulation.
        path: The file.
        name: The runtime's.
        session: The file in it, on all processors.
        found: What was compared.
        example: A batch as the file takes it.
    """
    if cores.usable() != machine.threads():
        session = targets.runtime(name).load(path, machine.threads())
    inputs = arrays(target_files.arguments(quantized, one_image(example), _has_boxes(path)))
    return InRuntime(
        version=targets.runtime(name).version(),
        agreement=found.agreement[name],
        max_abs_diff=found.largest[name],
        metrics=dict(found.metrics.get(name, {})),
        int8_ops=session.int8_ops(),
        int8_candidates=sum(layer.integer for layer in quantized.placement.layers),
        latency_ms=targets.latency_ms(session, *inputs),
        latency_batch=LATENCY_BATCH,
        latency_threads=machine.threads(),
    )


def _has_boxes(path: Path) -> bool:
    return target_files.output_names(path) == list(OUTPUTS)
