"""How near a detector's files come to its simulation, where scores of random weights are tied.

Which of two nearly equal scores is the higher one decides the last digit of a sum, and with it
which boxes are given and in which order. So files are compared with the simulation by their raw
outputs, each query beside the nearest one, and have to be as near as the simulation is to itself
when everything is off by a millionth. What a whole file makes of raw outputs is compared with
what the same runtime gives of the file up to these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.ops import box_iou

from subbyte.detection import Outputs
from subbyte.detectors.raw_outputs import raw_detector
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets import base as targets
from subbyte.targets.onnx.export import export, export_float


@dataclass(frozen=True)
class Nearness:
    """In dB: a runtime's float file and own file, and the simulation to itself.

    same: the share of the whole file's boxes that its raw outputs give.
    """

    float: float
    int8: float
    nudged: float
    same: float


@contextmanager
def nudged(quantized: Simulation, seed: int) -> Iterator[None]:
    """While it lasts, all that activations' quantizers get is off by a millionth, at random."""
    generator = torch.Generator().manual_seed(seed)

    def nudge(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] * (1 + 1e-6 * torch.randn(inputs[0].shape, generator=generator))

    hooks = [each.register_forward_pre_hook(nudge) for _, each in quantized.activations()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tensors(outputs: Any) -> list[Tensor]:
    return [torch.as_tensor(leaf) for leaf in pytree.tree_leaves(outputs)]


def decibels(found: Any, expected: Any, exact: Any, queries: bool) -> float:
    """Energy of the exact outputs, each less its mean, over that of the error: of the worst.

    Args:
        found: What is judged.
        expected: What it should be.
        exact: What the float model gives.
        queries: Of each one it is the nearest that counts.
    """
    found, expected, exact = tensors(found), tensors(expected), tensors(exact)
    if queries:
        scales = [x.std() for x in exact]
        rows, others = (
            torch.cat([x / scale for x, scale in zip(each, scales, strict=True)], -1)
            for each in (found, expected)
        )
        nearest = torch.cdist(others, rows).argmin(2)[..., None]
        found = [x.gather(1, nearest.expand(-1, -1, x.shape[-1])) for x in found]
    errors = []
    for one, other, true in zip(found, expected, exact, strict=True):
        assert one.shape == other.shape
        signal = (true.double() - true.double().mean()).square().sum()
        noise = (one.double() - other).square().sum().clamp(min=1e-30)
        errors.append(10 * float((signal / noise).log10()))
    return min(errors)


class Given(nn.Module):
    """A network that gives what is known already."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        """The same for all images."""
        return [*self.outputs]


def found_again(known: Sequence[dict[str, Tensor]], results: Sequence[Any]) -> float:
    """The share of boxes that are among a whole file's results, of as many in each image."""
    found = total = 0
    for one, *rest, count in zip(known, *map(torch.as_tensor, results), strict=True):
        boxes, scores, labels = (x[: int(count)] for x in rest)
        assert len(one["boxes"]) > 0
        assert abs(len(one["boxes"]) - len(boxes)) <= 0.02 * len(one["boxes"])
        near = (box_iou(one["boxes"], boxes) > 0.99) | (torch.cdist(one["boxes"], boxes) < 0.01)
        near &= (one["scores"][:, None] - scores).abs() < 1e-3 * one["scores"].max()
        near &= one["labels"][:, None] == labels
        found, total = found + int(near.any(1).sum()), total + len(near)
    return found / total


@torch.no_grad()
def nearness(
    quantized: Simulation, runtime: str, outputs: Outputs, images: Tensor, folder: Path
) -> Nearness:
    """What a runtime gives of a detector's files.

    Args:
        quantized: The simulation.
        runtime: The name of the runtime.
        outputs: What the network gives.
        images: [N, 3, H, W]; of the first one the whole file is asked by itself too.
        folder: Where files may be written.
    """
    module, queries = targets.runtime(runtime), outputs.form == "queries"
    raw, whole = (folder / f"{runtime}_{x}.onnx" for x in ("raw", "whole"))
    if not (plain := folder / "float.onnx").exists():
        export_float(quantized, plain, (images[:2],), postprocess=False)
    export(quantized, whole, (images[:2],), runtime, raw=raw)
    placement = quantized.placement.for_target(runtime)
    own = simulate(quantized.float_model, placement, quantized.params)
    exact, expected = quantized.float_model.raw(images), own.raw(images)
    with nudged(own, 1):
        other = own.raw(images)
    in_float = module.load(plain, 1).run(images.numpy())
    given = tensors(module.load(raw, 1).run(images.numpy()))
    session = module.load(whole, 1)
    shares = []
    for batch in (slice(0, 1), slice(None)):  # its batch is dynamic
        network = Given([x[batch] for x in given])
        known = raw_detector(network, outputs)(images[batch])
        shares.append(found_again(known, session.run(images[batch].numpy())))
    return Nearness(
        float=decibels(in_float, exact, exact, queries),
        int8=decibels(given, expected, exact, queries),
        nudged=decibels(other, expected, exact, queries),
        same=min(shares),
    )
