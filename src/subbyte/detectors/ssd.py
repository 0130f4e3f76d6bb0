"""The SSD family: softmax, decoding and suppression, with default boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subbyte.detectors.nms import Detections, best_of, clipped, nms_scores, rows
from subbyte.postprocessing import Anchored


class Boxes(nn.Module):
    """From regressions [N, A, 4] and logits [N, A, C] to the detections of images of `size`."""

    def __init__(self, facts: Anchored, size: tuple[int, int]) -> None:
        super().__init__()
        self.facts, self.size = facts, size
        self.register_buffer("defaults", facts.boxes.clone())

    def forward(self, regression: Tensor, logits: Tensor) -> Detections:
        """Boxes [N, K, 4] in pixels, scores [N, K], labels [N, K], count [N]."""
        facts = self.facts
        scores = logits.softmax(-1)[..., 1:].transpose(1, 2)  # N, C - 1, A
        classes, candidates = scores.shape[1], min(facts.candidates, scores.shape[2])
        best, places = scores.topk(candidates, -1)
        chosen = rows(self.decoded(regression), places.flatten(1))  # N, (C - 1)·M, 4
        if facts.clips_first:
            chosen = clipped(chosen, self.size)
        # Each class of each image is an image of its own to the suppression.
        kept = nms_scores(
            chosen.reshape(-1, candidates, 4),
            best.reshape(-1, 1, candidates),
            facts.nms_iou,
            facts.score_threshold,
            min(facts.detections, candidates),
        ).reshape(-1, classes * candidates)
        labels = torch.arange(1, classes + 1, device=kept.device).repeat_interleave(candidates)
        found, *rest = best_of(chosen, kept, labels, facts.detections)
        return found if facts.clips_first else clipped(found, self.size), *rest  # type: ignore[return-value]

    def decoded(self, regression: Tensor) -> Tensor:
        """Boxes [N, A, 4] in the corner form and in pixels."""
        defaults, (height, width) = self.get_buffer("defaults"), self.size
        of_centres, of_sides = self.facts.variances
        centres = defaults[:, :2] + regression[..., :2] * of_centres * defaults[:, 2:]
        logarithms = regression[..., 2:] * of_sides
        if self.facts.limit is not None:
            logarithms = logarithms.clamp(max=self.facts.limit)
        half = defaults[:, 2:] * torch.exp(logarithms) / 2
        corners = torch.cat([centres - half, centres + half], -1)
        return corners * corners.new_tensor([width, height, width, height])
