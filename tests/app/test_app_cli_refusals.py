"""Bad input: exit code 2, one sentence that names what is wrong and what would be right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from subbyte.app import experiment
from subbyte.app.run_folder import open_folder

if TYPE_CHECKING:
    from .conftest import Own, Refusal


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digts"], "unknown experiment 'digts': did you mean 'digits'?"),
        (["nothing.yaml"], "there is no experiment nothing.yaml"),
        (["digits", "--only", "w8a9"], "unknown variant 'w8a9': did you mean 'w8a8'?"),
        (["digits", "--set", "batch_size"], "--set batch_size has no value"),
        (["digits", "--set", "model.name=digts"], "unknown model 'digts': did you mean 'digits'?"),
        (["digits", "--set", "model.name=resnet18", "--set", "model.weights=IMAGENET1K_V9"],
         "unknown weights of resnet18 'IMAGENET1K_V9': did you mean 'IMAGENET1K_V1'?"),
        (["digits", "--set", "data.name=digts"], "did you mean 'digits'?"),
        (["digits", "--set", "data.root=pictures"], "data.root has no meaning with data.name"),
        (["digits", "--set", "data.calibration_images=899"],
         "data.calibration_images is 899, but there are 898 images"),
        (["digits", "--set", "bach_size=8"], "unknown key 'bach_size': did you mean 'batch_size'?"),
        (["digits", "--set", "data.rot=x"], "unknown key 'data.rot': did you mean 'data.root'?"),
        (["digits", "--set", "variants.w4a4.wieghts=4"],
         "variants.w4a4: unknown key 'wieghts': did you mean 'weights'?"),
        (["digits", "--set", "variants.w4a4.overrides={conv1: {wieghts: 4}}"],
         "variants.w4a4: overrides['conv1']: unknown key 'wieghts': did you mean 'weights'?"),
        (["digits", "--set", "variants.w4a4.overrides={convolution1: {weights: 4}}"],
         "variants.w4a4: unknown layer in overrides 'convolution1': did you mean 'conv1'?"),
        (["digits", "--set", "variants.w4a4.weights=9"], "variants.w4a4: weights: 9 bits"),
        (["digits", "--set", "variants.w4a4.activations=1"], "variants.w4a4: activations: 1 bits"),
        (["digits", "--set", "variants.w4a4.ranges=mmse"],
         "variants.w4a4: unknown range rule 'mmse': did you mean 'mse'?"),
        (["digits", "--set", "variants.w4a4.method=rnge"],
         "variants.w4a4: unknown method 'rnge': did you mean 'range'?"),
        (["digits", "--set", "runtimes=[onnxruntme]"],
         "unknown runtime 'onnxruntme': did you mean 'onnxruntime'?"),
        (["digits", "--device", "gpu"], "device: 'gpu' is not a device: give cpu or cuda"),
        (["digits", "--max-drop", "1", "--only", "w8a8"],
         "--max-drop searches the variant small, which --only leaves out"),
        (["digits", "--resume"], "there is no run of this experiment in runs/digits to resume"),
        (["digits", "--resume", "--out", "gone"], "there is no run in gone to resume"),
    ],
)  # fmt: skip
def test_what_a_run_refuses(refusal: Refusal, arguments: list[str], says: str) -> None:
    assert says in refusal("run", *arguments)


def test_a_device_that_is_not_there(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device here: give cpu" in refusal("run", "digits", "--device", "cuda")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed_names_its_extra(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    assert f"pip install 'subbyte[{runtime}]'" in refusal("run", "digits")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {name: digits}\ndata: {name: digits\n", "not valid YAML at line 3, column 1"),
        ("model:\n  name: a: b\n", "not valid YAML at line 2, column 10"),
        ("- digits\n", "my.yaml holds no mapping"),
        ("model: {name: digits}\nvariants: {a: }\n", "data is missing"),
        ("model: {name: digits}\ndata: {name: digits}\nvariants: {}\n",
         "variants: give at least one"),
    ],
)  # fmt: skip
def test_yaml_that_says_nothing(own: Own, refusal: Refusal, text: str, says: str) -> None:
    message = refusal("run", own.write(text))
    assert says in message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"root": "gone"}, "does not exist: give a folder"),
        ({"root": "pictures/train"},
         "has no folder train and no folder val (found: bright/, dark/)"),
        ({"calibration": "empty", "evaluation": "pictures/val"}, "empty holds no images"),
        ({"calibration": "pictures/val", "evaluation": "empty"}, "empty has no class folders"),
        ({"root": "pictures", "calibration_images": 9},
         "data.calibration_images is 9, but there are 8 images"),
        ({"root": "pictures", "evaluation_images": 9},
         "data.evaluation_images is 9, but there are 8 images"),
    ],
)  # fmt: skip
def test_folders_that_do_not_hold_what_is_asked(
    own: Own, refusal: Refusal, data: dict[str, Any], says: str
) -> None:
    (own.path / "empty").mkdir()
    assert says in refusal("run", own.yaml(data=data))


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"hello", "is not an image"), (None, "is cut off or damaged")],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_is_named(
    own: Own, refusal: Refusal, split: str, content: bytes | None, says: str
) -> None:
    path = own.path / "pictures" / split / "bright/0.png"
    path.write_bytes(content or path.read_bytes()[:200])
    message = refusal("run", own.yaml())
    assert f"image {path} {says}" in message
    assert "data.skip_broken: true" in message


class Trap:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_checkpoints_that_do_not_fit(own: Own, refusal: Refusal) -> None:
    file, state = own.yaml(), torch.load("net.pt")
    wide = {name: torch.cat([tensor, tensor]) for name, tensor in state.items()}
    torch.save(wide, "net.pt")
    message = refusal("run", file)
    assert "edges.weight is [8, 3, 3, 3] in the file and [4, 3, 3, 3] in the model" in message
    assert message.count("in the file") == 3
    assert "and 7 more" in message  # of ten tensors

    torch.save({**state, "mix.weight": torch.full((4, 4, 1, 1), float("nan"))}, "net.pt")
    message = refusal("run", file)
    assert "layer 'mix'" in message
    assert "NaN" in message

    torch.save({"state_dict": state, "hook": Trap()}, "net.pt")
    assert "could run code when loaded, and was not loaded" in refusal("run", file)


def test_a_factory_that_is_not_there(own: Own, refusal: Refusal) -> None:
    message = refusal("run", own.yaml(model={"factory": "net.py:biuld"}))
    assert "'biuld': did you mean 'build'?" in message
    assert "nett.py' does not exist" in refusal("run", own.yaml(model={"factory": "nett.py:build"}))


def test_a_model_that_cannot_be_captured_names_the_line(own: Own, refusal: Refusal) -> None:
    own.rewrite(
        "        return self.head(",
        "        if x.mean() > 0:\n            x = x + 1\n        return self.head(",
    )
    message = refusal("run", own.yaml())
    assert f"{own.path / 'net.py'}:15 (if x.mean() > 0:)" in message


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("{'logits': self.head(x.mean((2, 3)))}", "the model returns a dict and not logits"),
        ("self.mix(x)", "of shape (8, 4, 16, 16) for a batch of 8 and not logits"),
    ],
)
def test_a_model_whose_output_is_not_logits(
    own: Own, refusal: Refusal, returned: str, says: str
) -> None:
    own.rewrite("self.head(torch.relu(self.mix(x)).mean((2, 3)))", returned)
    assert says in refusal("run", own.yaml())


def test_more_classes_than_outputs(own: Own, refusal: Refusal) -> None:
    own.draw("pictures/val/grey/0.png", 90, 150)
    assert "images have 3 classes, but the model has only 2" in refusal("run", own.yaml())


@pytest.mark.slow
def test_a_place_that_is_taken(own: Own, refusal: Refusal) -> None:
    file = own.yaml()
    assert "net.py is a file" in refusal("run", file, "--out", "net.py")
    assert "net.py/run is or lies under a file" in refusal("run", file, "--out", "net.py/run")
    assert "pictures is not empty and holds no run" in refusal("run", file, "--out", "pictures")
    with open_folder(experiment.load(str(file)), Path("out"), resume=False):
        pass  # as a run leaves it that was killed before anything was finished
    assert "out holds another run" in refusal("run", file, "--out", "out")
    other = own.yaml(batch_size=7)
    message = refusal("run", other, "--out", "out", "--resume")
    assert "the run in out is of another experiment (" in message
    assert "only variants may change" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    ["variants.w8a8.method={name: range, steps: 9}", "variants.w8a8.regions=[block9]"],
)
def test_a_recipe_that_cannot_be_followed_is_found_before_anything_runs(
    refusal: Refusal, setting: str
) -> None:
    assert "variants.w8a8: " in refusal("run", "digits", "--set", setting)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("runtimes=3", "runtimes: 3 is not a list"),
        ("seed=-1", "seed is -1"),
        ("variants.w8a8.overrides={conv1: {8: 4}}", "unknown key '8'"),
        ("variants.w8a8.ranges={weights: 3}", "ranges.weights is 3"),
    ],
)
def test_values_of_another_kind(refusal: Refusal, setting: str, says: str) -> None:
    assert says in refusal("run", "digits", "--set", setting)


def test_a_key_that_is_no_text(own: Own, refusal: Refusal) -> None:
    # `on` is a boolean in YAML.
    assert "unknown key 'True'" in refusal("run", own.write(own.yaml().read_text() + "on: 1\n"))


def test_an_experiment_yaml_that_was_damaged(own: Own, refusal: Refusal) -> None:
    (own.path / "out").mkdir()
    (own.path / "out/experiment.yaml").write_text("name: [")
    message = refusal("run", own.yaml(), "--out", "out", "--resume")
    assert "out/experiment.yaml is not valid YAML" in message


def test_an_empty_folder_of_the_users_stays(own: Own, refusal: Refusal) -> None:
    own.draw("pictures/val/grey/0.png", 90, 150)
    (own.path / "out").mkdir()
    assert "3 classes" in refusal("run", own.yaml(), "--out", "out")
