"""The classifier under Ray Train: two workers equal one, a run may shrink, an error of ours comes out of them."""

import sys
from functools import partial

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
from sio_ray.training.loop import SilentReporter, train
from sio_ray.training.ray_train import RayTrainReporter, Workers, run_on_workers, start_worker
from sio_ray.training.side_by_side import side_by_side

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
    learning_rate=0.05,
    crop_padding_px=1,
)

ARCHITECTURE = Architecture(
    network="small_cnn", width=4, class_names=("a", "b"), image_shape=(1, 8, 8), mean=(0.5,), std=(0.3,)
)


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 1, 8, 8)) + 120 * labels[:, None, None, None]
    return ImageArrays(images.astype(np.uint8), labels, np.arange(count))


def make_trainee(rank=0, world_size=1, **options):
    place = {"seed": 0, "rank": rank, "world_size": world_size, "device": torch.device("cpu")}
    feed = MemoryFeed(
        Sources(pictures(40, 0), pictures(25, 1)),
        global_batch_size=SECTION.global_batch_size,
        real_batch_share=SECTION.batch_share,
        augmentation=Augmentation.of(SECTION),
        **place,
    )
    return build_trainee(SECTION, ARCHITECTURE, feed, pictures(21, 2), arm="sio", **place, **options)


def loop(config):
    import ray.train
    import ray.train.torch

    start_worker(1)
    context = ray.train.get_context()
    place = {"rank": context.get_world_rank(), "world_size": context.get_world_size()}
    trainee = make_trainee(**place, wrap=ray.train.torch.prepare_model)
    train(trainee, num_steps=SECTION.num_steps, report_every_steps=2, reporter=RayTrainReporter("run", None))


def failing_loop(config):
    raise TrainingError("no luck in step 3; try again.")


def run(folder, of=loop, *, num_workers, min_workers=None, cpus_per_worker=1):
    workers = Workers(num_workers, cpus_per_worker, 0, min_workers)
    return run_on_workers(of, {}, name="run", state_dir=folder, workers=workers, best_by="val_accuracy")


def run_and_fail(folder):
    with pytest.raises(TrainingError) as error:
        run(folder, failing_loop, num_workers=1)
    return str(error.value)


@pytest.fixture(scope="module")
def of_two_workers_and_of_the_failing(tmp_path_factory, ray_cluster):
    """What two runs end with; side by side, as each takes long to start."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = [partial(run, folder / "two", num_workers=2), partial(run_and_fail, folder / "failing")]
    return side_by_side(jobs, limit=2)


@pytest.fixture(scope="module")
def undisturbed():
    """State and curve of a plain loop in this process."""
    torch.set_num_threads(1)
    trainee = make_trainee()
    points = train(trainee, num_steps=SECTION.num_steps, report_every_steps=2, reporter=SilentReporter())
    return trainee.state(), points


def test_two_workers_train_what_one_trains_and_the_best_report_is_kept(of_two_workers_and_of_the_failing, undisturbed):
    (trained, _), (state, points) = of_two_workers_and_of_the_failing, undisturbed
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


def test_an_error_of_ours_comes_out_of_the_workers_as_it_went_in(of_two_workers_and_of_the_failing):
    _, message = of_two_workers_and_of_the_failing
    assert message == "no luck in step 3; try again."


def test_a_run_that_may_shrink_starts_with_the_workers_that_there_are(tmp_path, ray_cluster, undisturbed):
    """The cluster has four cores; of eight workers of two at most two fit, and they train the same batches."""
    trained = run(tmp_path, num_workers=8, min_workers=1, cpus_per_worker=2)
    _, points = undisturbed
    assert [point["loss"] for point in trained.points] == pytest.approx([p["loss"] for p in points], rel=1e-4)
