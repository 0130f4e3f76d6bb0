"""Progress as lines, where nobody looks at a terminal: in CI, under nohup, in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from operator import length_hint
from typing import TypeVar

T = TypeVar("T")
EVERY = 60.0  # seconds between lines
SLOW = 10.0  # an item that takes as long, such as a block, has a line of its own


class Lines:
    """A `Progress` that writes a line a minute, or for each item that takes long.

    Args:
        write: Takes a line; `None`: standard error.
        every: Seconds between lines.
        slow: From how many seconds on an item has its own line.
        clock: Seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None] | None = None,
        every: float = EVERY,
        slow: float = SLOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.write, self.every, self.slow, self.clock = write or _to_stderr, every, slow, clock
        self.last = clock()

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`, writing now and then how many are done and how long the rest will take.

        Args:
            items: What is looped over.
            description: What is done.
            total: How many items there are; `None`: their length, where they have one.
        """
        total = length_hint(items, 0) if total is None else total
        started = before = self.clock()
        for done, item in enumerate(items, 1):
            yield item
            now = self.clock()
            if now - self.last >= self.every or now - before >= self.slow:
                self.say(f"{description}: {_share(done, total, now - started)}", now)
            before = now

    def working(self, description: str) -> AbstractContextManager[object]:
        """Write `description` and how long it took, if that was long."""
        return self._timed(description)

    def say(self, line: str, now: float) -> None:
        """Write a line."""
        self.last = now
        self.write(line)

    @contextmanager
    def _timed(self, description: str) -> Iterator[None]:
        started = self.clock()
        yield
        now = self.clock()
        if now - started >= self.slow:
            self.say(f"{description}: took {duration(now - started)}", now)


def duration(seconds: float) -> str:
    """A time as a reader says it."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _share(done: int, total: int, elapsed: float) -> str:
    if not total or done > total:
        return f"{done}"
    left = elapsed / done * (total - done)
    return f"{done} of {total}" + (f", about {duration(left)} left" if done < total else "")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
