"""Subbyte beside NNCF and ONNX Runtime's own quantizer, on trained models and the same images.

    uv run --group benchmarks python benchmarks/peers.py --json peers.json
    uv run --group benchmarks python benchmarks/peers.py digits resnet20
    uv run --group benchmarks python benchmarks/peers.py mobilenet_v2 --quark quark/bin/python

W8A8 by each tool's defaults (`nncf.quantize` of the ONNX file; `quantize_static` as ONNX Runtime
advises for CPUs: u8 activations, s8 weights per channel), and W4A8 by ours. All begin with the same
float file and the same calibration images, and every file runs in both runtimes on all evaluation
images. A detector's network goes to the peers as the ONNX file that it is; letterbox, decoding and
NMS around it are ours for all. Latencies are medians of files that take turns, one image, one
thread, and of classifiers alone: our detectors' files have boxes and NMS in them. The time to make
a file is that of the tool's own call, for ours without the capture that a run shares. AMD Quark
needs an older onnx: --quark names the Python that has it (benchmarks/with_quark.py), and --tools
takes some tools alone.
`$SUBBYTE_DATA` names the data of all networks but digits.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import torch
from torch import nn

import subbyte
from subbyte.app.experiment import Experiment
from subbyte.app.runner import run
from subbyte.app.setup import Setup, set_up
from subbyte.bit_search.latency import side_by_side
from subbyte.data.batches import ArgumentsOf
from subbyte.detectors.raw_outputs import RawDetector, of_sentence
from subbyte.errors import SubbyteError
from subbyte.progress import Silent
from subbyte.targets import base as targets

RUNTIMES = ("onnxruntime", "openvino")
OURS = ("w8a8", "w4a8")
PEERS = ("nncf", "nncf, mixed", "quantize_static", "quark")
Row = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A trained model.

    experiment: all but its variants; `DATA` stands for the data's folder. file: of a detector, the
    network's ONNX file; `None`: peers get the float file of our run.
    """

    experiment: dict[str, Any]
    file: str | None = None


def letterbox(**more: Any) -> dict[str, Any]:
    return {"letterbox": 416, "colours": "bgr", "range": 255, **more}


def coco(file: str, outputs: dict[str, Any], preprocessing: dict[str, Any]) -> Network:
    data = {"format": "coco", "root": "DATA/coco", "preprocessing": preprocessing}
    model = {"onnx": f"DATA/detectors/{file}", "outputs": outputs}
    return Network({"model": model, "data": data, "batch_size": 10}, f"DATA/detectors/{file}")


def folders(name: str, checkpoint: str, count: int, train: str, test: str, batch: int) -> Network:
    model = {"name": name, "checkpoint": f"DATA/{checkpoint}"}
    data = {
        "calibration": f"DATA/{train}",
        "evaluation": f"DATA/{test}",
        "calibration_images": count,
    }
    return Network({"model": model, "data": data, "batch_size": batch})


