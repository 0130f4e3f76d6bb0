"""What the commands for one model print, where it is not JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def model_groups(names: Mapping[str, Sequence[str]], every: bool) -> Iterator[str]:
    """A line for each group of models; of a library only their number unless `every` name is."""
    for group, members in names.items():
        listed = every or group not in _LIBRARIES
        yield f"{group}: {', '.join(members) if listed else _library(group, len(members))}"


# What stands for a library's models where these are not listed.
_LIBRARIES = {
    "timm": "timm/NAME, any of timm's {count} models: subbyte models timm/ lists them",
    "libreyolo": (
        "libreyolo/NAME, any of {count} detectors of libreyolo's: subbyte models libreyolo/ lists "
        "them"
    ),
    "transformers": (
        "transformers/FOLDER, as save_pretrained writes it, or transformers/NAME in Hugging "
        "Face's cache, which has {count} of its classifiers and detectors"
    ),
}


def _library(group: str, count: int) -> str:
    if not count and group != "transformers":
        return f"{group}/NAME, where {group} is installed: pip install 'subbyte[{group}]'"
    return _LIBRARIES[group].format(count=count)


def evaluation(result: Mapping[str, Any]) -> str:
    """The metrics of an evaluation in a line."""
    metrics, intervals = result["metrics"], result["intervals"]
    if "top1" in metrics:
        low, high = intervals["top1"]
        return f"top1 {metrics['top1']:.2%} ({low:.1%} to {high:.1%})"
    return (
        ", ".join(f"{name} {value:.2%}" for name, value in metrics.items() if value is not None)
        or "no AP"
    )


def predicted(predictions: Sequence[dict[str, Any]]) -> Table:
    """A row for each class or object, with the image at its first."""
    from rich.markup import escape
    from rich.table import Table

    detects = any("objects" in prediction for prediction in predictions)
    table = Table("image", "class", *(("score", "box") if detects else ("probability",)))
    for prediction in predictions:
        rows = [
            [guess["class"], f"{guess['probability']:.3f}"]
            if "probability" in guess
            else [guess["class"], f"{guess['score']:.3f}", " ".join(f"{x:g}" for x in guess["box"])]
            for guess in prediction.get("classes") or prediction.get("objects") or []
        ]
        for i, cells in enumerate(rows or [["–", "–"]]):
            shown = prediction["image"] if i == 0 else ""
            table.add_row(*map(escape, [shown, *cells]))
    return table
