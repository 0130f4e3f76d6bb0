"""Every family of models, unedited, at W8A8: what is on integers, and whether it computes right.

    uv run python benchmarks/models.py --json models.json --docs docs/models.md
    uv run python benchmarks/models.py --json models.json --only resnet18 timm/levit_128s
    uv run python benchmarks/models.py --json models.json --more

Each model is captured, quantized (ranges by minmax), exported for each runtime and run in it, in a
process of its own. Results are kept in the JSON file as they come; models that are in it and did
not fail are skipped, so that a run that was interrupted goes on. --docs puts the table into a file.
What the figures mean, and what the random weights are, is said in docs/models.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import subbyte
from subbyte import models
from subbyte.data import read_image_tensor
from subbyte.data.images import image_files
from subbyte.files import atomic
from subbyte.graph.captured import Captured
from subbyte.preprocessing import Preprocessing
from subbyte.runtime import verify

TRAINING, CALIBRATION, EVALUATION, BATCH = 16, 16, 16, 4
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
RECIPE = subbyte.Recipe(ranges="minmax", method="range")
MINUTES = 20  # that one model may take
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
BEGIN, END = "<!-- made by benchmarks/models.py -->", "<!-- until here -->"

Row = dict[str, Any]


def main() -> None:
    """Measure what is missing in the JSON file, one model a process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where results are kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models, anew")
    parser.add_argument("--more", action="store_true", help="others too than those of the docs")
    parser.add_argument("--docs", type=Path, help="the file whose table is to be replaced")
    parser.add_argument("--size", type=int, help="side of the images (default: the model's own)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.json.write_text(json.dumps(measure(options.one, options.size)))
        return
    rows: dict[str, Row] = json.loads(options.json.read_text()) if options.json.exists() else {}
    names = (NAMED + MORE if options.more else NAMED).split()
    missing = [name for name in names if "failed" in rows.get(name, {"failed": ""})]
    for name in missing if options.only is None else options.only:
        rows[name] = in_a_process(name, options.size)
        with atomic(options.json) as part:
            part.write_text(json.dumps(rows, indent=1))
        print(table_row(name, rows[name]), file=sys.stderr, flush=True)
    if options.docs is not None:
        put_into(options.docs, {name: rows[name] for name in NAMED.split() if name in rows})
    print(table(rows))


def in_a_process(name: str, size: int | None) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--one", name, "--json", str(file)]
        command += [] if size is None else ["--size", str(size)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {MINUTES} minutes"}
        if file.exists():
            row: Row = json.loads(file.read_text())
            return row
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-400:]}"}


def measure(name: str, size: int | None) -> Row:
    """Everything that the table says of one model; under "failed" what went wrong, and where."""
    torch.set_num_threads(1)
    row: Row = {}
    stage = "building"
    try:
        module, calibration, images = prepared(name, size)
        row["size"] = list(images.shape[2:])
        stage, started = "quantizing", time.perf_counter()
        quantized = subbyte.quantize(module, list(calibration.split(BATCH)), RECIPE)
        row["seconds"] = round(time.perf_counter() - started, 1)
        row |= placed(quantized)
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


def placed(quantized: Captured) -> Row:
    """How many layers are on integers, and why the others are not."""
    reasons = Counter(
        layer.reason or "one of its operands is not on a grid"
        for layer in quantized.layers
        if not layer.integer
    )
    norms = [n for n in quantized.region("").graph.nodes if "batch_norm" in str(n.target)]
    return {
        "layers": len(quantized.layers),
        "integer": sum(layer.integer for layer in quantized.layers),
        "in_float": dict(reasons),
        "norms_left": len(norms),
    }


def deployed(runtime: str, quantized: Captured, images: torch.Tensor, exact: np.ndarray) -> Row:
    """What a runtime gives of its own file: integer kernels, and how it differs from simulation."""
    module = verify.runtime(runtime)
    with quantized.placed_for(runtime):
        simulated = in_batches(verify.simulated(quantized, "cpu"), images, BATCH)
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


