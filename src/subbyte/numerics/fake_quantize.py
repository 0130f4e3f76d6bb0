"""The modules by which a simulation quantizes: of activations, of weights and of biases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from subbyte.numerics.qparams import TensorQParams, dequantize
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.rounding import fake_quantize

Function = Callable[[torch.Tensor], torch.Tensor]


class Clipping:
    """How many values a quantizer was given, and how many lay beyond its outermost integers.

    Beyond: by more than the half step that is rounded to them.
    """

    def __init__(self) -> None:
        self.values = 0
        self.clipped: torch.Tensor | int = 0  # on an accelerator a tensor, so that it need not wait

    def add(self, inside: torch.Tensor) -> None:
        """Count values, of which `inside` says whether they lie within the range."""
        self.values += inside.numel()
        if inside.device.type == "cpu":  # where NumPy counts many times faster
            self.clipped += inside.numel() - int(np.count_nonzero(inside.numpy()))
        else:
            self.clipped = self.clipped + (inside.numel() - inside.count_nonzero())


class Quantizer(nn.Module):
    """What quantizers of activations and of weights have in common.

    Without parameters a tensor passes in float. A function can take the quantizer's place for a
    while: a parameter that is learned is not rounded as it will be in the end.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, spec: QSpec, layer: str, params: TensorQParams | None) -> None:
        super().__init__()
        self.spec = spec
        self.layer = layer
        self.sqnr_db: float | None = None
        self.replacement: Function | None = None
        self.has_params = False
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        if params is not None:
            self.put(params)

    def put(self, params: TensorQParams) -> None:
        """Take these parameters; what was there before is not changed in place."""
        self.scale = params.scale.detach().to(self.scale.device, copy=True)
        self.zero_point = params.zero_point.detach().to(self.scale.device, copy=True)
        self.sqnr_db, self.has_params = params.sqnr_db, True

    @property
    def params(self) -> TensorQParams | None:
        """The parameters as they are now; `None` without any."""
        if not self.has_params:
            return None
        return TensorQParams(self.scale, self.zero_point, None, self.sqnr_db)

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` gives where nothing takes its place."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` quantized and back in float, in its shape and type."""
        if self.replacement is not None:
            return self.replacement(x)
        return self.quantize(x) if self.has_params else x

    @contextmanager
    def replaced_by(self, function: Function) -> Iterator[None]:
        """While it lasts, `function` takes the quantizer's place."""
        before = self.replacement
        self.replacement = function
        try:
            yield
        finally:
            self.replacement = before


class FakeQuantize(Quantizer):
    """Quantizes an activation and takes it back to float.

    y = (clamp(round(x / scale) + zero_point, low, high) − zero_point) · scale, rounding half to
    even, as PyTorch's own kernels compute it, to the last bit. Where there is a `clipping`, values
    that are clipped are counted in it.
    """

    def __init__(self, spec: QSpec, layer: str, params: TensorQParams | None = None) -> None:
        super().__init__(spec, layer, params)
        self.clipping: Clipping | None = None

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """`x` quantized by the parameters of now."""
        if self.spec.rectified:
            x = x.relu()
        if self.clipping is not None:
            return self._counting(x, self.clipping)
        if not torch.is_grad_enabled() and x.dtype is torch.float32:
            return fake_quantize(x, self.scale, self.zero_point, self.spec)
        spec = self.spec
        return torch.fake_quantize_per_tensor_affine(
            x, self.scale, self.zero_point, spec.low, spec.high
        )

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


class QuantizedWeight(Quantizer):
    """Gives a weight as its integers stand for, whatever comes in; without parameters what comes.

    Integers are taken back to float once for all batches.
    """

    integers: torch.Tensor | None
    values: torch.Tensor | None

    def __init__(self, spec: QSpec, layer: str, params: TensorQParams | None = None) -> None:
        super().__init__(spec, layer, None)
        self.register_buffer("integers", None)
        self.register_buffer("values", None, persistent=False)
        if params is not None:
            self.put(params)

    def put(self, params: TensorQParams) -> None:
        """Take these parameters, the integers among them."""
        super().put(params)
        assert params.integers is not None
        self.integers = params.integers.to(self.scale.device)
        with torch.no_grad():
            own = TensorQParams(self.scale, self.zero_point, self.integers)
            self.values = dequantize(own, self.spec)

    @property
    def params(self) -> TensorQParams | None:
        """The parameters as they are now; `None` without any."""
        if not self.has_params:
            return None
        return TensorQParams(self.scale, self.zero_point, self.integers)

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """The weight, in the type of `x`."""
        assert self.values is not None
        return self.values.to(x.dtype)


class BiasQuantize(nn.Module):
    """Rounds a bias to the int32 sums that it is added to: scale = s_input · s_weight.

    Integer kernels do this, so the simulation does, where input and weight are both quantized.
    """

    LIMIT = 2**31 - 1

    def __init__(self, activation: Quantizer, weight: Quantizer) -> None:
        super().__init__()
        # A tuple, so that the two are not registered a second time as submodules of this one.
        self.operands = (activation, weight)
        self.exact = False  # while a bias is learned, it is not rounded

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        """`bias` (channels,), rounded where both operands have parameters."""
        if self.exact or not all(operand.has_params for operand in self.operands):
            return bias
        return self.integers(bias).to(bias.dtype) * self.scales(bias).to(bias.dtype)

    @property
    def scale(self) -> torch.Tensor:
        """Shape (1,) or (channels,), of one group where groups share the weight's scales."""
        return self.operands[0].scale * self.operands[1].scale

    def scales(self, bias: torch.Tensor) -> torch.Tensor:
        """The scale of each of a bias's values, (channels,)."""
        return self.scale.repeat(bias.numel() // self.scale.numel())

    def integers(self, bias: torch.Tensor) -> torch.Tensor:
        """The bias as integers (float64), clamped to what int32 holds."""
        return (bias.double() / self.scales(bias).double()).round().clamp(-self.LIMIT, self.LIMIT)
