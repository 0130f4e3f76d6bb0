"""Ctrl-C that is not lost: Python drops the exception in a weakref's callback or a destructor.

SIGTERM, with which a batch system or a container ends a process, is treated alike.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from subbyte.utils.progress import Progress

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CtrlC:
    """Remembers that Ctrl-C was pressed, and raises `KeyboardInterrupt` again when asked."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, number: int, frame: object) -> None:
        """Handle SIGINT or SIGTERM."""
        del number, frame
        self.pressed = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self.pressed:
            raise KeyboardInterrupt

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while a block runs; only the main thread can.

        Python does not report a `KeyboardInterrupt` that it drops meanwhile: it is remembered here.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.pressed = False
        before = {number: signal.signal(number, self) for number in SIGNALS}
        unraisable = sys.unraisablehook

        def hook(dropped: sys.UnraisableHookArgs) -> None:
            if not issubclass(dropped.exc_type, KeyboardInterrupt):
                unraisable(dropped)

        sys.unraisablehook = hook
        try:
            yield
        finally:
            sys.unraisablehook = unraisable
            for number, handler in before.items():
                signal.signal(number, handler)


class Interruptible:
    """A `Progress` whose steps are where a Ctrl-C that was dropped is taken up."""

    def __init__(self, inner: Progress, ctrl_c: CtrlC) -> None:
        self.inner, self.ctrl_c = inner, ctrl_c

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` as the inner progress does, as long as nobody presses Ctrl-C.

        Args:
            items: What is looped over.
            description: What is done.
            total: How many items there are; `None`: their length, where they have one.
        """
        for item in self.inner.track(items, description, total):
            self.ctrl_c.check()
            yield item

    def working(self, description: str) -> AbstractContextManager[object]:
        """Show `description` as the inner progress does."""
        self.ctrl_c.check()
        return self.inner.working(description)
