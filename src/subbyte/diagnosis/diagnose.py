"""`subbyte.diagnose`: which layers the error of a quantized model comes from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from subbyte.data.batches import ArgumentsOf
from subbyte.detectors import one_size
from subbyte.diagnosis import advice
from subbyte.diagnosis.errors import OutputErrors, Ratio
from subbyte.diagnosis.parts import Part, Place, all_switched, parts_of, switched
from subbyte.diagnosis.replay import Replay, replaying
from subbyte.diagnosis.result import Diagnosis, LayerErrors
from subbyte.diagnosis.tensors import Seen, Shares, activation_of, watching, weight_of
from subbyte.errors import SubbyteError
from subbyte.graph.batch import IMAGES_AT_ONCE, batch_size, images_of_pixels, in_chunks
from subbyte.graph.float_model import device_of
from subbyte.placement.simulation import Simulation, simulate
from subbyte.tasks.evaluation import check_batches
from subbyte.utils.allocator import keeping_memory
from subbyte.utils.arguments import image_lists
from subbyte.utils.progress import Progress, Silent

PIXELS_AT_ONCE = 2**17  # of the images whose values are all kept while layers are measured alone
ALONE = "measuring each layer alone"


def diagnose(
    quantized: nn.Module,
    batches: Any,
    *,
    alone_images: int = 16,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure the error of each layer of a quantized model, alone and added up.

    Values of the simulation are compared with those of the float model, layer by layer, in one
    pass. Then each layer is quantized alone on a few images, all others in float; only what
    follows on it runs again.

    Args:
        quantized: What `quantize` or `load` returned.
        batches: Batches as the model takes them; a few dozen images are enough.
        alone_images: On how many of the first images each layer is quantized alone; 0: it is not.
        progress: Shows how far it is.

    Raises:
        SubbyteError: `quantized` is not from `quantize` or `load`, or the batches cannot be used.
    """
    if not isinstance(quantized, Simulation):
        raise SubbyteError(
            f"{type(quantized).__name__} is not a quantized model: give what subbyte.quantize or "
            "subbyte.load returned"
        )
    if alone_images < 0:
        raise SubbyteError(f"alone_images is {alone_images}: give a number from 0 on")
    batches = ArgumentsOf(check_batches(batches, "batches"), device_of(quantized))
    return diagnosed(quantized, batches, alone_images, {}, progress or Silent())


def diagnosed(
    quantized: Simulation,
    batches: ArgumentsOf,
    alone_images: int,
    clipped: Shares,
    progress: Progress,
    described: str = ALONE,
) -> Diagnosis:
    """A diagnosis of a simulation, which is left as it is.

    Args:
        quantized: The simulation.
        batches: The images.
        alone_images: On how many of them each layer is quantized alone.
        clipped: Key of an activation → the shares that it clips of evaluation and of calibration
            images, where they are known.
        progress: Shows how far it is.
        described: What the progress calls it.
    """
    started = time.perf_counter()
    model = quantized.float_model
    batches = replace(
        batches,
        float32=batches.float32 or model.output_types is not None,
        images=image_lists(model.example),
        change=one_size(model.original),
    )
    simulation = simulate(model, quantized.placement, quantized.params)
    work = _Work(simulation, parts_of(simulation))
    with keeping_memory(), replaying(simulation) as replay:
        chunks = _chunks(batches, alone_images)
        for args, number in work.counted(chunks, alone_images, progress, described):
            work.measure(replay, args, number)
        causes = work.causes(replay)
    layers = work.layers(clipped)
    output = work.accumulated
    summary, found = advice.of(layers, output.error, causes)
    return Diagnosis(
        images=output.images,
        alone_images=work.alone_images,
        seconds=time.perf_counter() - started,
        output_error=output.error,
        outputs=output.of_outputs,
        loss=output.loss,
        layers=layers,
        summary=summary,
        advice=found,
    )


def _chunks(batches: ArgumentsOf, alone_images: int) -> Iterator[tuple[Any, ...]]:
    """The images, so many at a time that all that layers give for them can be kept."""
    for args in batches:
        at_once = min(images_of_pixels(args, PIXELS_AT_ONCE), max(1, alone_images), IMAGES_AT_ONCE)
        yield from in_chunks([args], batch_size(args), at_once)


