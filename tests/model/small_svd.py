"""A checkpoint in Stable Video Diffusion's layout, saved by diffusers and transformers themselves: small, random."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection


def save_small_svd(folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNetSpatioTemporalConditionModel(
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            block_out_channels=(32, 64), num_attention_heads=(1, 2), layers_per_block=1, cross_attention_dim=16,
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=24, num_frames=3,
        )  # fmt: skip
        with torch.no_grad():  # what diffusers starts at zero or at a half hides mistakes
            for p in unet.parameters():
                p.add_(0.05 * torch.randn_like(p))
        unet.save_pretrained(folder / "unet")
        AutoencoderKLTemporalDecoder(
            block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1
        ).save_pretrained(folder / "vae")
        clip = CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=224,
            patch_size=56, projection_dim=16,
        )  # fmt: skip
        CLIPVisionModelWithProjection(clip).save_pretrained(folder / "image_encoder")
    EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002,
        sigma_max=700.0, timestep_spacing="leading", steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    CLIPImageProcessorPil(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(
        folder / "feature_extractor"
    )
