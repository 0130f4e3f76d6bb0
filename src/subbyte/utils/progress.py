"""How long work reports on itself: a caller passes a `Progress`, the default says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Anything that can wrap a loop and show how far it is."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` unchanged, showing `description` and the share of `total` that is done."""
        ...

    def working(self, description: str) -> AbstractContextManager[object]:
        """Show `description` while a block runs whose length nobody knows."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` unchanged."""
        yield from items

    def working(self, description: str) -> AbstractContextManager[object]:
        """Show nothing."""
        return nullcontext()
