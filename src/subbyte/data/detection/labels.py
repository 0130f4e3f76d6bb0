"""Which of a detector's labels each class of a data set is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subbyte.errors import SubbyteError

_BACKGROUND = ("__background__", "background")


@dataclass(frozen=True)
class LabelMap:
    """Which of a model's labels each label of a data set is.

    Attributes:
        labels: The data set's labels → the model's.
        classes: The model's class names, that of label 1 first.
        note: What the reader of a figure must know of it.
    """

    labels: Mapping[int, int]
    classes: tuple[str, ...]
    note: str | None = None


def label_map(
    classes: Sequence[str],
    category_ids: Mapping[int, int],
    outputs: int | None,
    known: Sequence[str] | None = None,
    *,
    listed: bool = False,
) -> LabelMap:
    """The model's label for each of a data set's classes.

    Classes that the user has listed keep their order. Else the first of these applies:

    1. By name, if the model has names and every class of the data is among them.
    2. In order, if the model has as many labels as the data has classes.
    3. By the data set's own numbers, if its largest is the model's last label, as it is for
       torchvision's weights for COCO, which have 91 labels for 80 classes.

    Args:
        classes: The data set's class names, that of label 1 first.
        category_ids: Label → the data set's own number.
        outputs: How many labels the model has with the background, 0, if that is known.
        known: The model's own names, that of the background first, or without it.
        listed: `classes` are in the model's order, because the user has listed them so.

    Raises:
        SubbyteError: None applies; the message names what does not fit, and how to say what is
            meant.
    """
    names = without_background(known or (), outputs)
    count = outputs - 1 if outputs is not None else len(names) or len(classes)
    in_order = {label: label for label in range(1, len(classes) + 1)}
    if listed and len(classes) <= count:
        return LabelMap(in_order, tuple(classes))
    numbers = {name: label for label, name in enumerate(names, 1)}
    if names and not listed and all(name in numbers for name in classes):
        labels = {label: numbers[name] for label, name in enumerate(classes, 1)}
        return LabelMap(labels, tuple(names), _coverage(classes, names))
    if count == len(classes):
        strangers = [name for name in classes if name not in numbers] if names else []
        note = (
            f"the classes are taken in their order: the model does not know the name {strangers[0]}"
            if strangers
            else None
        )
        return LabelMap(in_order, tuple(classes), note)
    own = category_ids.values()
    if not listed and not names and own and min(own) >= 1 and max(own) == count:
        by_number = {number: classes[label - 1] for label, number in category_ids.items()}
        padded = tuple(by_number.get(n, f"category {n}") for n in range(1, count + 1))
        return LabelMap(category_ids, padded, _coverage(classes, padded))
    raise _misfit(classes, category_ids, count, numbers)


def without_background(names: Sequence[str], outputs: int | None = None) -> tuple[str, ...]:
    """A detector's class names from label 1 on, whether or not they begin with the background.

    Args:
        names: The names.
        outputs: How many labels the detector has with the background, by which an unnamed one is
            known.
    """
    first_is_none = bool(names) and (
        names[0].lower() in _BACKGROUND or (outputs is not None and len(names) == outputs)
    )
    return tuple(names[1:] if first_is_none else names)


def _coverage(classes: Sequence[str], names: Sequence[str]) -> str | None:
    if len(classes) == len(names):
        return None
    return f"the data has {len(classes)} of the model's {len(names)} classes"


def _misfit(
    classes: Sequence[str],
    category_ids: Mapping[int, int],
    count: int,
    numbers: Mapping[str, int],
) -> SubbyteError:
    strangers = [
        f"{name} (id {category_ids.get(label, label)})"
        for label, name in enumerate(classes, 1)
        if (name not in numbers if numbers else category_ids.get(label, label) > count)
    ]
    more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
    which = f": {', '.join(strangers[:3])}{more} fit none" if strangers else ""
    return SubbyteError(
        f"the data has {len(classes)} classes and the model {count} besides the background{which}; "
        "give data.classes, a file with the data's name for each of the model's labels from 1 on, "
        "one a line"
    )
