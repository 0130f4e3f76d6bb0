"""Weights in 4 bits in the file: whether the runtimes still run int8 kernels, and how fast.

    uv run --group benchmarks python benchmarks/packing.py resnet18 mobilenet_v2 --rounds 100

Each model is quantized at W4A4 and exported for each runtime with its weights in three ways: one
to a byte (int8); two to a byte (int4) as `subbyte.export` writes them, made int8 when the file is
loaded; and int4 straight into DequantizeLinear. The files take turns as in benchmarks/latency.py.
Printed for each: size, int8 kernels, time to load, and the median of the paired ratios of
time with its 95 % interval.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import latency
import ml_dtypes
import numpy as np
import onnx_ir as ir

import subbyte
from subbyte.targets import base as verify
from subbyte.targets.base import Rewrite
from subbyte.targets.onnx.files import save
from subbyte.targets.onnx.graph import array, constant
from subbyte.targets.onnx.program import Program, program_of
from subbyte.targets.onnx.rewrites.packing import pack


def main() -> None:
    """Parse, export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    for name in options.models:
        images = latency.made_up(options.size)
        recipe = subbyte.Recipe(weights=4, activations=4, ranges="minmax", method="range")
        quantized = subbyte.quantize(latency.prepared(name, images), images, recipe)
        program = program_of(quantized, (images[0],), postprocess=True)
        for key in latency.RUNTIMES:
            with tempfile.TemporaryDirectory() as folder:
                paths = write(program, key, Path(folder))
                measure(name, key, paths, options)


def write(program: Program, runtime: str, folder: Path) -> dict[str, Path]:
    """The same model with its weights written in each way."""
    paths: dict[str, Path] = {}
    for way, change in WAYS.items():
        paths[way] = folder / f"{len(paths)}.onnx"
        rewrites = [change if it is pack else it for it in verify.rewrites(runtime)]
        save(program.form(rewrites), paths[way], {})
    return paths


def measure(name: str, key: str, paths: dict[str, Path], options: argparse.Namespace) -> None:
    """Print one line for each file, in one runtime."""
    sessions: dict[str, verify.Session] = {}
    loaded: dict[str, float] = {}
    for way, path in paths.items():
        started = time.perf_counter()
        sessions[way] = verify.runtime(key).load(path, options.threads)
        loaded[way] = time.perf_counter() - started
    example = latency.made_up(options.size)[0][:1].numpy()
    runs = {way: latency.deployed(session, example) for way, session in sessions.items()}
    times = latency.interleaved(runs, options.rounds, seed=0)
    for way, session in sessions.items():
        ratio = latency.said(latency.ratio(times[way][None], times["int8"][None]))
        print(
            f"{name:14} {key:11} {way:22} {paths[way].stat().st_size / 1e6:6.2f} MB  "
            f"int8 {session.int8_ops():3}  loads in {loaded[way]:.2f} s  "
            f"{1000 * np.median(times[way]):7.2f} ms  {ratio} of int8",
            flush=True,
        )


def straight(model: ir.Model) -> None:
    """int4, and a zero point of int4 where one is needed, straight into DequantizeLinear."""
    pack(model)
    for node in [n for n in model.graph if n.op_type == "DequantizeLinear"]:
        name = "" if node.inputs[0] is None else str(node.inputs[0].name)
        weight = model.graph.initializers.get(f"{name}_int4")
        if weight is None:
            continue
        node.replace_input_with(0, weight)
        shift = array(model.graph.initializers.get(f"{name}_shift"))
        if shift is not None:
            # −8 … 7 instead of −7 … 8: some channels' integers are moved, which costs no time.
            zeros = -shift.reshape(-1).clip(-7, 8)
            node.resize_inputs(3)
            node.replace_input_with(2, constant(model.graph, f"{name}_zero", zeros, ml_dtypes.int4))


WAYS: dict[str, Rewrite] = {
    "int8": lambda model: None,
    "int4, Cast": pack,
    "int4, DequantizeLinear": straight,
}


if __name__ == "__main__":
    main()
