"""Last layers: features to logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sio_ray.errors import CheckpointError

Head = Literal["linear", "g_odin"]


class GODINHead(nn.Module):
    """The decomposed confidence of G-ODIN: logits are h / g.

    h_c = cos(features, w_c), and g = sigmoid(batch_norm(linear(features))), one number per picture. Weight decay must
    leave `h` alone. As in OpenOOD, 1e-4 is added to both norms of the cosine; so exchanged weights give equal logits.

    Args:
        num_features: D.
        num_classes: C.

    Attributes:
        h: (D -> C) without a bias; only the direction of its rows counts.
        g: (D -> 1).

    Source: arXiv:2002.11297, section 3.1, with h^C.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.h = nn.Linear(num_features, num_classes, bias=False)
        nn.init.kaiming_normal_(self.h.weight, nonlinearity="relu")
        self.g = nn.Sequential(nn.Linear(num_features, 1), nn.BatchNorm1d(1), nn.Sigmoid())

    def numerators(self, features: Tensor) -> Tensor:
        """h, (B, C) float32 in [-1, 1]: the paper's score is its largest entry."""
        with torch.autocast(features.device.type, enabled=False):  # a cosine in bfloat16 has two digits
            return _unit(features.float()) @ _unit(self.h.weight.float()).T

    def forward(self, features: Tensor) -> Tensor:
        """Logits, (B, C) float32, of (B, D) features."""
        with torch.autocast(features.device.type, enabled=False):
            denominators: Tensor = self.g(features.float())
        return self.numerators(features) / denominators


def _unit(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / (norms + 1e-4)


#: Name in a checkpoint to last layer; each takes (num_features, num_classes).
HEADS: dict[str, type[nn.Linear] | type[GODINHead]] = {"linear": nn.Linear, "g_odin": GODINHead}


def build_head(name: str, num_features: int, num_classes: int) -> nn.Module:
    """Make a last layer, initialised from torch's global generator.

    Raises:
        CheckpointError: no head of that name.
    """
    if name not in HEADS:
        raise CheckpointError(f"there is no head {name!r}; this version has {', '.join(HEADS)}.")
    return HEADS[name](num_features, num_classes)
