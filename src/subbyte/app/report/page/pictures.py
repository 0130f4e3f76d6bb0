"""The pictures of galleries: each once, as many as the page has room for."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from subbyte.app.report.page import words
from subbyte.app.report.page.classes import named
from subbyte.app.report.page.reading import Entry

TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
PIXELATED = 64  # a picture up to so many pixels wide is enlarged without smoothing


@dataclass
class Album:
    """Pictures as data URIs, each once.

    Attributes:
        room: How many more characters there is room for.
        uris: Key → data URI.
    """

    room: int
    uris: dict[str, str] = field(default_factory=dict)

    def add(self, content: bytes, suffix: str) -> str | None:
        """The key of a picture; `None` where there is no room for it any more."""
        key = sha256(content).hexdigest()[:12]
        if key not in self.uris:
            uri = f"data:{TYPES[suffix]};base64,{base64.b64encode(content).decode()}"
            if len(uri) > self.room:
                return None
            self.room -= len(uri)
            self.uris[key] = uri
        return key


@dataclass(frozen=True)
class Box:
    """A box on a picture.

    Attributes:
        kind: "truth", "float" or "quantized".
        state: "lost", "gained" or nothing.
        x, y, width, height: In pixels of the image.
        text: What it shows, with the score.
    """

    kind: str
    state: str
    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Card:
    """A picture of a gallery, and what was said of it.

    Attributes:
        key: The picture's, in the album.
        name: The image's, short.
        title: The image's.
        width: Of the image, in pixels.
        height: Likewise.
        is_small: Whether it is enlarged without smoothing.
        lines: What was said, each as (who, what, whether it is right).
        boxes: Those on it.
    """

    key: str
    name: str
    title: str
    width: int
    height: int
    is_small: bool
    lines: Sequence[tuple[str, str, bool | None]]
    boxes: Sequence[Box]


@dataclass
class Gallery:
    """The pictures of a variant.

    Attributes:
        kind: "answers" or "boxes".
        images: Among how many images they were looked for.
        found: How many images there are of their kind.
        cards: The worst first.
    """

    kind: str
    images: int
    found: int
    cards: list[Card] = field(default_factory=list)


def galleries(entries: Sequence[tuple[Entry, Sequence[str]]], album: Album) -> list[Gallery | None]:
    """The galleries of variants; where the album fills up, each loses its last pictures.

    Args:
        entries: The variants, and their classes.
        album: Takes the pictures.
    """
    files = [entry.json("gallery.json") for entry, _ in entries]
    found = [f and Gallery(f["kind"], f["images"], f["found"]) for f in files]
    longest = max((len(f["pictures"]) for f in files if f), default=0)
    for place in range(longest):
        for (entry, classes), file, gallery in zip(entries, files, found, strict=True):
            if not gallery or place >= len(file["pictures"]):
                continue
            picture = file["pictures"][place]
            path = entry.folder / "gallery" / Path(picture["file"]).name
            known = path.suffix in TYPES and path.is_file()
            key = album.add(path.read_bytes(), path.suffix) if known else None
            if key is not None and len(gallery.cards) == place:
                gallery.cards.append(_card(key, picture, gallery.kind, classes))
    return found


def _card(key: str, picture: Mapping[str, Any], kind: str, classes: Sequence[str]) -> Card:
    """A picture of a gallery.

    Args:
        key: In the album.
        picture: As `gallery.json` has it.
        kind: The gallery's.
        classes: Their names.
    """
    title = str(picture["name"])
    is_boxes = kind == "boxes"
    return Card(
        key=key,
        name="/".join(title.replace("\\", "/").split("/")[-2:]),
        title=title,
        width=picture["width"],
        height=picture["height"],
        is_small=max(picture["width"], picture["height"]) <= PIXELATED,
        lines=_changes(picture, classes) if is_boxes else _answers(picture, classes),
        boxes=_boxes(picture, classes) if is_boxes else (),
    )


def _answers(
    picture: Mapping[str, Any], classes: Sequence[str]
) -> list[tuple[str, str, bool | None]]:
    label = picture["label"]
    lines: list[tuple[str, str, bool | None]] = [("label", named(classes, label), None)]
    for who in ("float", "quantized"):
        answer, probability = picture[who]
        said = f"{named(classes, answer)}, {words.percent(probability, 0)} %"
        lines.append((who, said, answer == label))
    return lines


def _boxes(picture: Mapping[str, Any], classes: Sequence[str]) -> list[Box]:
    boxes = []
    states = {
        "float": ("lost", set(picture["lost"])),
        "quantized": ("gained", set(picture["gained"])),
    }
    for kind in ("truth", "float", "quantized"):
        state, places = states.get(kind, ("", set()))
        for i, (x0, y0, x1, y1, *rest) in enumerate(picture[kind]):
            is_in = i in places
            boxes.append(
                Box(kind, state if is_in else "", x0, y0, x1 - x0, y1 - y0, _text(rest, classes))
            )
    return sorted(boxes, key=lambda box: bool(box.state))  # what is lost or gained on top


def _changes(
    picture: Mapping[str, Any], classes: Sequence[str]
) -> list[tuple[str, str, bool | None]]:
    """What was lost, gained, and moved most."""
    lines: list[tuple[str, str, bool | None]] = []
    for who, kind in (("lost", "float"), ("gained", "quantized")):
        names = [_text(picture[kind][i][4:], classes) for i in picture[who]]
        if names:
            lines.append((who, _few(names), None))
    moved = []
    for first, second in picture["kept"]:
        before, after = picture["float"][first], picture["quantized"][second]
        said = f"{named(classes, int(before[4]) - 1)} ({before[5]:.2f} → {after[5]:.2f})"
        moved.append((abs(after[5] - before[5]), said))
    moved.sort(key=lambda one: -one[0])
    shown = [text for shift, text in moved if shift >= 0.005]
    if shown:
        lines.append(("score", _few(shown), None))
    return lines


def _few(said: Sequence[str], most: int = 4) -> str:
    more = f" and {len(said) - most} more" if len(said) > most else ""
    return ", ".join(said[:most]) + more


def _text(rest: Sequence[float], classes: Sequence[str]) -> str:
    name = named(classes, int(rest[0]) - 1)
    return f"{name} ({rest[1]:.2f})" if len(rest) > 1 else name
