"""Which of a network's outputs are read, and how they are called in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from subbyte.detection import Outputs
from subbyte.errors import SubbyteError, unknown


def tensors_of(raw: Any) -> list[Tensor]:
    """All tensors of an output, in their order."""
    return [leaf for leaf in pytree.tree_leaves(raw) if isinstance(leaf, Tensor)]


def taken(outputs: Outputs, raw: Any) -> list[Tensor]:
    """The tensors that `outputs.take` names, or all.

    Raises:
        SubbyteError: There is no such output.
    """
    tensors = tensors_of(raw)
    if outputs.take is None:
        return tensors
    return [tensors[number] for number in numbers(outputs.take, raw)]


def numbers(take: Sequence[int | str], raw: Any) -> list[int]:
    """The numbers of outputs among all tensors of `raw`, by their numbers or names.

    Raises:
        SubbyteError: There is no such output.
    """
    tensors = tensors_of(raw)
    found = []
    for asked in take:
        if isinstance(asked, int):
            if not -len(tensors) <= asked < len(tensors):
                raise SubbyteError(
                    f"outputs.take has {asked}, and the network gives {len(tensors)} tensors, "
                    f"{shapes(tensors)}: give numbers from 0 to {len(tensors) - 1}"
                )
            found.append(asked % len(tensors))
            continue
        if not isinstance(raw, Mapping):
            raise SubbyteError(
                f"outputs.take has the name '{asked}', and the network gives no dictionary but "
                f"{shapes(tensors)}: give numbers from 0 to {len(tensors) - 1}"
            )
        if not isinstance(raw.get(asked), Tensor):
            named = [str(key) for key, value in raw.items() if isinstance(value, Tensor)]
            raise unknown("output", asked, named)
        found.append(next(i for i, tensor in enumerate(tensors) if tensor is raw[asked]))
    return found


def shapes(tensors: Sequence[Tensor]) -> str:
    """The shapes of tensors as they stand in a sentence, with N for the batch."""
    return ", ".join(str(["N", *x.shape[1:]]).replace("'", "") for x in tensors) or "no tensor"
