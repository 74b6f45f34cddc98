"""Networks of published sizes, with random weights: what benchmarks measure and count where no weights are at hand."""

from __future__ import annotations

from typing import Any


def build_dit() -> tuple[Any, Any]:
    """DiT-XL/2 at 256 px and Stable Diffusion's VAE, by their published sizes (arXiv:2212.09748)."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    )
    return transformer, vae
