"""Images that are large, small, rotated, transparent, or of an unusual kind."""

from __future__ import annotations

import struct
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from subbyte.data import Batches, DataConfig, open_data, read_image_tensor
from subbyte.data import images as images_module
from subbyte.data.dataset import ImageFiles
from subbyte.data.images import inspect, look, opened
from subbyte.data.preprocessing import Preprocessing, is_padded
from subbyte.data.transform import transform

if TYPE_CHECKING:
    from .conftest import Draw, Refuses

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
GREY = Preprocessing(mean=(0.0,), std=(1.0,))
PRESET = Preprocessing(resize=48, crop=40)
RAMP16 = np.linspace(0, 65535, 48).round().astype(np.uint16).reshape(6, 8)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def values(path: Path, preprocessing: Preprocessing = PLAIN) -> np.ndarray:
    """The image as the model would see it, 0 to 255: [C, H, W]."""
    assert look(path).fault is None
    scaled: np.ndarray = read_image_tensor(path, preprocessing)[0].double().numpy() * 255
    np.testing.assert_allclose(scaled, scaled.round(), atol=1e-4)
    return scaled.round().astype(int)


@pytest.mark.parametrize("preprocessing", [PLAIN, PRESET, Preprocessing(crop=5), GREY])
def test_a_single_pixel(tmp_path: Path, preprocessing: Preprocessing) -> None:
    Image.new("RGB", (1, 1), (255, 255, 255)).save(tmp_path / "a.png")
    tensor = read_image_tensor(tmp_path / "a.png", preprocessing)
    size = {1: 1, 40: 40, 5: 5}[preprocessing.crop or 1]  # type: ignore[index]
    assert tensor.shape == (1, preprocessing.channels, size, size)
    brightest = (1 - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    torch.testing.assert_close(tensor.amax((0, 2, 3)), brightest)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RAMP16).save(path)
    expected = np.round(RAMP16.astype(np.float64) * 255 / 65535)
    assert (values(path) == expected).all()
    assert (values(path, GREY) == expected).all()


def test_grey_of_16_bits_in_other_files(tmp_path: Path) -> None:
    expected = np.round(RAMP16.astype(np.float64) * 255 / 65535)
    header = b"P5 8 6 65535\n"
    (tmp_path / "big.pgm").write_bytes(header + RAMP16.astype(">u2").tobytes())
    assert (values(tmp_path / "big.pgm") == expected).all()
    Image.fromarray(RAMP16.astype(np.int32)).save(tmp_path / "wide.tif")  # 32 bits a pixel
    assert (values(tmp_path / "wide.tif") == expected).all()
    (tmp_path / "big.tif").write_bytes(big_endian_tiff(RAMP16.astype(">u2"), (258, 4, 1, 16)))
    with Image.open(tmp_path / "big.tif") as image:
        assert image.mode == "I;16B"
    assert (values(tmp_path / "big.tif") == expected).all()


def big_endian_tiff(pixels: np.ndarray, *more: tuple[int, int, int, int]) -> bytes:
    """An uncompressed grey TIFF in Motorola's byte order, with `more` (tag, type, count, value)."""
    height, width = pixels.shape[:2]
    data = pixels.tobytes()
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    entries = [(256, 4, 1, width), (257, 4, 1, height), (259, 4, 1, 1), (262, 4, 1, 1),
               (273, 4, 1, 8), (277, 4, 1, samples), (278, 4, 1, height), (279, 4, 1, len(data)),
               *more]  # fmt: skip
    directory = struct.pack(">H", len(entries))
    for entry in sorted(entries):
        directory += struct.pack(">HHII", *entry)
    return b"MM\x00*" + struct.pack(">I", 8 + len(data)) + data + directory + bytes(4)


def test_values_without_a_white_are_refused(tmp_path: Path, draw: Draw, refuses: Refuses) -> None:
    for folder in ("train", "val/cat", "val/dog"):
        draw(tmp_path / folder / "a.png")
    path = tmp_path / "val/cat/x.tif"
    keys = {"seed": 0, "batch_size": 2}
    for pixels, told in (
        (np.full((10, 12), 0.5, np.float32), "holds floating-point values, and nothing says"),
        (np.full((10, 12), 70000, np.int32), "holds values beyond 16 bits, and nothing says"),
        (np.full((10, 12), -1, np.int32), "holds values beyond 16 bits, and nothing says"),
    ):
        Image.fromarray(pixels).save(path)
        config = DataConfig(calibration=tmp_path / "train", evaluation=tmp_path / "val")
        with refuses(f"image {path} {told}"):
            open_data(config, PLAIN, **keys)  # type: ignore[arg-type]
        skipping = config.model_copy(update={"skip_broken": True})
        found = open_data(skipping, PLAIN, **keys)  # type: ignore[arg-type]
        assert found.skipped == (str(path),)
        with refuses(told):
            read_image_tensor(path, PLAIN)


