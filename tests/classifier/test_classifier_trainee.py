"""The classifier's training step: bit-identical resumption, any number of workers and pieces, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sio_ray.classifier.algorithms import ALGORITHMS
from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.feed import MemoryFeed, Sources
from sio_ray.classifier.model import Architecture
from sio_ray.classifier.schedules import learning_rate
from sio_ray.classifier.trainee import ClassifierTrainee, build_trainee, final_weights
from sio_ray.config import RampConfig, TrainConfig
from sio_ray.errors import BatchError, ConfigError
from sio_ray.imageset import ImageArrays
from sio_ray.training.loop import SilentReporter, train
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


def trainee_of(
    architecture: Architecture,
    digits: ImageArrays,
    *,
    arm: str = "sio",
    config: TrainConfig = CONFIG,
    synthetic: ImageArrays | None = None,
    **kwargs,
) -> ClassifierTrainee:
    needs = ALGORITHMS[config.algorithm].needs
    sources = Sources(
        real=part(digits, 0, 60),
        synthetic=(synthetic or part(digits, 100, 140)) if arm == "sio" else None,
        outliers=part(digits, 300, 350) if "outliers" in needs else None,
        mixing=part(digits, 400, 450) if "mixing" in needs else None,
    )
    place = {"seed": 3, "rank": 0, "world_size": 1} | {
        name: kwargs.pop(name) for name in ("seed", "rank", "world_size") if name in kwargs
    }
    feed = MemoryFeed(
        sources,
        global_batch_size=config.global_batch_size,
        real_batch_share=1.0 if arm == "baseline" else config.batch_share,
        num_outliers=6 if "outliers" in needs else 0,
        augmentation=Augmentation.of(config),
        **place,
    )
    architecture = architecture.model_copy(update={"head": ALGORITHMS[config.algorithm].head})
    val = part(digits, 200, 260)
    return build_trainee(config, architecture, feed, val, arm=arm, device=CPU, **place, **kwargs)


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_learning_rate_of_the_schedule_is_what_the_optimiser_steps_with(architecture, digits):
    config = CONFIG.model_copy(update={"momentum": 0.0, "weight_decay": 0.0, "warmup_steps": 2})
    trainee = trainee_of(architecture, digits, config=config)
    for step in range(4):
        weight = trainee.classifier.last_layer.weight
        before = weight.detach().clone()
        trainee.step(step)
        torch.testing.assert_close(weight.detach(), before - learning_rate(step, config) * weight.grad)


@pytest.mark.parametrize("arm", ["baseline", "sio"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9, "micro_batches": 2},
        {"algorithm": "vos", "algorithm_options": {"start_share": 0.2, "num_draws": 20}},
        {"algorithm": "g_odin"},
        {"algorithm": "outlier_exposure"},
        {"algorithm": "pixmix"},
    ],
    ids=str,
)
def test_a_resumed_run_goes_on_bit_for_bit(architecture, digits, tmp_path, arm, changes):
    config = CONFIG.model_copy(update=changes)
    straight = trainee_of(architecture, digits, arm=arm, config=config)
    straight_losses = [straight.step(step).item() for step in range(4)]
    killed = trainee_of(architecture, digits, arm=arm, config=config)
    losses = [killed.step(step).item() for step in range(2)]
    killed.measure()  # evaluation must leave no trace
    save_progress(tmp_path, killed.state(), 2, [])
    resumed = trainee_of(architecture, digits, arm=arm, config=config)
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

    def forward(self, *inputs) -> Tensor:
        return self.module(*inputs)


#: Those whose loss of an image depends on no other image, nor on a statistic of the batch.
SEPARABLE = ("cross_entropy", "logit_norm", "outlier_exposure", "pixmix")


@pytest.mark.parametrize("algorithm", SEPARABLE)
@pytest.mark.parametrize("real_batch_share", [None, 0.5])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_workers_mean_gradient_is_that_of_one_worker(architecture, digits, world_size, real_batch_share, algorithm):
    config = CONFIG.model_copy(update={"real_batch_share": real_batch_share, "algorithm": algorithm})
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


@pytest.mark.parametrize("algorithm", SEPARABLE)
def test_a_batch_in_pieces_gives_the_gradient_of_the_whole(architecture, digits, algorithm):
    config = CONFIG.model_copy(update={"algorithm": algorithm})
    whole, pieces = (
        trainee_of(
            architecture, digits, config=config.model_copy(update={"micro_batches": count}), wrap=FrozenStatistics
        )
        for count in (1, 3)
    )
    torch.testing.assert_close(pieces.step(1), whole.step(1))
    for of_pieces, of_whole in zip(pieces.classifier.parameters(), whole.classifier.parameters(), strict=True):
        torch.testing.assert_close(of_pieces.grad, of_whole.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_is_alpha_times_the_real_mean_plus_the_rest_times_the_synthetic_mean(architecture, digits):
    config = CONFIG.model_copy(
        update={"real_batch_share": 0.5, "crop_padding_px": 0, "horizontal_flip": False, "real_weight": 0.9}
    )
    trainee = trainee_of(architecture, digits, config=config, wrap=FrozenStatistics)
    with torch.no_grad():
        classifier = trainee.classifier.eval()
        batch = trainee._feed.batch(0)
        losses = F.cross_entropy(classifier(batch.images), batch.labels, reduction="none")
    expected = 0.9 * losses[:5].mean() + 0.1 * losses[5:].mean()
    torch.testing.assert_close(trainee.step(0), expected)


def test_initial_weights_depend_on_the_seed_alone_so_both_arms_start_equal(architecture, digits):
    baseline, sio = (trainee_of(architecture, digits, arm=arm).state() for arm in ("baseline", "sio"))
    assert differences(baseline, sio) == []
    assert differences(trainee_of(architecture, digits, seed=4).state(), sio)


def test_baseline_and_sio_take_the_same_number_of_steps_of_the_same_batch_size(architecture, digits):
    sizes = {}
    for arm in ("baseline", "sio"):
        trainee = trainee_of(architecture, digits, arm=arm)
        seen: list[int] = []
        trainee._parallel.register_forward_hook(lambda _module, args, _out, seen=seen: seen.append(len(args[0].labels)))
        trainee.measure = dict
        points = train(trainee, num_steps=CONFIG.num_steps, report_every_steps=4, reporter=SilentReporter())
        assert points[-1]["step"] == CONFIG.num_steps
        sizes[arm] = seen
    assert sizes["baseline"] == sizes["sio"] == [CONFIG.global_batch_size] * CONFIG.num_steps


def test_a_weight_for_synthetic_images_that_batches_lack_is_refused(architecture, digits):
    trainee = trainee_of(architecture, digits, config=CONFIG.model_copy(update={"real_batch_share": 1.0}))
    with pytest.raises(
        BatchError, match=r"^the batch has no synthetic image although real_weight 0\.8 gives that source"
    ):
        trainee.step(0)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_ramp_of_the_real_weight_is_what_the_loss_is_weighed_with(architecture, digits, shape):
    ramp = RampConfig(start=1.0, shape=shape, num_steps=4)
    config = CONFIG.model_copy(update={"real_weight_ramp": ramp, "crop_padding_px": 0, "horizontal_flip": False})
    trainee = trainee_of(architecture, digits, config=config, wrap=FrozenStatistics)
    for step, real_weight in ((0, 1.0), (2, 0.9), (4, 0.8), (5, 0.8)):
        with torch.no_grad():
            batch = trainee._feed.batch(step)
            losses = F.cross_entropy(trainee.classifier.eval()(batch.images), batch.labels, reduction="none")
        expected = real_weight * losses[:8].mean() + (1 - real_weight) * losses[8:].mean()
        torch.testing.assert_close(trainee.step(step), expected)


def test_the_gradient_is_clipped_to_its_norm(architecture, digits):
    config = CONFIG.model_copy(update={"gradient_clip_norm": 0.01})
    trainee = trainee_of(architecture, digits, config=config)
    trainee.step(0)
    norm = torch.stack([p.grad.norm() for p in trainee.classifier.parameters()]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.01), rtol=1e-3, atol=0)


def test_the_average_is_young_at_first_and_is_what_is_measured_and_saved(architecture, digits):
    config = CONFIG.model_copy(update={"ema_decay": 0.25})
    trainee = trainee_of(architecture, digits, config=config)
    name, expected = "network.body.0.1.running_mean", None
    seen = trainee._objective.classifier
    for number in range(4):
        trainee.step(number)
        value = seen.state_dict()[name].clone()
        # 1, then min(0.25, (1 + n) / (10 + n)) of the average stays, n updates after the first.
        decay = min(0.25, (1 + number) / (10 + number))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    averaged = trainee.classifier.state_dict()[name]
    torch.testing.assert_close(averaged, expected)
    assert not torch.equal(averaged, seen.state_dict()[name])
    saved = final_weights(trainee.state())
    assert differences(saved, dict(trainee.classifier.state_dict())) == []


def test_without_an_average_the_weights_saved_are_those_trained(architecture, digits):
    trainee = trainee_of(architecture, digits, config=CONFIG.model_copy(update={"algorithm": "vos"}))
    trainee.step(0)
    assert differences(final_weights(trainee.state()), dict(trainee.classifier.state_dict())) == []


def test_under_bfloat16_weights_and_loss_stay_float32_and_near_those_of_float32(architecture, digits):
    wide, narrow = (
        trainee_of(architecture, digits, config=CONFIG.model_copy(update={"precision": precision}))
        for precision in ("float32", "bfloat16")
    )
    losses = [trainee.step(0) for trainee in (wide, narrow)]
    assert losses[1].dtype == torch.float32
    assert not torch.equal(*losses)
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=0)
    assert {p.dtype for p in narrow.classifier.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_compiled_network_takes_the_same_steps(architecture, digits):
    eager, compiled = (
        trainee_of(architecture, digits, config=CONFIG.model_copy(update={"compile": value})) for value in (False, True)
    )
    for step in range(2):
        torch.testing.assert_close(compiled.step(step), eager.step(step), rtol=1e-4, atol=1e-5)
    assert compiled.state().keys() == eager.state().keys()


def test_workers_without_a_compiler_say_so_before_they_train(architecture, digits, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError) as error:
        trainee_of(architecture, digits, config=CONFIG.model_copy(update={"compile": True}))
    assert str(error.value) == (
        "train.compile must be false where the workers have no C++ compiler, got True; "
        "install g++ there, or leave it out."
    )


def test_the_cosine_numerator_of_g_odin_is_exempt_from_weight_decay(architecture, digits):
    trainee = trainee_of(architecture, digits, config=CONFIG.model_copy(update={"algorithm": "g_odin"}))
    exempt = {id(p) for p in trainee._objective.algorithm.no_decay(trainee.classifier)}
    groups = trainee._optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [CONFIG.weight_decay, 0.0]
    assert {id(p) for p in groups[1]["params"]} == exempt
    together = [id(p) for group in groups for p in group["params"]]
    assert sorted(together) == sorted({id(p) for p in trainee._objective.parameters()})


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_what_vos_learns_itself_rests_until_it_starts(architecture, digits, micro_batches):
    """Weight decay over a long run would leave nothing of its weights, and energies of a class whose weight is 0."""
    change = {"algorithm": "vos", "weight_decay": 0.5, "micro_batches": micro_batches, "num_steps": 10}
    trainee = trainee_of(architecture, digits, config=CONFIG.model_copy(update=change))
    own = dict(trainee._objective.algorithm.named_parameters())
    before = {name: value.detach().clone() for name, value in own.items()}
    for step in range(4):  # 40 % of the run
        trainee.step(step)
        assert all(torch.equal(value, before[name]) for name, value in own.items())
    state = trainee.state()
    trainee.load_state(state)
    trainee.step(4)
    assert not any(torch.equal(value, before[name]) for name, value in own.items())


def test_validation_is_dealt_out_to_workers_without_loss_or_repeat(architecture, digits):
    """Alone, a worker's sums are its own; together they are those of one worker."""
    whole = trainee_of(architecture, digits).measure()
    parts = [trainee_of(architecture, digits, rank=rank, world_size=3) for rank in range(3)]
    sizes = [len(worker._val_labels) for worker in parts]
    assert sizes == [20, 20, 20]
    measured = [worker.measure() for worker in parts]
    for name, value in whole.items():
        assert np.average([point[name] for point in measured], weights=sizes) == pytest.approx(value, rel=1e-6)


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
    feed = MemoryFeed(
        Sources(part(digits, 0, 1000), synthetic if arm == "sio" else None),
        global_batch_size=64,
        real_batch_share=0.8 if arm == "sio" else 1.0,
        augmentation=Augmentation.of(config),
        seed=0,
    )
    trainee = build_trainee(config, architecture, feed, part(digits, 1400, 1797), arm=arm, seed=0, device=CPU)
    points = train(trainee, num_steps=120, report_every_steps=60, reporter=SilentReporter())
    assert points[-1]["val_accuracy"] > 0.95
    assert points[-1]["loss"] < points[0]["loss"]
    logits = trainee.classifier.eval()(torch.from_numpy(digits.images[1400:]).float() / 255)
    labels = torch.from_numpy(digits.labels[1400:])
    assert points[-1]["val_accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    assert points[-1]["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
