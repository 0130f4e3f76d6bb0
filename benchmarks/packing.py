"""Weights in 4 bits in the file: whether the runtimes still compute on integers, and how fast.

    uv run --group benchmarks python benchmarks/packing.py resnet18 mobilenet_v2 --rounds 100

Each model is quantized at W4A4 and exported for each runtime with its weights in three ways: one
to a byte (int8); two to a byte (int4) as `subbyte.export` writes them, made int8 when the file is
loaded; and int4 straight into DequantizeLinear. The files take turns as in benchmarks/latency.py.
Printed for each: size, layers on integers, time to load, and the median of the paired ratios of
time with its 95 % interval.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import latency
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import subbyte
from subbyte.targets import base as verify
from subbyte.targets.onnx import export as writer
from subbyte.targets.onnx.packing import pack


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
        for key in latency.RUNTIMES:
            with tempfile.TemporaryDirectory() as folder:
                paths = write(quantized, images[0], key, Path(folder))
                measure(name, key, paths, options)


def write(
    quantized: torch.nn.Module, images: torch.Tensor, runtime: str, folder: Path
) -> dict[str, Path]:
    """The same model with its weights written in each way."""
    paths = {}
    for way, change in WAYS.items():
        paths[way] = folder / f"{len(paths)}.onnx"
        with mock.patch.object(writer, "pack", change):
            subbyte.export(quantized, paths[way], images, target=runtime)
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
        ratio = latency.said(latency.ratio(times[way], times["int8"]))
        print(
            f"{name:14} {key:11} {way:22} {paths[way].stat().st_size / 1e6:6.2f} MB  "
            f"int8 {session.int8_ops():3}  loads in {loaded[way]:.2f} s  "
            f"{1000 * np.median(times[way]):7.2f} ms  {ratio} of int8",
            flush=True,
        )


def straight(model: onnx.ModelProto) -> None:
    """int4, and a zero point of int4 where one is needed, straight into DequantizeLinear."""
    pack(model)
    constants = {value.name: value for value in model.graph.initializer}
    for node in model.graph.node:
        weight = node.input[0]
        if node.op_type != "DequantizeLinear" or f"{weight}_int4" not in constants:
            continue
        node.input[0] = f"{weight}_int4"
        shift = constants.get(f"{weight}_shift")
        if shift is not None:
            # −8 … 7 instead of −7 … 8: of some channels the levels are moved, which costs no time.
            zeros = -numpy_helper.to_array(shift).reshape(-1).clip(-7, 8)
            name = f"{weight}_zero"
            zero = helper.make_tensor(name, TensorProto.INT4, zeros.shape, zeros.tolist())
            model.graph.initializer.append(zero)
            node.input.append(name)


WAYS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "int8": lambda model: None,
    "int4, Cast": pack,
    "int4, DequantizeLinear": straight,
}


if __name__ == "__main__":
    main()
