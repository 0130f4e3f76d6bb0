from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

# One thread for each of pytest's workers and for each process that a test starts; before torch.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings
from torch import fx, nn

from placed import placed
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe

torch.set_num_threads(1)
settings.register_profile("subbyte", deadline=None, derandomize=True)
settings.load_profile("subbyte")


# Where tests start processes. They come first: in a worker that has loaded all runtimes and worked
# for a quarter of an hour, the first process that it starts can end it.
EARLY = (
    "tests/app/",
    "tests/examples/",
    "tests/test_docs_",
    "tests/test_extending.py",
    "tests/training/",
    "tests/utils/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and leave the order in each."""
    items.sort(key=lambda item: not item.nodeid.startswith(EARLY))


def pytest_collection_finish() -> None:
    """Spare the collector what was imported, which each export would make it look at again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


Norms = nn.BatchNorm1d | nn.BatchNorm2d


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def trained() -> Callable[[nn.Module], nn.Module]:
    """trained(model): in evaluation mode, with batch norms that do something."""

    def change(model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, Norms) and module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias)
        return model.eval()

    return change


@pytest.fixture
def place() -> Callable[..., Simulation]:
    """place(model, *args, **recipe): a simulation with quantizers in place, without parameters.

    Bits are 4 and `first_last` is None where the recipe does not say.
    """

    def run(model: nn.Module, *args: Any, **recipe: Any) -> Simulation:
        given = {"weights": 4, "activations": 4, "first_last": None, **recipe}
        return placed(model.eval(), args, Recipe(**given))

    return run


@pytest.fixture
def bits() -> Callable[[Simulation, str], dict[str, int]]:
    """bits(simulation, role): the bits of every quantized tensor of a role, by its layer."""

    def read(simulation: Simulation, role: str) -> dict[str, int]:
        return {t.layer: q.spec.bits for t, q in simulation.quantizers(role)}

    return read


@pytest.fixture
def stands() -> Callable[[Simulation, str], tuple[list[str], list[str]]]:
    """stands(simulation, layer): behind which operators a quantized activation is, and its readers.

    An input of the model counts as the operator "placeholder".
    """

    def find(simulation: Simulation, layer: str) -> tuple[list[str], list[str]]:
        (quantizer,) = [q for t, q in simulation.activations() if t.layer == layer]
        region = simulation.region("")
        calls = [n for n in region.graph.nodes if n.op == "call_module"]
        nodes = [n for n in calls if region.get_submodule(n.target) is quantizer]
        behind = [_operator(node.args[0]) for node in nodes]
        return sorted(behind), sorted(_operator(user) for node in nodes for user in node.users)

    return find


def _operator(node: fx.Node) -> str:
    if node.op != "call_function":
        return node.op
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]