def test_grey_with_and_without_alpha(tmp_path: Path) -> None:
    grey = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "l.png")
    alpha = np.full_like(grey, 128)
    Image.fromarray(np.stack([grey, alpha], -1), "LA").save(tmp_path / "la.png")
    for name in ("l.png", "la.png"):
        assert (values(tmp_path / name) == grey).all()
        assert (values(tmp_path / name, GREY) == grey).all()
    assert not look(tmp_path / "l.png").transparent
    assert look(tmp_path / "la.png").transparent


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_colours_are_those_in_the_file_whatever_their_transparency(
    tmp_path: Path, suffix: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    pixels[..., 3] = np.linspace(0, 255, 48).reshape(6, 8)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, **options)
    assert (values(path) == pixels[..., :3].transpose(2, 0, 1)).all()
    assert look(path).transparent
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(path, **options)
    assert not look(path).transparent


def test_palettes_with_transparency(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    image = Image.new("P", (3, 1))
    image.putpalette([part for colour in colours for part in colour])
    image.putdata([0, 1, 2])
    for name, transparency in (("a.png", bytes([0, 10, 255])), ("b.png", 1), ("c.gif", 2)):
        image.save(tmp_path / name, transparency=transparency)
        assert [tuple(pixel) for pixel in values(tmp_path / name)[:, 0].T] == colours
        assert look(tmp_path / name).transparent
    image.save(tmp_path / "d.png")
    assert not look(tmp_path / "d.png").transparent


def test_cmyk(tmp_path: Path) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    paper = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(values(tmp_path / "a.tif") - paper.transpose(2, 0, 1)).max() <= 1
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red = np.array([255, 0, 0])[:, None, None]
    assert np.abs(values(tmp_path / "red.jpg") - red).max() <= 4


@pytest.mark.parametrize("mode", ["LAB", "RGBX", "YCbCr", "1"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.full((6, 8), 255, np.uint8))
    picture.convert("RGB").convert(mode).save(tmp_path / "a.tif")
    for preprocessing in (PLAIN, GREY):
        assert (values(tmp_path / "a.tif", preprocessing) >= 253).all()


def test_grey_that_was_multiplied_by_its_alpha(tmp_path: Path) -> None:
    pixels = np.full((6, 8, 2), (50, 128), np.uint8)  # 50 of 128: a grey of 99.6
    bits = (8 << 16) + 8  # two short numbers
    path = tmp_path / "a.tif"
    path.write_bytes(big_endian_tiff(pixels, (258, 3, 2, bits), (338, 3, 1, 1 << 16)))
    with Image.open(path) as image:
        assert image.mode == "La"
    for preprocessing in (PLAIN, GREY):
        assert np.abs(values(path, preprocessing) - 99.6).max() < 1
    assert look(path).transparent


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_their_exif_says(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for orientation in range(10):  # 1 is upright; 0 and 9 mean nothing
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(pixels).save(path, exif=exif, **options)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
        assert (values(path) == expected).all()
        facts = look(path)
        assert facts.size == expected.shape[1:] == ((9, 6) if 5 <= orientation <= 8 else (6, 9))
        if suffix != "tif":  # Pillow itself turns those
            assert facts.turned is (2 <= orientation <= 8)


def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\x00\x00XX*\x00 no EXIF at all")
    assert (values(tmp_path / "a.png") == pixels.transpose(2, 0, 1)).all()
    assert look(tmp_path / "a.png").turned is False


def test_what_is_odd_is_reported(tmp_path: Path, draw: Draw) -> None:
    for name in ("train/1.png", "val/cat/1.png", "val/dog/1.png"):
        draw(tmp_path / name, size=(30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "val/cat/turned.jpg", exif=exif)
    Image.new("RGBA", (30, 20)).save(tmp_path / "val/cat/clear.png")
    Image.new("RGB", (40, 15)).save(tmp_path / "val/dog/low.png")
    config = DataConfig(calibration=tmp_path / "train", evaluation=tmp_path / "val")
    crop = Preprocessing(crop=(18, 12))
    found = open_data(config, crop, seed=0, batch_size=2)
    assert found.labelled(2, None).notes == (
        "smaller than the crop, filled up with black: 1 of the 5 evaluation images",
        "turned upright as their EXIF orientation says: 1 of the 5 evaluation images",
        "transparent in places, which is ignored: 1 of the 5 evaluation images",
    )
    large = Preprocessing(crop=24)
    notes = open_data(config, large, seed=0, batch_size=2).labelled(2, None).notes
    filled = "smaller than the crop, filled up with black: "
    assert notes[0] == filled + "5 of the 5 evaluation images"
    assert notes[-1] == filled + "1 of the 1 calibration images"


@pytest.mark.parametrize("size", [(20, 33), (50, 7), (40, 40), (39, 80), (3, 3)])
def test_images_smaller_than_the_crop_are_filled_up_as_torchvision_does(
    size: tuple[int, int],
) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    steps = [v2.CenterCrop(40), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    expected = v2.Compose([*steps, v2.Normalize(mean, std)])(image)
    ours = Preprocessing(crop=40, mean=tuple(mean), std=tuple(std))
    torch.testing.assert_close(transform(ours)(image), expected, rtol=0, atol=1e-6)
    filled = bool((v2.CenterCrop(40)(v2.PILToTensor()(image)) == 0).all(0).any())
    assert is_padded((size[1], size[0]), ours) is filled


@pytest.mark.parametrize("size", [(500, 9), (9, 500), (400, 300), (61, 2000)])
@pytest.mark.parametrize("preprocessing", [
    PRESET, Preprocessing(resize=48, crop=(40, 64)), Preprocessing(resize=(30, 700), crop=40),
    Preprocessing(resize=48, crop=40, interpolation="bicubic"),
    Preprocessing(resize=48, crop=40, interpolation="nearest"),
])  # fmt: skip
def test_only_the_middle_of_a_long_image_is_resized(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], preprocessing: Preprocessing
) -> None:
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [128 + 120 * np.sin(x / a + y / b) for a, b in ((5, 9), (11, 3), (40, 70))]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    whole = transform(preprocessing)(image)
    monkeypatch.setattr("subbyte.data.transform.LARGE", 0)
    middle = transform(preprocessing)(image)
    difference = (middle - whole).abs()
    if preprocessing.interpolation == "nearest":  # a pixel may fall to either of two neighbours
        assert (difference > 1e-6).float().mean() < 0.02
    else:
        assert difference.max() < 1.5 / 255 / 0.22  # one of 256 levels, normalized


def test_an_endless_strip(tmp_path: Path) -> None:
    Image.new("RGB", (20000, 1), (255, 0, 0)).save(tmp_path / "a.png")
    tensor = read_image_tensor(tmp_path / "a.png", Preprocessing(resize=256, crop=224))
    expected = transform(Preprocessing())(Image.new("RGB", (224, 224), (255, 0, 0)))
    torch.testing.assert_close(tensor[0], expected)


def test_a_large_photograph_is_decoded_at_a_part_of_its_size(tmp_path: Path) -> None:
    x = np.linspace(0, 9, 8000, dtype=np.float32)
    y = np.linspace(0, 7, 6000, dtype=np.float32)[:, None]
    pixels = (128 + 60 * np.sin(x) + 60 * np.cos(y)).astype(np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=90)
    assert look(path).size == (6000, 8000)
    with opened(path, 512) as image:
        assert image.size == (1000, 750)
    with opened(path) as image:
        assert image.size == (8000, 6000)
    tensor = read_image_tensor(path, Preprocessing(resize=256, crop=224))
    with Image.open(path) as image:
        expected = ImageClassification(crop_size=224, resize_size=256)(image.convert("RGB"))
    assert (tensor[0] - expected).abs().max() < 2 / 255 / 0.22  # two of 256 levels, normalized


def test_ordinary_photographs_are_decoded_in_full(tmp_path: Path, draw: Draw) -> None:
    path = draw(tmp_path / "a.jpg", size=(640, 480))
    with opened(path, 16) as image:
        assert image.size == (640, 480)


def test_large_images_are_decoded_one_at_a_time(
    tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [draw(tmp_path / f"s{i}.png", size=(10, 10)) for i in range(8)]
    large = [draw(tmp_path / f"l{i}.png", size=(30, 30)) for i in range(4)]
    monkeypatch.setattr(images_module, "PIXELS_OPEN", 300)
    lock, now, most = threading.Lock(), [0], [0]

    def hold(path: Path) -> None:
        with opened(path) as image:
            with lock:
                now[0] += image.width * image.height
                most[0] = max(most[0], now[0])
            time.sleep(0.002)
            with lock:
                now[0] -= image.width * image.height

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, small))
        assert 0 < most[0] <= 300
        list(pool.map(hold, [*small[:4], *large, *small[4:]]))
    assert most[0] == 900


def test_no_warning_of_large_images(
    tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [draw(tmp_path / f"{i}.png", size=(12 + i, 10)) for i in range(3)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(paths[0])
    assert all(facts.fault is None for facts in inspect(paths).values())
    assert len(list(Batches(ImageFiles(paths, None, PLAIN), 1))) == 3
    assert read_image_tensor(paths[0], PLAIN).shape == (1, 3, 10, 12)
