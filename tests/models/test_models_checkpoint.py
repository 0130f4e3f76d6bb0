from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from subbyte.errors import SubbyteError
from subbyte.models.checkpoint import load_checkpoint, other_weights, read_checkpoint


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def trained(seed: int = 1) -> dict[str, Tensor]:
    """A state dict with values that no fresh network has."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator).to(value.dtype)
        for name, value in network().state_dict().items()
    }


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: 2 * value for name, value in state.items()}


def refusal(path: Path, module: nn.Module | None = None) -> str:
    with pytest.raises(SubbyteError) as caught:
        load_checkpoint(module or network(), path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.5},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model_state_dict": state, "optimizer": {"state": {}}},
        lambda state: {"state_dict": {"model": state}},
        lambda state: {"net": state, "acc": 93.1, "epoch": 1},
        lambda state: {"params": state},
        lambda state: {"ema": {"module": state, "updates": 9}, "epoch": 1},
        lambda state: {"model": None, "ema": {"module": state}},
        lambda state: {"model": state, "ema": {"module": doubled(state), "updates": 9}},
        lambda state: {"state_dict_ema": doubled(state), "state_dict": state},
        lambda state: {"params_ema": doubled(state), "params": state},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
        lambda state: {
            "state_dict": {f"net.{name}": value for name, value in state.items()}
            | {"criterion.weight": torch.ones(2)}
        },
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        lambda state: {name: nn.Parameter(value.float()) for name, value in state.items()},
    ],
)
@pytest.mark.parametrize("new_format", [True, False])
def test_every_wrapping_loads(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any], new_format: bool
) -> None:
    path = tmp_path / "a.pth"
    torch.save(wrap(trained()), path, _use_new_zipfile_serialization=new_format)
    module = network()
    load_checkpoint(module, path)
    for name, value in module.state_dict().items():
        assert torch.equal(value, trained()[name]), name


AVERAGED = {
    "ema.module": lambda last, mean: {"model": last, "ema": {"module": mean, "updates": 9}},
    "ema": lambda last, mean: {"model": last, "ema": {"module": mean, "updates": 9}},
    "state_dict_ema": lambda last, mean: {"state_dict": last, "state_dict_ema": mean},
    "params_ema": lambda last, mean: {"params": last, "params_ema": mean},
    "teacher": lambda last, mean: {"student": last, "teacher": mean, "epoch": 3},
    "a.b": lambda last, mean: {"model": last, "a.b": mean},
}


@pytest.mark.parametrize("key", AVERAGED)
def test_a_key_chooses_among_the_weights(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(AVERAGED[key](trained(), doubled(trained())), path)
    module = network()
    load_checkpoint(module, path, key)
    for name, value in module.state_dict().items():
        assert torch.equal(value, 2 * trained()[name]), name


def test_torchs_own_averaged_model_is_read(tmp_path: Path) -> None:
    """As torchvision's training scripts write it: with a count, and "module." before all else."""
    module = network()
    module.load_state_dict(trained())
    mean = torch.optim.swa_utils.AveragedModel(module)
    mean.update_parameters(module)
    path = tmp_path / "a.pth"
    torch.save({"model": network().state_dict(), "model_ema": mean.state_dict()}, path)
    assert "n_averaged" in mean.state_dict()
    read = network()
    load_checkpoint(read, path, "model_ema")
    assert torch.equal(read[0].weight, trained()["0.weight"])
    note = other_weights(path)
    assert note is not None
    assert "those under model in a.pth" in note
    assert "under model_ema (averaged)" in note


