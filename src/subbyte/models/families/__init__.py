"""The families of models, one file each; every file in this folder is one.

What stands at the top of a file is imported whenever names are listed or looked up. PyTorch and
networks are therefore imported inside of `load`, and helpers belong elsewhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol, cast

from subbyte.models.config import ModelConfig

if TYPE_CHECKING:
    from subbyte.models.spec import ModelSpec


class ModelFamily(Protocol):
    """What a file in this folder holds.

    Attributes:
        GROUP: Under which heading `subbyte models` lists the names.
        TASK: What the models are for.
    """

    GROUP: str
    TASK: Literal["classification", "detection"]

    def names(self) -> list[str]:
        """The names of the family's models, which no other family has."""

    def load(self, config: ModelConfig) -> ModelSpec:
        """The model that `config` names, with published weights, a checkpoint's or random ones.

        Raises:
            SubbyteError: The weights cannot be fetched, read or fitted.
        """


class Library(ModelFamily, Protocol):
    """The models of a library that may not be installed, whose names begin with its own."""

    def require(self) -> None:
        """Raise `SubbyteError` unless the library is installed."""

    def check(self, config: ModelConfig) -> None:
        """Refuse what can be seen to be wrong without PyTorch.

        Raises:
            SubbyteError: The library is not installed, or has no such model.
        """


LIBRARIES = ("libreyolo", "transformers", "timm")  # groups that come last, the largest at the end


@cache
def known() -> list[ModelFamily]:
    """All families by group, of one group the classifiers first; libraries' come last."""
    found = [
        cast("ModelFamily", importlib.import_module(f"{__name__}.{module.name}"))
        for module in pkgutil.iter_modules(__path__)
    ]
    return sorted(found, key=lambda family: (_place(family.GROUP), family.GROUP, family.TASK))


def _place(group: str) -> int:
    return LIBRARIES.index(group) if group in LIBRARIES else -1
