from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import subbyte
from subbyte.errors import SubbyteError
from subbyte.numerics.qparams import TensorQParams
from subbyte.placement.saved_file import read
from subbyte.placement.simulation import Simulation


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.body, self.head = nn.Conv2d(6, 64, 3), nn.Conv2d(64, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(F.relu(self.body(x))).mean((2, 3))


class Named(nn.Module):
    """Has a layer of each of these names, one after the other."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Conv2d(3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = F.relu(self.get_submodule(name)(x))
        return x


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Several(nn.Module):
    """Takes a list and a number beside its image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, more: list[Tensor], factor: float) -> Tensor:
        return self.conv(x + more[0] * factor)


def seeded(make: Callable[[], nn.Module] = Small) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = normal(4, 3, 7, 7)


def quantized_small(**fields: object) -> Simulation:
    return subbyte.quantize(seeded(), [IMAGES], subbyte.Recipe(**fields))


def one_of(tensors: dict[str, Any], ending: str) -> Any:
    """The one value whose name ends so."""
    (name,) = (name for name in tensors if name.endswith(ending))
    return tensors[name]


def check_round_trip(
    quantized: Simulation, path: Path, make: Callable[[], nn.Module] = Small, x: Tensor = IMAGES
) -> None:
    """Saved and loaded, on a model of its own, it is the same to the last bit."""
    subbyte.save(quantized, path)
    loaded = subbyte.load(seeded(make), path)
    assert torch.equal(loaded(x), quantized(x))
    assert subbyte.layers(loaded) == subbyte.layers(quantized)
    assert loaded.placement == quantized.placement
    again = path.with_name("again.safetensors")
    subbyte.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"weights": 3, "activations": 4, "first_last": None},
        {"weights": 2, "per_channel": False, "symmetric_activations": True, "ranges": "minmax"},
        {"overrides": {"body": {"weights": 4, "activations": None}, "s.*": {"weights": 5}}},
        {"weights": None},
        {"activations": None, "reduce_range": True},
    ],
    ids=lambda fields: ",".join(fields) or "default",
)
def test_a_round_trip(fields: dict[str, object], tmp_path: Path) -> None:
    check_round_trip(quantized_small(**fields), tmp_path / "a.safetensors")