@contextmanager
def nudged(quantized: Captured, seed: int = 2) -> Iterator[None]:
    """While it lasts, all that comes to a grid of activations is off by a millionth, at random.

    Sums in float32 are as uncertain, whatever computes them. Where a value lies between two levels
    this decides which it becomes, and so from layer to layer: a runtime that computes right is as
    far from the simulation as the simulation so is from itself.
    """
    generator = torch.Generator().manual_seed(seed)

    def nudge(_: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        return inputs[0] * (1 + 1e-6 * torch.randn(inputs[0].shape, generator=generator))

    grids = [quantizer for _, quantizer in quantized.quantizers("activation")]
    hooks = [quantizer.register_forward_pre_hook(nudge) for quantizer in grids]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
    return np.concatenate([run(batch) for batch in images.split(size)])


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
    images = pictures(TRAINING + CALIBRATION + EVALUATION, side, preprocessing)
    training, calibration, evaluation = images.split([TRAINING, CALIBRATION, EVALUATION])
    as_if_trained(spec.module, training)
    return spec.module, calibration, evaluation


def photographs(folder: Path, count: int, preprocessing: Preprocessing) -> torch.Tensor:
    """`count` images of a folder, evenly spaced in it."""
    files = image_files(folder)
    chosen = files[:: len(files) // count][:count]
    return torch.cat([read_image_tensor(file, preprocessing) for file in chosen])


def pictures(count: int, size: int, preprocessing: Preprocessing) -> torch.Tensor:
    """Random images with the 1/f spectrum and the related colours of photographs, normalized."""
    generator = torch.Generator().manual_seed(0)
    across = torch.fft.rfftfreq(size)[None, :].square()
    frequency = (torch.fft.fftfreq(size)[:, None].square() + across).sqrt().clamp(min=1 / size)
    noise = torch.randn(count, 4, size, size, generator=generator)
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(size, size))
    smooth = smooth / smooth.std((2, 3), keepdim=True)
    colours = smooth[:, :1] + 0.5 * smooth[:, 1:]
    contrast = 0.1 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    light = 0.3 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    shown = (light + contrast * colours).clamp(0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    return (shown - mean) / std


@torch.no_grad()
def as_if_trained(module: nn.Module, images: torch.Tensor) -> None:
    """Random weights that let images through, and batch norms that know their statistics.

    Weights have the variance of He et al. 2015, "Delving Deep into Rectifiers" (gain √2 for
    convolutions, 1 for matrices). Parameters that all begin at one value (norms' scales at 1 or 0,
    layer scales at 1e-6, shifts at 0) would hide what they do, and are drawn: scales from 0.5 …
    1.5, shifts with a deviation of 0.1. Running means and variances become those of `images`.
    """
    generator = torch.Generator().manual_seed(1)
    shifts = {id(part.bias) for part in module.modules() if getattr(part, "bias", None) is not None}
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            draw_weight(part.weight, 1 if isinstance(part, nn.Linear) else 2, generator)
    for parameter in module.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            if id(parameter) in shifts:
                parameter.normal_(0, 0.1, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    module(images)
    for hook in hooks:
        hook.remove()


def take_statistics(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """Give a batch norm the mean and variance of what it is about to normalize.

    A channel that hardly varies is not blown up: no variance is below a tenth of the average.
    """
    values = inputs[0].transpose(0, 1).flatten(1)
    variance = values.var(1)
    norm.running_mean.copy_(values.mean(1))
    norm.running_var.copy_(variance.clamp(min=float(variance.mean()) / 10))


def draw_weight(weight: torch.Tensor, gain: float, generator: torch.Generator) -> None:
    """Independent numbers for a matrix; for a filter mostly a bump, as trained ones have it.

    Filters of independent numbers let pass what differs from pixel to pixel, noise above all, and
    a deep network of them tells no picture from another.
    """
    weight.normal_(0, math.sqrt(gain / weight[0].numel()), generator=generator)
    if weight.dim() != 4 or weight.shape[2] * weight.shape[3] == 1:
        return
    channels = torch.randn(*weight.shape[:2], 1, 1, generator=generator)
    if weight.shape[1] == 1:  # a channel by itself must not be near 0
        channels = channels.sign() * (0.5 + torch.rand(channels.shape, generator=generator))
    rows, columns = (torch.hann_window(n + 2, periodic=False)[1:-1] for n in weight.shape[2:])
    bump = rows[:, None] * columns
    weight.mul_(0.3).add_(channels * bump / bump.sum() * math.sqrt(gain / weight.shape[1]))


def put_into(docs: Path, rows: dict[str, Row]) -> None:
    """Replace the table in a file, and what it was measured with."""
    text = docs.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    row = next(row for row in rows.values() if "failed" not in row)
    versions = {shown: row[key]["version"] for key, shown in RUNTIMES.items()}
    versions |= {name: version(name) for name in ("torch", "torchvision", "timm")}
    told = ", ".join(f"{name} {number.split('-')[0]}" for name, number in versions.items())
    with atomic(docs) as part:
        part.write_text(f"{before}{BEGIN}\n{table(rows)}\n\n{told}.\n{END}{after}")


def table(rows: dict[str, Row]) -> str:
    """The table of docs/models.md."""
    head = [
        "| Model | Side | Layers on integers | ONNX Runtime int8 | OpenVINO int8 "
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
    left = [f"{count}: {reason}" for reason, count in row.get("in_float", {}).items()]
    left += [f"{row['norms_left']} batch norms"] if row.get("norms_left") else []
    left += [f"failed: {row['failed']}"] if "failed" in row else []
    return f"| {' | '.join([*cells, '; '.join(left) or '–'])} |"


def shown(found: Row) -> str:
    """An error in dB, and on how many images the answer is the same."""
    return f"{found['sqnr_db']:.0f} ({found['same']}/{found['images']})"


if __name__ == "__main__":
    main()
