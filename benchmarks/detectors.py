"""Detectors of others, unedited, at W8A8: what stays in float and why, and whether files are right.

    uv run python benchmarks/detectors.py --json detectors.json \
      --docs docs/notebook/random-detectors.md
    uv run python benchmarks/detectors.py --json detectors.json --only libreyolo/YOLOX-n

torchvision's and the SSD family are exported whole, from images to boxes; libreyolo's (MIT, a
development dependency) with their raw outputs. Each is captured, quantized (ranges by minmax),
exported for each runtime and run in it, in a process of its own; results are kept in the JSON file
as they come. What the figures mean is said in docs/notebook/random-detectors.md. Where the
processor has no VNNI, on which 8-bit sums saturate in both runtimes, weights are of 7 bits
(`reduce_range`), and the row says so.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from collecting import Row, collect, left_in_float, placed, put_into
from torch import nn
from torch.utils import _pytree as pytree
from torchvision.models import detection
from torchvision.ops import box_iou
from untrained import as_if_trained, nudged, pictures, simulation_for

import subbyte
from subbyte import models
from subbyte.data.preprocessing import Preprocessing
from subbyte.graph.float_model import raw_outputs
from subbyte.models.ssd.members import MEMBERS
from subbyte.placement.simulation import Simulation
from subbyte.targets import base as verify
from subbyte.targets.onnx.export import export_float
from subbyte.utils import machine

TRAINING, CALIBRATION, EVALUATION, BATCH = 8, 4, 3, 2
SPLITS = [TRAINING, CALIBRATION, EVALUATION]
# The last layers of torchvision's detectors and of SSDs, and how far their results are to spread.
HEADS = {
    r"bbox_(pred|reg)$|regression_head\.module_list\.\d+(\.1)?$"
    r"|(loc|regression_headers)\.\d+(\.[23])?$": 0.5,
    r"cls_(logits|score)$|classification_head\.module_list\.\d+(\.1)?$"
    r"|(conf|classification_headers)\.\d+(\.[23])?$": 2.0,
}
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
REDUCED = machine.has_vnni() is False
RECIPE = subbyte.Recipe(ranges="minmax", method="range", reduce_range=REDUCED)
PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # detectors take [0, 1]
BEGIN = "<!-- made by benchmarks/detectors.py -->"
FAMILY = "libreyolo/"
HEAD = (
    "| Model | Side | Quantized layers | ONNX Runtime int8 | OpenVINO int8 | Off | Float file, "
    "ONNX Runtime | Float file, OpenVINO | Simulation | Nudged | ONNX Runtime | OpenVINO | Left in "
    "float |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)

Detections = dict[str, torch.Tensor]

TORCHVISION = {
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
    "retinanet_resnet50_fpn": 256,
    "retinanet_resnet50_fpn_v2": 256,
    "fcos_resnet50_fpn": 256,
    "fasterrcnn_resnet50_fpn": 256,
    "fasterrcnn_resnet50_fpn_v2": 256,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 256,
}
SSDS = [name for name in MEMBERS if name != "digit_scenes"]  # those with published checkpoints


@dataclass(frozen=True)
class Foreign:
    """A detector of libreyolo's: its class, its size, the side of the images.

    queries: its outputs are those of the best queries, in the order of their scores.
    """

    name: str
    size: str
    side: int
    queries: bool = False


@dataclass(frozen=True)
class Kind:
    """How detectors of one kind are built, run and compared.

    build: the model and the side of its images. batch: images [N, 3, H, W] as the model takes them.
    everything: all that the model gives, comparable. outputs: what a model gives, as far as a file
    of it does; of_file: the same of the file. error: found, expected and float outputs → row;
    equality: the same of what must be equal. whole: whether files go from images to boxes.
    """

    build: Callable[[], tuple[nn.Module, int]]
    batch: Callable[[torch.Tensor], Any]
    everything: Callable[[Any], Any]
    outputs: Callable[[Any, Any], Any]
    of_file: Callable[[dict[str, torch.Tensor]], Any]
    error: Callable[[Any, Any, Any], Row]
    equality: Callable[[Any, Any, Any], Row]
    whole: bool


class Original:
    """The user's own model, asked for what the modules in the places of the regions give."""

    def __init__(self, module: nn.Module, captured: Simulation) -> None:
        self.model, self.region_names = module, captured.region_names
        self.flow, self.example = captured.flow, captured.example

    def __call__(self, *args: Any) -> Any:
        """Run the model."""
        return self.model(*args)

    def region(self, name: str) -> Any:
        """The module that was captured as a region."""
        return self.model.get_submodule(name)

    def raw(self, *args: Any) -> Any:
        """What the regions give that no other of them reads."""
        return raw_outputs(self, *args)


