from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from subbyte.app.experiment import Experiment, builtin, dump, load, load_training
from subbyte.data.classes import listed_classes
from subbyte.errors import SubbyteError

SMALL = {"model": {"name": "digits"}, "data": {"name": "digits"}, "variants": {"a": {}}}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """write(**changes): a small experiment's file; the keys in `changes` are new or different."""

    def make(folder: str = ".", **changes: Any) -> str:
        path = tmp_path / folder / "small.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
        return str(path)

    return make


def refusal(name: str, *settings: str) -> str:
    with pytest.raises(SubbyteError) as caught:
        load(name, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", builtin())
def test_every_builtin_experiment_loads_and_is_described(name: str) -> None:
    images = ["data.root=pictures"] if name.startswith("seeds/") else []
    assert load(name, images).name == name
    assert re.match(r"# \w.{20,}", builtin()[name].read_text())


def test_defaults_are_those_of_the_contract(write: Any) -> None:
    experiment = load(write())
    assert experiment.name == "small"
    assert experiment.runtimes == ("onnxruntime", "openvino")
    assert (experiment.batch_size, experiment.device, experiment.seed) == (64, "cpu", 0)
    assert experiment.data.calibration_images == 512
    assert experiment.data.evaluation_images is None
    recipe = experiment.variants["a"]
    assert (recipe.weights, recipe.activations, recipe.first_last) == (8, 8, 8)


def test_what_is_dumped_loads_to_the_same(write: Any, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    preprocessing = {"resize": [40, 50], "crop": 32, "mean": [0.5], "std": [0.25]}
    variants = {
        "plain": None,
        "odd": {
            "weights": None,
            "ranges": {
                "weights": {"name": "percentile", "percentile": 99.5},
                "activations": "minmax",
            },
            "overrides": {r"block\d\.conv1": {"weights": 3}, ".*": {"activations": None}},
            "first_last": None,
            "seed": 4,
        },
    }
    name = write(
        name="shoes",
        model={"factory": "torch.nn:Linear", "arguments": {"in_features": 2}},
        data={"root": "pictures", "calibration_images": 7, "preprocessing": preprocessing},
        variants=variants,
        seed=9,
        runtimes=["openvino"],
    )
    first = load(name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/other.yaml").write_text(dump(first))
    again = load(str(tmp_path / "elsewhere/other.yaml"))
    assert again == first
    assert dump(again) == dump(first)


def test_settings_are_yaml_and_reach_into_the_depth(write: Any) -> None:
    settings = [
        "data.evaluation_images=100",
        "variants.a.weights=null",
        "variants.b.overrides={conv1: {weights: 3}}",
        "runtimes=[openvino]",
        "name=1e",
        "variants.a.activations=5",
        "variants.a.activations=6",
    ]
    experiment = load(write(), settings)
    assert experiment.data.evaluation_images == 100
    assert (experiment.variants["a"].weights, experiment.variants["a"].activations) == (None, 6)
    assert experiment.variants["b"].overrides["conv1"].weights == 3
    assert experiment.runtimes == ("openvino",)
    assert experiment.name == "1e"


def test_settings_reach_a_variant_whose_name_has_dots(write: Any) -> None:
    name = write(variants={"w4.5": {"weights": 4}, "w4": None})
    experiment = load(name, ["variants.w4.5.activations=4", "variants.w4.weights=3"])
    assert experiment.variants["w4.5"].activations == 4
    assert experiment.variants["w4"].weights == 3
    assert load(name, ["variants.w4.5=null"]).variants["w4.5"].weights == 8


def test_a_checkpoint_that_is_set_takes_the_place_of_weights_and_the_reverse(write: Any) -> None:
    published = write(model={"name": "resnet18", "weights": "DEFAULT"})
    model = load(published, ["model.checkpoint=own.pth"]).model
    assert (model.weights, model.checkpoint) == (None, Path("own.pth"))
    assert load(published, ["model.checkpoint=null"]).model.weights == "DEFAULT"
    assert "exclude" in refusal(published, "model.checkpoint=own.pth", "model.weights=DEFAULT")
    fine_tuned = write(model={"name": "resnet18", "checkpoint": "own.pth"})
    model = load(fine_tuned, ["model.weights=DEFAULT"]).model
    assert (model.weights, model.checkpoint) == ("DEFAULT", None)


def test_the_seed_goes_to_every_variant_without_its_own(write: Any) -> None:
    experiment = load(write(variants={"a": {}, "b": {"seed": 0}, "c": {"seed": 5}}), ["seed=3"])
    seeds = {name: recipe.seed for name, recipe in experiment.variants.items()}
    assert seeds == {"a": 3, "b": 0, "c": 5}


def test_paths_belong_to_the_file_and_those_of_settings_to_the_current_folder(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "pictures").mkdir(parents=True)
        (folder / "net.py").touch()
    monkeypatch.chdir(here)
    model, data = {"factory": "net.py:build"}, {"root": "pictures"}
    name = write("there", model=model, data=data)
    experiment = load(name)
    assert experiment.data.root == there / "pictures"
    assert experiment.model.factory == f"{there / 'net.py'}:build"
    experiment = load(name, ["data.root=pictures", "model.factory=net.py:build"])
    assert experiment.data.root == here / "pictures"
    assert experiment.model.factory == f"{here / 'net.py'}:build"


def test_a_path_of_statistics_belongs_to_the_file(write: Any, tmp_path: Path) -> None:
    variant = {"outputs": {".*": {"bits": 8}}, "statistics": "stats.yaml"}
    name = write("there", variants={"a": variant, "b": None})
    (tmp_path / "there/stats.yaml").touch()
    assert load(name).variants["a"].statistics == str(tmp_path / "there/stats.yaml")


def test_a_folder_called_imagenet_is_no_list_of_classes(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    data = {"root": "imagenet", "classes": "imagenet"}
    known = load(write(data=data)).data
    assert known.root == tmp_path / "imagenet"
    assert known.classes is not None
    assert len(listed_classes(known.classes)) == 1000
    (tmp_path / "imagenet").rmdir()
    (tmp_path / "imagenet").write_text("cat\ndog\n")
    known = load(write(data={**data, "root": "."})).data
    assert known.classes is not None
    assert listed_classes(known.classes) == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "name"),
    [("my run (1).yaml", "my-run-1"), ("(1).yaml", "1"), ("größe.yaml", "größe"), ("$.yml", "run")],
)
def test_any_file_names_a_run(file: str, name: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(yaml.safe_dump(SMALL))
    assert load(str(tmp_path / file)).name == name


def test_paths_of_annotations_belong_to_the_file(write: Any, tmp_path: Path) -> None:
    for name in ("train", "val", "train.json", "val.json"):
        (tmp_path / name).mkdir()
    data = {"calibration": "train", "evaluation": "val"}
    one = load(str(write(data={**data, "annotations": "val.json"}))).data
    assert one.annotations == tmp_path / "val.json"
    files = {"calibration": "train.json", "evaluation": "val.json"}
    both = load(str(write(data={**data, "annotations": files})))
    assert both.data.annotations is not None
    assert both.data.annotations.evaluation == tmp_path / "val.json"  # type: ignore[union-attr]
    path = tmp_path / "again.yaml"
    path.write_text(dump(both))
    assert load(str(path)) == both


def test_home_is_expanded(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/pictures").mkdir(parents=True)
    experiment = load(write(data={"root": "~/pictures"}))
    assert experiment.data.root == tmp_path / "home/pictures"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "../up"}, "name: '../up' cannot name a folder"),
        ({"name": ""}, "name: '' cannot name a folder"),
        ({"variants": ["w8a8"]}, "variants: give at least one, as NAME: {weights: 8"),
        ({"variants": {"a/b": {}}}, "variants.a/b cannot be named so"),
        ({"variants": {".a": {}}}, "variants..a cannot be named so"),
        ({"variants": {"float": {}}}, "variants.float cannot be named so"),
        ({"variants": {"a": 4}}, "variants.a is 4: give a mapping of a recipe's fields"),
        ({"batch_size": 0}, "batch_size is 0: input should be greater than or equal to 1"),
        ({"batch_size": "many"}, "batch_size is 'many': input should be a valid integer"),
        ({"device": "cuda1"}, "device: 'cuda1' is not a device"),
        ({"data": {}}, "data needs name (bundled: digits), or root"),
        ({"data": {"root": "x", "preprocessing": {"rezise": 3}}},
         "unknown key 'data.preprocessing.rezise': did you mean 'data.preprocessing.resize'?"),
        ({"model": {"nam": "digits"}}, "unknown key 'model.nam': did you mean 'model.name'?"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(write: Any, changes: dict[str, Any], says: str) -> None:
    assert says in refusal(write(**changes))


def test_yaml_is_data_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.yaml"
    path.write_text("name: x\nmodel: !!python/object/apply:os.mkdir [sprung]\n")
    assert "evil.yaml is not valid YAML at line 2, column 8" in refusal(str(path))
    assert not (tmp_path / "sprung").exists()
    path.write_bytes(b"name: \xff\xfe\n")
    assert "evil.yaml is not valid YAML" in refusal(str(path))


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "unknown experiment 'digit': did you mean 'digits'?" in refusal("digit")
    (tmp_path / "notes.txt").touch()
    assert "notes.txt is not a YAML file" in refusal(str(tmp_path / "notes.txt"))
    (tmp_path / "folder.yaml").mkdir()
    assert "there is no experiment" in refusal(str(tmp_path / "folder.yaml"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seed", "--set seed has no value: write it as KEY=VALUE"),
        ("=3", "--set =3 has no value"),
        ("seed=[", "--set seed=[ has a value that is not valid YAML"),
        ("seed.x=3", "--set seed.x cannot be set: seed is a value and not a mapping"),
        ("variants.a.seed.x=3", "variants.a.seed is a value"),
    ],
)
def test_settings_that_set_nothing(write: Any, setting: str, says: str) -> None:
    assert says in refusal(write(seed=1, variants={"a": {"seed": 1}}), setting)


def test_cuda_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Experiment(**SMALL, device="cuda:1").device == "cuda:1"


def test_a_path_that_is_not_beside_the_file_is_taken_from_the_current_folder(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/pictures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    root = load(write("there", data={"root": "pictures"})).data.root
    assert root is not None
    assert root.resolve() == tmp_path / "here/pictures"


def test_a_name_does_not_lead_out_of_its_folder(write: Any) -> None:
    assert "cannot name a folder" in refusal(write(name="a/../../b"))


def test_all_faults_of_a_file_are_told_at_once(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        """\
model: {name: digits, weight: DEFAULT}
data: {root: pictures, evaluation: pictures}
varients: {a: {}}
batch_size: 0
runtimes: [onnxruntme, openvno]
"""
    )
    message = refusal(str(path))
    for part in (
        "unknown key 'model.weight': did you mean 'model.weights'?",
        "unknown key 'varients': did you mean 'variants'?",
        "variants is missing: give it a value",
        "batch_size is 0: input should be greater than or equal to 1",
        "data.evaluation has no meaning with data.root",
        "unknown runtime 'onnxruntme': did you mean 'onnxruntime'?",
        "unknown runtime 'openvno': did you mean 'openvino'?",
    ):
        assert message.count(part) == 1
    variants = {
        "a": {"weights": 9, "methd": "range", "ranges": "mmse"},
        "b": {"method": "rnge", "overrides": {"conv(": {}, ".*": {"weights": 1}}},
        "float": {},
    }
    message = refusal(write(variants=variants, seed=-1))
    for part in (
        "variants.a: unknown key 'methd': did you mean 'method'?",
        "variants.a: weights: 9 bits are not supported",
        "unknown range rule 'mmse'",
        "variants.b: unknown method 'rnge'",
        "variants.b: the override 'conv(' is not a regular expression",
        "variants.b: overrides['.*']: weights: 1 bits are not supported",
        "variants.float cannot be named so",
        "seed is -1",
    ):
        assert message.count(part) == 1


def test_all_faults_of_a_trainings_file_are_told_at_once(write: Any) -> None:
    name = write(data={"root": 3}, training={"model": "digits", "epoch": 2}, seeds=1)
    with pytest.raises(SubbyteError) as caught:
        load_training(name)
    for part in (
        "unknown key 'seeds': did you mean 'seed'?",
        "training: unknown key 'epoch': did you mean 'epochs'?",
        "is not an SSD that can be trained",
        "data.root is 3",
    ):
        assert str(caught.value).count(part) == 1
