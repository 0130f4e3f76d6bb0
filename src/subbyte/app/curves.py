"""The losses of a method that learns, kept while it does and written into a variant's folder."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from subbyte.utils import files

FILE = "learning.json"
SCHEMA = 1
POINTS = 100  # of a curve in the file
TENTH = 10
EVERY = 2.0  # seconds in which points are gathered before they go to who watches


@dataclass
class Curve:
    """The losses of one stage, block and try.

    Attributes:
        stage: What was done.
        name: The block, "" for the whole network.
        attempt: From 1 on, where a stage was begun several times.
        held_out: Whether it is of images that are not learned from.
        steps: Numbers of steps.
        losses: The loss at each.
        sent: How many points have gone to who watches.
    """

    stage: str
    name: str
    attempt: int
    held_out: bool
    steps: array[int] = field(default_factory=lambda: array("q"))
    losses: array[float] = field(default_factory=lambda: array("d"))
    sent: int = 0

    @property
    def title(self) -> str:
        """By which a curve is called among others."""
        parts = [self.stage, *([self.name] if self.name else [])]
        parts += ["images held out"] if self.held_out else []
        parts += [f"try {self.attempt}"] if self.attempt > 1 else []
        return "/".join(parts)

    def thinned(self, points: int, start: int = 0) -> tuple[list[int], list[float]]:
        """At most so many points from `start` on, each the mean of the steps up to the next."""
        count = len(self.steps) - start
        groups = min(points, count)
        edges = [start + i * count // groups for i in range(groups + 1)] if groups else []
        spans = list(pairwise(edges))
        return [self.steps[a] for a, _ in spans], [_mean(self.losses[a:b]) for a, b in spans]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        steps, losses = self.thinned(POINTS)
        tenth = max(1, len(self.losses) // TENTH)
        return {
            "stage": self.stage,
            "name": self.name,
            "try": self.attempt,
            "held_out": self.held_out,
            "steps": steps,
            "losses": [_short(loss) for loss in losses],
            "first": _short(_mean(self.losses[:tenth])),
            "last": _short(_mean(self.losses[-tenth:])),
        }


# A curve's title, numbers of steps, and their losses.
Watch = Callable[[str, Sequence[int], Sequence[float]], None]


class Recorder:
    """An `Observer` that keeps all losses; who watches gets them every few seconds."""

    def __init__(self, watches: Sequence[Watch] = ()) -> None:
        self.curves: list[Curve] = []
        self._open: dict[tuple[str, str, bool], Curve] = {}
        self._attempts: dict[tuple[str, str, bool], int] = {}
        self._watches, self._last = tuple(watches), time.monotonic()

    def loss(self, stage: str, name: str, step: int, value: float, *, held_out: bool) -> None:
        """Keep a loss; see `Observer`."""
        key = (stage, name, held_out)
        if step == 0 or key not in self._open:
            self._attempts[key] = self._attempts.get(key, 0) + 1
            self._open[key] = Curve(stage, name, self._attempts[key], held_out)
            self.curves.append(self._open[key])
        self._open[key].steps.append(step)
        self._open[key].losses.append(value)
        if self._watches and time.monotonic() - self._last > EVERY:
            self.send()

    def send(self) -> None:
        """Let who watches have what is new."""
        for curve in self.curves:
            if curve.sent < len(curve.steps):
                steps, losses = curve.thinned(POINTS, curve.sent)
                curve.sent = len(curve.steps)
                for watch in self._watches:
                    watch(curve.title, steps, losses)
        self._last = time.monotonic()

    def write(self, folder: Path) -> None:
        """Write what was kept into a variant's folder; nothing where nothing was learned."""
        self.send()
        if self.curves:
            curves = [curve.as_dict() for curve in self.curves]
            files.write_json(folder / FILE, {"schema": SCHEMA, "curves": curves})


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
