"""What each layer, quantized alone, adds to the output loss at each width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from subbyte.bit_search.costs import layer_multiply_adds
from subbyte.calibration.observe import activation_ranges, chosen
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.batch import EVERY, IMAGES_AT_ONCE, batch_size, in_chunks, is_held_out
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.methods.gptq.chunks import chunks, held_out_images
from subbyte.methods.gptq.layer_samples import sampling_for
from subbyte.methods.gptq.layerwise import LayerwiseSettings
from subbyte.methods.gptq.widths import LayerWidths, solve_widths
from subbyte.numerics.qparams import QuantParams, TensorQParams
from subbyte.numerics.qspec import QSpec
from subbyte.placement.placement import Placement, QuantizedTensor
from subbyte.placement.simulation import Simulation, simulate
from subbyte.recipe import Recipe
from subbyte.targets.placing import placed
from subbyte.utils.progress import Progress

CACHE_BYTES = 2 * 2**30
FIT_IMAGES = 512  # whose samples layers are solved on
MOST_IMAGES, FEWEST_IMAGES = 256, 16  # that each layer's loss is measured on
MULTIPLY_ADDS = 2e12  # of all these measurements together
LEAST = 0.1  # of the loss that residuals make likely, which a layer is taken to have


@dataclass(frozen=True)
class LayerLoss:
    """What was measured of one tensor, a weight or an activation.

    Attributes:
        layer: The layer's qualified name.
        role: "weight" or "activation".
        key: The tensor's, in a placement.
        readers: The layers that read it.
        count: Of a weight, how many numbers it has.
        channels: How many scales it has.
        losses: Bits → what it alone adds to the output loss, a mean over images; it falls with
            the bits.
        residual: Of a weight, bits → squared error of the layer's outputs over their energy, in
            least squares.
    """

    layer: str
    role: str
    key: str
    readers: tuple[str, ...]
    count: int
    channels: int
    losses: Mapping[int, float]
    residual: Mapping[int, float]


@dataclass(frozen=True)
class Sensitivity:
    """What was measured of all tensors.

    Attributes:
        tensors: In the order in which the graphs read them.
        images: On how many calibration images losses were measured: those that are held out.
        solved: With how many calibration images weights were solved; 0: not known.
    """

    tensors: tuple[LayerLoss, ...]
    images: int
    solved: int = 0

    def of_role(self, role: str) -> list[LayerLoss]:
        """Those of weights, or of activations."""
        return [tensor for tensor in self.tensors if tensor.role == role]

    def as_dict(self) -> dict[str, Any]:
        """Plain data from which `read` gives the same again."""
        tensors = [vars(tensor) for tensor in self.tensors]
        return {"images": self.images, "solved": self.solved, "tensors": tensors}


def read(plain: Mapping[str, Any]) -> Sensitivity:
    """What `as_dict` gave, out of JSON."""

    def numbers(values: Mapping[str, float]) -> dict[int, float]:
        return {int(bits): value for bits, value in values.items()}

    tensors = [
        LayerLoss(
            **{
                **tensor,
                "readers": tuple(tensor["readers"]),
                "losses": numbers(tensor["losses"]),
                "residual": numbers(tensor["residual"]),
            }
        )
        for tensor in plain["tensors"]
    ]
    return Sensitivity(tuple(tensors), plain["images"], plain.get("solved", 0))


@dataclass(frozen=True, eq=False)
class Solved:
    """Each layer's integers at each width, to be put together.

    Attributes:
        float_model: The model.
        placement: With all weights and activations at their widest.
        params: Those of activations.
        found: Key of a weight → bits → its parameters and its layer's bias.
        activations: Key of an activation → bits, less than the widest → its parameters.
    """

    float_model: FloatModel
    placement: Placement
    params: QuantParams
    found: Mapping[str, Mapping[int, QuantParams]]
    activations: Mapping[str, Mapping[int, TensorQParams]] = field(default_factory=dict)

    def simulation(self, bits: Mapping[str, int]) -> Simulation:
        """The model with some tensors at some bits; other weights in float, activations as wide.

        Args:
            bits: Key of a tensor → its bits.
        """
        params, tensors = self.params, []
        for tensor in self.placement.tensors:
            width = bits.get(tensor.key, tensor.spec.bits)
            if tensor.role == "weight" and tensor.key in bits:
                found = self.found[tensor.key][width]
                params = params.with_tensors(found.tensors).with_biases(found.biases)
            elif width != tensor.spec.bits:
                params = params.with_tensors({tensor.key: self.activations[tensor.key][width]})
                tensor = replace(tensor, spec=replace(tensor.spec, bits=width))
            tensors.append(tensor)
        placement = replace(self.placement, tensors=tuple(tensors))
        return simulate(self.float_model, placement, params)


def measure(
    float_model: FloatModel,
    recipe: Recipe,
    batches: ArgumentsOf,
    weight_widths: Callable[[str], Sequence[int]],
    activation_widths: Sequence[int],
    progress: Progress,
) -> tuple[Sensitivity, Solved]:
    """Measure each weight, and each activation of which several widths are asked for, alone.

    A weight is measured with the integers of its layer's least squares, with all activations
    quantized and all other weights in float; an activation with all weights in float.

    Args:
        float_model: The model.
        recipe: What holds at all widths: ranges, what is per channel, the seed.
        batches: The calibration images.
        weight_widths: Layer → the bits that its weight may have.
        activation_widths: The bits that activations may have; with one alone they are not measured.
        progress: Shows how far it is.
    """
    placement = placed(float_model, recipe)
    images = list(in_chunks(batches, FIT_IMAGES, IMAGES_AT_ONCE))
    found, seen = activation_ranges(
        simulate(float_model, placement, QuantParams()), batches, progress
    )
    params = QuantParams({t.key: found[t.key] for t in placement.of_role("activation")})
    settings = LayerwiseSettings(CACHE_BYTES, sampling_for(float_model.output_loss))
    context = Context(recipe.seed, progress)
    specs = {
        t.key: {
            bits: QSpec(bits, recipe.weights_symmetric(bits), t.spec.axis)
            for bits in weight_widths(t.layer)
        }
        for t in placement.of_role("weight")
    }
    layers = list(solve_widths(float_model, placement, params, images, specs, settings, context))
    # Tensors that no layer reads have 8 bits whatever is asked for.
    acts = [t for t in placement.of_role("activation") if t.key in seen and t.readers]
    narrower = {
        t.key: {
            bits: chosen(replace(t.spec, bits=bits), t.rule, seen[t.key])
            for bits in activation_widths
            if bits < t.spec.bits
        }
        for t in acts
    }
    solved = Solved(
        float_model, placement, params, {x.tensor.key: x.found for x in layers}, narrower
    )
    tried = sum(map(len, specs.values())) + sum(map(len, narrower.values()))
    run = _Losses(float_model, _judging(batches, float_model, tried))
    run.base = run.of(solved.simulation({}))
    measured = [_weight(x, solved, run) for x in progress.track(layers, "measuring layers")]
    if any(narrower.values()):
        measured += [
            _activation(t, solved, run) for t in progress.track(acts, "measuring activations")
        ]
    order = {tensor.key: i for i, tensor in enumerate(placement.tensors)}
    measured.sort(key=lambda one: order[one.key])
    fitted = sum(batch_size(args) for args in images)
    fitted -= len(held_out_images(fitted))
    return Sensitivity(tuple(measured), run.images, fitted), solved


def loss_of(float_model: FloatModel, batches: ArgumentsOf) -> Callable[[Simulation], float]:
    """The output loss of a simulation on the calibration images that no method fits to."""
    return _Losses(float_model, _judging(batches, float_model, 1)).of


def _judging(batches: ArgumentsOf, float_model: FloatModel, runs: int) -> list[tuple[Any, ...]]:
    """Images that methods hold out, as many as so many simulations can run on."""
    count = sum(batch_size(args) for args in batches)
    one = next(in_chunks(batches, 1, 1))
    wanted = _images_for(sum(layer_multiply_adds(float_model, one).values()), runs)
    parts = [(x.stop - x.start, is_held_out(i)) for i, x in enumerate(chunks(count))]
    size = max(1, max(length for length, _ in parts))
    held_out = [x for i, x in enumerate(in_chunks(batches, count, size)) if is_held_out(i)]
    few = held_out if held_out and count >= EVERY else in_chunks(batches, count, size)
    return list(in_chunks(few, wanted, IMAGES_AT_ONCE))


class _Losses:
    """The output loss of simulations on some images, less a base."""

    def __init__(self, float_model: FloatModel, chunks: Sequence[tuple[Any, ...]]) -> None:
        self.chunks, self.distances = chunks, float_model.output_loss.distances
        self.images = sum(batch_size(args) for args in chunks)
        with torch.no_grad():
            self.exact = [float_model.raw(*args) for args in chunks]
        self.base = 0.0

    @torch.no_grad()
    def of(self, simulation: Simulation) -> float:
        """Its mean over images."""
        total = 0.0
        for args, exact in zip(self.chunks, self.exact, strict=True):
            total += float(self.distances(simulation.raw(*args), exact, args).sum())
        return total / max(self.images, 1) - self.base


def _weight(layer: LayerWidths, solved: Solved, run: _Losses) -> LayerLoss:
    tensor, found = layer.tensor, layer.found
    simulation = solved.simulation({tensor.key: min(found)})
    losses = {}
    for bits, params in found.items():
        simulation.put(tensor.key, params.tensors[tensor.key])
        for name, value in params.biases.items():
            simulation.put_bias(name, value)
        losses[bits] = run.of(simulation)
    count = simulation.weight(tensor).numel()
    return LayerLoss(
        layer=tensor.layer,
        role="weight",
        key=tensor.key,
        readers=tensor.readers,
        count=count,
        channels=tensor.channels,
        losses=_falling(of_width(losses), of_width(layer.residual)),
        residual=dict(layer.residual),
    )


def _activation(tensor: QuantizedTensor, solved: Solved, run: _Losses) -> LayerLoss:
    losses = {tensor.spec.bits: 0.0}
    for bits in solved.activations[tensor.key]:
        losses[bits] = run.of(solved.simulation({tensor.key: bits}))
    return LayerLoss(
        layer=tensor.layer,
        role="activation",
        key=tensor.key,
        readers=tensor.readers,
        count=0,
        channels=tensor.channels,
        losses=_falling(losses, {}),
        residual={},
    )


def of_width(errors: Mapping[int, float]) -> dict[int, float]:
    """What is due to the bits of a weight, without what its layer loses at any width.

    A layer is solved for what it reads behind quantizers, and what that changes has nothing to do
    with its own width. The error of rounding falls by a factor of 4 with each bit, so the two
    widest tell what does not fall.

    Args:
        errors: Bits → losses, or squared errors.
    """
    if len(errors) < 2:
        return dict(errors)
    narrower, widest = sorted(errors)[-2:]
    rounding = max(errors[narrower] - errors[widest], 0.0) / (4.0 ** (widest - narrower) - 1)
    common = max(errors[widest] - rounding, 0.0)
    return {bits: max(error - common, 0.0) for bits, error in errors.items()}


def _falling(losses: Mapping[int, float], residual: Mapping[int, float]) -> dict[int, float]:
    """Losses that are at least 0 and do not grow with the bits.

    Small ones are lost in the noise of the measurement: none is less than what the residual makes
    of the loss at the fewest bits, to which it is in proportion where errors are small.
    """
    ordered = sorted(losses)
    fewest = ordered[0]
    found: dict[int, float] = {}
    floor = 0.0
    for bits in reversed(ordered):
        share = residual.get(bits, 0.0) / max(residual.get(fewest, 0.0), 1e-30) if residual else 0.0
        least = LEAST * max(losses[fewest], 0.0) * min(share, 1.0)
        floor = max(floor, losses[bits], least)
        found[bits] = floor
    return {bits: found[bits] for bits in ordered}


def _images_for(multiply_adds: float, runs: int) -> int:
    """On how many images so many simulations run, each of so many multiply-adds an image."""
    affordable = MULTIPLY_ADDS / max(1.0, runs * multiply_adds)
    return int(min(MOST_IMAGES, max(FEWEST_IMAGES, affordable)))
