"""A raw network and a sentence: the detector in PyTorch, and its files in both runtimes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn

import subbyte
from processor import FITTING
from raw_networks import NETWORKS, network, sentence
from small_detectors import pictures
from subbyte import api
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors import label_count, letterbox_for
from subbyte.detectors.common.nms import OUTPUTS
from subbyte.detectors.deployment import detections_of
from subbyte.detectors.raw_outputs import RawDetector, raw_detector
from subbyte.errors import SubbyteError
from subbyte.targets import base as targets
from subbyte.targets.onnx.export import export_float

RUNTIMES = ("onnxruntime", "openvino")
RANGE = subbyte.Recipe(method="range", ranges="minmax", **FITTING)
BGR = Preprocessing(
    letterbox=64,
    fill=(0, 114, 255),
    colours="bgr",
    range=255,
    mean=(103.53, 116.28, 123.675),
    std=(57.375, 57.12, 58.395),
)


@cache
def captured(name: str) -> Any:
    """The float model, as a simulation that quantizes nothing."""
    model = raw_detector(network(name), sentence(name))
    images = pictures(2)
    model.tried(images)
    return api.unquantized(api.capture(model, (images,)))


def run(path: Path, runtime: str, images: torch.Tensor) -> dict[str, np.ndarray]:
    names = [value.name for value in onnx.load(str(path)).graph.output]
    outputs = targets.runtime(runtime).load(path, 1).run(images.numpy())
    return dict(zip(names, outputs, strict=True))


def shares(
    expected: list[dict[str, torch.Tensor]],
    found: dict[str, np.ndarray],
    iou: float = 0.9,
    atol: float = 0.02,
) -> list[float]:
    """Of each image, the share of detections that are there with class, score and box."""
    result = []
    for i, one in enumerate(expected):
        count = int(found["count"][i])
        boxes, scores, labels = (torch.tensor(found[key][i][:count]) for key in OUTPUTS[:3])
        near = torchvision.ops.box_iou(one["boxes"], boxes) > iou
        near |= torch.cdist(one["boxes"], boxes, p=float("inf")) < 1e-3  # of no area
        near &= (one["scores"][:, None] - scores).abs() < atol
        near &= one["labels"][:, None] == labels
        result.append(float(near.any(1).float().mean()))
    return result


def check_same(expected: list[dict[str, torch.Tensor]], found: dict[str, np.ndarray]) -> None:
    assert shares(expected, found, iou=0.99, atol=1e-4) == [1] * len(expected)
    for i, one in enumerate(expected):
        count = int(found["count"][i])
        assert count == len(one["scores"])
        assert not found["scores"][i, count:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_float_files_of_every_form_give_the_models_detections(name: str, tmp_path: Path) -> None:
    """In any batch size; and the raw outputs are those of the network."""
    model, path, raw = captured(name), tmp_path / "model.onnx", tmp_path / "raw.onnx"
    export_float(model, path, (torch.stack(pictures(2)),), raw=raw)
    for count in (1, 3):
        images = pictures(count, seed=9)
        with torch.no_grad():
            expected = model(images)
            plain = network(name)(torch.stack(images))
        assert all(len(one["scores"]) >= 8 for one in expected)
        for runtime in RUNTIMES:
            found = run(path, runtime, torch.stack(images))
            assert tuple(found) == OUTPUTS
            check_same(expected, found)
            tensors = torch.utils._pytree.tree_leaves(plain)
            given = run(raw, runtime, torch.stack(images))
            if isinstance(plain, dict):
                assert list(given) == list(plain)
            for one, two in zip(given.values(), tensors, strict=True):
                np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolox", "queries"])
def test_quantized_files_give_the_simulations_detections(name: str, tmp_path: Path) -> None:
    """With all that happens around the network, by the public functions."""
    keys = {"nms": 0.5, "score": 0.2} if name == "yolox" else {}
    outputs, images = sentence(name, **keys), pictures(4)
    quantized = subbyte.quantize(network(name), [images], RANGE, outputs=outputs, preprocessing=BGR)
    path = tmp_path / "model.onnx"
    subbyte.export(quantized, path, torch.stack(images[:2]))
    subbyte.save(quantized, tmp_path / "saved.safetensors")
    again = subbyte.load(network(name), tmp_path / "saved.safetensors")
    new = pictures(3, seed=7)
    with torch.no_grad():
        expected, loaded = quantized(new), again(new)
    for one, two in zip(expected, loaded, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    for runtime in RUNTIMES:
        found = run(path, runtime, torch.stack(new))
        assert min(shares(expected, found)) >= 0.9


@pytest.mark.slow
def test_without_post_processing_the_raw_outputs_make_the_same_boxes(tmp_path: Path) -> None:
    model, images, path = captured("dfl"), torch.stack(pictures(2, seed=4)), tmp_path / "raw.onnx"
    export_float(model, path, (images,), postprocess=False)
    outputs = run(path, "onnxruntime", images)
    made = detections_of(model, (images,))
    assert made is not None
    found = dict(zip(OUTPUTS, made(list(outputs.values())), strict=True))
    with torch.no_grad():
        check_same(model(list(images)), found)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["corner", "centre"])
def test_a_file_for_other_images_letterboxes_them_itself(place: str, tmp_path: Path) -> None:
    preprocessing = Preprocessing(letterbox=64, place=place, fill=30)
    model = raw_detector(network("dfl"), sentence("dfl"), preprocessing)
    images = pictures(2, (30, 90))
    simulation = api.unquantized(api.capture(model, (images,)))
    export_float(simulation, tmp_path / "model.onnx", (torch.stack(images),))
    with torch.no_grad():
        expected = simulation(images)
    for runtime in RUNTIMES:
        found = run(tmp_path / "model.onnx", runtime, torch.stack(images))
        # Boxes of which nothing is left in the image stay in the file, with no area.
        assert min(shares(expected, found)) == 1


@pytest.mark.slow
def test_a_function_of_the_users_is_exported_with_the_network(tmp_path: Path) -> None:
    """The same as the form that it takes the place of."""
    (tmp_path / "own.py").write_text(
        "import torch\n\n\n"
        "def boxes(output, size):\n"
        "    centres, sides = output[:, :2], output[:, 2:4]\n"
        "    corners = torch.cat([centres - sides / 2, centres + sides / 2], 1)\n"
        "    return corners.transpose(1, 2), output[:, 4:].transpose(1, 2)\n"
    )
    outputs = Outputs(form=f"{tmp_path / 'own.py'}:boxes", score=0.05)
    model, images = raw_detector(network("decoded"), outputs), pictures(2)
    model.tried(images)
    simulation = api.unquantized(api.capture(model, (images,)))
    export_float(simulation, tmp_path / "model.onnx", (torch.stack(images),))
    with torch.no_grad():
        expected = raw_detector(network("decoded"), sentence("decoded"))(images)
    check_same(expected, run(tmp_path / "model.onnx", "onnxruntime", torch.stack(images)))


def by_hand(image: torch.Tensor, place: str) -> torch.Tensor:
    """A picture of 30 × 90 in a letterbox of 64, BGR, on 114: 21 × 64 pixels."""
    inner = nn.functional.interpolate(image[None], (21, 64), mode="bilinear")[0]
    above = (64 - 21) // 2 if place == "centre" else 0
    batch = torch.full((3, 64, 64), 114.0)
    batch[:, above : above + 21] = 255 * inner.flip(0)
    return batch


@pytest.mark.parametrize("place", ["corner", "centre"])
def test_the_network_reads_letterboxed_images(place: str) -> None:
    seen = []

    class Watched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            boxes = torch.tensor([[32.0, 32, 20, 10], [32, 4, 20, 10]]).expand(len(x), 2, 4)
            scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).expand(len(x), 2, 2)
            return torch.cat([boxes, scores], -1)

    preprocessing = Preprocessing(letterbox=64, place=place, colours="bgr", range=255)
    outputs = Outputs(form="decoded", classes=2, score=0.5)
    model = raw_detector(Watched(), outputs, preprocessing)
    image = pictures(1, (30, 90))[0]
    (found,) = model([image])
    torch.testing.assert_close(seen[0][0], by_hand(image, place), rtol=0, atol=1e-3)
    # The image has 21 of 64 rows, from row 21 on or from 0 on, and is 90 / 64 and 30 / 21 larger.
    x0, x1, top = 22 * 90 / 64, 42 * 90 / 64, 21 if place == "centre" else 0
    first = [x0, (27 - top) * 30 / 21, x1, (37 - top) * 30 / 21]
    second = [x0, 0, x1, 9 * 30 / 21]
    expected = [(first, 0.9, 1)] if place == "centre" else [(second, 0.8, 2)]
    assert found["labels"].tolist() == [label for *_, label in expected]
    assert found["scores"].tolist() == pytest.approx([score for _, score, _ in expected])
    for box, (wanted, *_) in zip(found["boxes"].tolist(), expected, strict=True):
        assert box == pytest.approx(wanted, abs=1e-3)


def test_images_are_stretched_where_a_height_and_width_are_given() -> None:
    model = raw_detector(network("decoded"), sentence("decoded"), Preprocessing(resize=(32, 64)))
    image = pictures(1, (60, 80))[0]
    larger = nn.functional.interpolate(image[None], (32, 64), mode="bilinear")
    with torch.no_grad():
        (found,) = model([image])
        (plain,) = raw_detector(network("decoded"), sentence("decoded"))(larger)
    torch.testing.assert_close(found["scores"], plain["scores"])
    factors = torch.tensor([80 / 64, 60 / 32] * 2)
    torch.testing.assert_close(found["boxes"], plain["boxes"] * factors, rtol=1e-4, atol=1e-3)


def test_images_of_several_sizes_need_a_letterbox() -> None:
    images = [*pictures(1, (32, 32)), *pictures(1, (48, 32))]
    model = raw_detector(network("decoded"), sentence("decoded"))
    with pytest.raises(SubbyteError, match="letterbox: SIDE"):
        model(images)
    with pytest.raises(SubbyteError, match=r"images are of 2 sizes \(32 × 32, 48 × 32"):
        letterbox_for(model, [(32, 32), (48, 32)])
    boxed = raw_detector(network("decoded"), sentence("decoded"), BGR)
    letterbox = letterbox_for(boxed, [(32, 32), (48, 32)])
    assert (letterbox.size, letterbox.fit, letterbox.by_model) == ((64, 64), "pad", True)
    assert letterbox.fill == (1.0, 114 / 255, 0.0)  # in the order of the image's channels
    assert letterbox_for(boxed, [(32, 32)]) == letterbox
    assert letterbox_for(model, [(32, 32)]).size == (32, 32)


def test_classes_are_known_after_a_first_batch() -> None:
    model = raw_detector(network("queries"), sentence("queries"))
    assert label_count(model) is None
    model.tried(pictures(2))
    assert label_count(model) == 3 + 1


def test_names_of_outputs_become_numbers() -> None:
    take = ["box_8", "box_16", "cls_8", "cls_16"]
    model = raw_detector(network("dfl"), sentence("dfl", take=take))
    model.tried(pictures(2))
    assert model.outputs.take == (2, 3, 0, 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"strides": [8]}, "these would fit: strides: "),
        ({"activation": "none"}, "give outputs.activation: sigmoid"),
        ({"classes": 80}, "these would fit: classes: 3"),
    ],
)
def test_a_sentence_that_does_not_fit_is_refused_at_once(
    keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(SubbyteError) as refused:
        subbyte.quantize(network("yolox"), [pictures(2)], outputs=sentence("yolox", **keys))
    assert message in str(refused.value)


def test_preprocessing_alone_is_refused() -> None:
    with pytest.raises(SubbyteError, match="give its outputs as well"):
        subbyte.quantize(network("yolox"), [torch.rand(2, 3, 64, 64)], preprocessing=BGR)


def test_the_users_network_is_left_as_it_is() -> None:
    model = network("yolox")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    detector = raw_detector(model, sentence("yolox"), BGR)
    assert isinstance(detector, RawDetector)
    detector.tried(pictures(2))
    assert detector.network is model
    assert not detector.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
