"""Python's garbage collector, which looks at every module's objects again and again."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """While it lasts, nothing is collected, and what there is then is never looked at again.

    Large libraries are half a million objects that stay. For a process of our own: in one of a
    user's, it would be the user's objects too.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # else libraries report at the end what they still find
        if was_enabled:
            gc.enable()
