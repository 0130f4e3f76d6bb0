"""Names of models that a library registers, read from its source text.

To import torchvision or timm takes seconds, and a list of names needs nothing that they compute.
"""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

# The function behind a decorator `register_model` and any others.
_REGISTERED = re.compile(
    r"^@register_model\b[^\n]*\n(?:(?!def )[^\n]*\n)*?def (\w+)\(", flags=re.MULTILINE
)


def registered(library: str, folder: str) -> set[str]:
    """The functions with the decorator `register_model` in a folder of an installed library.

    Args:
        library: The name of a top-level package; it is found, and not imported.
        folder: A folder in it, as "models/detection"; its subfolders do not count.

    Returns:
        Their names; none where the library is not installed.
    """
    spec = util.find_spec(library)
    roots = [] if spec is None else spec.submodule_search_locations or []
    files = [file for root in roots for file in sorted((Path(root) / folder).glob("*.py"))]
    return {name for file in files for name in _REGISTERED.findall(_text(file))}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
