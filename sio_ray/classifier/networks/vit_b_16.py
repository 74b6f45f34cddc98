"""ViT-B/16, of torchvision's modules and with its parameter names."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sio_ray.classifier.networks.network import Network

_PATCH_PX = 16


class ViTB16(Network):
    """A vision transformer of 12 blocks on patches of 16 px; its features are the class token, 768.

    Source: Dosovitskiy et al., arXiv:2010.11929; initialised as torchvision does it.
    """

    min_px = 2 * _PATCH_PX
    torchvision_name = "vit_b_16"
    last_layer_name = "heads.head"
    num_features = 768

    def __init__(self, image_shape: tuple[int, int, int], width: int | None = None) -> None:
        from torchvision.models import get_model  # takes seconds

        super().__init__(image_shape, width)
        theirs = get_model(self.torchvision_name, image_size=image_shape[1])
        self.class_token, self.conv_proj, self.encoder = theirs.class_token, theirs.conv_proj, theirs.encoder
        if image_shape[0] != self.conv_proj.in_channels:
            self.conv_proj = nn.Conv2d(image_shape[0], self.num_features, _PATCH_PX, _PATCH_PX)
            nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (image_shape[0] * _PATCH_PX**2)))
            nn.init.zeros_(self.conv_proj.bias)

    @classmethod
    def refusal(cls, image_shape: tuple[int, int, int]) -> str | None:
        """See `Network`."""
        _, height, width = image_shape
        if height != width or height % _PATCH_PX:
            return f"needs squares whose side is a multiple of {_PATCH_PX} px"
        return super().refusal(image_shape)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """See `Network`; they give tokens, (B, 1 + H * W / 256, 768), the class token first."""
        *blocks, last = self.encoder.layers
        return [self._embed, *blocks, lambda tokens: self.encoder.ln(last(tokens))]

    def _embed(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1)
        out: Tensor = self.encoder.dropout(tokens + self.encoder.pos_embedding)
        return out

    def pool(self, last: Tensor) -> Tensor:
        """See `Network`."""
        return last[:, 0]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """See `Network`; tokens at their places, (B, 768, H / 16, W / 16) each, without the class token."""
        side = x.shape[-1] // _PATCH_PX
        return [tokens[:, 1:].transpose(1, 2).unflatten(2, (-1, side)) for tokens in super().feature_maps(x)]
