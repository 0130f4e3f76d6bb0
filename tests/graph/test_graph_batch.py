from __future__ import annotations

import torch

from subbyte.graph.batch import batch_size, images_of_pixels, in_chunks, pixels_of


def test_the_first_images_in_chunks() -> None:
    batches = [(torch.arange(5), "a"), (torch.arange(5, 8), "a"), (torch.arange(8, 20), "a")]
    parts = list(in_chunks(batches, 10, 3))
    assert [part[0].tolist() for part in parts] == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9]]
    assert {part[1] for part in parts} == {"a"}
    assert [batch_size(part) for part in parts] == [3, 2, 3, 2]


def test_how_many_images_have_so_many_pixels() -> None:
    pixels = 10 * 20
    assert images_of_pixels((torch.zeros(7, 3, 10, 20), 0.5), 5 * pixels + 1) == 5
    assert images_of_pixels(([torch.zeros(3, 10, 20), torch.zeros(3, 20, 20)],), 6 * pixels) == 4
    assert images_of_pixels((torch.zeros(2, 3, 10, 20),), pixels - 1) == 1
    assert images_of_pixels((torch.zeros(4, 12),), 100) == 100


def test_how_many_pixels_an_image_has() -> None:
    pixels = 10 * 20
    assert pixels_of((torch.zeros(7, 3, 10, 20), 0.5)) == pixels
    assert pixels_of((torch.zeros(2, 3, 10, 20), torch.zeros(2, 1, 5, 4))) == pixels + 20
    assert pixels_of(([torch.zeros(3, 10, 20), torch.zeros(3, 20, 20)],)) == 1.5 * pixels
    assert pixels_of((torch.zeros(4, 12), torch.zeros(4, 5, 12))) == 1  # no images