LIBREYOLO = {
    f"{FAMILY}YOLOX-n": Foreign("LibreYOLOX", "n", 416),
    f"{FAMILY}YOLOv9-t": Foreign("LibreYOLO9", "t", 320),
    f"{FAMILY}RT-DETR-r18": Foreign("LibreRTDETR", "r18", 640, queries=True),
    f"{FAMILY}D-FINE-n": Foreign("LibreDFINE", "n", 640, queries=True),
}


def main() -> None:
    """Measure what is missing in the JSON file, one model a process, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where results are kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models, anew")
    parser.add_argument("--docs", type=Path, help="the file whose tables are to be replaced")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.json.write_text(json.dumps(measure(options.one)))
        return
    names = [*TORCHVISION, *SSDS, *LIBREYOLO]
    rows = collect(__file__, options.json, names, options.only, [], table_row)
    if options.docs is not None:
        put_into(options.docs, BEGIN, tables(rows))
    print(tables(rows))


@torch.no_grad()
def measure(name: str) -> Row:
    """All rows of one model; under "failed" what went wrong, and where."""
    torch.set_num_threads(1)
    kind = of_libreyolo(LIBREYOLO[name]) if name in LIBREYOLO else whole(partial(built, name))
    row: Row = {"reduced": REDUCED}
    stage = "building"
    try:
        module, side = kind.build()
        images = pictures(sum(SPLITS), side, PLAIN)
        training, calibration, images = torch.split(images, SPLITS)
        as_if_trained(module, kind.batch(training))
        calm(module, kind.batch(training))
        row["size"] = side
        stage, started = "quantizing", time.perf_counter()
        batches = [kind.batch(batch) for batch in torch.split(calibration, BATCH)]
        quantized = subbyte.quantize(module, batches, RECIPE)
        row["seconds"] = round(time.perf_counter() - started, 1)
        row |= placed(quantized) | {"regions": list(quantized.region_names)}
        stage = "simulating"
        batch = kind.batch(images)
        exact = kind.outputs(Original(module, quantized), batch)
        unchanged = kind.everything(module(batch))
        off = kind.everything(quantized.float_model(batch))
        row["off"] = kind.equality(off, unchanged, unchanged)
        row |= simulated(kind, quantized, batch, exact)
        with tempfile.TemporaryDirectory() as folder:
            stage, plain = "writing in float", Path(folder) / "float.onnx"
            export_float(quantized, plain, (kind.batch(images[:2]),), postprocess=kind.whole)
            for stage in RUNTIMES:
                path = Path(folder) / f"{stage}.onnx"
                subbyte.export(quantized, path, images[:2], target=stage, postprocess=kind.whole)
                row[stage] = deployed(stage, kind, quantized, (path, plain), images, exact)
    except Exception as fault:
        row["failed"] = f"{stage}: {type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    return row


@torch.no_grad()
def calm(module: nn.Module, batch: Any) -> None:
    """Give heads weights by which boxes and scores spread as those of trained detectors do.

    Else sizes are exp() of large numbers, and many scores are 1 to the last digit.
    """
    deviations: dict[Any, list[float]] = {}

    def keep(head: nn.Module, _: Any, outputs: torch.Tensor) -> None:
        deviations.setdefault(head, []).append(float(outputs.std()))

    spreads = {
        part: spread
        for name, part in module.named_modules()
        for pattern, spread in HEADS.items()
        if re.search(pattern, name) and isinstance(part, nn.Conv2d | nn.Linear)
    }
    hooks = [head.register_forward_hook(keep) for head in spreads]
    module(batch)
    for hook in hooks:
        hook.remove()
    for head, found in deviations.items():
        for parameter in head.parameters():
            parameter.mul_(spreads[head] / max(found))


@torch.no_grad()
def simulated(kind: Kind, quantized: Simulation, batch: Any, exact: Any) -> Row:
    """The simulation against float, and against itself when everything is off by a millionth."""
    found = kind.outputs(quantized, batch)
    with nudged(quantized):
        other = kind.outputs(quantized, batch)
    return {
        "simulation": kind.error(found, exact, exact),
        "nudged": kind.error(other, found, exact),
    }


@torch.no_grad()
def deployed(
    runtime: str,
    kind: Kind,
    quantized: Simulation,
    paths: tuple[Path, Path],
    images: torch.Tensor,
    exact: Any,
) -> Row:
    """What a runtime gives of its own file and of the float one, and how many kernels are int8."""
    module = verify.runtime(runtime)
    expected = kind.outputs(simulation_for(runtime, quantized), kind.batch(images))
    session, plain = (module.load(path, 1) for path in paths)
    return {
        "version": module.version(),
        "bytes": paths[0].stat().st_size,
        "int8_ops": session.int8_ops(),
        "float": kind.equality(run(kind, paths[1], plain, images), exact, exact),
        **kind.error(run(kind, paths[0], session, images), expected, exact),
    }


def run(kind: Kind, path: Path, session: verify.Session, images: torch.Tensor) -> Any:
    """What a loaded file gives."""
    names = [value.name for value in onnx.load(str(path)).graph.output]
    arrays = [torch.tensor(array) for array in session.run(images.numpy())]
    return kind.of_file(dict(zip(names, arrays, strict=True)))


def built(name: str) -> tuple[nn.Module, int]:
    """One of torchvision's or of the SSD family, and the side of its images."""
    torch.manual_seed(0)
    if name in MEMBERS:
        return models.build(name, num_classes=21).eval(), MEMBERS[name].settings.size
    side = TORCHVISION[name]
    sizes = {} if name.startswith("ssd") else {"min_size": side, "max_size": side}
    make = getattr(detection, name)
    return make(weights=None, weights_backbone=None, num_classes=21, **sizes).eval(), side


