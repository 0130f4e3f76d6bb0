"""Images of several sizes, brought to the one that a raw detector itself brings them to."""

from __future__ import annotations

import torch
from torch import nn

import subbyte
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors import one_size
from subbyte.detectors.raw_outputs import raw_detector

SIDE = 32


class Network(nn.Module):
    """Sixteen boxes of a few layers, with scores of three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 4, 1), nn.SiLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.SiLU()
        )
        self.head = nn.Conv2d(16, 7, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.head(self.body(images)).flatten(2).transpose(1, 2)
        return torch.cat([10 + 5 * rows[..., :4].abs(), rows[..., 4:].sigmoid()], 2)


OUTPUTS = Outputs(form="decoded", classes=3)
LETTERBOX = Preprocessing(letterbox=SIDE, place="centre", fill=114)
SIZES = [(24, 40), (32, 32), (50, 20), (16, 16)]


def images(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *SIZES[i % len(SIZES)], generator=generator) for i in range(count)]


def test_the_network_gives_the_same_for_them() -> None:
    model = raw_detector(Network().eval(), OUTPUTS, LETTERBOX)
    change = one_size(model)
    assert change is not None
    (fitted,) = change((images(4),))
    assert {tuple(image.shape) for image in fitted} == {(3, SIDE, SIDE)}
    seen: list[torch.Tensor] = []
    model.network.register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        model(images(4))
        model(fitted)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


def test_without_a_letterbox_images_stay() -> None:
    assert one_size(raw_detector(Network().eval(), OUTPUTS, Preprocessing())) is None


def test_images_of_several_sizes_are_tuned_on() -> None:
    pictures = images(40)
    batches = [pictures[i : i + 8] for i in range(0, 40, 8)]
    recipe = subbyte.Recipe(weights=4, method={"name": "subbyte", "steps": 3})
    quantized = subbyte.quantize(
        Network().eval(), batches, recipe, outputs=OUTPUTS, preprocessing=LETTERBOX
    )
    tuning = quantized.params.reported["tuning"]
    assert tuning["steps"] == 3
    assert tuning["loss_before"] > 0
