"""What is looked at in a target's own file before it appears: it loads, and is not the slower one.

Both are asked of the runtime itself. One that is not installed has nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from subbyte.errors import SubbyteError
from subbyte.targets import base


def is_installed(target: str) -> bool:
    """Whether a target's runtime can be asked."""
    try:
        base.runtime(target).version()
    except SubbyteError:
        return False
    return True


def is_worth_it(
    part: Path, path: Path, target: str, layers: int, write_common: Callable[[Path], Path]
) -> bool:
    """Whether a target runs its own file with as many int8 kernels as the file for all.

    Each file is loaded once to be checked and once to be counted, and the one for all only where
    the target's own one has fewer kernels than the model has layers for them.

    Args:
        part: The target's own file.
        path: Where it is to appear.
        target: The target, whose runtime is installed.
        layers: How many layers an int8 kernel could run.
        write_common: Writes the file for all into a folder, or says where it is already.

    Raises:
        SubbyteError: The runtime cannot load the target's own file.
    """
    runtime = base.runtime(target)
    try:
        session = runtime.load(part, 1)
    except SubbyteError as error:
        reason = str(error).replace(str(part), str(path))
        raise SubbyteError(
            f"{reason}; the file is not written: export without a target for a file that another "
            "runtime may load"
        ) from error
    found = session.int8_ops()
    if found >= layers:
        return True
    with TemporaryDirectory() as folder:
        common = write_common(Path(folder))
        try:
            of_all = runtime.load(common, 1).int8_ops()
        except SubbyteError:  # the target's own one, at least, loads
            return True
    return found >= of_all
