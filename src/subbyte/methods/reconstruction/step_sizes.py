"""Learned step sizes of activations (Esser et al. 2020, LSQ), quantized at random (QDrop)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.numerics.qparams import TensorQParams
from subbyte.numerics.straight_through import gradients, on_steps

LEAST = 1e-8  # no step size is below


class Masks:
    """Random masks, each a part of a long one from a random place on: drawing them anew is slow."""

    def __init__(self, share: float, generator: torch.Generator, device: torch.device) -> None:
        self.share, self.generator, self.device = share, generator, device
        self.pool = torch.zeros(0, device=device)

    def like(self, x: torch.Tensor) -> torch.Tensor:
        """A mask in the shape of `x`, 1 for the `share` of it and 0 elsewhere."""
        size = x.numel()
        if len(self.pool) < 2 * size:
            drawn = torch.rand(3 * size, generator=self.generator) < self.share
            self.pool = drawn.to(x.device, x.dtype)
        limit = len(self.pool) - size
        start = int(torch.randint(limit, (), generator=self.generator))
        return self.pool[start : start + size].view(x.shape)


class StepSizes:
    """The step sizes of some activations as one vector that can be learned.

    A quantizer then gives x quantized where a mask is 1, and x elsewhere (Wei et al. 2022,
    QDrop, equation 8), or everywhere the one (no `masks`). Step sizes get the gradient of Esser et
    al. 2020, equation 3, scaled by 1 / √(values · highest integer).
    """

    def __init__(self, quantizers: Sequence[FakeQuantize], masks: Masks | None) -> None:
        self.quantizers, self.masks = quantizers, masks
        # Read once: a GPU would wait.
        self.zero_points = [int(quantizer.zero_point) for quantizer in quantizers]
        self.variable = torch.cat([quantizer.scale for quantizer in quantizers])
        self.gradient = torch.zeros_like(self.variable)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, gradients of the step sizes are gathered in `gradient`."""
        with ExitStack() as stack:
            for i, quantizer in enumerate(self.quantizers):
                stack.enter_context(quantizer.replaced_by(_Learned(self, i, quantizer)))
            yield

    def apply(self) -> None:
        """Give each quantizer its step size."""
        self.variable.clamp_(min=LEAST)
        for i, quantizer in enumerate(self.quantizers):
            scale = self.variable[i : i + 1]
            quantizer.put(TensorQParams(scale, quantizer.zero_point, None, quantizer.sqnr_db))


class _Learned:
    """What one quantizer computes while its step size is learned."""

    def __init__(self, steps: StepSizes, index: int, quantizer: FakeQuantize) -> None:
        self.steps, self.index, self.quantizer = steps, index, quantizer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return self.quantizer.quantize(x)
        # An input that needs no gradient would have none computed for the step size either.
        handle = self.steps.variable.new_zeros((), requires_grad=True)
        output: torch.Tensor = _FakeQuantize.apply(x, handle, self)
        return output


class _FakeQuantize(torch.autograd.Function):
    """Straight through where nothing is clipped or nothing quantized; the step size's on the side.

    With y the result and m the mask, y − x is m · (Q(x) − x), so that the gradients are those of a
    quantizer of all values, with y and m in place of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, handle: torch.Tensor, learned: _Learned) -> torch.Tensor:
        quantizer, masks = learned.quantizer, learned.steps.masks
        zero_point = learned.steps.zero_points[learned.index]
        low, high = quantizer.spec.low - zero_point, quantizer.spec.high - zero_point
        y, clipped = on_steps(x, quantizer.scale, low, high)
        if masks is not None:
            mask = masks.like(x)
            y = torch.lerp(x, y, mask)
            clipped.mul_(mask)
        ctx.save_for_backward(x, y, clipped)
        ctx.learned = learned
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, y, clipped = ctx.saved_tensors
        learned: _Learned = ctx.learned
        quantizer = learned.quantizer
        passed, total = gradients(gradient, x, y, clipped)
        factor = 1 / math.sqrt(x.numel() * max(quantizer.spec.high, 1))
        learned.steps.gradient[learned.index] += total / quantizer.scale[0] * factor
        return passed, None, None
