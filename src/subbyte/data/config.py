"""The `data` part of an experiment: which images, how many, and how they are prepared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from subbyte.errors import unknown
from subbyte.preprocessing import Preprocessing

BUNDLED = ("digits",)

HomePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
Count = Annotated[int, Field(ge=1)]


class DataConfig(BaseModel):
    """Where calibration and evaluation images come from; exactly one of three ways.

    `name`: bundled data ("digits"); `root`: a folder that holds train/ and val/; `calibration`
    and `evaluation`: any two folders. `calibration_images` and `evaluation_images` (`None`: all)
    are numbers of images; `classes` is a text file with one class folder's name per line, in the
    order of the model's outputs, or "imagenet" (default: `data.classes.class_order` finds out);
    `skip_broken` leaves out image files that cannot be decoded, instead of refusing them;
    `preprocessing` replaces that of the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    root: HomePath | None = None
    calibration: HomePath | None = None
    evaluation: HomePath | None = None
    calibration_images: Count = 512
    evaluation_images: Count | None = None
    classes: HomePath | None = None
    skip_broken: bool = False
    preprocessing: Preprocessing | None = None

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.name is not None:
            self._refuse_beside_name(self.name)
        elif self.root is not None:
            self._refuse_beside_root()
        elif self.calibration is None and self.evaluation is None:
            raise ValueError(
                "data needs name (bundled: digits), or root (a folder with train/ and val/), "
                "or calibration and evaluation (two folders)"
            )
        elif self.calibration is None or self.evaluation is None:
            given, missing = ("calibration", "evaluation")
            if self.calibration is None:
                given, missing = missing, given
            raise ValueError(
                f"data.{given} is given without data.{missing}: give both, or data.root"
            )
        return self

    def _refuse_beside_name(self, name: str) -> None:
        if name not in BUNDLED:
            raise ValueError(str(unknown("data", name, BUNDLED)))
        for key in ("root", "calibration", "evaluation", "classes", "skip_broken", "preprocessing"):
            if getattr(self, key) not in (None, False):
                raise ValueError(
                    f"data.{key} has no meaning with data.name: {name}; leave one of them out"
                )

    def _refuse_beside_root(self) -> None:
        for key in ("calibration", "evaluation"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"data.{key} has no meaning with data.root: give either root, "
                    "or calibration and evaluation"
                )