def test_what_a_method_has_found_comes_back(tmp_path: Path) -> None:
    quantized = quantized_small(weights=4, method="range")
    before = quantized(IMAGES)
    key = "body.weight"
    params = quantized.params.tensors[key]
    others = (params.integers.to(torch.int32) + 1).clamp(max=15).to(torch.uint8)
    quantized.put(key, TensorQParams(params.scale * 1.01, params.zero_point, others))
    quantized.put_bias("head.bias", quantized.bias("head.bias") + 0.25)
    assert not torch.equal(quantized(IMAGES), before)
    check_round_trip(quantized, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        biases = [name for name in file.keys() if name.startswith("bias.")]  # noqa: SIM118
        assert torch.equal(file.get_tensor(f"grid.{key}.integers"), others)
    assert biases == ["bias.head.bias"]


def test_float_weights_stay_with_the_model(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    quantized = quantized_small(method="range")
    subbyte.save(quantized, path)
    floats = 4 * sum(parameter.numel() for parameter in seeded().parameters())
    assert path.stat().st_size < floats / 2
    with safe_open(path, framework="pt") as file:
        sizes = {name: file.get_tensor(name).numel() for name in file.keys()}  # noqa: SIM118
    channels = {"stem": 6, "body": 64, "head": 5}
    for layer, count in channels.items():
        for field in ("scale", "zero_point"):
            assert one_of(sizes, f"{layer}.weight.{field}") == count
    weights = {"stem": 6 * 3 * 9, "body": 64 * 6 * 9, "head": 5 * 64}
    for layer, count in weights.items():
        assert one_of(sizes, f"{layer}.weight.integers") == count
    # And three activations.
    assert sum(sizes.values()) == sum(weights.values()) + 2 * sum(channels.values()) + 2 * 3


@pytest.mark.slow
def test_metadata_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    overrides = {"body": {"weights": 4}}
    quantized = quantized_small(weights=5, overrides=overrides, method="bias_correction")
    quantized.metadata |= {"classes": ["größe", "b"], "preprocessing": {"resize": 7}}
    subbyte.save(quantized, path)
    for metadata in (read(path).metadata, subbyte.load(seeded(), path).metadata):
        assert metadata["classes"] == ["größe", "b"]
        assert metadata["preprocessing"] == {"resize": 7}
        assert metadata["version"] == subbyte.__version__
        assert metadata["method"] == "bias_correction"
        assert subbyte.Recipe(**metadata["recipe"]) == quantized.placement.recipe


def test_a_batch_of_one_and_a_model_in_training_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    quantized = subbyte.quantize(seeded(), [IMAGES[:1]])
    subbyte.save(quantized, path)
    model = seeded().train()
    loaded = subbyte.load(model, path)
    assert model.training
    assert torch.equal(loaded(IMAGES), quantized(IMAGES))


def test_arguments_of_any_structure(tmp_path: Path) -> None:
    model, args = seeded(Several), (IMAGES, [normal(4, 3, 7, 7, seed=2)], 0.5)
    quantized = subbyte.quantize(model, [args])
    subbyte.save(quantized, tmp_path / "a.safetensors")
    loaded = subbyte.load(model, tmp_path / "a.safetensors")
    assert torch.equal(loaded(*args), quantized(*args))


@pytest.mark.parametrize(
    "names",
    [("conv", "conv1"), ("weight", "scale"), ("changed", "grid"), ("quantizers", "activation")],
    ids=str,
)
def test_layers_of_any_name(names: tuple[str, ...], tmp_path: Path) -> None:
    quantized = subbyte.quantize(seeded(lambda: Named(*names)), [IMAGES])
    for name in names:
        quantized.put_bias(f"{name}.bias", quantized.bias(f"{name}.bias") + 0.25)
    check_round_trip(quantized, tmp_path / "a.safetensors", lambda: Named(*names))


def test_a_weight_of_two_layers(tmp_path: Path) -> None:
    check_round_trip(subbyte.quantize(seeded(Tied), [IMAGES]), tmp_path / "a.safetensors", Tied)


def test_equalized_weights_are_found_again(tmp_path: Path) -> None:
    check_round_trip(quantized_small(equalize=True, method="range"), tmp_path / "a.safetensors")


@pytest.mark.slow
def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    subbyte.save(quantized_small(), path)
    other = seeded()
    with torch.no_grad():
        other.body.weight[0, 0, 0, 0] += 1e-6
        other.head.bias[0] += 1e-3
    with pytest.raises(SubbyteError, match="another model: 2 tensors differ, the first is 'body"):
        subbyte.load(other, path)
    with pytest.raises(SubbyteError, match=r"another model: .* the first is 'stem"):
        subbyte.load(nn.Conv2d(3, 4, 3), path)


def test_batch_norm_statistics_belong_to_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    subbyte.save(quantized_small(), path)
    other = seeded()
    other.norm.running_mean[0] += 1e-3
    with pytest.raises(SubbyteError, match=r"'stem\.bias'"):
        subbyte.load(other, path)


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    subbyte.save(quantized_small(), tmp_path / "a.safetensors")
    with pytest.raises(SubbyteError, match=r"give a torch\.nn\.Module"):
        subbyte.load("model.pt", tmp_path / "a.safetensors")
    with pytest.raises(SubbyteError, match=r"model\.onnx"):
        subbyte.load("model.onnx", tmp_path / "a.safetensors")


def test_a_file_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    subbyte.save(quantized_small(), path)
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for length in (0, 5, header - 10, header, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(SubbyteError, match="is not a whole safetensors file"):
            subbyte.load(seeded(), path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"conv.weight": torch.ones(3)}, str(path), metadata={"format": "pt"})
    for use in (lambda: subbyte.load(seeded(), path), lambda: read(path)):
        with pytest.raises(SubbyteError, match="holds no quantized model"):
            use()


@pytest.mark.parametrize("name", ["none.safetensors", "."])
def test_a_file_that_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(SubbyteError, match="there is no file"):
        subbyte.load(seeded(), tmp_path / name)


def test_a_file_that_lacks_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    subbyte.save(quantized_small(), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: value for name, value in tensors.items() if "body.weight.z" not in name}
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(SubbyteError, match="no parameters for the weight of layer 'body'"):
        subbyte.load(seeded(), path)


def test_a_file_of_an_earlier_version_asks_to_quantize_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    # What version 0.1.0 has written: roundings as offsets, no format number.
    about = {"metadata": {"version": "0.1.0", "recipe": {}}, "example": {}, "fingerprints": {}}
    tensors = {"grid.conv.weight.scale": torch.ones(3), "grid.conv.weight.offset": torch.ones(3)}
    save_file(tensors, str(path), metadata={"subbyte": json.dumps(about)})
    with pytest.raises(SubbyteError, match="another version of subbyte: quantize the model again"):
        subbyte.load(seeded(), path)


def test_a_failure_leaves_an_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"as it was")
    quantized = quantized_small()
    quantized.metadata["classes"] = {"not", "JSON"}
    with pytest.raises(TypeError):
        subbyte.save(quantized, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"as it was"


class Plain(nn.Module):
    """Its weights are neither parameters nor buffers that are saved."""

    def __init__(self, seed: int, kind: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(4, 3, 3, 3, generator=generator)
        bias = torch.randn(4, generator=generator)
        self.kind = kind
        if kind == "listed":
            self.both = [weight, bias]
        elif kind == "attributes":
            self.weight, self.bias = weight, bias
        else:
            self.register_buffer("weight", weight, persistent=False)
            self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.both if self.kind == "listed" else (self.weight, self.bias)
        return F.conv2d(x, weight, bias).relu()


class Around(nn.Module):
    """A region and code that cannot be captured."""

    subbyte_regions = ("body",)

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        return [y[y > y.mean()] for y in self.body(x)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attributes", "listed", "buffers"])
@pytest.mark.parametrize("region", [False, True])
def test_weights_that_are_no_parameters(kind: str, region: bool, tmp_path: Path) -> None:
    def made(seed: int) -> nn.Module:
        plain = Plain(seed, kind)
        return (Around(plain) if region else plain).eval()

    x, path = torch.randn(8, 3, 8, 8), tmp_path / "model.safetensors"
    quantized = subbyte.quantize(made(0), [x])
    assert quantized.params.biases
    subbyte.save(quantized, path)
    found = subbyte.load(made(0), path)(x)
    assert all(torch.equal(a, b) for a, b in zip(quantized(x), found, strict=True))
    with pytest.raises(SubbyteError, match="made from another model: 2 tensors differ"):
        subbyte.load(made(1), path)


def test_a_model_that_does_not_take_the_files_images_is_another_one(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    path = tmp_path / "s.safetensors"
    subbyte.save(subbyte.quantize(net, [torch.randn(8, 4)], subbyte.Recipe(method="range")), path)
    with pytest.raises(SubbyteError, match=r"s\.safetensors was made from another model") as caught:
        subbyte.load(torch.nn.Linear(3, 3), path)
    assert "give batches" not in str(caught.value)
