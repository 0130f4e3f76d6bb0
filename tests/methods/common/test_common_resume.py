"""What is kept of finished work comes back to the last bit, and other work is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from subbyte import SubbyteError
from subbyte.methods.common.resume import claim, keep, restore
from subbyte.numerics.qparams import QuantParams, TensorQParams

CPU = torch.device("cpu")


def params() -> QuantParams:
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(3, generator=generator)
    integers = torch.randint(0, 255, (3, 4), generator=generator, dtype=torch.uint8)
    weight = TensorQParams(scale, torch.tensor([1, 0, 7], dtype=torch.int32), integers)
    zero = torch.zeros(1, dtype=torch.int32)
    activation = TensorQParams(scale[:1], zero, None, 31.25)
    exact = TensorQParams(scale[1:2], zero, None, math.inf)
    tensors = {"a:b.weight": weight, "b.activation": activation, "c.activation": exact}
    return QuantParams(tensors, {"layer.bias": torch.rand(3, generator=generator)})


def test_all_comes_back_as_it_was(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    expected, note = params(), {"block": "a", "seconds": 1.5, "fell_back": False}
    others = {"random": generator.get_state()}
    keep(tmp_path, "first", expected, note, others)
    kept = restore(tmp_path, "first", CPU)
    assert kept is not None
    found, given, noted = kept
    assert noted == note
    assert list(found.tensors) == sorted(expected.tensors)
    for key, own in expected.tensors.items():
        other = found.tensors[key]
        assert torch.equal(own.scale, other.scale)
        assert torch.equal(own.zero_point, other.zero_point)
        assert own.zero_point.dtype == other.zero_point.dtype
        assert own.sqnr_db == other.sqnr_db
        assert (own.integers is None) == (other.integers is None)
        if own.integers is not None and other.integers is not None:
            assert torch.equal(own.integers, other.integers)
            assert own.integers.dtype == other.integers.dtype
    assert torch.equal(found.biases["layer.bias"], expected.biases["layer.bias"])
    again = torch.Generator()
    again.set_state(given["random"])
    assert torch.equal(torch.rand(4, generator=again), torch.rand(4, generator=generator))


def test_what_was_not_kept_is_not_there(tmp_path: Path) -> None:
    keep(tmp_path, "first", params(), {})
    assert restore(tmp_path, "second", CPU) is None
    kept = restore(tmp_path, "first", CPU)
    assert kept is not None
    assert kept[1:] == ({}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["first.safetensors"]  # nothing beside it


def test_a_folder_is_for_one_work(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    claim(folder, {"weights": 4, "seed": 0})
    claim(folder, {"weights": 4, "seed": 0})
    with pytest.raises(SubbyteError, match="has seed 0 and this has 1: remove that folder"):
        claim(folder, {"weights": 4, "seed": 1})
    with pytest.raises(SubbyteError, match="has first batch None and this has"):
        claim(folder, {"weights": 4, "seed": 0, "first batch": "abc"})
