"""Stage `fit-generator`: a diffusion model fitted to the real training set under Ray Train."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sio_ray.cluster import check_resources, connect
from sio_ray.config import Config, FitGeneratorConfig
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.diffusion.pipeline import SCHEDULERS, ClassConditionalEDMPipeline
from sio_ray.diffusion.trainee import GeneratorTrainee, averaged_weights
from sio_ray.imageset import ImageSet
from sio_ray.progress import watch_runs
from sio_ray.seeding import derive_seed
from sio_ray.stages.layout import fit_generator_place
from sio_ray.stages.prepare import PreparedSets
from sio_ray.stages.record import Outcome, remove_folder, run_once
from sio_ray.training.ray_train import RayTrainReporter, run_on_workers, start_worker
from sio_ray.training.side_by_side import side_by_side

_RUN = "generator"


def fit_generator(config: Config) -> Outcome:
    """Fit the generator and save it as a diffusers folder in safetensors, under `model`.

    Raises:
        StageError: `prepare` has not run for this config.
        ConfigError: the network does not fit the pictures.
        ResourceError: the cluster has too few cores or GPUs.
        TrainingError: training failed; what was reported so far is kept for the next run.
    """
    place = fit_generator_place(config)
    return run_once(
        "fit-generator",
        place.folder,
        place.identity,
        config,
        lambda folder: _work(config, folder),
        outputs=["model/model_index.json"],
    )


def _work(config: Config, folder: Path) -> dict[str, Any]:
    section = config.fit_generator
    train_set = PreparedSets(config, "fit-generator").open("id/train")
    unet = build_unet(section, train_set.info)
    connect(config.cluster)
    check_resources(
        "fit_generator",
        num_cpus=section.num_workers * section.cpus_per_worker,
        num_gpus=section.num_workers * section.gpus_per_worker,
    )
    # Measured once, here: every worker and every sampler must use the same number.
    sigma_data = float((train_set.read().images.astype(np.float64) / 127.5 - 1).std())
    state_dir = folder / "ray_train"
    with watch_runs({_RUN: section.num_steps}) as board:
        loop_config = {
            "section": section.model_dump(),
            "train_set": train_set.uri,
            "sigma_data": sigma_data,
            "board": board,
        }
        job = partial(
            run_on_workers,
            _train_loop,
            loop_config,
            name=_RUN,
            state_dir=state_dir,
            num_workers=section.num_workers,
            cpus_per_worker=section.cpus_per_worker,
            gpus_per_worker=section.gpus_per_worker,
        )
        ((state, points),) = side_by_side([job], limit=1)
    unet.load_state_dict(averaged_weights(state), strict=True)
    save_pipeline(folder / "model", unet, sigma_data)
    remove_folder(state_dir)
    num_parameters = sum(parameter.numel() for parameter in unet.parameters())
    return {"num_parameters": num_parameters, "sigma_data": sigma_data, "curve": points}


def save_pipeline(folder: Path, unet: Any, sigma_data: float) -> None:
    """Write a diffusers folder that `ClassConditionalEDMPipeline.from_pretrained` loads; it appears whole."""
    scheduler = SCHEDULERS["edm_dpmsolver_multistep"](sigma_data=sigma_data)
    partial = folder.with_name(f"{folder.name}.partial")
    for stale in (partial, folder):
        remove_folder(stale)
    ClassConditionalEDMPipeline(unet.eval(), scheduler).save_pretrained(str(partial), safe_serialization=True)
    partial.rename(folder)


def _train_loop(loop_config: dict[str, Any]) -> None:
    """Runs in every worker."""
    import ray.train
    import ray.train.torch

    from sio_ray.training.loop import train

    section = FitGeneratorConfig.model_validate(loop_config["section"])
    device = start_worker(section.cpus_per_worker)
    context = ray.train.get_context()
    train_set = ImageSet(loop_config["train_set"])
    torch.manual_seed(derive_seed("unet", section.seed))
    unet = build_unet(section, train_set.info).to(device)
    trainee = GeneratorTrainee(
        unet,
        ray.train.torch.prepare_model(unet),
        train_set.read(),
        loop_config["sigma_data"],
        section,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    train(
        trainee,
        num_steps=section.num_steps,
        report_every_steps=section.report_every_steps,
        reporter=RayTrainReporter(_RUN, loop_config["board"]),
    )
