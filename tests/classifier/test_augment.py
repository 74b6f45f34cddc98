"""Augmentation: true shifts and mirror images, the same whatever part of the batch a worker holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sio_ray.classifier.augment import augment


def pictures(count: int, channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)) + 0.1


def augmented(images: Tensor, positions: Tensor | None = None, **changes) -> Tensor:
    positions = torch.arange(len(images)) if positions is None else positions
    settings = {"crop_padding_px": 2, "horizontal_flip": True, "batch_size": 300, "seed": (0, 0)}
    return augment(images, positions, **{**settings, **changes})


@pytest.mark.parametrize("horizontal_flip", [True, False])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_every_output_is_one_crop_of_the_padded_picture_perhaps_mirrored(padding, horizontal_flip):
    images = pictures(300)
    outputs = augmented(images, crop_padding_px=padding, horizontal_flip=horizontal_flip)
    assert outputs.shape == images.shape
    padded = F.pad(images, (padding,) * 4)
    found = []
    for i, output in enumerate(outputs):
        for row in range(2 * padding + 1):
            for column in range(2 * padding + 1):
                crop = padded[i, :, row : row + 5, column : column + 7]
                found += [(i, row, column, False)] if torch.equal(output, crop) else []
                found += [(i, row, column, True)] if torch.equal(output, crop.flip(2)) else []
    assert [i for i, *_ in found] == list(range(300)), "exactly one crop fits each output"
    crops = {(row, column) for _, row, column, _ in found}
    assert crops == {(row, column) for row in range(2 * padding + 1) for column in range(2 * padding + 1)}
    flipped = sum(flip for *_, flip in found)
    assert 110 < flipped < 190 if horizontal_flip else flipped == 0


def test_without_padding_and_flip_nothing_changes():
    images = pictures(9)
    assert torch.equal(augmented(images, crop_padding_px=0, horizontal_flip=False), images)


def test_about_half_are_flipped():
    images = pictures(2000, 1, 2, 2)
    outputs = augmented(images, crop_padding_px=0, batch_size=2000)
    flipped = (outputs == images.flip(3)).all(dim=(1, 2, 3))
    unchanged = (outputs == images).all(dim=(1, 2, 3))
    assert (flipped ^ unchanged).all()
    assert abs(flipped.double().mean().item() - 0.5) < 4 * 0.5 / 2000**0.5


@pytest.mark.parametrize("num_parts", [2, 3])
def test_a_picture_is_augmented_the_same_in_any_part_of_the_batch(num_parts):
    images = pictures(300)
    whole = augmented(images)
    order = torch.from_numpy(np.random.default_rng(0).permutation(300))
    for positions in order.tensor_split(num_parts):
        assert torch.equal(augmented(images[positions], positions), whole[positions])


def test_another_step_or_seed_augments_otherwise():
    images = pictures(300)
    results = [augmented(images, seed=seed) for seed in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert torch.equal(results[0], results[3])
    assert not any(torch.equal(results[i], results[j]) for i in range(3) for j in range(i))


def test_the_input_is_left_as_it_is():
    images = pictures(50)
    before = images.clone()
    augmented(images)
    assert torch.equal(images, before)
