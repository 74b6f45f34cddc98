"""The classifier's training step: its schedule, bit-identical resumption, any number of workers, and that it learns."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sio_ray.classifier.model import Architecture
from sio_ray.classifier.trainee import ClassifierTrainee, build_trainee, learning_rate
from sio_ray.config import TrainConfig
from sio_ray.errors import BatchError
from sio_ray.imageset import ImageArrays
from sio_ray.training.loop import train
from sio_ray.training.state import load_progress, save_progress

CPU = torch.device("cpu")

CONFIG = TrainConfig(
    network="small_cnn",
    width=8,
    real_weight=0.8,
    num_steps=6,
    global_batch_size=10,
    learning_rate=0.05,
    crop_padding_px=1,
    horizontal_flip=True,
)


def part(arrays: ImageArrays, start: int, stop: int) -> ImageArrays:
    return ImageArrays(arrays.images[start:stop], arrays.labels[start:stop], arrays.image_ids[start:stop])


def trainee_of(architecture: Architecture, digits: ImageArrays, *, arm: str = "sio", **kwargs) -> ClassifierTrainee:
    config = kwargs.pop("config", CONFIG)
    return build_trainee(
        config,
        architecture,
        part(digits, 0, 60),
        part(digits, 100, 140) if arm == "sio" else None,
        part(digits, 200, 260),
        device=CPU,
        **{"seed": 3, **kwargs},
    )


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_learning_rate_is_a_cosine_from_its_peak_to_almost_zero():
    config = TrainConfig(num_steps=200, learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[100] == pytest.approx((0.1 + 1e-6) / 2)
    assert rates[200] == pytest.approx(1e-6)
    assert rates[50] == pytest.approx(1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi / 4)) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_learning_rate_warms_up_in_a_line_to_its_peak():
    config = TrainConfig(num_steps=100, learning_rate=0.4, warmup_steps=8)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:8] == pytest.approx([0.05 * n for n in range(1, 9)])
    assert rates[8] == max(rates) == pytest.approx(0.4)
    assert rates[100] == pytest.approx(1e-6)


def test_learning_rate_of_the_schedule_is_what_the_optimiser_steps_with(architecture, digits):
    config = CONFIG.model_copy(update={"momentum": 0.0, "weight_decay": 0.0, "warmup_steps": 2})
    trainee = trainee_of(architecture, digits, config=config)
    for step in range(4):
        weight = trainee.classifier.last_layer.weight
        before = weight.detach().clone()
        trainee.step(step)
        torch.testing.assert_close(weight.detach(), before - learning_rate(step, config) * weight.grad)


@pytest.mark.parametrize("arm", ["baseline", "sio"])
def test_a_resumed_run_goes_on_bit_for_bit(architecture, digits, tmp_path, arm):
    straight = trainee_of(architecture, digits, arm=arm)
    straight_losses = [straight.step(step).item() for step in range(4)]
    killed = trainee_of(architecture, digits, arm=arm)
    losses = [killed.step(step).item() for step in range(2)]
    killed.measure()  # evaluation must leave no trace
    save_progress(tmp_path, killed.state(), 2, [])
    resumed = trainee_of(architecture, digits, arm=arm)
    resumed.load_state(load_progress(tmp_path)[0])
    losses += [resumed.step(step).item() for step in range(2, 4)]
    assert losses == straight_losses
    assert differences(resumed.state(), straight.state()) == []
    assert resumed.measure() == straight.measure()


class FrozenStatistics(nn.Module):
    """Trains with batch norm's running statistics: those of a batch differ between its parts, by design."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def train(self, mode: bool = True) -> FrozenStatistics:
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)


