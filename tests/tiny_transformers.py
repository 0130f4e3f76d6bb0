"""Small models of transformers with random weights, as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

LABELS = ("cat", "dog", "bird")
SIDE = 64  # of the images of detectors


def _labels(names: tuple[str, ...] = LABELS) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        **_labels(),
    )
    return transformers.ViTForImageClassification(config)


def swin() -> Any:
    config = transformers.SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
        **_labels(),
    )
    return transformers.SwinForImageClassification(config)


def resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        **_labels(),
    )
    return transformers.ResNetForImageClassification(config)


def convnext() -> Any:
    config = transformers.ConvNextConfig(
        hidden_sizes=[16, 32, 32, 32], depths=[1, 1, 1, 1], image_size=32, **_labels()
    )
    return transformers.ConvNextForImageClassification(config)


def mobilevit() -> Any:
    config = transformers.MobileViTConfig(
        image_size=64,
        hidden_sizes=[24, 32, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
        **_labels(),
    )
    return transformers.MobileViTForImageClassification(config)


def _backbone() -> Any:
    return transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )


def detr() -> Any:
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=_backbone(),
        num_queries=12,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        **_labels(),
    )
    return transformers.DetrForObjectDetection(config)


def yolos() -> Any:
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=[SIDE, SIDE],
        patch_size=8,
        num_detection_tokens=10,
        **_labels(),
    )
    return transformers.YolosForObjectDetection(config)


def _hybrid_encoder() -> dict[str, Any]:
    """What RT-DETR and D-FINE have behind their backbones."""
    return {
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [24, 32, 32],
        "encoder_ffn_dim": 48,
        "encoder_attention_heads": 2,
        "d_model": 32,
        "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 48,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "num_queries": 15,
        "num_denoising": 0,
        **_labels(),
    }


def rt_detr() -> Any:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        **_hybrid_encoder(),
    )
    return transformers.RTDetrForObjectDetection(config)


def d_fine() -> Any:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        hidden_sizes=[16, 24, 32, 32],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.DFineConfig(
        backbone_config=backbone,
        **_hybrid_encoder(),
    )
    return transformers.DFineForObjectDetection(config)


def written(folder: Path, make: Callable[[], Any], processor: Any = None, seed: int = 0) -> Path:
    """A model and its processor in a folder; weights so large that images tell apart.

    Args:
        folder: Where they go.
        make: Builds the model.
        processor: The processor, if there is one.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, nn.Linear):  # those of boxes small, so that boxes lie in images
                part.weight.normal_(0, (0.4 if "bbox" in name else 1.5) / part.in_features**0.5)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder
