"""AdaRound's soft rounding (Nagel et al. 2020, "Up or Down? Adaptive Rounding …")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from subbyte.numerics.fake_quantize import Function, QuantizedWeight
from subbyte.numerics.qparams import TensorQParams, weight_of_signed
from subbyte.numerics.qspec import along

STRETCH = (-0.1, 1.1)  # γ and ζ of equation 23


class Rounding:
    """For every weight of some tensors a number h in [0, 1]: how far it is rounded up.

    A weight is (clamp(floor(w / s) + h + z, lowest, highest) − z) · s, with h(v) = clamp(σ(v) ·
    (ζ − γ) + γ, 0, 1) of equation 23. All weights lie in one vector, so that a step is a few
    operations however many tensors there are, and what they have to do with each other, the loss's
    gradient in h and the regularizer's, is written out and not left to autograd.
    """

    def __init__(self, weights: Sequence[tuple[torch.Tensor, QuantizedWeight]]) -> None:
        self.tensors = weights
        parts = [_split(weight, quantizer) for weight, quantizer in weights]
        self.base, self.span, rest = (torch.cat(part) for part in zip(*parts, strict=True))
        low, high = STRETCH
        self.variable = torch.logit((rest - low) / (high - low))  # so that h is the rest
        self.soft = self.base.clone()
        self.weights = self._parts(self.soft)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, the quantizers give the soft weights, those of the last `renew`."""
        with ExitStack() as stack:
            for i, (_, quantizer) in enumerate(self.tensors):
                stack.enter_context(quantizer.replaced_by(self._giving(i)))
            yield

    def renew(self) -> list[torch.Tensor]:
        """The soft weights as they are now, in the tensors' shapes; gradients gather in `soft`."""
        self.soft = torch.addcmul(self.base, self.span, self._h()).requires_grad_()
        self.weights = self._parts(self.soft)
        return self.weights

    def gradient(self, strength: float, beta: float) -> torch.Tensor:
        """Of loss + strength · Σ (1 − |2h − 1|^β) in the variable, the loss's in `soft` known.

        Equations 21 and 24; `strength` 0 leaves the regularizer out.
        """
        low, high = STRETCH
        sigmoid = self.variable.sigmoid()
        h = sigmoid * (high - low) + low
        inside = (h > 0) & (h < 1)
        gradient = torch.zeros_like(h) if self.soft.grad is None else self.soft.grad * self.span
        if strength:
            away = 2 * h - 1
            pull = away.abs().pow_(beta - 1).mul_(away.sign_()).mul_(2 * beta * strength)
            gradient = gradient - pull
        slope = sigmoid * (1 - sigmoid) * (high - low)
        return gradient.mul_(slope).mul_(inside)

    def rounded(self) -> list[TensorQParams]:
        """The parameters with which every weight goes where it has tended to."""
        up = (self._h() >= 0.5).to(self.base.dtype)
        chosen = self._parts(torch.addcmul(self.base, self.span, up))
        found = []
        for part, (_, quantizer) in zip(chosen, self.tensors, strict=True):
            scale, zero_point, spec = quantizer.scale, quantizer.zero_point, quantizer.spec
            signed = part / along(scale, part, spec.axis)
            found.append(weight_of_signed(signed, scale, zero_point, spec))
        return found

    def _parts(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Numbers of all tensors, each tensor's in its shape."""
        sizes = [weight.numel() for weight, _ in self.tensors]
        parts = zip(torch.split(flat, sizes), self.tensors, strict=True)
        return [part.view(weight.shape) for part, (weight, _) in parts]

    def _giving(self, number: int) -> Function:
        """What takes the place of a tensor's quantizer."""
        return lambda _: self.weights[number]

    def _h(self) -> torch.Tensor:
        low, high = STRETCH
        return self.variable.sigmoid().mul_(high - low).add_(low).clamp_(0, 1)


def _split(weight: torch.Tensor, quantizer: QuantizedWeight) -> tuple[torch.Tensor, ...]:
    """A weight rounded down, what rounding up adds, and how far up it lies; all flat.

    Beyond the outermost integers both are the end, and rounding up adds nothing.
    """
    spec = quantizer.spec
    scale = along(quantizer.scale, weight, spec.axis)
    zero_point = along(quantizer.zero_point, weight, spec.axis)
    exact = weight / scale
    floor = exact.floor()
    down = (floor + zero_point).clamp(spec.low, spec.high)
    up = (floor + 1 + zero_point).clamp(spec.low, spec.high)
    base, span = (down - zero_point) * scale, (up - down) * scale
    return base.flatten(), span.flatten(), (exact - floor).flatten()
