"""The operations that PixMix bends pictures with: those of AugMix, for a batch with one strength per picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Pictures (N, C, H, W) in [0, 1], levels (N,) in [0, 10] and signs (N,) of 1 or -1, to pictures.
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


def _per_picture(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _autocontrast(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low), x)


def _equalize(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import equalize_image  # here, as it takes a second to import

    out: Tensor = equalize_image(x)
    return out


def _posterize(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    step = _per_picture(2.0 ** (4 + (level * 4 / 10).trunc()))  # of 256 levels
    return ((x * 255).round() / step).floor() * step / 255


def _solarize(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    threshold = _per_picture(256 - (level * 256 / 10).trunc())
    return torch.where((x * 255).round() < threshold, x, 1 - x)


def _rotate(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    angle = torch.deg2rad(sign * (level * 30 / 10).trunc())
    cos, sin, half_x, half_y = angle.cos(), angle.sin(), x.shape[3] / 2, x.shape[2] / 2
    row_x = (cos, -sin, half_x - cos * half_x + sin * half_y)
    row_y = (sin, cos, half_y - sin * half_x - cos * half_y)
    return _transform(x, *row_x, *row_y)


def _shear_x(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _transform(x, 1, sign * level * 0.3 / 10, 0, 0, 1, 0)


def _shear_y(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _transform(x, 1, 0, 0, sign * level * 0.3 / 10, 1, 0)


def _translate_x(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _transform(x, 1, 0, sign * (level * x.shape[3] / 3 / 10).trunc(), 0, 1, 0)


def _translate_y(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _transform(x, 1, 0, 0, 0, 1, sign * (level * x.shape[2] / 3 / 10).trunc())


def _transform(x: Tensor, *coefficients: Tensor | float) -> Tensor:
    """Take the pixel at (u, v) from (a u + b v + c, d u + e v + f), bilinearly; black where that is outside.

    Coordinates are in pixels, and the middle of the first is (0.5, 0.5), as Pillow has it.
    """
    _, _, height, width = x.shape
    a, b, c, d, e, f = (torch.as_tensor(value, dtype=x.dtype, device=x.device).view(-1, 1, 1) for value in coefficients)
    v = torch.arange(height, device=x.device, dtype=x.dtype)[:, None] + 0.5
    u = torch.arange(width, device=x.device, dtype=x.dtype) + 0.5
    across = (a * u + b * v + c).expand(len(x), -1, -1)
    down = (d * u + e * v + f).expand(len(x), -1, -1)
    grid = torch.stack([2 * across / width - 1, 2 * down / height - 1], dim=3)
    out = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    return out * is_inside[:, None]


def _grey(x: Tensor) -> Tensor:
    """Luma of RGB, the mean of other channels; (N, 1, H, W)."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _enhance(x: Tensor, poorest: Tensor | float, level: Tensor) -> Tensor:
    factor = _per_picture(level * 1.8 / 10 + 0.1)
    return (factor * x + (1 - factor) * poorest).clamp(0, 1)


def _color(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _enhance(x, _grey(x), level)


def _contrast(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _enhance(x, _grey(x).mean((2, 3), keepdim=True), level)


def _brightness(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    return _enhance(x, 0.0, level)


def _sharpness(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    kernel = x.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(x.shape[1], 1, 3, 3)
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x, kernel, groups=x.shape[1])
    return _enhance(x, smooth, level)


#: Of the paper.
OPERATIONS: dict[str, Operation] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "rotate": _rotate,
    "solarize": _solarize,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}

#: With those that resemble corruptions of ImageNet-C, which the paper leaves out where robustness is measured on it.
ALL_OPERATIONS: dict[str, Operation] = {
    **OPERATIONS,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
