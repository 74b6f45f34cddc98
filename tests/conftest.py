"""What all tests share: quiet libraries, and a config of the whole method that runs in seconds."""

import os

# Read at import by the libraries named, so set before any of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A process beside each training run that watches for nodes of a cloud about to be taken away; there are none here.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# Each cluster starts a worker per core before anybody asks for one: four seconds of a core for most of the tests' own.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

import json
import shutil
import signal
import warnings

import pytest
import warm_workers
from filelock import FileLock

from sio_ray.cli import run_stages
from sio_ray.config import ClusterConfig, load_config
from sio_ray.stages.layout import run_order

# A shell that runs the tests in the background has them ignore Ctrl-C, and the commands that they start as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Makes the digits preset small; the same code runs.
TINY = (
    "prepare.images_per_ood_set=24",
    "prepare.num_outliers=24",
    "fit_generator.block_out_channels=[8,16]",
    "fit_generator.num_steps=30",
    "fit_generator.report_every_steps=10",
    "fit_generator.cpus_per_worker=1",
    "generate.synthetic_ratio=0.25",
    "generate.num_inference_steps=4",
    "generate.images_per_shard=32",
    "generate.sampler_batch_size=16",
    # The work of an actor takes less time than its start; tests of the pool have several.
    "generate.num_actors=1",
    "evaluate.num_actors=1",
    "train.width=8",
    "train.seeds=[0]",
    "train.num_steps=20",
    "train.report_every_steps=10",
    "tune.num_trials=1",
    "tune.num_steps=10",
)


@pytest.fixture(scope="session")
def tiny():
    """Overrides that make the digits preset small."""
    return TINY


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster of four logical cores and GPUs for all tests that need Ray."""
    import ray

    from sio_ray.cluster import connect

    warm_workers.start()
    with warnings.catch_warnings():
        # Ray itself warns, when it starts, of changes to come in Ray.
        warnings.simplefilter("ignore")
        connect(ClusterConfig(num_cpus=4, num_gpus=4))
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def finished(ray_cluster, tmp_path_factory, tiny):
    """Overrides, config and outcomes of a run of all stages; made once for all processes, each of which has a copy."""
    own = tmp_path_factory.mktemp("runs")
    overrides = (*tiny, f"output_dir={own}", "train.concurrent_runs=2")
    config = load_config("digits", overrides)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return overrides, config, run_stages(config, run_order(config))
    shared = tmp_path_factory.getbasetemp().parent / "finished"
    outcomes = shared.with_suffix(".json")
    with FileLock(shared.with_suffix(".lock")):
        if not outcomes.exists():
            made = load_config("digits", [*overrides, f"output_dir={shared}"])
            outcomes.write_text(json.dumps(run_stages(made, run_order(made))))
    shutil.copytree(shared, own, dirs_exist_ok=True)
    for record in own.rglob("stage.json"):
        record.write_text(record.read_text().replace(str(shared), str(own)))
    return overrides, config, json.loads(outcomes.read_text().replace(str(shared), str(own)))


@pytest.fixture
def store(monkeypatch):
    """An object store with a bucket `sets`, whose requests fail as its `rule` says."""
    from faulty_s3 import CREDENTIALS, faulty_store

    from sio_ray.imageset import clients

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with faulty_store("sets") as store:
        yield store
    clients.open_uri.cache_clear()


@pytest.fixture(scope="session")
def gaussian_generator(tmp_path_factory):
    """A saved generator in closed form: three classes of 8x8 grey pictures."""
    import numpy as np
    from diffusers import EDMEulerScheduler

    from sio_ray.diffusion.gaussian import fit_gaussian
    from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline

    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (40 + 70 * labels[:, None, None, None] + rng.normal(0, 12, (60, 1, 8, 8))).clip(0, 255).astype(np.uint8)
    denoiser = fit_gaussian(images, labels, 3, rank=2, sigma_data=0.4)
    folder = tmp_path_factory.mktemp("gaussian") / "model"
    pipeline = ClassConditionalEDMPipeline(denoiser, EDMEulerScheduler(sigma_data=0.4), ["dark", "middle", "bright"])
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder
