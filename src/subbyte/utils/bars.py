"""Progress bars in a terminal, and lines where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from operator import length_hint
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from subbyte.utils.lines import Lines
from subbyte.utils.progress import Progress

T = TypeVar("T")


class Bars:
    """A `Progress` that shows one bar on standard error while a loop runs."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`, showing how many of them are done and how long the rest will take.

        Args:
            items: What is looped over.
            description: What is done.
            total: How many items there are; `None`: their length, where they have one.
        """
        if total is None:
            total = length_hint(items, 0) or None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bars:
            yield from bars.track(items, total=total, description=description)

    def working(self, description: str) -> AbstractContextManager[object]:
        """Show `description` and that something moves, while a block runs."""
        return self.console.status(description) if self.console.is_terminal else nullcontext()


def shown() -> Progress:
    """What shows how far work is on standard error: bars in a terminal, else lines."""
    bars = Bars()
    return bars if bars.console.is_terminal else Lines()