@dataclass
class _Work:
    """What is measured, and of what.

    Attributes:
        simulation: The diagnosis' own.
        parts: Its parts, in the order of the network.
        alone_images: On how many images each part was quantized alone.
    """

    simulation: Simulation
    parts: Sequence[Part]
    alone_images: int = 0
    first: tuple[Any, ...] | None = None
    own: dict[str, Ratio] = field(default_factory=dict)
    added: dict[str, Ratio] = field(default_factory=dict)
    alone: dict[str, OutputErrors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.simulation.float_model
        self.accumulated = OutputErrors(model)
        self.everything = all_switched(self.simulation)
        self.part_of = {place: part for part in self.parts for place in part.results}
        self.watched = frozenset(self.part_of)
        self.seen = {tensor.key: Seen() for tensor, _ in self.simulation.activations()}
        for part in self.parts:
            self.own[part.name], self.added[part.name] = Ratio(), Ratio()
            self.alone[part.name] = OutputErrors(model)

    def counted(
        self,
        chunks: Iterable[tuple[Any, ...]],
        alone_images: int,
        progress: Progress,
        described: str,
    ) -> Iterator[tuple[tuple[Any, ...], bool]]:
        """Chunks of images, and whether each part is quantized alone on them."""
        for args in progress.track(chunks, described):
            is_alone = self.alone_images < alone_images
            if is_alone:
                self.first = self.first or args
                self.alone_images += batch_size(args)
            yield args, is_alone

    def measure(self, replay: Replay, args: tuple[Any, ...], is_alone: bool) -> None:
        """Run a chunk of images in float, quantized, and with each part quantized alone."""
        keep = None if is_alone else switched(self.watched)
        exact = replay.exactly(args, keep)
        with watching(self.simulation, self.seen):
            outputs = replay.quantized(
                args, self.everything, self.watched, partial(self._see, self.added)
            )
        self.accumulated.add(self.simulation, outputs, exact, args)
        if is_alone:
            see = partial(self._see, self.own)
            for part in self.parts:
                if part.is_quantized:
                    on = switched(part.of_weight, part.of_activations)
                    outputs = replay.quantized(args, on, frozenset(part.results), see)
                    self.alone[part.name].add(self.simulation, outputs, exact, args)

    def causes(self, replay: Replay) -> dict[str, float]:
        """Of the worst layers, how much of what each adds comes from its weight, from 0 to 1."""
        if self.first is None:
            return {}
        worst = sorted(self.parts, key=lambda part: -(self.alone[part.name].loss or 0.0))
        both = [p for p in worst[: advice.MOST] if p.of_weight and p.of_activations and p.weight]
        exact = replay.exactly(self.first, None) if both else None
        found = {}
        for part in both:
            losses = []
            for on in (part.of_weight, part.of_activations):
                errors = OutputErrors(self.simulation.float_model)
                outputs = replay.quantized(self.first, switched(on), frozenset(), lambda *_: None)
                errors.add(self.simulation, outputs, exact, self.first)
                losses.append(errors.loss or 0.0)
            if sum(losses) > 0:
                found[part.name] = losses[0] / sum(losses)
        return found

    def layers(self, clipped: Shares) -> tuple[LayerErrors, ...]:
        """What was measured of each part."""
        total = sum(errors.loss or 0.0 for errors in self.alone.values())
        return tuple(self._layer(part, total, clipped) for part in self.parts)

    def _layer(self, part: Part, total: float, clipped: Shares) -> LayerErrors:
        placement, alone = self.simulation.placement, self.alone[part.name]
        quantizers = {tensor.key: quantizer for tensor, quantizer in self.simulation.activations()}
        is_alone = alone.images > 0
        loss = alone.loss if is_alone else None
        return LayerErrors(
            layer=part.name,
            kind=part.kind,
            region=part.region,
            left_in_float=part.reason,
            weight=None
            if part.weight is None
            else weight_of(self.simulation, placement.tensor(part.weight)),
            activations=tuple(
                activation_of(placement.tensor(key), quantizers[key], self.seen[key], clipped)
                for key in part.activations
            ),
            own_error=self.own[part.name].error if is_alone else None,
            alone_error=alone.error if is_alone else None,
            alone_loss=loss,
            alone_share=loss / total if loss is not None and total > 0 else None,
            accumulated_error=self.added[part.name].error,
        )

    def _see(
        self, found: Mapping[str, Ratio], place: Place, value: torch.Tensor, exact: torch.Tensor
    ) -> None:
        found[self.part_of[place].name].add(value, exact)
