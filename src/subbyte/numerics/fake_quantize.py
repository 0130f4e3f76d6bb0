"""The one fake-quantize module of the simulation, and its companion for biases."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
import torch
from torch import nn

from subbyte.errors import SubbyteError
from subbyte.numerics.histogram import Histogram
from subbyte.numerics.qspec import QSpec, along


class State(Enum):
    """What a fake-quantize module does with the tensor that passes through it."""

    OFF = "off"
    OBSERVE = "observe"
    QUANTIZE = "quantize"


class Clipping:
    """How many values a grid was given, and how many lay beyond its outermost levels.

    Beyond: by more than the half step that is rounded to them.
    """

    def __init__(self) -> None:
        self.values = 0
        self.clipped: torch.Tensor | int = 0  # on an accelerator a tensor, so that it need not wait

    def add(self, inside: torch.Tensor) -> None:
        """Count values, of which `inside` says whether they lie within the grid."""
        self.values += inside.numel()
        if inside.device.type == "cpu":  # where NumPy counts many times faster
            self.clipped += inside.numel() - int(np.count_nonzero(inside.numpy()))
        else:
            self.clipped = self.clipped + (inside.numel() - inside.count_nonzero())


class FakeQuantize(nn.Module):
    """Puts a tensor on an integer grid and takes it back to float.

    y = (clamp(round(x / scale) + zero_point, low, high) − zero_point) · scale, rounding half to
    even; by PyTorch's own kernels, with which it agrees to the last bit. In state OBSERVE the
    tensor passes unchanged and is recorded in `statistics`; in state OFF it passes unchanged.
    `offset`, where a method has set one, is added before rounding, so that any integer can be
    chosen for any weight. Scale and zero point have shape (1,) or (channels,). In state QUANTIZE
    the function `instead`, where there is one, takes the place of `quantize`: a weight that does
    not change need not be quantized for every batch, and one that is learned is soft. Where there
    is a `clipping`, values that are clipped are counted in it, on grids of one scale without an
    offset.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    offset: torch.Tensor | None

    def __init__(self, spec: QSpec, layer: str, channels: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.layer = layer
        self.state = State.OFF
        self.statistics: Histogram | None = None
        self.clipping: Clipping | None = None
        self.instead: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.sqnr_db: float | None = None  # of what it was calibrated on
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("offset", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Observe, quantize or pass `x`, which keeps its shape and type."""
        if self.state is State.QUANTIZE:
            return self.quantize(x) if self.instead is None else self.instead(x)
        if self.state is State.OBSERVE:
            self.observe(x)
        return x

    def observe(self, x: torch.Tensor) -> None:
        """Add `x` to the statistics.

        Raises:
            SubbyteError: `x` holds NaN or infinity.
        """
        if self.statistics is None:
            self.statistics = Histogram()
        try:
            self.statistics.update(x.detach())
        except ValueError:
            raise SubbyteError(
                f"the activations at layer '{self.layer}' hold NaN or infinity: "
                "check the calibration images and the model's weights"
            ) from None

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """`x` on the grid, as float."""
        spec = self.spec
        if self.offset is not None:
            return self._with_offset(x, self.offset)
        if spec.axis is None and self.clipping is not None:
            return self._counting(x, self.clipping)
        if spec.axis is None and not torch.is_grad_enabled() and x.dtype is torch.float32:
            return self._in_steps(x)
        if spec.axis is None:
            return torch.fake_quantize_per_tensor_affine(
                x, self.scale, self.zero_point, spec.low, spec.high
            )
        return torch.fake_quantize_per_channel_affine(
            x, self.scale, self.zero_point, spec.axis, spec.low, spec.high
        )

    def hold(self, value: torch.Tensor) -> None:
        """Give `value` in state QUANTIZE, whatever comes, as long as `instead` is not unset."""
        self.instead = lambda _: value

    def levels(self, x: torch.Tensor) -> torch.Tensor:
        """The integers of `x` on the grid, less their zero point, as float32."""
        return (self.quantize(x) / along(self.scale, x, self.spec.axis)).round()

    def _in_steps(self, x: torch.Tensor) -> torch.Tensor:
        """What PyTorch's kernel computes, operation by operation, and three times as fast."""
        zero_point = self.zero_point.to(x.dtype)
        level = torch.mul(x, self.scale.reciprocal()).round_().add_(zero_point)
        return level.clamp_(self.spec.low, self.spec.high).sub_(zero_point).mul_(self.scale)

    def _counting(self, x: torch.Tensor, clipping: Clipping) -> torch.Tensor:
        # What PyTorch's public function calls too; it keeps the first of the two results only.
        quantized, inside = torch._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            x,
            self.scale,
            self.zero_point,
            torch.ones(1, dtype=torch.int64, device=x.device),
            self.spec.low,
            self.spec.high,
        )
        clipping.add(inside)
        return quantized

    def _with_offset(self, x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        scale = along(self.scale, x, self.spec.axis)
        zero_point = along(self.zero_point, x, self.spec.axis)
        level = (x / scale + offset).round() + zero_point
        return (level.clamp(self.spec.low, self.spec.high) - zero_point) * scale


class BiasQuantize(nn.Module):
    """Puts a bias on the grid of the int32 sums it is added to: scale = s_input · s_weight.

    Integer kernels do this, so the simulation does. Active while both grids are.
    """

    LIMIT = 2**31 - 1

    def __init__(self, activation: FakeQuantize, weight: FakeQuantize) -> None:
        super().__init__()
        # A tuple, so that the two are not registered a second time as submodules of this one.
        self.grids = (activation, weight)
        self.exact = False  # while a bias is learned, it is not rounded

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        """`bias` (channels,), rounded where both grids are in state QUANTIZE."""
        if self.exact or any(grid.state is not State.QUANTIZE for grid in self.grids):
            return bias
        return self.levels(bias).to(bias.dtype) * self.scale.to(bias.dtype)

    @property
    def scale(self) -> torch.Tensor:
        """Shape (1,) or (channels,)."""
        return self.grids[0].scale * self.grids[1].scale

    def levels(self, bias: torch.Tensor) -> torch.Tensor:
        """The bias as integers (float64), clamped to what int32 holds."""
        return (bias.double() / self.scale.double()).round().clamp(-self.LIMIT, self.LIMIT)
