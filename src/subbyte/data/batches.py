"""Batches as users bring them: what goes into the model, and what should come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, IterableDataset

from subbyte.errors import SubbyteError
from subbyte.utils.arguments import Arguments, could_be_images, image_lists
from subbyte.utils.precision import as_float32

_FORMS = (
    "a tensor, a list of images (each a tensor [C, H, W]), a tuple of the model's arguments "
    "(tensors, or lists and dictionaries of them), "
    'a pair (inputs, targets) or {"inputs": …, "targets": …}'
)


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        args: The model's positional arguments.
        targets: The targets, if they are known.
        size: How many images it holds.
    """

    args: tuple[Any, ...]
    targets: Any | None
    size: int


@dataclass(frozen=True)
class ArgumentsOf:
    """The positional arguments of each batch, on a device; can be walked again.

    Attributes:
        batches: Batches in any form that `read_batch` reads.
        device: Where the arguments go.
        float32: Whether floats in them become float32.
        images: The positions of arguments that are lists of images; `None`: their form decides.
        change: What becomes of the arguments; `None`: they stay.
    """

    batches: Any
    device: torch.device
    float32: bool = False
    images: frozenset[int] | None = None
    change: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self.labelled():
            yield batch.args

    def __len__(self) -> int:
        return len(self.batches)

    def labelled(self) -> Iterator[Batch]:
        """The same batches, each with its targets, which stay where they are.

        A detector's targets, dictionaries, get the `size` of their images, height and width.
        """
        for raw in self.batches:
            batch = self._read(raw)
            targets = batch.targets
            if _are_dictionaries(targets) and batch.args:
                images = zip(batch.args[0], cast("Any", targets), strict=True)
                targets = [{**target, "size": tuple(x.shape[-2:])} for x, target in images]
            yield replace(batch, args=self._taken(batch.args), targets=targets)

    def _read(self, raw: object) -> Batch:
        batch = read_batch(raw)
        if self.images is None:
            return batch
        args = Arguments(batch.args, self.images)
        size = _size(args) or batch.size
        _check_count(batch.targets, size, {size})
        return replace(batch, args=args, size=size)

    def _taken(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        args = to_device(args, self.device)
        taken: tuple[Any, ...] = as_float32(args) if self.float32 else args
        return taken if self.change is None else self.change(taken)


def to_device(args: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """`args` with every tensor in it on `device`."""
    moved: tuple[Any, ...] = pytree.tree_map(
        lambda x: x.to(device) if isinstance(x, Tensor) else x, args
    )
    return moved


def read_batch(raw: object) -> Batch:
    """Read a batch in any of its forms.

    A tensor or a list of images is the model's one argument, a tuple holds its positional
    arguments, and a mapping has "inputs" (one of these) and perhaps "targets". A pair, tuple or
    list, whose second part is an integer vector as long as the batch or a list of target
    dictionaries is (inputs, targets); a tuple of images in it counts as a list of images.
    Raises `SubbyteError` if `raw` is none of these, is empty, or has another number of targets
    than of images.
    """
    inputs, targets = _open_mapping(raw) if isinstance(raw, Mapping) else _open_pair(raw)
    args = _arguments(inputs)
    size = _size(args)
    if size is None:
        raise SubbyteError(f"a batch is {_describe(raw)}, which holds no images: give {_FORMS}")
    if size == 0:
        raise SubbyteError("a batch is empty: every batch must hold at least one image")
    _check_count(targets, size, {size} if _are_dictionaries(targets) else _counts(args))
    return Batch(args, targets, size)


def check_calibration(calibration: object) -> Iterable[object]:
    """Return `calibration` if it is an iterable of batches that can be walked again.

    Raises `SubbyteError` if it is an iterator, one single batch, a data set without batches, not
    iterable, or empty.
    """
    if isinstance(calibration, Iterator):
        raise SubbyteError(
            f"calibration is {_describe(calibration)}, which can be walked once only: "
            "make it a list"
        )
    if _is_one_batch(calibration):
        raise SubbyteError(
            f"calibration is {_describe(calibration)}, a single batch: put it into a list"
        )
    if isinstance(calibration, Dataset) and not isinstance(calibration, IterableDataset):
        raise SubbyteError(
            "calibration is a Dataset, which has no batches: put it into a DataLoader"
        )
    if isinstance(calibration, str | bytes) or not hasattr(type(calibration), "__iter__"):
        raise SubbyteError(
            f"calibration is {_describe(calibration)}: give a list of batches or a DataLoader"
        )
    batches = cast("Iterable[object]", calibration)
    if _is_empty(batches):
        raise SubbyteError("calibration is empty: give at least one batch")
    return batches


def _open_mapping(raw: Mapping[Any, Any]) -> tuple[object, object]:
    strangers = [str(key) for key in raw if key not in ("inputs", "targets")]
    if "inputs" not in raw or strangers:
        raise SubbyteError(
            f'a batch is {_describe(raw)}: name the model\'s inputs "inputs" and, if they are '
            'known, the targets "targets", and nothing else'
        )
    return raw["inputs"], _labels(raw.get("targets"))


def _open_pair(raw: object) -> tuple[object, object]:
    if not isinstance(raw, list | tuple) or len(raw) != 2 or could_be_images(raw):
        return raw, None
    inputs, targets = raw
    if could_be_images(inputs):
        inputs = list(inputs)
        if _are_integers(targets):
            return inputs, torch.tensor(targets)
    if isinstance(targets, np.ndarray):
        targets = _labels(targets)
    first = inputs[0] if isinstance(inputs, tuple) and inputs else inputs
    # Two batches that each hold a dictionary, the model's argument, are no pair.
    is_pair = (_are_dictionaries(targets) and not isinstance(first, Mapping)) or (
        _is_integer_vector(targets) and len(targets) in _counts((first,))
    )
    return (inputs, targets) if is_pair else (raw, None)


def _labels(targets: object) -> object:
    """Whole numbers, in a list or an array, as a tensor; other targets as they are."""
    if isinstance(targets, np.ndarray):
        return torch.as_tensor(targets) if targets.dtype.kind in "iu" else targets
    return torch.tensor(targets) if _are_integers(targets) and targets else targets


def _arguments(inputs: object) -> tuple[Any, ...]:
    if isinstance(inputs, tuple):
        return inputs
    if isinstance(inputs, Tensor) or (isinstance(inputs, list) and could_be_images(inputs)):
        return (inputs,)
    # A DataLoader over a TensorDataset of inputs alone gives lists of one tensor.
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], Tensor):
        return (inputs[0],)
    raise SubbyteError(f"a batch is or has as inputs {_describe(inputs)}: give {_FORMS}")


