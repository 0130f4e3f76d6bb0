"""How work reports its progress: a caller passes a `Progress`; the default shows nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Anything that can wrap a loop and show how far it is."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` unchanged, showing how far the loop is.

        Args:
            items: What is looped over.
            description: What is done, as "observing activations".
            total: How many items there are; `None`: their length, where they have one.
        """
        ...

    def working(self, description: str) -> AbstractContextManager[object]:
        """Show `description` while a block runs whose length nobody knows."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` unchanged.

        Args:
            items: What is looped over.
            description: Not read.
            total: Not read.
        """
        yield from items

    def working(self, description: str) -> AbstractContextManager[object]:
        """Show nothing."""
        return nullcontext()
