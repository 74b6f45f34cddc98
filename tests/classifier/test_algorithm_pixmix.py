"""PixMix: its operations against Pillow's, its rounds against the formula, and draws that know only their position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from algorithm_samples import COMPOSITION, algorithm_of, batch_of, classifier_of, context_of, mixed, part_of
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import beta as beta_distribution
from scipy.stats import kstest

from sio_ray.classifier.algorithms.pixmix import PixMixOptions, _draw_plan
from sio_ray.classifier.algorithms.pixmix_operations import ALL_OPERATIONS, OPERATIONS
from sio_ray.classifier.feed import Composition

LEVELS = (0.1, 0.4, 1.3, 2.6, 2.99, 5.0, 9.9)
HEIGHT, WIDTH = 20, 28


def smooth_picture(seed: int, channels: int) -> np.ndarray:
    """(H, W, C) uint8, of the usual kind: neighbours are alike, and not all levels occur."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 230, (5, 7, channels), dtype=np.uint8)
    bands = [Image.fromarray(coarse[:, :, band]).resize((WIDTH, HEIGHT), Image.BILINEAR) for band in range(channels)]
    return np.stack([np.asarray(band) for band in bands], axis=2)


def by_pillow(name: str, picture: Image.Image, level: float, sign: int) -> Image.Image:
    """What the authors' code does with Pillow."""
    strength = 0.1 + level * 1.8 / 10
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(picture).enhance(strength)
    if name in ("autocontrast", "equalize"):
        return getattr(ImageOps, name)(picture)
    if name == "posterize":
        return ImageOps.posterize(picture, 4 - int(level * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(picture, 256 - int(level * 256 / 10))
    if name == "rotate":
        return picture.rotate(sign * int(level * 30 / 10), resample=Image.BILINEAR)
    matrices = {
        "shear_x": (1, sign * level * 0.3 / 10, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * level * 0.3 / 10, 1, 0),
        "translate_x": (1, 0, sign * int(level * (WIDTH / 3) / 10), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, sign * int(level * (HEIGHT / 3) / 10)),
    }
    return picture.transform((WIDTH, HEIGHT), Image.AFFINE, matrices[name], resample=Image.BILINEAR)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL_OPERATIONS)
def test_an_operation_does_to_a_batch_what_pillow_does_to_each_picture(name, channels):
    cases = [(seed, level, sign) for seed, level in enumerate(LEVELS) for sign in (1, -1)]
    pictures = [smooth_picture(seed, channels) for seed, _, _ in cases]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    levels, signs = torch.tensor([case[1] for case in cases]), torch.tensor([float(case[2]) for case in cases])
    ours = ALL_OPERATIONS[name](x, levels, signs) * 255
    assert ours.shape == x.shape
    assert ours.min() >= 0
    assert ours.max() <= 255.001
    for picture, (_, level, sign), result in zip(pictures, cases, ours, strict=True):
        image = Image.fromarray(picture if channels == 3 else picture[:, :, 0])
        theirs = np.asarray(by_pillow(name, image, level, sign)).reshape(HEIGHT, WIDTH, channels)
        error = np.abs(result.permute(1, 2, 0).numpy() - theirs.astype(float))
        # Pillow rounds to whole levels, enhancements twice; on the very edge of a rotated picture rounding may decide
        # whether a pixel is inside.
        assert np.mean(error > 1.6) <= (0.004 if name == "rotate" else 0), (name, level, sign, error.max())
        if name in ("equalize", "posterize", "solarize", "translate_x", "translate_y"):
            assert error.max() < 0.01


@pytest.mark.parametrize("name", ALL_OPERATIONS)
def test_operations_leave_a_flat_picture_within_its_range(name):
    flat = torch.full((2, 3, 8, 8), 0.5)
    result = ALL_OPERATIONS[name](flat, torch.tensor([0.1, 3.0]), torch.tensor([1.0, -1.0]))
    assert result.isfinite().all()
    assert 0 <= result.min() <= result.max() <= 1


def test_the_paper_leaves_out_what_resembles_corruptions():
    assert list(ALL_OPERATIONS) == [*OPERATIONS, "color", "contrast", "brightness", "sharpness"]
    assert len(OPERATIONS) == 9


def pixmix(batch, composition=COMPOSITION, step=1, **options):
    classifier = classifier_of("pixmix", shape=tuple(batch.images.shape[1:]))
    return mixed(algorithm_of("pixmix", classifier, **options), batch, context_of(step, composition=composition))


def by_the_formula(batch, plan, operations, row: int) -> np.ndarray:
    """One picture, round by round, in float64; bent copies one at a time."""

    def source(turn: int, otherwise: torch.Tensor) -> np.ndarray:
        if not plan.is_bent[row, turn]:
            return otherwise[row].double().numpy()
        operation = list(operations.values())[int(plan.operation[row, turn])]
        one = (batch.images[row : row + 1], plan.level[row, turn : turn + 1], plan.sign[row, turn : turn + 1])
        return operation(*one)[0].double().numpy()

    picture = source(0, batch.images)
    for turn in range(1, int(plan.num_rounds[row]) + 1):
        a, b, other = plan.a[row, turn].item(), plan.b[row, turn].item(), source(turn, batch.mixing)
        if plan.is_added[row, turn]:
            picture = (a * (2 * picture - 1) + b * (2 * other - 1) + 1) / 2
        else:
            picture = (2 * picture) ** a * np.maximum(2 * other, 1e-37) ** b / 2
        picture = picture.clip(0, 1)
    return picture


@pytest.mark.parametrize("all_operations", [True, False])
def test_pictures_are_mixed_round_by_round_as_the_authors_do_it(all_operations):
    composition = Composition(100, 28)
    batch = batch_of(composition=composition, shape=(3, 12, 10))
    batch.images[:5] = 0  # black, where powers are delicate
    batch.mixing[::7] = 0
    after = pixmix(batch, composition, all_operations=all_operations).images
    operations = ALL_OPERATIONS if all_operations else OPERATIONS
    options = PixMixOptions(all_operations=all_operations)
    plan = _draw_plan(options, len(operations), context_of(composition=composition), batch.positions)
    assert set(plan.operation.flatten().tolist()) == set(range(len(operations)))
    for row in range(len(batch.images)):
        np.testing.assert_allclose(after[row], by_the_formula(batch, plan, operations, row), atol=2e-4)


def test_a_plan_is_drawn_as_the_authors_draw():
    composition, beta = Composition(3000, 0), 3.0
    plan = _draw_plan(PixMixOptions(beta=beta), 13, context_of(composition=composition), torch.arange(3000))
    np.testing.assert_allclose(plan.num_rounds.bincount() / 3000, 0.2, atol=0.03)
    turns_taken = torch.arange(5) <= plan.num_rounds[:, None]
    assert not plan.is_bent[~turns_taken].any()
    for coin in (plan.is_bent[turns_taken], plan.is_added, plan.sign > 0):
        assert abs(coin.double().mean().item() - 0.5) < 0.02
    np.testing.assert_allclose(plan.operation.flatten().bincount() / 15000, 1 / 13, atol=0.01)
    assert kstest((plan.level.flatten().numpy() - 0.1) / 2.9, "uniform").pvalue > 0.001
    blend = plan.b >= 0
    assert abs(blend.double().mean().item() - 0.5) < 0.02
    assert kstest(plan.a[blend].numpy(), beta_distribution(beta, 1).cdf).pvalue > 0.001
    assert kstest(plan.b[blend].numpy(), beta_distribution(1, beta).cdf).pvalue > 0.001
    assert kstest(plan.a[~blend].numpy() - 1, beta_distribution(1, beta).cdf).pvalue > 0.001
    assert kstest(-plan.b[~blend].numpy(), beta_distribution(1, beta).cdf).pvalue > 0.001
    assert abs(np.corrcoef(plan.a[blend], plan.b[blend])[0, 1]) < 0.05


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_picture_is_mixed_the_same_whichever_worker_holds_it(world_size):
    batch = batch_of(shape=(3, 12, 10))
    whole = pixmix(batch)
    for rank in range(world_size):
        part = part_of(batch, COMPOSITION, rank, world_size)
        torch.testing.assert_close(pixmix(part).images, whole.images[part.positions])


def test_pictures_stay_in_range_and_labels_as_they_are():
    batch = batch_of(shape=(3, 12, 10))
    for step in range(20):
        after = pixmix(batch, step=step, severity=10.0, k=6, beta=1.0)
        assert after.images.isfinite().all()
        assert 0 <= after.images.min() <= after.images.max() <= 1
        assert after.targets is None
        assert torch.equal(after.labels, batch.labels)


def test_without_rounds_half_of_the_pictures_are_left_as_they_are():
    composition = Composition(400, 0)
    batch = batch_of(composition=composition)
    same = (pixmix(batch, composition, k=0).images == batch.images).all(dim=(1, 2, 3)).double().mean().item()
    # Some bent ones are not changed by their operation either: a level below one step, or equalize of 64 pixels.
    assert 0.5 < same < 0.8
