"""What a variant's method learned: the loss of each block or step, and what was not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subbyte.app.report.page import words
from subbyte.app.report.page.reading import Entry

LEARNING = "learning.json"
MOST_CURVES = 200


@dataclass(frozen=True)
class Block:
    """A block that was learned or solved.

    Attributes:
        name: Its first layer.
        seconds: That it took.
        first: The loss at the beginning, where it was recorded.
        last: The loss at the end.
        fell_back: Whether it was left as it was.
        why: The reason.
    """

    name: str
    seconds: float | None
    first: float | None
    last: float | None
    fell_back: bool
    why: str


@dataclass(frozen=True)
class Learning:
    """What is shown of a variant's method.

    Attributes:
        method: Its name.
        seconds: That quantizing took.
        sentences: What was decided on images held out.
        blocks: The blocks.
        curves: What the charts are drawn from: title, steps, losses, held-out losses.
        recorded: Whether the method's curves were recorded.
    """

    method: str
    seconds: float | None
    sentences: Sequence[str]
    blocks: Sequence[Block]
    curves: Sequence[Mapping[str, Any]]
    recorded: bool

    @property
    def has_losses(self) -> bool:
        """Whether the loss of any block was recorded."""
        return any(block.first is not None for block in self.blocks)


def learning_of(entry: Entry) -> Learning:
    """What is shown of a variant's method."""
    its = entry.measured
    found = entry.json(LEARNING)
    curves = (found or {}).get("curves") or []
    learned = [curve for curve in curves if not curve.get("held_out")]
    judged = {_place(curve): curve for curve in curves if curve.get("held_out")}
    of_block = {curve["name"]: curve for curve in learned if curve.get("name")}
    blocks = [_block(block, of_block) for block in its.get("blocks") or []]
    return Learning(
        method=str(its.get("method", "")).replace("_", " "),
        seconds=its.get("seconds"),
        sentences=_sentences(its),
        blocks=blocks,
        curves=[_curve(curve, judged.get(_place(curve))) for curve in learned[:MOST_CURVES]],
        recorded=found is not None,
    )


def _block(block: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> Block:
    name = str(block["block"])
    curve = curves.get(name, {})
    return Block(
        name=name,
        seconds=block.get("seconds"),
        first=curve.get("first"),
        last=curve.get("last"),
        fell_back=bool(block.get("fell_back")),
        why=str(block.get("why") or ""),
    )


def _place(curve: Mapping[str, Any]) -> tuple[str, str, int]:
    """Which stage, block and try a curve is of."""
    return str(curve.get("stage") or ""), str(curve.get("name") or ""), int(curve.get("try") or 1)


def _curve(curve: Mapping[str, Any], judged: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a chart is drawn from.

    Args:
        curve: The losses of what was learned from.
        judged: Those of the images held out meanwhile.
    """
    name, stage = curve.get("name") or "", str(curve.get("stage") or "")
    title = f"{stage}: {name}" if name else stage
    if (curve.get("try") or 1) > 1:
        title += f" (try {curve['try']})"
    points = zip(judged["steps"], judged["losses"], strict=True) if judged else ()
    drawn = {
        "steps": curve.get("steps") or [],
        "losses": curve.get("losses") or [],
        "held_out": list(points),
    }
    return {"title": title, **{key: words.rounded(value) for key, value in drawn.items()}}


def _sentences(its: Mapping[str, Any]) -> list[str]:
    """What was decided on images held out."""
    found = []
    ranges = its.get("judged_ranges")
    if ranges:
        losses = ", ".join(f"{k} {words.number(v)}" for k, v in ranges["losses"].items())
        found.append(
            f"Ranges of activations by {ranges['chosen']}; the output loss of images held out with "
            f"each rule: {losses}."
        )
    tuning = its.get("tuning")
    if tuning and not tuning.get("steps"):
        found.append(f"The whole network was not tuned, because {tuning.get('why')}.")
    elif tuning:
        before, after = (words.number(tuning.get(key)) for key in ("loss_before", "loss"))
        kept = "was kept" if tuning["kept"] else f"was not kept, because {tuning.get('why')}"
        found.append(
            f"The tuning of the whole network ({tuning['steps']} steps) {kept}; the loss of images "
            f"held out was {before} before it and {after} behind it."
        )
    correction = its.get("output_correction")
    if correction:
        before, after = (words.number(correction.get(key)) for key in ("loss_before", "loss"))
        kept = "was kept" if correction["kept"] else "was not kept"
        found.append(
            f"The correction of the outputs' means {kept}; the loss of images held out was "
            f"{before} without it and {after} with it."
        )
    return found
