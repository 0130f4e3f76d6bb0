"""Every family of models, unedited, at W8A8: what is quantized, and whether it computes right.

    uv run python benchmarks/models.py --json models.json \
      --docs docs/notebook/random-classifiers.md
    uv run python benchmarks/models.py --json models.json --only resnet18 timm/levit_128s
    uv run python benchmarks/models.py --json models.json --more
    uv run python benchmarks/models.py --json w4a4.json --only vit_b_16 --threads 2 \
      --recipe '{weights: 4, activations: 4, method: subbyte}'

Each model is captured, quantized (as --recipe says), exported for each runtime and run in it, in a
process of its own. Results are kept in the JSON file as they come; models that are in it and did
not fail are skipped, so that a run that was interrupted goes on. --docs puts the table into a file.
What the figures mean, and what the random weights are: docs/notebook/random-classifiers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from collecting import Row, collect, left_in_float, placed, put_into
from torch import nn
from untrained import as_if_trained, nudged, pictures, simulation_for

import subbyte
from subbyte import models
from subbyte.data import read_image_tensor
from subbyte.data.images import image_files
from subbyte.data.preprocessing import Preprocessing
from subbyte.placement.simulation import Simulation
from subbyte.targets import base as verify

TRAINING, CALIBRATION, EVALUATION, BATCH = 16, 16, 16, 4
SPLITS = [TRAINING, CALIBRATION, EVALUATION]
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
RECIPE = "{ranges: minmax, method: range}"
REAL = "mobilenet_v2"  # the one whose published weights and images $SUBBYTE_DATA may hold

NAMED = """
    alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 squeezenet1_1 densenet121
    googlenet inception_v3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet1_0
    shufflenet_v2_x1_0 efficientnet_b0 efficientnet_v2_s regnet_y_400mf convnext_tiny vit_b_16
    swin_t timm/resnet18d timm/efficientnet_lite0 timm/mobilenetv4_conv_small
    timm/deit_tiny_patch16_224 timm/convnextv2_atto
"""
# Others that are built in ways of their own; measured with --more.
MORE = """
    swin_v2_t maxvit_t timm/resnest14d timm/res2net50_26w_4s timm/ghostnet_100
    timm/hrnet_w18_small timm/dla34 timm/cspdarknet53 timm/rexnet_100 timm/selecsls42b
    timm/ese_vovnet19b_dw timm/regnetz_b16 timm/tf_efficientnet_b0 timm/mixnet_s timm/repvgg_a0
    timm/mobileone_s0 timm/repvit_m0_9 timm/fastvit_t8 timm/nf_resnet50 timm/dm_nfnet_f0
    timm/resnetv2_50x1_bit timm/botnet26t_256 timm/skresnet18 timm/mixer_s16_224
    timm/gmlp_s16_224 timm/convmixer_768_32 timm/poolformer_s12 timm/inception_next_tiny
    timm/edgenext_xx_small timm/mobilevit_xxs timm/efficientvit_b0 timm/efficientvit_m0
    timm/efficientformer_l1 timm/levit_128s timm/pit_ti_224 timm/cait_xxs24_224
    timm/tnt_s_patch16_224 timm/beit_base_patch16_224 timm/eva02_tiny_patch14_224
    timm/davit_tiny timm/xcit_nano_12_p16_224 timm/coat_tiny timm/pvt_v2_b0 timm/twins_svt_small
    timm/crossvit_tiny_240 timm/volo_d1_224 timm/maxvit_tiny_tf_224 timm/swinv2_tiny_window8_256
    timm/coatnet_nano_rw_224