@pytest.mark.parametrize("new_format", [True, False])
def test_other_weights_of_the_same_form_are_named(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "a.pth"
    content = {
        "model": trained(),
        "ema": {"module": {f"module.{k}": v for k, v in trained(2).items()}, "updates": 9},
        "best": trained(3),
        "head": {"weight": torch.zeros(1)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert other_weights(path) == (
        "the weights are those under model in a.pth, which holds others of the same form under "
        "ema.module (averaged), best: checkpoint_key, as ema.module, takes these"
    )


@pytest.mark.parametrize(
    "content",
    [trained(), {"model": trained()}, {"ema": {"module": trained()}}, {"state_dict": trained()}],
)
def test_the_only_weights_of_a_file_need_no_word(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.pth"
    torch.save(content, path)
    assert other_weights(path) is None


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": trained(), "ema": {"module": trained()}}, path)
    for key in ("ema.modul", "optimizer", "model.0"):
        with pytest.raises(SubbyteError, match=r"known: ema\.module, model\)") as caught:
            read_checkpoint(path, key=key)
        assert f"'{key}'" in str(caught.value)
    torch.save(trained(), path)
    with pytest.raises(SubbyteError, match="leave checkpoint_key out"):
        read_checkpoint(path, key="ema")
    torch.save({"student": trained(), "teacher": trained(), "epoch": 3}, path)
    with pytest.raises(SubbyteError, match="but under student, teacher: give one as checkpoint_k"):
        read_checkpoint(path)


def test_a_prefix_is_not_taken_off_where_the_model_would_lack_something(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = {f"model.{name}": value for name, value in trained().items()}
    state["criterion.weight"] = state.pop("model.2.weight")
    torch.save({"state_dict": state}, path)
    assert "it lacks 0.weight" in refusal(path)


def test_safetensors_load(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(trained(), path)
    module = network()
    load_checkpoint(module, path)
    assert torch.equal(module[0].weight, trained()["0.weight"])


def test_a_prefix_that_the_model_has_itself_stays(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = network()

    path = tmp_path / "a.pth"
    torch.save({f"module.{name}": value for name, value in trained().items()}, path)
    wrapper = Wrapper()
    load_checkpoint(wrapper, path)
    assert torch.equal(wrapper.module[0].weight, trained()["0.weight"])


def test_batch_counts_may_be_missing_as_in_files_of_old(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({k: v for k, v in trained().items() if "num_batches" not in k}, path)
    load_checkpoint(network(), path)


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "hidden", "safetensors"])
def test_code_in_a_file_never_runs(tmp_path: Path, how: str) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / ("a.safetensors" if how == "safetensors" else "a.pth")
    content: Any = Trap(sprung)
    if how == "hidden":
        content = {"state_dict": trained(), "extra": Trap(sprung)}
    if how in ("pickle", "safetensors"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    message = refusal(path)
    assert not sprung.exists()
    assert how == "safetensors" or "save model.state_dict() instead" in message
    # The trap is a real one.
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(network(), path)
    message = refusal(path)
    assert "torch.nn.modules.container.Sequential" in message
    assert "save model.state_dict() instead" in message


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.trace(network().eval(), torch.rand(1, 3, 8, 8)), path)
    assert "save model.state_dict() instead" in refusal(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 100, -20, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(trained(), path)
    else:
        safetensors.torch.save_file(trained(), path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "is cut off" in refusal(path)


@pytest.mark.parametrize("kept", [0, 1, 100, 400, -20])
def test_an_old_file_that_is_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.pth"
    torch.save(trained(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in refusal(path)


def test_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_text("hello, I am a readme\n" * 10)
    assert "not a file that torch.save wrote" in refusal(path)
    assert "does not exist" in refusal(tmp_path / "b.pth")
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.zeros(3), "holds a Tensor"),
        ([1, 2], "holds a list"),
        ({}, "it is empty"),
        ({"epoch": 3, "optimizer": {}}, "'epoch' is not a tensor"),
        ({"model": {}}, "it is empty"),
        ({"model": {"a": torch.zeros(1), "b": 2}}, "'b' is not a tensor"),
    ],
)
def test_no_state_dict_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(content, path)
    assert says in refusal(path)


def test_other_shapes_are_named_three_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(trained(), path)
    # Of the 9 tensors of the narrower network all change but the last bias and the batch count.
    message = refusal(path, network(width=5))
    assert "0.weight is [4, 3, 3, 3] in the file and [5, 3, 3, 3] in the model" in message
    assert message.count("in the file") == 3
    assert message.endswith("and 4 more")


def test_missing_and_unexpected_names_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = trained()
    state["head.weight"] = state.pop("2.weight")
    torch.save(state, path)
    message = refusal(path)
    assert "it lacks 2.weight" in message
    assert "the model has no head.weight" in message
    torch.save({"other": torch.zeros(1)}, path)
    assert "it lacks 0.weight, 0.bias, 1.weight and 5 more" in refusal(path)


@pytest.mark.parametrize("value", [torch.zeros(1), torch.tensor([float("nan")]), 3])
def test_names_in_a_file_cannot_break_the_line(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.pth"
    torch.save({**trained(), "a\n\x1b[31mb.weight": value}, path)
    assert "a ?[31mb" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_are_not_finite_are_refused(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    path = tmp_path / "a.pth"
    state = trained()
    state["1.running_var"] = state["1.running_var"].to(dtype)
    state["1.running_var"][2] = value
    torch.save(state, path)
    message = refusal(path)
    assert "layer '1'" in message
    assert "1 of the 4 values of its running_var" in message


def test_format_versions_in_the_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = nn.DataParallel(network()).state_dict()
    torch.save({"state_dict": state}, path)
    read = read_checkpoint(path)
    assert read._metadata["1"]["version"] == 2  # type: ignore[attr-defined]
    assert list(read) == list(network().state_dict())
