"""Subbyte: quantization of image classifiers and detectors, from 8 bits down to 2, with proof.

`import subbyte` does not import PyTorch; the functions do when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subbyte.errors import SubbyteError
from subbyte.utils import lazy
from subbyte.version import __version__

if TYPE_CHECKING:
    from subbyte import detection
    from subbyte.api import export, layers, load, quantize, save
    from subbyte.bit_search.python import search
    from subbyte.diagnosis.diagnose import diagnose
    from subbyte.recipe import Recipe
    from subbyte.tasks.evaluation import evaluate
    from subbyte.tasks.verification import verify
else:
    __getattr__ = lazy.attributes(
        __name__,
        {
            "Recipe": "subbyte.recipe",
            "detection": "subbyte.detection",
            "diagnose": "subbyte.diagnosis.diagnose",
            "evaluate": "subbyte.tasks.evaluation",
            "export": "subbyte.api",
            "layers": "subbyte.api",
            "load": "subbyte.api",
            "quantize": "subbyte.api",
            "save": "subbyte.api",
            "search": "subbyte.bit_search.python",
            "verify": "subbyte.tasks.verification",
        },
    )

__all__ = [
    "Recipe",
    "SubbyteError",
    "__version__",
    "detection",
    "diagnose",
    "evaluate",
    "export",
    "layers",
    "load",
    "quantize",
    "save",
    "search",
    "verify",
]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
