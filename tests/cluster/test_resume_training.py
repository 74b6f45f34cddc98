"""Training under Ray Train: a killed worker resumes and ends as if nothing had happened; two workers equal one."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle

from sio_ray.config import FitGeneratorConfig
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.diffusion.trainee import GeneratorTrainee
from sio_ray.errors import TrainingError
from sio_ray.imageset import ImageArrays, ImageSetInfo
from sio_ray.training.loop import train
from sio_ray.training.ray_train import RayTrainReporter, run_on_workers, start_worker

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.slow

SECTION = FitGeneratorConfig(
    block_out_channels=(8, 16), num_steps=8, global_batch_size=12, warmup_steps=2, report_every_steps=2
)
INFO = ImageSetInfo(class_names=("a", "b"), height_px=8, width_px=8, channels=1)


def make_trainee(wrap=lambda module: module, rank=0, world_size=1):
    rng = np.random.default_rng(0)
    images = ImageArrays(rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 2, np.arange(40))
    torch.manual_seed(0)
    unet = build_unet(SECTION, INFO)
    return GeneratorTrainee(unet, wrap(unet), images, 0.5, SECTION, rank=rank, world_size=world_size)


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
    trainee = make_trainee(ray.train.torch.prepare_model, context.get_world_rank(), context.get_world_size())
    step = trainee.step

    def step_or_die(number):
        died = Path(config["died"])
        if number == config["die_at"] and not died.exists():
            died.touch()
            os._exit(1)
        return step(number)

    trainee.step = step_or_die
    train(trainee, num_steps=SECTION.num_steps, report_every_steps=2, reporter=RayTrainReporter("run", None))


@pytest.fixture(scope="module")
def undisturbed():
    torch.set_num_threads(1)
    trainee = make_trainee()
    points = train(trainee, num_steps=SECTION.num_steps, report_every_steps=2, reporter=Silent())
    return trainee.state(), points


def run(tmp_path, **changes):
    options = {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0} | changes
    config = {"died": str(tmp_path / "died"), "die_at": options.pop("die_at", -1)}
    return run_on_workers(loop, config, name="run", state_dir=tmp_path / "state", **options)


def assert_same(state, expected, **tolerance):
    assert state.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(state[name], expected[name], **tolerance, msg=name)


def test_a_killed_worker_resumes_and_ends_the_same(tmp_path, undisturbed):
    trained = run(tmp_path, die_at=5)
    state, points = trained.state, trained.points
    assert (tmp_path / "died").exists()
    assert [point["step"] for point in points] == [2, 4, 6, 8]
    assert points == undisturbed[1]
    assert_same(state, undisturbed[0], rtol=0, atol=0)


def test_two_workers_train_what_one_trains(tmp_path, undisturbed):
    trained = run(tmp_path, num_workers=2)
    state, points = trained.state, trained.points
    losses, expected = ([point["loss"] for point in curve] for curve in (points, undisturbed[1]))
    assert losses == pytest.approx(expected, rel=1e-4)
    # Not every weight: one whose gradient is only rounding noise goes wherever Adam blows that noise up to.
    name = "ema.conv_in.weight"
    assert_same({name: state[name]}, {name: undisturbed[0][name]}, rtol=1e-3, atol=1e-4)


def test_an_error_of_ours_comes_out_of_the_workers_as_it_went_in(tmp_path):
    with pytest.raises(TrainingError, match=r"^no luck in step 3; try again\.$"):
        run_on_workers(
            failing_loop, {}, name="run", state_dir=tmp_path, num_workers=1, cpus_per_worker=1, gpus_per_worker=0
        )


def failing_loop(config):
    raise TrainingError("no luck in step 3; try again.")
