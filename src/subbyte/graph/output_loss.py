"""How far a model's outputs are from those of the float model, and what an error in them costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from torch.utils import _pytree as pytree

from subbyte.graph.batch import batch_size, in_batch

STANDARD_ERRORS = 1.0  # by which a loss has grown where that is not chance
NONE = 1e-12  # energy that counts as none

Args = tuple[Any, ...]  # the positional arguments of a batch


@dataclass(frozen=True)
class Term:
    """Some values that a user reads from a model's outputs.

    Attributes:
        values: Of any shape; of outputs that are one row an image, (images, …).
        expected: The float model's, in the same shape.
        costs: What a squared error in each costs; broadcasts to the shape of `values`.
    """

    values: Tensor
    expected: Tensor
    costs: Tensor

    @property
    def errors(self) -> Tensor:
        """The squared error of each value, by what it costs."""
        return (self.values - self.expected).square() * self.costs

    @property
    def energy(self) -> Tensor:
        """The sum of the float model's squared values, by what errors in them cost."""
        return (self.expected.square() * self.costs).sum()


# Outputs, the float model's for the same images, and the images: the outputs' terms; `None`:
# nothing is known of these outputs.
Terms = Callable[[Any, Any, Args], list[Term] | None]


@dataclass(frozen=True)
class OutputLoss:
    """What a task says of errors in outputs: everything that asks what an error costs asks this.

    Attributes:
        distances: `(outputs, targets, args)` → (images,): how far the outputs for each image are
            from the float model's, `targets`. Differentiable. All tensors have a row an image.
        mean: The same → a scalar: the mean over images; of outputs in any shape.
        random_sum: `(outputs, args, images)` → a scalar whose gradient is random, and whose squared
            gradient in the outputs is in expectation what a squared error there costs (Hutchinson
            1990). `images` are the images' numbers, on which what is drawn depends.
        by_column: Whether each column of some outputs is to be judged by itself, because nothing is
            known of them.
        energy: `(targets, args)` → a scalar: what `mean` divides errors by, so that the means
            of batches with much and with little in them can be added; `None`: it does not.
    """

    distances: Callable[[Any, Any, Args], Tensor]
    mean: Callable[[Any, Any, Args], Tensor]
    random_sum: Callable[[Any, Args, range], Tensor]
    by_column: Callable[[Any], bool] = lambda _: False
    energy: Callable[[Any, Args], Tensor] | None = None

    @property
    def of_objects(self) -> bool:
        """Whether it says of a detector what its objects are; all else is background."""
        return self.energy is not None


def squared(terms: Terms) -> OutputLoss:
    """The loss that is the sum of all terms' squared errors, by the energy of the float ones.

    Args:
        terms: What a user reads from outputs, and what errors in it cost. Where it knows nothing,
            the loss is that of `loss_of_outputs`.
    """
    unknown = loss_of_outputs()

    def distances(outputs: Any, targets: Any, args: Args) -> Tensor:
        found = terms(outputs, targets, args)
        if found is None:
            return unknown.distances(outputs, targets, args)
        errors = torch.stack([term.errors.flatten(1).sum(1) for term in found]).sum(0)
        return errors * (len(errors) / _energy_of(found))

    def mean(outputs: Any, targets: Any, args: Args) -> Tensor:
        found = terms(outputs, targets, args)
        if found is None:
            return unknown.mean(outputs, targets, args)
        return torch.stack([term.errors.sum() for term in found]).sum() / _energy_of(found)

    def drawn(outputs: Any, args: Args, images: range) -> Tensor:
        found = terms(outputs, pytree.tree_map(_detached, outputs), args)
        if found is None:
            return unknown.random_sum(outputs, args, images)
        return signed_sum([term.values * term.costs.sqrt() for term in found], images)

    def energy(targets: Any, args: Args) -> Tensor:
        found = terms(targets, targets, args)
        return torch.tensor(float(batch_size(args))) if found is None else _energy_of(found)

    return OutputLoss(distances, mean, drawn, energy=energy)


