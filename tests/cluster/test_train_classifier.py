"""The classifier under Ray Train: a killed worker costs nothing, two workers equal one, a run may shrink."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle

from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.feed import MemoryFeed, Sources
from sio_ray.classifier.model import Architecture
from sio_ray.classifier.trainee import build_trainee, final_weights
from sio_ray.config import TrainConfig
from sio_ray.errors import TrainingError
from sio_ray.imageset import ImageArrays
from sio_ray.training.loop import train
from sio_ray.training.ray_train import RayTrainReporter, run_on_workers, start_worker

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.slow

#: All that workers must agree on: pictures mixed across them, statistics of batch normalisation, an average.
SECTION = TrainConfig(
    network="small_cnn",
    width=4,
    algorithm="cutmix",
    sync_batch_norm=True,
    ema_decay=0.9,
    real_weight=0.7,
    num_steps=8,
    global_batch_size=9,
    micro_batches=2,
    learning_rate=0.05,
    crop_padding_px=1,
)
WHOLE = {"micro_batches": 1}

ARCHITECTURE = Architecture(
    network="small_cnn", width=4, class_names=("a", "b"), image_shape=(1, 8, 8), mean=(0.5,), std=(0.3,)
)


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 1, 8, 8)) + 120 * labels[:, None, None, None]
    return ImageArrays(images.astype(np.uint8), labels, np.arange(count))


def make_trainee(section=SECTION, rank=0, world_size=1, **options):
    place = {"seed": 0, "rank": rank, "world_size": world_size, "device": torch.device("cpu")}
    feed = MemoryFeed(
        Sources(pictures(40, 0), pictures(25, 1)),
        global_batch_size=section.global_batch_size,
        real_batch_share=section.batch_share,
        augmentation=Augmentation.of(section),
        **place,
    )
    return build_trainee(section, ARCHITECTURE, feed, pictures(21, 2), arm="sio", **place, **options)


class Silent:
    def resume(self):
        return None

    def average(self, values):
        return values

    def progress(self, step):
        pass

    def report(self, step, points, state):
        pass


def loop(config):
    import ray.train
    import ray.train.torch

    start_worker(1)
    context = ray.train.get_context()
    section = SECTION.model_copy(update=config["changes"])
    trainee = make_trainee(
        section, context.get_world_rank(), context.get_world_size(), wrap=ray.train.torch.prepare_model
    )
    step = trainee.step

    def step_or_die(number):
        died = Path(config["died"])
        if number == config["die_at"] and not died.exists():
            died.touch()
            os._exit(1)
        return step(number)

    trainee.step = step_or_die
    train(trainee, num_steps=SECTION.num_steps, report_every_steps=2, reporter=RayTrainReporter("run", None))


def run(tmp_path, *, changes=None, die_at=-1, num_workers=1, **options):
    config = {"died": str(tmp_path / "died"), "die_at": die_at, "changes": changes or {}}
    return run_on_workers(
        loop,
        config,
        name="run",
        state_dir=tmp_path / "state",
        num_workers=num_workers,
        cpus_per_worker=1,
        gpus_per_worker=0,
        best_by="val_accuracy",
        **options,
    )


def undisturbed(**changes):
    torch.set_num_threads(1)
    trainee = make_trainee(SECTION.model_copy(update=changes))
    points = train(trainee, num_steps=SECTION.num_steps, report_every_steps=2, reporter=Silent())
    return trainee.state(), points


def test_a_killed_worker_resumes_and_ends_the_same(tmp_path, ray_cluster):
    trained, (state, points) = run(tmp_path, die_at=5), undisturbed()
    assert (tmp_path / "died").exists()
    assert trained.points == points
    assert trained.state.keys() == state.keys()
    assert [name for name in state if not torch.equal(trained.state[name], state[name])] == []


def test_two_workers_train_what_one_trains_and_the_best_report_is_kept(tmp_path, ray_cluster):
    # In one piece: batch normalisation sees pieces, and those of two workers are other ones.
    trained, (state, points) = run(tmp_path, num_workers=2, changes=WHOLE), undisturbed(**WHOLE)
    for name in ("loss", "val_loss"):
        ours, expected = ([point[name] for point in curve] for curve in (trained.points, points))
        assert ours == pytest.approx(expected, rel=1e-4)
    assert [point["val_accuracy"] for point in trained.points] == [point["val_accuracy"] for point in points]
    weights, expected = final_weights(trained.state), final_weights(state)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4, msg=name)
    highest = max(point["val_accuracy"] for point in points)
    again = make_trainee()
    again.load_state(trained.best)
    assert again.measure()["val_accuracy"] == highest


def test_a_run_that_may_shrink_starts_with_the_workers_that_there_are(tmp_path, ray_cluster):
    """The cluster has four cores; of eight workers at most four fit, and they train the same batches."""
    trained = run(tmp_path, num_workers=8, min_workers=1, changes=WHOLE)
    _, points = undisturbed(**WHOLE)
    assert [point["loss"] for point in trained.points] == pytest.approx([p["loss"] for p in points], rel=1e-4)


def test_an_error_of_ours_comes_out_of_the_workers_as_it_went_in(tmp_path):
    with pytest.raises(TrainingError, match=r"^no luck in step 3; try again\.$"):
        run_on_workers(
            failing_loop, {}, name="run", state_dir=tmp_path, num_workers=1, cpus_per_worker=1, gpus_per_worker=0
        )


def failing_loop(config):
    raise TrainingError("no luck in step 3; try again.")