NANODET = {"mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]}
NETWORKS = {
    "digits": Network({"model": {"name": "digits"}, "data": {"name": "digits"}}),
    "resnet20": folders(
        "cifar_resnet20", "cifar10/resnet20-12fca82f.th", 1024, "cifar10/train", "cifar10/test", 250
    ),
    "mobilenet_v2": folders(
        "mobilenet_v2",
        "imagenet/mobilenet_v2-b0353104.pth",
        512,
        "imagenet/calibration",
        "imagenet/val",
        50,
    ),
    "yolox_nano": coco(
        "yolox_nano.onnx",
        {"form": "levels", "box": "yolox", "activation": "none"},
        letterbox(place="corner"),
    ),
    "nanodet_m": coco(
        "nanodet_m.onnx",
        {"form": "levels", "box": "distances", "bins": 8, "point": "half", "activation": "none"},
        letterbox(place="centre", fill=0, **NANODET),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=" ".join(NETWORKS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tools", nargs="+", choices=(*OURS, *PEERS), default=(*OURS, *PEERS))
    parser.add_argument("--quark", type=Path, metavar="PYTHON", help="where AMD Quark is installed")
    options = parser.parse_args()
    if any(tool.startswith("nncf") for tool in options.tools):
        rivals.check()
    if not set(options.tools) & set(OURS):
        parser.error(f"--tools needs one of {', '.join(OURS)}, whose run makes the float file")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            rows += measured(name, Path(folder), options.tools, options.quark)
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=1))
    print(*table(rows), sep="\n")


def fields_of(name: str, **more: Any) -> dict[str, Any]:
    """The fields of a network's experiment, and more, with the folder of the data in them."""
    text = json.dumps({"name": name, **NETWORKS[name].experiment, **more})
    fields: dict[str, Any] = json.loads(
        text.replace("DATA", os.environ.get("SUBBYTE_DATA", "DATA"))
    )
    return fields


def measured(name: str, folder: Path, tools: Sequence[str], quark: Path | None) -> list[Row]:
    """The rows of one network: float, ours, the peers.

    Args:
        name: Of the network.
        folder: For all that is made.
        tools: Some of `OURS` and `PEERS`.
        quark: The Python that has AMD Quark; `None`: without it.
    """
    network = NETWORKS[name]
    variants = {
        tool: {"weights": int(tool[1]), "activations": int(tool[3])}
        for tool in tools
        if tool in OURS
    }
    fields = fields_of(name, variants=variants, runtimes=list(RUNTIMES))
    experiment = Experiment.model_validate(fields)
    path, results = run(experiment, folder / "run")
    setup = set_up(experiment, (), Silent())
    given = None if network.file is None else fields["model"]["onnx"]
    source = Path(given) if given is not None else path / "float" / "model.onnx"
    files, seconds = peers(setup, source, folder, writers(setup, tools, quark))
    rows = [ours(name, entry) for entry in (results["float"], *results["variants"])]
    rows += [
        row
        for peer, file in {"float file": source, **files}.items()
        for row in [theirs(name, peer, file, setup, seconds.get(peer))]
        if peer != "float file" or isinstance(setup.module, RawDetector)
    ]
    if not isinstance(setup.module, RawDetector):
        add_latencies(rows, path, source, files, next(inputs_of(setup)))
    print(*(json.dumps(row) for row in rows), sep="\n", flush=True)
    return rows


def writers(
    setup: Setup, tools: Sequence[str], quark: Path | None
) -> dict[str, Callable[..., None]]:
    """What writes each peer's file. NNCF's mixed preset is for detectors alone."""
    found: dict[str, Callable[..., None]] = {
        "nncf": rivals.nncf,
        "quantize_static": rivals.quantize_static,
    }
    if isinstance(setup.module, RawDetector):
        found["nncf, mixed"] = partial(rivals.nncf, mixed=True)
    if quark is not None:
        found["quark"] = partial(rivals.quark, python=quark)
    return {tool: write for tool, write in found.items() if tool in tools}


def peers(
    setup: Setup, source: Path, folder: Path, by: dict[str, Callable[..., None]]
) -> tuple[dict[str, Path], dict[str, float]]:
    """The peers' files, and how long each took.

    Args:
        setup: Of the run, with its calibration images.
        source: The float file.
        folder: Where files are written.
        by: What writes each.
    """
    images = [image[None] for batch in inputs_of(setup) for image in batch]
    files, seconds = {}, {}
    for peer, write in by.items():
        started = time.perf_counter()
        files[peer] = folder / f"{peer.replace(', ', '_')}.onnx"
        with rivals.silent():
            write(source, files[peer], images)
        seconds[peer] = time.perf_counter() - started
    return files, seconds


def inputs_of(setup: Setup) -> Iterator[np.ndarray]:
    """What the network reads of the calibration images, batch by batch."""
    for args in ArgumentsOf(setup.task.data.calibration, torch.device("cpu")):
        if isinstance(setup.module, RawDetector):
            seen = Recorder()
            detector = of_sentence(seen, setup.module.sentence())
            try:
                detector(*args)
            except Recorded as found:
                yield found.batch
        else:
            yield args[0].numpy()


class Recorded(Exception):  # noqa: N818
    """What a network was called with."""

    def __init__(self, batch: np.ndarray) -> None:
        self.batch = batch


class Recorder(nn.Module):
    """A network that ends with what it is called with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raise the input."""
        raise Recorded(x.numpy())


class InRuntime(nn.Module):
    """A file of a network, called as the network, image by image."""

    def __init__(self, session: targets.Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the file gives."""
        found = [self.session.run(image[None].numpy()) for image in x]
        return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True)]


def theirs(name: str, peer: str, file: Path, setup: Setup, seconds: float | None) -> Row:
    """The row of a peer's file."""
    row: Row = {"network": name, "tool": peer, "bytes": file.stat().st_size, "seconds": seconds}
    for runtime in RUNTIMES:
        network: nn.Module = InRuntime(targets.runtime(runtime).load(file, 1))
        if isinstance(setup.module, RawDetector):
            network = of_sentence(network, setup.module.sentence())
        else:
            network = nn.Sequential(network, First())
        try:
            found = subbyte.evaluate(network.eval(), setup.task.data.evaluation)
        except SubbyteError as error:  # a peer's file may be none that the runtime runs
            row[runtime] = {"metric": None, "failed": str(error)}
            continue
        row[runtime] = {"metric": found.metrics[setup.task.primary_metric]}
    return row


class First(nn.Module):
    """The first of several outputs."""

    def forward(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The first."""
        return outputs[0]


def ours(name: str, entry: dict[str, Any]) -> Row:
    """The row of a variant of our run, or of its float file."""
    row: Row = {"network": name, "tool": entry.get("name", "float"), "bytes": entry["size_bytes"]}
    row["seconds"] = entry.get("seconds")
    for runtime in RUNTIMES:
        found = entry["deployed"][runtime]
        metrics = found["metrics"]
        row[runtime] = {"metric": metrics[next(iter(metrics))]}
    return row


def add_latencies(
    rows: Sequence[Row], path: Path, source: Path, files: dict[str, Path], batch: np.ndarray
) -> None:
    """Put latencies into rows, of files that take turns."""
    of_tool = {"float": source, **files}
    for runtime in RUNTIMES:
        for variant in (row["tool"] for row in rows if row["tool"] in OURS):
            own = path / "variants" / variant / f"model.{runtime}.onnx"
            of_tool[variant] = own if own.exists() else own.with_name("model.onnx")
        sessions = [targets.runtime(runtime).load(of_tool[row["tool"]], 1) for row in rows]
        times = side_by_side(sessions, [[batch[:1]]] * len(sessions))
        for row, ms in zip(rows, times, strict=True):
            row[runtime]["ms"] = ms


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A table in Markdown."""
    yield "| network | tool | ONNX Runtime | ms | OpenVINO | ms | kB | seconds to make |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        cells = [row["network"], row["tool"]]
        for runtime in RUNTIMES:
            found = row[runtime]
            metric = "fails" if found["metric"] is None else f"{100 * found['metric']:.2f}"
            cells += [metric, f"{found['ms']:.3g}" if "ms" in found else ""]
        cells += [f"{row['bytes'] / 1000:,.0f}"]
        cells += ["" if row["seconds"] is None else f"{row['seconds']:.0f}"]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