"""
BEGIN = "<!-- made by benchmarks/models.py -->"


def main() -> None:
    """Measure what is missing in the JSON file, one model a process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where results are kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models, anew")
    parser.add_argument("--more", action="store_true", help="others too than those of the docs")
    parser.add_argument("--docs", type=Path, help="the file whose table is to be replaced")
    parser.add_argument("--size", type=int, help="side of the images (default: the model's own)")
    parser.add_argument("--recipe", default=RECIPE, metavar="YAML", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    recipe = subbyte.Recipe(**yaml.safe_load(options.recipe))
    if options.one:
        torch.set_num_threads(options.threads)
        options.json.write_text(json.dumps(measure(options.one, options.size, recipe)))
        return
    names = (NAMED + MORE if options.more else NAMED).split()
    more = [] if options.size is None else ["--size", str(options.size)]
    more += ["--recipe", options.recipe, "--threads", str(options.threads)]
    rows = collect(__file__, options.json, names, options.only, more, table_row)
    if options.docs is not None:
        put_into(options.docs, BEGIN, tables({n: rows[n] for n in NAMED.split() if n in rows}))
    print(table(rows))


def measure(name: str, size: int | None, recipe: subbyte.Recipe) -> Row:
    """The row of one model; under "failed" what went wrong, and where."""
    row: Row = {}
    stage = "building"
    try:
        module, calibration, images = prepared(name, size)
        row["size"] = list(images.shape[2:])
        stage, started = "quantizing", time.perf_counter()
        quantized = subbyte.quantize(module, list(torch.split(calibration, BATCH)), recipe)
        row["seconds"] = round(time.perf_counter() - started, 1)
        row |= placed(quantized)
        row["tuning"] = quantized.reported.get("tuning")
        notes = quantized.reported.get("blocks", [])
        row["fits"] = round(sum(note["seconds"] for note in notes), 1)
        stage = "simulating"
        exact = in_batches(verify.simulated(module.eval(), "cpu"), images, BATCH)
        simulated = in_batches(verify.simulated(quantized, "cpu"), images, BATCH)
        row |= error(simulated, exact, exact)
        with nudged(quantized):
            other = in_batches(verify.simulated(quantized, "cpu"), images, BATCH)
        row["nudged"] = error(other, simulated, exact)
        for stage in RUNTIMES:
            row[stage] = deployed(stage, quantized, images, exact)
    except Exception as fault:
        row["failed"] = f"{stage}: {type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    return row


def deployed(runtime: str, quantized: Simulation, images: torch.Tensor, exact: np.ndarray) -> Row:
    """What a runtime gives of its own file: int8 kernels, and how it differs from simulation."""
    module = verify.runtime(runtime)
    run = verify.simulated(simulation_for(runtime, quantized), "cpu")
    simulated = in_batches(run, images, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        subbyte.export(quantized, path, images[:2], target=runtime)
        session = module.load(path, 1)
        run = verify.deployed(session)
        return {
            "version": module.version(),
            "bytes": path.stat().st_size,
            "int8_ops": session.int8_ops(),
            **error(in_batches(run, images, BATCH), simulated, exact),
            "alone": error(in_batches(run, images[:BATCH], 1), simulated[:BATCH], exact[:BATCH]),
        }


def error(outputs: np.ndarray, expected: np.ndarray, exact: np.ndarray) -> Row:
    """How far logits are from those that were expected, measured by the float model's.

    sqnr_db: of an image, the energy of its float logits less each class's mean over that of the
    error; the images' median. same: on how many images the largest logit is the same, each less its
    class's mean, which random weights make larger than what tells images apart.
    """
    mean = exact.mean(0, dtype=np.float64)
    signal = np.square(exact - mean).sum(1)
    noise = np.square(outputs - expected, dtype=np.float64).sum(1)
    return {
        "sqnr_db": float(np.median(10 * np.log10(signal / np.maximum(noise, 1e-30)))),
        "same": int(((outputs - mean).argmax(1) == (expected - mean).argmax(1)).sum()),
        "images": len(outputs),
    }


def in_batches(
    run: Callable[[torch.Tensor], np.ndarray], images: torch.Tensor, size: int
) -> np.ndarray:
    return np.concatenate([run(batch) for batch in torch.split(images, size)])


def prepared(name: str, size: int | None) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model with its calibration and evaluation images."""
    root = os.environ.get("SUBBYTE_DATA")
    if name == REAL and root:
        folder = Path(root) / "imagenet"
        spec = models.load(
            models.ModelConfig(name=name, checkpoint=folder / "mobilenet_v2-b0353104.pth")
        )
        assert spec.preprocessing is not None
        return (
            spec.module,
            photographs(folder / "calibration", CALIBRATION, spec.preprocessing),
            photographs(folder / "val", EVALUATION, spec.preprocessing),
        )
    spec = models.load(models.ModelConfig(name=name))
    crop = None if spec.preprocessing is None else spec.preprocessing.crop
    side = size or crop
    assert isinstance(side, int)
    preprocessing = spec.preprocessing or Preprocessing()
    images = pictures(sum(SPLITS), side, preprocessing)
    training, calibration, evaluation = torch.split(images, SPLITS)
    as_if_trained(spec.module, training)
    return spec.module, calibration, evaluation


def photographs(folder: Path, count: int, preprocessing: Preprocessing) -> torch.Tensor:
    """`count` images of a folder, evenly spaced in it."""
    files = image_files(folder)
    chosen = files[:: len(files) // count][:count]
    return torch.cat([read_image_tensor(file, preprocessing) for file in chosen])


def tables(rows: dict[str, Row]) -> str:
    """The table, and what it was measured with."""
    row = next(row for row in rows.values() if "failed" not in row)
    versions = {shown: row[key]["version"] for key, shown in RUNTIMES.items()}
    versions |= {name: version(name) for name in ("torch", "torchvision", "timm")}
    numbers = ", ".join(f"{name} {number.split('-')[0]}" for name, number in versions.items())
    return f"{table(rows)}\n\n{numbers}."


def table(rows: dict[str, Row]) -> str:
    """The table of docs/notebook/random-classifiers.md."""
    head = [
        "| Model | Side | Quantized layers | ONNX Runtime int8 | OpenVINO int8 "
        "| Simulation, dB | Nudged, dB | ONNX Runtime, dB | OpenVINO, dB | Left in float |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*head, *(table_row(name, row) for name, row in rows.items())])


def table_row(name: str, row: Row) -> str:
    """One model's row; what a failed one lacks is a dash."""
    runs = [row.get(runtime) for runtime in RUNTIMES]
    cells = [f"`{name}`", str(row["size"][0]) if "size" in row else "–"]
    cells.append(f"{row['integer']} / {row['layers']}" if "layers" in row else "–")
    cells += [f"{run['int8_ops']} / {row['integer']}" if run else "–" for run in runs]
    errors = [row if "sqnr_db" in row else None, row.get("nudged"), *runs]
    cells += [shown(found) if found else "–" for found in errors]
    return f"| {' | '.join([*cells, left_in_float(row)])} |"


def shown(found: Row) -> str:
    """An error in dB, and on how many images the answer is the same."""
    return f"{found['sqnr_db']:.0f} ({found['same']}/{found['images']})"


if __name__ == "__main__":
    main()