def whole(build: Callable[[], tuple[nn.Module, int]]) -> Kind:
    """A detector as torchvision's are: images in, boxes out, everything in the file."""
    return Kind(
        build=build,
        batch=list,
        everything=lambda outputs: outputs,
        outputs=lambda model, batch: model(batch),
        of_file=detections,
        error=partial(found_again, iou=0.5, score=0.1),
        equality=partial(found_again, iou=0.95, score=1e-3),
        whole=True,
    )


def of_libreyolo(foreign: Foreign) -> Kind:
    """One of libreyolo's: a batch in, raw outputs out."""

    def build() -> tuple[nn.Module, int]:
        import libreyolo

        torch.manual_seed(0)
        make = getattr(libreyolo, foreign.name)
        # As for training from scratch: no weights are looked for.
        model = make(None, size=foreign.size, device="cpu", _scratch_init=True).model
        return model.float().eval(), foreign.side

    error = of_queries if foreign.queries else of_tensors
    return Kind(
        build=build,
        batch=lambda images: images,
        everything=tensors,
        outputs=lambda model, batch: tensors(model.raw(batch)),
        of_file=lambda named: tensors(list(named.values())),
        error=error,
        equality=error,
        whole=False,
    )


def tensors(outputs: Any) -> list[torch.Tensor]:
    """All tensors of numbers that a model gives."""
    leaves = pytree.tree_leaves(outputs)
    return [x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()]