def _size(args: tuple[Any, ...]) -> int | None:
    """How many images there are: in a list of them, or as the first tensor's first length."""
    lists = image_lists(args)
    sizes = (len(arg) if i in lists else _leading(arg) for i, arg in enumerate(args))
    return next((size for size in sizes if size is not None), None)


def _counts(args: tuple[Any, ...]) -> set[int | None]:
    """How many images there can be, whether lists of images are some or not."""
    return {_size(args), _size(Arguments(args, ()))}


def _check_count(targets: object, size: int, possible: set[int | None]) -> None:
    known = _length(targets)
    if known is not None and known not in possible:
        raise SubbyteError(f"a batch has {size} images and {known} targets: give one for each")


def _leading(argument: object) -> int | None:
    """The first length of the first tensor in an argument."""
    leaves = pytree.tree_leaves(argument)
    return next((len(x) for x in leaves if isinstance(x, Tensor) and x.dim() > 0), None)


def _length(value: object) -> int | None:
    if isinstance(value, Tensor):
        return len(value) if value.dim() > 0 else None
    return len(value) if isinstance(value, list | tuple) else None


def _are_integers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(number) is int for number in value)


def _are_dictionaries(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(target, Mapping) for target in value)
    )


def _is_integer_vector(value: object) -> bool:
    if not isinstance(value, Tensor) or value.dim() != 1 or value.dtype == torch.bool:
        return False
    return not value.is_floating_point() and not value.is_complex()


def _is_one_batch(value: object) -> bool:
    if isinstance(value, Tensor | Mapping | np.ndarray):
        return True
    return isinstance(value, list | tuple) and _open_pair(value)[0] is not value


def _is_empty(batches: Iterable[object]) -> bool:
    if isinstance(batches, Sized):
        try:  # rather than take a batch, which a shuffling loader would pay for with random numbers
            return len(batches) == 0
        except TypeError:  # a loader over a data set of unknown length
            pass
    return next(iter(batches), batches) is batches


def _describe(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in value)
        return f"a mapping with {'the keys ' + keys if keys else 'no keys'}"
    if isinstance(value, list | tuple):
        kinds = ", ".join(sorted({_kind(part) for part in value}))
        return f"a {kind} of {len(value)} ({kinds})" if value else f"an empty {kind}"
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _kind(part: object) -> str:
    return f"{part.dim()}-dimensional tensor" if isinstance(part, Tensor) else type(part).__name__
