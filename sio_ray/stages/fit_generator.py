"""Stage `fit-generator`: a diffusion model fitted to the real training set under Ray Train."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from sio_ray.cluster import check_workers, connect
from sio_ray.config import Config, FitGeneratorConfig
from sio_ray.diffusion.curve import PLOT_NAME, write_curve
from sio_ray.diffusion.denoiser import build_unet
from sio_ray.diffusion.gaussian import fit_gaussian
from sio_ray.diffusion.pipeline import ClassConditionalEDMPipeline
from sio_ray.diffusion.preview import PREVIEWS_NAME, write_preview
from sio_ray.diffusion.schedulers import EDM_SCHEDULERS
from sio_ray.diffusion.trainee import averaged_weights, build_trainee
from sio_ray.errors import ImageSetError, ResourceError
from sio_ray.imageset import ImageSet, ImageSetInfo
from sio_ray.imageset.pixel_counts import PixelCounts, count_pixels, deviation_of
from sio_ray.imageset.storage import Folder
from sio_ray.progress import console
from sio_ray.stages.layout import fit_generator_place, fitted_generator
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import Outcome, remove_folder, run_once
from sio_ray.stages.shared_storage import check_shared_storage
from sio_ray.training.loop import Point
from sio_ray.training.ray_train import RayTrainReporter, Workers, run_on_workers, start_worker
from sio_ray.training.shared_sets import decoded_bytes, fetch, pixel_counts_of, share
from sio_ray.training.side_by_side import side_by_side
from sio_ray.training.watch import WatchedRun, watch_runs
from sio_ray.watching.context import bound

_RUN = "generator"

#: What to do about a training set that does not fit into memory.
_SMALLER = "take larger nodes, or smaller pictures (prepare.image_size_px)"

#: Ray's checkpoints, until the stage has finished.
_STATE_NAME = "ray_train"


def fit_generator(config: Config) -> Outcome:
    """Fit the generator and save it as a diffusers folder in safetensors, under `model`.

    While a UNet trains, `curve.json` and `loss.png` are kept up to date beside it, and grids of sampled pictures are
    added under `previews` if the config asks for them.

    The training set is decoded into memory once per node, one byte per pixel and channel: 0.15 GB for CIFAR-10, 15.7 GB
    for ImageNet at 64 px. A set that a node could not hold is refused before work starts.

    Raises:
        StageError: `prepare` has not run for this config.
        ConfigError: the network does not fit the pictures.
        ImageSetError: the training set is corrupt, or without contrast.
        ResourceError: the cluster has too few cores, GPUs or memory.
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
        state=_STATE_NAME,
    )


def _work(config: Config, folder: Path) -> dict[str, Any]:
    section = config.fit_generator
    train_set = PreparedSets(config, "fit-generator").open("id/train")
    fit = _fit_unet if section.kind == "unet" else _fit_gaussian
    model, sigma_data, points = fit(config, train_set, folder)
    save_pipeline(fitted_generator(config), model, sigma_data, train_set.info.class_names)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"num_parameters": num_parameters, "sigma_data": sigma_data, "curve": points}


def _fit_gaussian(config: Config, train_set: ImageSet, _folder: Path) -> tuple[ModelMixin, float, list[Point]]:
    """The closed form, on the driver."""
    _check_memory(train_set)
    images = train_set.read()
    sigma_data = _sigma_data(count_pixels(images.images), train_set)
    rank, num_classes = config.fit_generator.gaussian_rank, train_set.info.num_classes
    return fit_gaussian(images.images, images.labels, num_classes, rank, sigma_data), sigma_data, []


def _sigma_data(counts: PixelCounts, train_set: ImageSet) -> float:
    sigma_data = deviation_of(counts)
    if sigma_data == 0:
        raise ImageSetError(f"all pixels of {train_set} are the same; give a training set with pictures in it.")
    return sigma_data


