"""Saves tiny generators of every family as the folders that fit-generator or diffusers would write."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EDMDPMSolverMultistepScheduler,
    ModelMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline

#: Not the 0.5 that diffusers assumes, so that forgetting it shows.
SIGMA_DATA = 0.4

#: Pixels of the pictures that the tiny DiT and Stable Diffusion draw: their latents doubled once.
SIDE_PX = 16


def save(folder: Path, unet: ModelMixin, class_names: list[str] | None = None) -> Path:
    """Save and return the folder."""
    scheduler = EDMDPMSolverMultistepScheduler(sigma_data=SIGMA_DATA)
    ClassConditionalEDMPipeline(unet, scheduler, class_names).save_pretrained(str(folder), safe_serialization=True)
    return folder


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE_PX,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(2)  # an untrained one draws nearly one grey
    return vae.eval()


def save_dit(folder: Path, num_classes: int = 1000, id2label: dict[int, str] | None = None) -> Path:
    """Save a DiT that has its class in every picture, as diffusers does it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            norm_num_groups=4,
            sample_size=SIDE_PX // 2,
            patch_size=2,
            num_embeds_ada_norm=num_classes,
        ).eval()
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if "norm1" in name or "proj_out" in name:
                    parameter.mul_(20)  # an untrained one hardly heeds its class
        scheduler = DDIMScheduler(clip_sample=False)
        pipeline = DiTPipeline(transformer, _vae(), scheduler, id2label)
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    if id2label is not None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "id2label": id2label}))
    return folder


def save_stable_diffusion(folder: Path) -> Path:
    """Save a Stable Diffusion whose tokenizer knows letters only."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(vocab), str(merges), model_max_length=32)
    vocab.unlink()
    merges.unlink()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=32,
                bos_token_id=len(tokens) - 2,
                eos_token_id=len(tokens) - 1,
                pad_token_id=len(tokens) - 1,
            )
        ).eval()
        unet = UNet2DConditionModel(
            sample_size=SIDE_PX // 2,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        ).eval()
        pipeline = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder
