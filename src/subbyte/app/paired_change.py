"""By how much a metric differs between two runs of the same images, with its 95 % interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subbyte.app.right import SIMULATION, Right, read_images, read_keys
from subbyte.tasks.metrics.coco import Matched
from subbyte.tasks.metrics.coco_resampled import RESAMPLES
from subbyte.tasks.metrics.comparison import Change, ap_change, paired, share_change

AP = "AP"  # the one metric of detectors that is worth a bootstrap
FEWEST_RESAMPLES = 150
MUCH = 20_000  # detections: with more of them the bootstrap takes longer than seconds


def paired_change(
    first: Right | None, second: Right | None, metric: str, resamples: int = RESAMPLES
) -> Change | None:
    """The change of a metric on the images of both runs; `None` where it is not known.

    Args:
        first: What the first run was right about.
        second: The second one.
        metric: The name.
        resamples: Of the bootstrap, of AP.
    """
    if first is None or second is None:
        return None
    mine, theirs = paired(first.keys, second.keys)
    if not len(mine):
        return None
    if metric in first.values and metric in second.values:
        return share_change(first.values[metric][mine], second.values[metric][theirs])
    if metric != AP or "found" not in first.values or "found" not in second.values:
        return None
    pair = _matched(first).take(mine.tolist()), _matched(second).take(theirs.tolist())
    return ap_change(*pair, resamples=resamples)


def add_changes(entry: dict[str, Any], variant: Path, run: Path, metric: str) -> None:
    """Add `against_float` to a variant's entry and to that of each runtime.

    The more detections there are, the fewer resamples the bootstrap takes, so that it costs seconds
    at most.

    Args:
        entry: The variant's, of the results.
        variant: Its folder, with `images.npz`.
        run: The run's folder, with the float model's.
        metric: The primary one.
    """
    keys = read_keys(run)
    if keys is None:
        return
    before, after = (read_images(path / "images.npz", keys) for path in (run / "float", variant))
    for key, its in {SIMULATION: entry, **entry["deployed"]}.items():
        resamples = RESAMPLES
        if key in after and "scores" in after[key].values:
            share = MUCH / max(1, len(after[key].values["scores"]))
            resamples = max(FEWEST_RESAMPLES, min(RESAMPLES, round(RESAMPLES * share)))
        found = paired_change(before.get(key), after.get(key), metric, resamples)
        its["against_float"] = None
        if found is not None:
            change, ends = found.after - found.before, [found.low, found.high]
            its["against_float"] = {"change": change, "interval": ends, "images": found.images}


def _matched(right: Right) -> Matched:
    """The arrays of a detector, as `coco.matched` gave them."""
    values: dict[str, Any] = dict(right.values)
    return Matched(**{**values, "images": int(values["images"]), "ious": int(values["ious"])})
