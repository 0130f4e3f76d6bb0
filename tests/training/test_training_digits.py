from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from subbyte.data.digits import digits_split
from subbyte.errors import SubbyteError
from subbyte.models import build
from subbyte.models.digits import Digits
from subbyte.training.digits import main, save, top1, train


def test_the_same_seed_gives_the_same_weights_whatever_the_threads() -> None:
    images, labels = (part[:300] for part in digits_split()[:2])
    threads = torch.get_num_threads()
    random = torch.random.get_rng_state()
    first = train(images, labels, seed=4, epochs=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), random)
    torch.manual_seed(99)
    second = train(images, labels, seed=4, epochs=1).state_dict()
    other = train(images, labels, seed=5, epochs=1).state_dict()
    assert torch.get_num_threads() == threads
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_the_command_writes_a_file_that_loads_and_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "digits.safetensors"
    assert main(["--out", str(file), "--seed", "0", "--epochs", "2"]) == 0
    assert "899 evaluation images" in capsys.readouterr().out
    assert [entry.name for entry in file.parent.iterdir()] == ["digits.safetensors"]
    model = Digits().eval()
    model.load_state_dict(safetensors.torch.load_file(file))
    _, _, images, labels = digits_split()
    assert top1(model, images, labels) > 0.3  # a guess is right in 0.1


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(SubbyteError, match="is a folder"):
        save(Digits(), tmp_path / "taken")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
    assert main(["--out", str(tmp_path / "taken"), "--epochs", "0"]) == 2


@pytest.mark.whole
def test_training_again_gives_the_bundled_model_again() -> None:
    images, labels, evaluation_images, evaluation_labels = digits_split()
    model = train(images, labels, seed=0)
    assert top1(model, evaluation_images, evaluation_labels) >= 0.97
    bundled = build("digits")
    assert isinstance(bundled, Digits)
    x = torch.from_numpy(evaluation_images).unsqueeze(1).float().div(255).sub(0.305).div(0.376)
    with torch.no_grad():
        agreement = (model(x).argmax(1) == bundled(x).argmax(1)).double().mean()
    assert float(agreement) >= 0.97
