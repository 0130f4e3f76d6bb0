"""The Hessian of a layer's squared error, summed up over samples in streams."""

from __future__ import annotations

from dataclasses import dataclass

import torch

STRIP = 512  # rows of a symmetric product that are computed together


@dataclass
class HessianAccumulator:
    """Sums over samples of inputs x and targets t of one layer, which is linear in x.

    They give H and C of the layer's squared error wᵀHw − 2wᵀC, and the error at any weights.

    Attributes:
        count: The sum of the samples' weights.
        x0: What was taken from inputs first, (groups, inputs): the mean of the first samples, so
            that large means leave differences their digits.
        t0: What was taken from targets first, (groups, outputs).
        x: Σ x, (groups, inputs).
        t: Σ t, (groups, outputs).
        xx: Σ xxᵀ, (groups, inputs, inputs).
        xt: Σ xtᵀ, (groups, inputs, outputs).
        tt: Σ t², (groups, outputs).
    """

    count: float
    x0: torch.Tensor
    t0: torch.Tensor
    x: torch.Tensor
    t: torch.Tensor
    xx: torch.Tensor
    xt: torch.Tensor
    tt: torch.Tensor

    @classmethod
    def none(cls, like: torch.Tensor) -> HessianAccumulator:
        """No samples yet, of a layer whose weight is like this: (groups, outputs, inputs)."""
        groups, outputs, inputs = like.shape
        new = like.new_zeros
        return cls(
            0,
            new(groups, inputs),
            new(groups, outputs),
            new(groups, inputs),
            new(groups, outputs),
            new(groups, inputs, inputs),
            new(groups, inputs, outputs),
            new(groups, outputs),
        )

    def add(self, x: torch.Tensor, t: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add samples.

        Args:
            x: (samples, groups, inputs).
            t: (samples, groups, outputs).
            weights: What a squared error in each sample counts, (samples,); `None`: all alike.
        """
        if not self.count and len(x):
            self.x0, self.t0 = x.mean(0), t.mean(0)
        x, t = x - self.x0, t - self.t0
        factors = x.new_ones(len(x)) if weights is None else weights
        weighed = x * factors[:, None, None]
        self.count += float(factors.sum())
        self.x += weighed.sum(0)
        self.t += (t * factors[:, None, None]).sum(0)
        self.tt += (t.square() * factors[:, None, None]).sum(0)
        x, t, weighed = (rows.transpose(0, 1) for rows in (x, t, weighed))
        self._add_squares(weighed, x)
        self.xt.baddbmm_(weighed.transpose(1, 2), t)

    def _add_squares(self, weighed: torch.Tensor, x: torch.Tensor) -> None:
        """Add Σ xxᵀ of some samples; of many inputs only what differs, as it is symmetric."""
        groups, inputs = self.x.shape
        if groups > 1 or inputs < 2 * STRIP:
            self.xx.baddbmm_(weighed.transpose(1, 2), x)
            return
        whole, weighed, x = self.xx[0], weighed[0], x[0]
        for start in range(0, inputs, STRIP):
            end = min(start + STRIP, inputs)
            strip = whole[start:end, start:].addmm_(weighed[:, start:end].T, x[:, start:])
            whole[end:, start:end] = strip[:, end - start :].T

    def loss(self, weights: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Mean over samples of (w · x + b − t)², (groups, outputs).

        Args:
            weights: w, (groups, outputs, inputs).
            bias: b, (groups, outputs); `None` without one.
        """
        n = self.count or 1
        columns = weights.transpose(1, 2)
        found = ((self.xx @ columns - 2 * self.xt) * columns).sum(1) + self.tt
        moved = (weights @ self.x0[..., None])[..., 0] - self.t0
        moved = moved if bias is None else moved + bias
        products = (columns * self.x[..., None]).sum(1)
        return (found + 2 * moved * (products - self.t)) / n + moved.square() * (self.count / n)

    def normal(self, centred: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """H, (groups, inputs, inputs), and C, (groups, inputs, outputs), of the normal equations.

        With them the loss is wᵀHw − 2wᵀC and a constant.

        Args:
            centred: There is a bias, which is always the best one for the weights.
        """
        n = self.count or 1
        h, c, mean, target = self.xx / n, self.xt / n, self.x / n, self.t / n
        h = h - mean[:, :, None] * mean[:, None, :]
        c = c - mean[:, :, None] * target[:, None, :]
        if centred:
            return h, c
        mean, target = mean + self.x0, target + self.t0
        return h + mean[:, :, None] * mean[:, None, :], c + mean[:, :, None] * target[:, None, :]

    def bias(self, weights: torch.Tensor) -> torch.Tensor:
        """The bias with which the mean output is the mean target, (groups, outputs)."""
        n = self.count or 1
        mean, target = self.x0 + self.x / n, self.t0 + self.t / n
        return target - (weights @ mean[..., None])[..., 0]
