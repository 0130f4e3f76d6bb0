"""Weights stored in as many bits as they have: sizes, time to load, int8 kernels, latency.

    uv run --group benchmarks python benchmarks/packing.py resnet18 --rounds 20 --loads 9

Each model has random weights and is quantized at 8-bit activations and weights of each width, and
written for each runtime: with int8 weights; packed, as `subbyte.export` writes them; and at 4 bits
with int4 straight into DequantizeLinear. Every load is that of a new process that has imported the
runtime already, and the files take turns. So they do in the runs (see benchmarks/latency.py).
Printed for each: size, int8 kernels, and medians of the processor's time to load and of the time to
run, relative to those of int8 weights of the same width, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
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

BITS = (2, 3, 4, 5, 6, 8)


def main() -> None:
    """Parse, export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--bits", type=int, nargs="+", default=BITS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--loads", type=int, default=9)
    options = parser.parse_args()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["subbyte.api", *latency.RUNTIMES])
    for name in options.models:
        images = latency.made_up(options.size)
        model = latency.prepared(name, images)
        for bits in options.bits:
            recipe = subbyte.Recipe(weights=bits, activations=8, ranges="minmax", method="range")
            quantized = subbyte.quantize(model, images, recipe)
            program = program_of(quantized, (images[0],), postprocess=True)
            for key in latency.RUNTIMES:
                with tempfile.TemporaryDirectory() as folder:
                    paths = write(program, key, Path(folder), bits)
                    measure(f"{name:14} {bits} bits", key, paths, processes, options)


def write(program: Program, runtime: str, folder: Path, bits: int) -> dict[str, Path]:
    """The same model with its weights written in each way."""
    paths: dict[str, Path] = {}
    for way, change in WAYS.items():
        if change is straight and bits != 4:
            continue
        paths[way] = folder / f"{len(paths)}.onnx"
        rewrites = [change if it is pack else it for it in verify.rewrites(runtime)]
        save(program.form(rewrites), paths[way], {})
    return paths


def measure(
    name: str,
    key: str,
    paths: Mapping[str, Path],
    processes: ForkServerContext,
    options: argparse.Namespace,
) -> None:
    """Print one line for each file, in one runtime."""
    loads = loaded(key, paths, processes, options)
    sessions = {way: verify.runtime(key).load(path, options.threads) for way, path in paths.items()}
    example = latency.made_up(options.size)[0][:1].numpy()
    runs = {way: latency.deployed(session, example) for way, session in sessions.items()}
    times = latency.interleaved(runs, options.rounds, seed=0)
    for way, session in sessions.items():
        ratios = [
            latency.said(latency.ratio(found[way][None], found["int8"][None]))
            for found in (loads, times)
        ]
        print(
            f"{name} {key:11} {way:22} {paths[way].stat().st_size / 1e6:6.2f} MB  "
            f"int8 {session.int8_ops():3}  loads in {1000 * np.median(loads[way]):4.0f} ms, "
            f"{ratios[0]} of int8  {1000 * np.median(times[way]):7.2f} ms, {ratios[1]} of int8",
            flush=True,
        )


def loaded(
    key: str, paths: Mapping[str, Path], processes: ForkServerContext, options: argparse.Namespace
) -> latency.Times:
    """Seconds of the processor to load each file, each time in a process of its own."""
    times = {way: np.zeros(options.loads) for way in paths}
    order = np.random.default_rng(0)
    for i in range(options.loads):
        for way in order.permutation(list(paths)):
            here, there = processes.Pipe(duplex=False)
            args = (key, paths[way], options.threads, there)
            child = processes.Process(target=load, args=args)
            child.start()
            times[way][i] = here.recv()
            child.join()
    return times


def load(key: str, path: Path, threads: int, result: Connection) -> None:
    """Load a file, and send how many seconds of the processor that takes."""
    runtime = verify.runtime(key)
    runtime.version()  # imports it
    started = time.process_time()
    session = runtime.load(path, threads)
    result.send(time.process_time() - started)
    del session


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
    "packed": pack,
    "int4, DequantizeLinear": straight,
}


if __name__ == "__main__":
    main()
