"""The stage fit-generator: a killed worker costs nothing, what it leaves beside the model, and what it refuses."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray import cloudpickle
from safetensors.torch import load_file

from sio_ray.config import load_config
from sio_ray.diffusion.curve import write_curve
from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.preview import write_preview
from sio_ray.diffusion.trainee import build_trainee
from sio_ray.errors import ResourceError
from sio_ray.imageset import ImageSet
from sio_ray.imageset.pixel_counts import count_pixels, deviation_of
from sio_ray.imageset.storage import Folder
from sio_ray.stages import fit_generator as stage
from sio_ray.stages.layout import fit_generator_place, prepare_place
from sio_ray.stages.prepare import prepare
from sio_ray.training.loop import SilentReporter, train

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.slow

UNET = ("fit_generator.num_steps=120", "fit_generator.report_every_steps=20", "fit_generator.preview_every_steps=40")
WEIGHTS = "model/unet/diffusion_pytorch_model.safetensors"
PREVIEWS = [f"previews/step-{step:06d}.png" for step in (40, 80, 120)]


@pytest.fixture(scope="module")
def prepared(ray_cluster, tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(load_config("digits", [*tiny, f"output_dir={folder}"]))
    return folder


class Showing(SilentReporter):
    """Calls a function at each report."""

    def __init__(self, show):
        self.report = lambda step, points, state: show(step, points)


@pytest.fixture(scope="module")
def plain(prepared, tiny, tmp_path_factory):
    """Curve, state and a folder with what else a plain loop in this process leaves."""
    config = load_config("digits", [*tiny, *UNET, f"output_dir={prepared}"])
    section, folder = config.fit_generator, Folder(str(tmp_path_factory.mktemp("plain")))
    real = ImageSet(prepare_place(config).folder / "id/train")
    arrays, names = real.read(), real.info.class_names
    sigma_data = deviation_of(count_pixels(arrays.images))
    trainee = build_trainee(section, real.info, arrays, sigma_data, device=torch.device("cpu"))

    def show(step, points):
        write_curve(folder, points)
        if step % 40 == 0:
            write_preview(folder, step, trainee.averaged_unet(), sigma_data, names)

    points = train(trainee, num_steps=120, report_every_steps=20, reporter=Showing(show))
    return points, trainee.state(), Path(folder.uri)


@pytest.fixture(scope="module")
def of_two_workers(prepared, tiny, tmp_path_factory):
    """Folder, result and last checkpoint of a run."""
    output = shutil.copytree(prepared, tmp_path_factory.mktemp("two") / "runs")
    states, weights_of = [], stage.averaged_weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "averaged_weights", lambda state: states.append(state) or weights_of(state))
        config = load_config("digits", [*tiny, *UNET, "fit_generator.num_workers=2", f"output_dir={output}"])
        return *fit(config), states[0]


@pytest.fixture
def load(prepared, tmp_path, tiny):
    """Loads a config whose real sets are prepared in a folder of its own."""

    def load_with(name, *overrides):
        shutil.copytree(prepared, tmp_path / name, dirs_exist_ok=True)
        return load_config("digits", [*tiny, *overrides, f"output_dir={tmp_path / name}"])

    return load_with


def fit(config):
    outcome = stage.fit_generator(config)
    return outcome.output, outcome.result


def noting_loop(loop_config):
    """The real loop, in a worker whose process id is noted."""
    with Path(loop_config["folder"], "pids").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    stage._train_loop(loop_config)


def kill_after_two_reports(folder, killed):
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s and not killed:
        curve = folder / "curve.json"
        if curve.exists() and len(json.loads(curve.read_text())) >= 2:
            killed.append(int((folder / "pids").read_text().split()[-1]))
            os.kill(killed[-1], signal.SIGKILL)
        time.sleep(0.01)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_finished_fit_leaves_model_curve_and_previews(of_two_workers):
    folder, result, state = of_two_workers
    models = ["model/model_index.json", "model/scheduler/scheduler_config.json", "model/unet/config.json", WEIGHTS]
    assert files(folder) == sorted([*models, *PREVIEWS, "curve.json", "loss.png", "stage.json"])
    assert json.loads((folder / "curve.json").read_text()) == result["curve"]
    assert [point["step"] for point in result["curve"]] == [20, 40, 60, 80, 100, 120]
    for preview in PREVIEWS:
        assert np.asarray(Image.open(folder / preview)).std() > 0
    saved = load_file(folder / WEIGHTS)
    assert saved.keys() == {name.removeprefix("ema.") for name in state if name.startswith("ema.")}
    for name, value in saved.items():
        assert torch.equal(value, state[f"ema.{name}"])
    assert any(not torch.equal(value, state[f"model.{name}"]) for name, value in saved.items())


def test_a_killed_worker_costs_nothing(plain, load, monkeypatch, capfd):
    config = load("disturbed", *UNET)
    folder = fit_generator_place(config).folder
    monkeypatch.setattr(stage, "_train_loop", noting_loop)
    killed = []
    killer = threading.Thread(target=kill_after_two_reports, args=(folder, killed))
    killer.start()
    points, state, expected = plain
    assert fit(config)[1]["curve"] == points
    killer.join()
    pids = (folder / "pids").read_text().split()
    assert len(pids) == 2
    assert killed == [int(pids[0])]
    for name, value in load_file(folder / WEIGHTS).items():
        assert torch.equal(value, state[f"ema.{name}"]), name
    for name in (*PREVIEWS, "curve.json", "loss.png"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    err = capfd.readouterr().err
    assert err.count("continuing from its last checkpoint") == 1
    assert f"loss curve: {folder}/loss.png, and pictures as it trained in previews beside it\n" in err


def test_two_workers_learn_the_same_and_draw_previews_once(of_two_workers, plain):
    folder, result, _ = of_two_workers
    points, _, expected = plain
    assert [point["loss"] for point in result["curve"]] == pytest.approx([p["loss"] for p in points], rel=0.01)
    sheets = [np.asarray(Image.open(run / PREVIEWS[0]), dtype=float) for run in (folder, expected)]
    assert np.abs(sheets[0] - sheets[1]).mean() < 2


def test_a_gaussian_is_fitted_without_training(load, monkeypatch):
    monkeypatch.setattr(stage, "run_on_workers", None)
    config = load("gaussian", "fit_generator.kind=gaussian", "fit_generator.gaussian_rank=4")
    folder, result = fit(config)
    assert result["curve"] == []
    assert {Path(name).suffix for name in files(folder)} == {".json", ".safetensors"}
    train_set = ImageSet(prepare_place(config).folder / "id/train")
    real = train_set.read()
    pipeline = ClassConditionalEDMPipeline.from_pretrained(str(folder / "model"), low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    assert list(pipeline.config.class_names) == list(train_set.info.class_names)
    assert result["sigma_data"] == pytest.approx((real.images / 127.5 - 1).std())
    for label in (0, 5):
        generators = [torch.Generator().manual_seed(seed) for seed in range(300)]
        drawn = pipeline([label] * 300, generators, clamp=False).mean(0).numpy()
        expected = (real.images[real.labels == label] / 127.5 - 1).mean(0)
        assert np.abs(drawn - expected).max() < 0.2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "unet",
            r"^decoding the sets into memory takes 128000\.00 GB of Ray's object store on a node, the smallest has "
            r"\d+\.\d\d GB; take larger nodes, or smaller pictures \(prepare\.image_size_px\), or start Ray with a "
            r"larger object_store_memory\.$",
        ),
        (
            "gaussian",
            r"^fit_generator needs 64000\.0 GB of memory for the decoded training set, this machine has \d+\.\d GB; "
            r"take larger nodes, or smaller pictures \(prepare\.image_size_px\)\.$",
        ),
    ],
)
def test_a_training_set_that_no_node_can_hold_is_refused(load, kind, message):
    config = load(kind, f"fit_generator.kind={kind}")
    manifest = prepare_place(config).folder / "id/train/manifest.json"
    text = json.loads(manifest.read_text())
    shards = [{**text["shards"][0], "num_images": 10**12}]
    manifest.write_text(json.dumps({**text, "num_images": 10**12, "shards": shards}))
    with pytest.raises(ResourceError, match=message):
        fit(config)
