from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
from PIL import Image

from subbyte.data.images import ImageInfo, image_files, inspect, look, opened, subfolders
from subbyte.errors import SubbyteError

if TYPE_CHECKING:
    from .conftest import Draw, Refuses

T = TypeVar("T")


def test_listing_is_recursive_sorted_and_blind_to_case(tmp_path: Path) -> None:
    names = ["b/2.JPG", "b/10.png", "a/z/1.Tiff", "a-b/1.webp", "top.bmp"]
    for name in [*names, "notes.txt", "b/._2.JPG", ".cache/1.png", "a/jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert found == ["a/z/1.Tiff", "a-b/1.webp", "b/10.png", "b/2.JPG", "top.bmp"]
    assert subfolders(tmp_path) == ["a", "a-b", "b"]


def test_listing_follows_links_but_not_in_circles(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "real" / "1.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "real", target_is_directory=True)
    (root / "up").symlink_to(root, target_is_directory=True)
    assert image_files(root) == [root / "cat" / "1.png"]


def pixels(path: Path) -> np.ndarray:
    with opened(path) as image:
        return np.asarray(image)


def broken(paths: list[Path]) -> list[Path]:
    return [path for path, facts in inspect(paths).items() if facts.fault]


def test_an_opened_image_has_the_pixels(tmp_path: Path, draw: Draw) -> None:
    path = draw(tmp_path / "a.png", seed=3)
    expected = np.random.default_rng(3).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(path), expected)
    assert look(path) == ImageInfo(None, (10, 12), turned=False, transparent=False)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "ppm", "gif"])
def test_every_format_opens_whole_and_is_found_broken_when_cut(
    tmp_path: Path, draw: Draw, refuses: Refuses, suffix: str
) -> None:
    path = draw(tmp_path / f"a.{suffix}", size=(64, 48))
    assert pixels(path).shape[:2] == (48, 64)
    assert look(path) == ImageInfo(None, (48, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert broken([path]) == [path]
    with refuses(f"image {path} is "):
        pixels(path)


@pytest.mark.parametrize("progressive", [False, True])
def test_no_cut_of_a_jpeg_slips_through_the_cheap_check(tmp_path: Path, progressive: bool) -> None:
    ramp = np.add.outer(np.arange(40), np.arange(56)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([ramp, ramp[::-1], ramp * 3], -1)).save(
        buffer, "JPEG", quality=75, progressive=progressive
    )
    whole = buffer.getvalue()
    paths = []
    for end in [*range(0, len(whole), 29), len(whole) - 2, len(whole) - 1]:
        paths.append(tmp_path / f"{end}.jpg")
        paths[-1].write_bytes(whole[:end])
    assert broken(paths) == paths
    for path in paths:
        with pytest.raises(SubbyteError):
            pixels(path)


def test_what_is_no_image(tmp_path: Path, refuses: Refuses) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    with refuses(f"image {text} is not an image"):
        pixels(text)
    with refuses("is not an image"):
        pixels(tmp_path / "empty.jpg")
    with refuses("is a folder"):
        pixels(tmp_path / "folder.jpg")
    with refuses("does not exist"):
        pixels(tmp_path / "missing.jpg")
    assert look(text) == ImageInfo("is not an image in a format that Pillow reads")


def test_a_bomb_is_refused(
    tmp_path: Path, draw: Draw, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with refuses("more pixels than"):
        pixels(path)
    assert "more pixels than" in str(look(path).fault)


class Counting:
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.seen = 0
        self.total: int | None = None

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        self.total = total
        for item in items:
            self.seen += 1
            yield item


def test_a_look_at_many_keeps_order_and_reports_progress(tmp_path: Path, draw: Draw) -> None:
    paths = [draw(tmp_path / f"{i}.png", seed=i) for i in range(9)]
    for i in (7, 2):
        paths[i].write_text("no image")
    progress = Counting()
    facts = inspect(paths, progress)
    assert list(facts) == paths
    assert [path for path in paths if facts[path].fault] == [paths[2], paths[7]]
    assert (progress.seen, progress.total) == (9, 9)


def test_a_link_to_nothing_is_listed_and_found_broken(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert broken(image_files(tmp_path)) == [tmp_path / "a.jpg"]