def _fit_unet(config: Config, train_set: ImageSet, folder: Path) -> tuple[ModelMixin, float, list[Point]]:
    """Training on Ray's workers; continues an earlier one in the same folder."""
    section = config.fit_generator
    unet = build_unet(section, train_set.info)
    connect(config.cluster)
    check_shared_storage(config, "fit-generator")
    check_workers(
        "fit_generator",
        num_workers=section.num_workers,
        cpus_per_worker=section.cpus_per_worker,
        gpus_per_worker=section.gpus_per_worker,
    )
    shared = share({"train": (train_set.uri, None)}, remedy=_SMALLER)
    # Measured once, here: every worker and every sampler must use the same number.
    sigma_data = _sigma_data(pixel_counts_of(train_set.uri), train_set)
    labels = {"arm": _RUN, "seed": str(section.seed), "member": "0"}
    watched = WatchedRun(section.num_steps, section.global_batch_size, labels)
    with bound(**labels), watch_runs({_RUN: watched}) as board:
        loop_config = {
            "section": section.model_dump(),
            "info": train_set.info.model_dump(mode="json"),
            "images": shared["train"],
            "sigma_data": sigma_data,
            "folder": str(folder),
            "board": board,
        }
        job = partial(
            run_on_workers,
            _train_loop,
            loop_config,
            name=_RUN,
            state_dir=folder / _STATE_NAME,
            workers=Workers(section.num_workers, section.cpus_per_worker, section.gpus_per_worker),
        )
        (trained,) = side_by_side([job], limit=1)
    unet.load_state_dict(averaged_weights(trained.state), strict=True)
    previews = f", and pictures as it trained in {PREVIEWS_NAME} beside it" if section.preview_every_steps else ""
    console.print(f"  loss curve: {folder / PLOT_NAME}{previews}", style="dim", markup=False, soft_wrap=True)
    return unet, sigma_data, trained.points


def _check_memory(train_set: ImageSet) -> None:
    """Refuse a training set that this machine cannot hold decoded."""
    num_bytes, memory_bytes = decoded_bytes(train_set), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_bytes > memory_bytes:
        raise ResourceError(
            f"fit_generator needs {num_bytes / 1e9:.1f} GB of memory for the decoded training set, this machine has "
            f"{memory_bytes / 1e9:.1f} GB; {_SMALLER}."
        )


def save_pipeline(folder: Path, unet: ModelMixin, sigma_data: float, class_names: tuple[str, ...]) -> None:
    """Write a diffusers folder that `ClassConditionalEDMPipeline.from_pretrained` loads; it appears whole."""
    scheduler = EDM_SCHEDULERS["edm_dpmsolver_multistep"](sigma_data=sigma_data)
    partial = folder.with_name(f"{folder.name}.partial")
    for stale in (partial, folder):
        remove_folder(stale)
    pipeline = ClassConditionalEDMPipeline(unet.eval(), scheduler, class_names=list(class_names))
    pipeline.save_pretrained(str(partial), safe_serialization=True)
    partial.rename(folder)


def _train_loop(loop_config: dict[str, Any]) -> None:
    """Runs in every worker."""
    import ray.train
    import ray.train.torch

    from sio_ray.training.loop import train

    section = FitGeneratorConfig.model_validate(loop_config["section"])
    context = ray.train.get_context()
    info, sigma_data = ImageSetInfo.model_validate(loop_config["info"]), loop_config["sigma_data"]
    device = start_worker(section.cpus_per_worker)
    trainee = build_trainee(
        section,
        info,
        fetch(loop_config["images"]),
        sigma_data,
        device=device,
        wrap=ray.train.torch.prepare_model,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    folder = Folder(loop_config["folder"])

    def show(step: int, points: list[Point]) -> None:
        write_curve(folder, points)
        if section.preview_every_steps and (step % section.preview_every_steps == 0 or step == section.num_steps):
            write_preview(folder, step, trainee.averaged_unet(), sigma_data, info.class_names)

    train(
        trainee,
        num_steps=section.num_steps,
        report_every_steps=section.report_every_steps,
        reporter=RayTrainReporter(_RUN, loop_config["board"], show),
    )
