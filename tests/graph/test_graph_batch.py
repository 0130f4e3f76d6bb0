from __future__ import annotations

import torch

from subbyte.graph.batch import batch_size, portions


def test_the_first_images_in_portions() -> None:
    batches = [(torch.arange(5), "a"), (torch.arange(5, 8), "a"), (torch.arange(8, 20), "a")]
    parts = list(portions(batches, 10, 3))
    assert [part[0].tolist() for part in parts] == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9]]
    assert {part[1] for part in parts} == {"a"}
    assert [batch_size(part) for part in parts] == [3, 2, 3, 2]
