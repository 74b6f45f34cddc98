"""MixUp and CutMix: what a mixed picture is made of, and its label; both found again by looking at the pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from algorithm_samples import COMPOSITION, NUM_CLASSES, algorithm_of, batch_of, classifier_of, context_of, mixed
from scipy.stats import beta, kstest

from sio_ray.classifier.algorithms.gather import gather

SHAPE = (1, 12, 8)


def mixed_batch(name, step=1, **options):
    classifier = classifier_of(name, shape=SHAPE)
    batch = batch_of(step, shape=SHAPE)
    return batch, mixed(algorithm_of(name, classifier, **options), batch, context_of(step))


def one_hot(labels):
    return F.one_hot(labels, NUM_CLASSES).float()


@pytest.mark.parametrize("step", range(5))
def test_mixup_blends_every_image_and_its_label_with_one_partner(step):
    batch, after = mixed_batch("mixup", step, alpha=1.0)
    share = float(context_of(step).numpy_generator("share").beta(1.0, 1.0))
    partners = []
    for position in range(COMPOSITION.batch_size):
        blends = share * batch.images[position] + (1 - share) * batch.images
        (partner,) = (blends - after.images[position]).abs().amax((1, 2, 3)).lt(1e-6).nonzero().flatten().tolist()
        partners.append(partner)
    assert sorted(partners) == list(range(COMPOSITION.batch_size)), "one shuffle of the whole batch"
    expected = share * one_hot(batch.labels) + (1 - share) * one_hot(batch.labels[partners])
    torch.testing.assert_close(after.targets, expected)


@pytest.mark.parametrize("step", range(8))
def test_cutmix_takes_a_box_from_one_partner_and_the_label_in_proportion_to_its_pixels(step):
    batch, after = mixed_batch("cutmix", step)
    changed = (after.images != batch.images).any(dim=1).any(dim=0)
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    for position in range(COMPOSITION.batch_size):
        foreign = (after.images[position] != batch.images[position]).any(0)
        if not foreign.any():
            continue  # its own partner
        assert torch.equal(foreign.nonzero(), changed.nonzero()), "one box for all"
        assert len(foreign.nonzero()) == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1), "a whole one"
        same = (batch.images[:, :, foreign] == after.images[position][:, foreign]).all(dim=(1, 2))
        (partner,) = same.nonzero().flatten().tolist()
        kept = 1 - foreign.double().mean().item()
        expected = kept * one_hot(batch.labels[position]) + (1 - kept) * one_hot(batch.labels[partner])
        torch.testing.assert_close(after.targets[position], expected)


def test_targets_are_distributions_and_the_slot_keeps_its_weight_and_label():
    for name in ("mixup", "cutmix"):
        batch, after = mixed_batch(name)
        torch.testing.assert_close(after.targets.sum(1), torch.ones(COMPOSITION.batch_size))
        assert torch.equal(after.is_synthetic, batch.is_synthetic)
        assert torch.equal(after.labels, batch.labels)


def test_real_and_synthetic_images_are_mixed_with_each_other():
    orders = [torch.randperm(11, generator=context_of(step).generator("partners")) for step in range(50)]
    crossings = [(order[:8] >= 8).double().mean().item() for order in orders]
    assert abs(np.mean(crossings) - 3 / 11) < 0.05


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares = []
    for step in range(400):
        _, after = mixed_batch("mixup", step, alpha=alpha)
        # Of an image whose partner has another label, the own label holds the share.
        own = after.targets.gather(1, after.labels[:, None]).flatten()
        shares.append(own.min().item())
    assert kstest([share for share in shares if share < 1], beta(alpha, alpha).cdf).pvalue > 0.001


def test_cutmix_of_probability_zero_changes_nothing_and_of_a_half_every_other_step():
    batch, after = mixed_batch("cutmix", probability=0.0)
    assert after is batch
    count = sum(mixed_batch("cutmix", step, probability=0.5)[1].targets is not None for step in range(200))
    assert 70 < count < 130


def test_cut_boxes_lie_anywhere_and_keep_their_share_of_the_area_on_average():
    areas, covered = [], torch.zeros(SHAPE[1:])
    for step in range(300):
        batch, after = mixed_batch("cutmix", step)
        changed = (after.images != batch.images).any(dim=1).any(dim=0)
        areas.append(changed.double().mean().item())
        covered += changed
    assert (covered > 0).all()
    # A uniform share has mean 1/2; the border cuts boxes off, and sides are rounded down to whole even pixels.
    assert 0.2 < np.mean(areas) < 0.5
    assert max(areas) == 10 * 6 / (12 * 8)


def test_gathering_without_other_workers_puts_rows_in_the_order_of_their_positions():
    positions = torch.tensor([2, 0, 1])
    values = torch.tensor([[20.0], [0.0], [10.0]])
    assert gather(values, positions, 3).flatten().tolist() == [0.0, 10.0, 20.0]
    assert gather(torch.tensor([5, 6]), torch.tensor([3, 1]), 4).tolist() == [0, 6, 0, 5]
