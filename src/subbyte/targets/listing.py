"""The targets there are: what each can represent, what is installed, and what runs here."""

from __future__ import annotations

from typing import Any

from subbyte import targets
from subbyte.errors import SubbyteError


def listed() -> list[dict[str, Any]]:
    """One dictionary for each target, by name.

    Its keys are `name`; `title`, `weights`, `activations`, `layers` and `detectors`, what the
    target can represent; `suffix`, how its files are called; `installed`, the version of what runs
    them, or `None`; `install`, the command that installs it, or `None`; `runs_here`, whether files
    run on this machine; and `note`, why not, or in what they run, or `None`.
    """
    return [_listed(name) for name in targets.names()]


def _listed(name: str) -> dict[str, Any]:
    module, about = targets.module(name), targets.about(name)
    version, note = None, None
    if hasattr(module, "version"):
        try:
            version = module.version()
        except SubbyteError as error:
            note = str(error)
    runs = version is not None and hasattr(module, "load")
    if version is None and note is None:
        note = "nothing here runs its files"
    if hasattr(module, "here"):
        runs, note = module.here()
    extra = about.extra
    return {
        "name": name,
        "title": about.title,
        "weights": about.weights,
        "activations": about.activations,
        "layers": about.layers,
        "detectors": about.detectors,
        "suffix": about.suffix,
        "installed": version,
        "install": None if extra is None else f"pip install 'subbyte[{extra}]'",
        "runs_here": runs,
        "note": note,
    }