def detections(named: dict[str, torch.Tensor]) -> list[Detections]:
    """A file's outputs as a detector gives them, one dictionary an image."""
    return [
        {key: named[key][i, :count] for key in ("boxes", "scores", "labels")}
        for i, count in enumerate(named["count"].tolist())
    ]


def found_again(
    found: list[Detections], expected: list[Detections], exact: Any, *, iou: float, score: float
) -> Row:
    """How many of the expected detections are there: class, score to `score`, box by `iou`."""
    del exact
    count = total = 0
    for one, other in zip(found, expected, strict=True):
        near = box_iou(other["boxes"], one["boxes"]) >= iou
        near &= (other["scores"][:, None] - one["scores"]).abs() <= score
        near &= other["labels"][:, None] == one["labels"]
        count, total = count + int(near.any(1).sum()), total + len(near)
    return {"found": count, "of": total}


def of_tensors(
    found: list[torch.Tensor], expected: list[torch.Tensor], exact: list[torch.Tensor]
) -> Row:
    """Energy of the float outputs, each less its mean, over that of the error: of the worst."""
    errors = []
    for one, other, true in zip(found, expected, exact, strict=True):
        signal = (true.double() - true.double().mean()).square().sum()
        noise = (one.double() - other).square().sum().clamp(min=1e-30)
        errors.append(10 * float((signal / noise).log10()))
    return {"sqnr_db": min(errors)}


def of_queries(
    found: list[torch.Tensor], expected: list[torch.Tensor], exact: list[torch.Tensor]
) -> Row:
    """The same, each query beside the one that is nearest to it: their order is that of scores."""
    scales = [x.std() for x in exact]
    rows, others = (
        torch.cat([x / scale for x, scale in zip(outputs, scales, strict=True)], -1)
        for outputs in (found, expected)
    )
    nearest = torch.cdist(others, rows).argmin(2)
    matched = [x.gather(1, nearest[..., None].expand(-1, -1, x.shape[-1])) for x in found]
    return of_tensors(matched, expected, exact)


def tables(rows: dict[str, Row]) -> str:
    """A table for each source, and what they were measured with."""
    row = next(row for row in rows.values() if "failed" not in row)
    versions = {shown: row[key]["version"] for key, shown in RUNTIMES.items()}
    versions |= {name: version(name) for name in ("torch", "torchvision", "libreyolo")}
    numbers = ", ".join(f"{name} {number.split('-')[0]}" for name, number in versions.items())
    parts = []
    for names in (TORCHVISION, SSDS, LIBREYOLO):
        lines = [table_row(name, rows[name]) for name in names if name in rows]
        parts.append("\n".join([HEAD, *lines]))
    return "\n\n".join([*parts, f"{numbers}."])


def table_row(name: str, row: Row) -> str:
    """One model's row; what a failed one lacks is a dash."""
    runs = [row.get(runtime) for runtime in RUNTIMES]
    reduced = ", 7-bit weights" if row.get("reduced") else ""
    cells = [f"`{name.removeprefix(FAMILY)}`{reduced}", str(row.get("size", "–"))]
    cells.append(f"{row['integer']} / {row['layers']}" if "layers" in row else "–")
    cells += [f"{run['int8_ops']} / {row['integer']}" if run else "–" for run in runs]
    files = [run and run["float"] for run in runs]
    errors = [row.get("off"), *files, row.get("simulation"), row.get("nudged"), *runs]
    cells += [shown(found) for found in errors]
    return f"| {' | '.join([*cells, left_in_float(row)])} |"


def shown(found: Row | None) -> str:
    """An error in dB, or how many detections were found again."""
    if found is None:
        return "–"
    if "sqnr_db" in found:
        return f"{found['sqnr_db']:.0f} dB"
    return f"{found['found']} / {found['of']}"


if __name__ == "__main__":
    main()
