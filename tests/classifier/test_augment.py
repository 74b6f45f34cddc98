"""Augmentation: true crops and mirror images, the same whatever part of the batch a worker holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from sio_ray.classifier.augment import Augmentation
from sio_ray.config import TrainConfig
from sio_ray.errors import ConfigError


def pictures(count: int, channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    """Random uint8 pictures without a zero, which is the padding."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def augmented(augmentation: Augmentation, images: Tensor, *seed: int) -> Tensor:
    """The whole global batch."""
    return augmentation.apply(images, augmentation.draw(tuple(images.shape[1:]), len(images), *(seed or (0, 0))))


@pytest.mark.parametrize("horizontal_flip", [True, False])
@pytest.mark.parametrize(("padding", "size_px"), [(1, None), (2, None), (3, None), (0, 4), (2, 3), (1, 5)])
def test_every_output_is_one_crop_of_the_padded_picture_perhaps_mirrored(padding, size_px, horizontal_flip):
    images = pictures(600)
    augmentation = Augmentation(padding, horizontal_flip, size_px=size_px)
    rows, columns = (5, 7) if size_px is None else (size_px, size_px)
    outputs = augmented(augmentation, images)
    assert outputs.shape == (600, *augmentation.output_shape((3, 5, 7))) == (600, 3, rows, columns)
    padded = F.pad(images, (padding,) * 4)
    tops, lefts = range(5 + 2 * padding - rows + 1), range(7 + 2 * padding - columns + 1)
    found = []
    for i, output in enumerate(outputs):
        for top in tops:
            for left in lefts:
                crop = padded[i, :, top : top + rows, left : left + columns]
                found += [(i, top, left, False)] if torch.equal(output, crop) else []
                found += [(i, top, left, True)] if torch.equal(output, crop.flip(2)) else []
    assert [i for i, *_ in found] == list(range(600)), "exactly one crop fits each output"
    assert {(top, left) for _, top, left, _ in found} == {(top, left) for top in tops for left in lefts}
    flipped = sum(flip for *_, flip in found)
    assert 250 < flipped < 350 if horizontal_flip else flipped == 0
    draws = augmentation.draw((3, 5, 7), 600, 0, 0)
    assert [(i, top, left, bool(flip)) for i, (top, left, _, _, flip) in enumerate(draws.tolist())] == found


def test_without_padding_and_flip_nothing_changes():
    images = pictures(9)
    assert torch.equal(augmented(Augmentation(), images), images)


def test_no_picture_is_no_error():
    augmentation = Augmentation(2, True, size_px=4)
    none = augmentation.apply(pictures(0), augmentation.draw((3, 5, 7), 6, 0)[:0])
    assert none.shape == (0, 3, 4, 4)


def test_about_half_are_flipped():
    images = pictures(2000, 1, 2, 2)
    outputs = augmented(Augmentation(0, True), images)
    flipped, unchanged = ((outputs == other).all(dim=(1, 2, 3)) for other in (images.flip(3), images))
    symmetric = (images == images.flip(3)).all(dim=(1, 2, 3))
    assert ((flipped ^ unchanged) | symmetric).all()
    assert abs(flipped.double().mean().item() - 0.5) < 4 * 0.5 / 2000**0.5


@pytest.mark.parametrize("augmentation", [Augmentation(2, True), Augmentation(0, True, resized_crop=True, size_px=4)])
@pytest.mark.parametrize("num_parts", [2, 3])
def test_a_picture_is_augmented_the_same_in_any_part_of_the_batch(num_parts, augmentation):
    images = pictures(100)
    whole, draws = augmented(augmentation, images), augmentation.draw((3, 5, 7), 100, 0, 0)
    order = torch.from_numpy(np.random.default_rng(0).permutation(100))
    for positions in order.tensor_split(num_parts):
        assert torch.equal(augmentation.apply(images[positions], draws[positions.numpy()]), whole[positions])


@pytest.mark.parametrize("augmentation", [Augmentation(2, True), Augmentation(0, True, resized_crop=True, size_px=4)])
def test_another_step_or_seed_augments_otherwise(augmentation):
    images = pictures(100)
    results = [augmented(augmentation, images, *seed) for seed in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert torch.equal(results[0], results[3])
    assert not any(torch.equal(results[i], results[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize("augmentation", [Augmentation(2, True), Augmentation(0, True, resized_crop=True, size_px=4)])
def test_the_input_is_left_as_it_is(augmentation):
    images = pictures(50)
    before = images.clone()
    augmented(augmentation, images).zero_()
    assert torch.equal(images, before)


def test_a_resized_crop_is_what_pillow_resizes_it_to_within_a_level():
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(40, 3, 6, 6, generator=generator), (48, 40), mode="bicubic").clamp(0, 1)
    images = (smooth * 255).byte()
    augmentation = Augmentation(4, True, resized_crop=True, size_px=24)
    draws = augmentation.draw((3, 48, 40), 40, 0)
    for image, (top, left, rows, columns, flip), output in zip(
        images, draws.tolist(), augmentation.apply(images, draws), strict=True
    ):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        crop = picture.crop((left, top, left + columns, top + rows)).resize((24, 24), Image.Resampling.BILINEAR)
        expected = np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop).transpose(2, 0, 1)
        assert np.abs(expected.astype(int) - output.numpy()).max() <= 1


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 64, 40)])
def test_resized_crops_are_distributed_as_those_of_torchvision(shape):
    torch.manual_seed(0)
    _, height, width = shape
    theirs = np.array(
        [RandomResizedCrop.get_params(torch.empty(shape), [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    ours = Augmentation(resized_crop=True).draw(shape, 4000, 0)[:, :4]
    tops, lefts, rows, columns = ours.T
    assert (tops >= 0).all()
    assert (lefts >= 0).all()
    assert (tops + rows <= height).all()
    assert (lefts + columns <= width).all()
    for ours_of_field, theirs_of_field in zip(ours.T, theirs.T, strict=True):
        shares = (0.05, 0.25, 0.5, 0.75, 0.95)
        assert np.abs(np.quantile(ours_of_field, shares) - np.quantile(theirs_of_field, shares)).max() <= 2.5


@pytest.mark.parametrize(("shape", "box"), [((3, 2, 64), (0, 30, 2, 3)), ((3, 64, 2), (30, 0, 3, 2))])
def test_where_no_crop_fits_the_largest_in_the_centre_is_taken(shape, box):
    # Of a strip of 32:1, 8 % in a ratio of 4:3 is broader than the strip.
    draws = Augmentation(resized_crop=True).draw(shape, 50, 0)
    assert (draws[:, :4] == box).all()


def test_a_side_larger_than_the_pictures_is_refused():
    with pytest.raises(ConfigError) as error:
        Augmentation(size_px=6).output_shape((3, 5, 7))
    assert str(error.value) == (
        "train.input_px must be at most the side of the pictures (5 px), got 6; lower it, or prepare larger pictures."
    )


def test_a_config_says_what_is_done():
    config = TrainConfig(crop_padding_px=3, horizontal_flip=False, resized_crop=True, input_px=24)
    assert Augmentation.of(config) == Augmentation(3, False, True, 24)
