"""The command that started this process."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def command() -> str | None:
    """The `subbyte` command as a shell takes it; `None` where Subbyte was called from Python."""
    program, *arguments = sys.argv or [""]
    path = Path(program)
    if path.stem != "subbyte" and path.parts[-2:] != ("subbyte", "__main__.py"):
        return None
    return shlex.join(["subbyte", *arguments])