def loss_of_outputs() -> OutputLoss:
    """The loss of a model of which nothing is known but what it gives.

    Of logits, one matrix (images, classes): the Kullback-Leibler divergence of the softmax of the
    float model's rows from that of these. Of anything else: the squared error relative to the
    energy of the float model's outputs, summed over the tensors. All outputs cost alike.
    """

    def distances(outputs: Any, targets: Any, args: Args) -> Tensor:
        del args
        if is_logits(targets):
            return _divergence(outputs, targets, "none").sum(1)
        errors = [
            (output - target).square().flatten(1).sum(1) * (len(target) / _energy(target))
            for output, target in floats(outputs, targets)
        ]
        return torch.stack(errors).sum(0)

    def mean(outputs: Any, targets: Any, args: Args) -> Tensor:
        del args
        if is_logits(targets):
            return _divergence(outputs, targets, "batchmean")
        errors = [
            (output - target).square().sum() / _energy(target)
            for output, target in floats(outputs, targets)
        ]
        return torch.stack(errors).sum()

    def drawn(outputs: Any, args: Args, images: range) -> Tensor:
        del args
        return signed_sum([output for output, _ in floats(outputs, outputs)], images)

    return OutputLoss(distances, mean, drawn, by_column=lambda outputs: not is_logits(outputs))


def image_losses(
    loss: OutputLoss, images: Iterable[Args], targets: Iterable[Any], outputs: Iterable[Any]
) -> Tensor | None:
    """The distance of each image's outputs from the float model's, on the CPU.

    Args:
        loss: The output loss.
        images: The arguments of each chunk of images.
        targets: The float model's outputs for each.
        outputs: Those that are judged; they may be computed as they are asked for.

    Returns:
        (images,); `None` where outputs are not one row an image.
    """
    losses = []
    for args, expected, found in zip(images, targets, outputs, strict=True):
        size = batch_size(args)
        leaves = [*pytree.tree_leaves(expected), *pytree.tree_leaves(found)]
        if not all(in_batch(leaf, size) for leaf in leaves):
            return None
        losses.append(loss.distances(found, expected, args).cpu())
    return torch.cat(losses)


def has_grown(before: Tensor, after: Tensor) -> bool:
    """Whether the same images' losses have grown, and by more than chance.

    Few images have most of the loss, so that a mean over some hundred is noisy.
    """
    if not bool(torch.isfinite(after).all()):
        return True
    more = (after - before).double()
    if len(more) < 2:
        return bool(more.sum() > 0)
    return bool(more.mean() > STANDARD_ERRORS * more.std() / len(more) ** 0.5)


def is_logits(outputs: Any) -> bool:
    """Whether outputs are those of a classifier: one matrix, (images, classes)."""
    return isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1


def signed_sum(values: Iterable[Tensor], images: range) -> Tensor:
    """The sum of all numbers, each with a random sign that depends on its image alone.

    Args:
        values: Tensors with a row for each image, or of any shape.
        images: The numbers of the images.
    """
    generators = [torch.Generator().manual_seed(image) for image in images]
    total = torch.zeros(())
    for value in values:
        total = total.to(value) + (value * _signs(value, generators)).sum()
    return total


def by_column(leaf: Tensor) -> Tensor:
    """A tensor with one row for each of its columns: of maps a channel, else the last dimension.

    Of three dimensions the shorter of the last two: columns of boxes are fewer than boxes.
    """
    if leaf.dim() < 2:
        return leaf.reshape(1, -1)
    return leaf.movedim(_column_axis(leaf), 0).flatten(1)


def floats(outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
    """The tensors of floating point in outputs, each with the one that it is compared with."""
    pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(targets), strict=True)
    return [
        (output, target)
        for output, target in pairs
        if isinstance(target, Tensor) and target.is_floating_point()
    ]


def _column_axis(leaf: Tensor) -> int:
    if leaf.dim() == 3:
        return 1 if leaf.shape[1] < leaf.shape[2] else 2
    return 1 if leaf.dim() in (2, 4) else leaf.dim() - 1


def _energy_of(terms: Iterable[Term]) -> Tensor:
    return torch.stack([term.energy for term in terms]).sum().clamp(min=NONE)


def _energy(target: Tensor) -> Tensor:
    return target.square().sum().clamp(min=NONE)


def _divergence(outputs: Any, targets: Tensor, reduction: str) -> Tensor:
    expected, found = targets.log_softmax(1), outputs.log_softmax(1)
    return kl_div(found, expected, reduction=reduction, log_target=True)


def _signs(leaf: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Random signs in the shape of `leaf`, one generator an image where it has a row for each."""
    if not in_batch(leaf, len(generators)):
        return (torch.randint(0, 2, leaf.shape, generator=generators[0]) * 2 - 1).to(leaf)
    rows = [torch.randint(0, 2, leaf.shape[1:], generator=own) for own in generators]
    return (torch.stack(rows) * 2 - 1).to(leaf)


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