@pytest.mark.parametrize("real_batch_share", [None, 0.5])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_workers_mean_gradient_is_that_of_one_worker(architecture, digits, world_size, real_batch_share):
    config = CONFIG.model_copy(update={"real_batch_share": real_batch_share})
    whole = trainee_of(architecture, digits, config=config, wrap=FrozenStatistics)
    loss = whole.step(1)
    losses, gradients = [], []
    for rank in range(world_size):
        worker = trainee_of(
            architecture, digits, config=config, wrap=FrozenStatistics, rank=rank, world_size=world_size
        )
        losses.append(worker.step(1))
        gradients.append([p.grad for p in worker.classifier.parameters()])
    torch.testing.assert_close(torch.stack(losses).mean(), loss)
    for of_workers, parameter in zip(zip(*gradients, strict=True), whole.classifier.parameters(), strict=True):
        torch.testing.assert_close(torch.stack(of_workers).mean(0), parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_is_alpha_times_the_real_mean_plus_the_rest_times_the_synthetic_mean(architecture, digits):
    config = CONFIG.model_copy(
        update={"real_batch_share": 0.5, "crop_padding_px": 0, "horizontal_flip": False, "real_weight": 0.9}
    )
    trainee = trainee_of(architecture, digits, config=config, wrap=FrozenStatistics)
    with torch.no_grad():
        classifier = trainee.classifier.eval()
        batch = trainee._batches.batch(0)
        losses = F.cross_entropy(classifier(batch.images), batch.labels, reduction="none")
    expected = 0.9 * losses[:5].mean() + 0.1 * losses[5:].mean()
    torch.testing.assert_close(trainee.step(0), expected)


def test_initial_weights_depend_on_the_seed_alone_so_both_arms_start_equal(architecture, digits):
    baseline, sio = (trainee_of(architecture, digits, arm=arm).state() for arm in ("baseline", "sio"))
    assert differences(baseline, sio) == []
    assert differences(trainee_of(architecture, digits, seed=4).state(), sio)


class NoReporter:
    """Reports to nobody."""

    def resume(self):
        return None

    def average(self, value):
        return float(value)

    def progress(self, step):
        self.step = step

    def report(self, step, points, state):
        pass


def test_baseline_and_sio_take_the_same_number_of_steps_of_the_same_batch_size(architecture, digits):
    sizes = {}
    for arm in ("baseline", "sio"):
        reporter, trainee = NoReporter(), trainee_of(architecture, digits, arm=arm)
        seen: list[int] = []
        trainee._parallel.register_forward_hook(lambda _module, args, _out, seen=seen: seen.append(len(args[0])))
        trainee.measure = dict
        points = train(trainee, num_steps=CONFIG.num_steps, report_every_steps=4, reporter=reporter)
        assert reporter.step == points[-1]["step"] == CONFIG.num_steps
        sizes[arm] = seen
    assert sizes["baseline"] == sizes["sio"] == [CONFIG.global_batch_size] * CONFIG.num_steps


def test_a_weight_for_synthetic_images_that_batches_lack_is_refused(architecture, digits):
    trainee = trainee_of(architecture, digits, config=CONFIG.model_copy(update={"real_batch_share": 1.0}))
    with pytest.raises(
        BatchError, match=r"^the batch has no synthetic image although real_weight 0\.8 gives that source"
    ):
        trainee.step(0)


@pytest.mark.parametrize("arm", ["baseline", "sio"])
def test_digits_are_learned_in_seconds(architecture, digits, arm):
    config = TrainConfig(
        network="small_cnn",
        width=8,
        num_steps=120,
        global_batch_size=64,
        learning_rate=0.1,
        warmup_steps=10,
        crop_padding_px=1,
        horizontal_flip=False,
    )
    noisy = part(digits, 1000, 1400)
    noise = np.random.default_rng(0).normal(0, 20, noisy.images.shape)
    synthetic = ImageArrays(np.clip(noisy.images + noise, 0, 255).astype(np.uint8), noisy.labels, noisy.image_ids)
    trainee = build_trainee(
        config,
        architecture,
        part(digits, 0, 1000),
        synthetic if arm == "sio" else None,
        part(digits, 1400, 1797),
        seed=0,
        device=CPU,
    )
    points = train(trainee, num_steps=120, report_every_steps=60, reporter=NoReporter())
    assert points[-1]["val_accuracy"] > 0.95
    assert points[-1]["loss"] < points[0]["loss"]
    logits = trainee.classifier.eval()(torch.from_numpy(digits.images[1400:]).float() / 255)
    labels = torch.from_numpy(digits.labels[1400:])
    assert points[-1]["val_accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    assert points[-1]["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
