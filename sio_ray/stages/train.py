"""Stage `train`: the baseline and SIO, once per seed, under Ray Train and in the same number of steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.model import Architecture, pixel_statistics
from sio_ray.classifier.trainee import build_trainee
from sio_ray.cluster import check_resources, connect
from sio_ray.config import Config, TrainConfig
from sio_ray.errors import ConfigError, ImageSetError
from sio_ray.imageset import ImageSet
from sio_ray.progress import watch_runs
from sio_ray.stages.layout import Run, generate_place, synthetic_set_uri, train_runs
from sio_ray.stages.prepare import PreparedSets
from sio_ray.stages.record import Outcome, remove_folder, require, reuse, run_once
from sio_ray.training.ray_train import RayTrainReporter, run_on_workers, start_worker
from sio_ray.training.side_by_side import side_by_side
from sio_ray.training.state import model_weights

#: What a finished run leaves.
CHECKPOINT_FILES = ("checkpoint/model.safetensors", "checkpoint/architecture.json")


def train(config: Config) -> Outcome:
    """Train every arm and seed that has not been trained; each leaves `checkpoint` in a folder of its own.

    Raises:
        StageError: an earlier stage has not run for this config.
        ImageSetError: the synthetic set differs from the real one in classes or picture size.
        ConfigError: `train.synthetic_ratio` asks for more synthetic images than there are.
        BatchError: a batch cannot hold what is asked for.
        ResourceError: the cluster has too few cores or GPUs.
        TrainingError: a run failed; what it reported so far is kept for the next time.
    """
    runs = train_runs(config)
    outcomes = {run.name: reuse("train", run.place.folder, _label(run)) for run in runs}
    missing = [run for run in runs if outcomes[run.name] is None]
    if missing:
        outcomes |= _train_missing(config, missing)
    done = {name: outcome for name, outcome in outcomes.items() if outcome is not None}
    return Outcome(
        stage="train",
        output=config.run_dir,
        reused=not missing,
        wall_s=sum(outcome.wall_s for outcome in done.values()),
        result={
            name: {"checkpoint": str(outcome.output / "checkpoint"), **outcome.result["curve"][-1]}
            for name, outcome in done.items()
        },
    )


def _label(run: Run) -> str:
    return f"train {run.name}"


def _train_missing(config: Config, runs: list[Run]) -> dict[str, Outcome]:
    section = config.train
    prepared = PreparedSets(config, "train")
    real, val = prepared.open("id/train"), prepared.open("id/val")
    synthetic = open_synthetic(config, real, "train") if any(run.arm == "sio" for run in runs) else None
    num_synthetic = synthetic_images(config, real, synthetic) if synthetic else 0
    connect(config.cluster)
    concurrent = min(section.concurrent_runs, len(runs))
    check_resources(
        "train",
        num_cpus=concurrent * section.num_workers * section.cpus_per_worker,
        num_gpus=concurrent * section.num_workers * section.gpus_per_worker,
    )
    architecture = architecture_for(section, real)
    with watch_runs({run.name: section.num_steps for run in runs}) as board:

        def job(run: Run) -> Outcome:
            loop_config = {
                "section": section.model_dump(mode="json"),
                "architecture": architecture.model_dump(),
                "real_set": real.uri,
                "val_set": val.uri,
                "synthetic_set": synthetic.uri if synthetic and run.arm == "sio" else None,
                "num_synthetic": num_synthetic if run.arm == "sio" else 0,
                "run": run.name,
                "seed": run.seed,
                "board": board,
            }
            work = partial(_run, section=section, architecture=architecture, loop_config=loop_config)
            return run_once(
                "train", run.place.folder, run.place.identity, config, work, outputs=CHECKPOINT_FILES, label=_label(run)
            )

        outcomes = side_by_side([partial(job, run) for run in runs], limit=section.concurrent_runs)
    return {run.name: outcome for run, outcome in zip(runs, outcomes, strict=True)}


def _run(folder: Path, section: TrainConfig, architecture: Architecture, loop_config: dict[str, Any]) -> dict[str, Any]:
    state_dir = folder / "ray_train"
    state, points = run_on_workers(
        _train_loop,
        loop_config,
        name=folder.name,
        state_dir=state_dir,
        num_workers=section.num_workers,
        cpus_per_worker=section.cpus_per_worker,
        gpus_per_worker=section.gpus_per_worker,
    )
    save_classifier(folder / "checkpoint", architecture, model_weights(state))
    remove_folder(state_dir)
    return {"curve": points, "num_synthetic": loop_config["num_synthetic"]}


def _train_loop(loop_config: dict[str, Any]) -> None:
    """Runs in every worker."""
    import ray.train
    import ray.train.torch

    from sio_ray.training.loop import train as train_to_the_end

    section = TrainConfig.model_validate(loop_config["section"])
    context = ray.train.get_context()
    synthetic = None
    if loop_config["synthetic_set"]:
        synthetic = ImageSet(loop_config["synthetic_set"]).read(limit=loop_config["num_synthetic"])
    trainee = build_trainee(
        section,
        Architecture.model_validate(loop_config["architecture"]),
        ImageSet(loop_config["real_set"]).read(),
        synthetic,
        ImageSet(loop_config["val_set"]).read(),
        seed=loop_config["seed"],
        device=start_worker(section.cpus_per_worker),
        wrap=ray.train.torch.prepare_model,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    train_to_the_end(
        trainee,
        num_steps=section.num_steps,
        report_every_steps=section.report_every_steps,
        reporter=RayTrainReporter(loop_config["run"], loop_config["board"]),
    )


def architecture_for(section: TrainConfig, real: ImageSet) -> Architecture:
    """The classifier that the config asks for, normalised by the real training set."""
    mean, std = pixel_statistics(real.read().images)
    return Architecture(
        network=section.network,
        width=section.width,
        class_names=real.info.class_names,
        image_shape=real.info.image_shape,
        mean=mean,
        std=std,
    )


def open_synthetic(config: Config, real: ImageSet, needed_by: str) -> ImageSet:
    """The synthetic set that a config trains on.

    Raises:
        StageError: `generate` has not run for this config.
        ImageSetError: the set is missing or unfinished, or differs from the real one in classes or picture size.
    """
    if config.train.synthetic_set is None:
        require(generate_place(config).folder, "generate", needed_by)
    synthetic = ImageSet(synthetic_set_uri(config))
    ours, theirs = real.info, synthetic.info
    if ours.image_shape != theirs.image_shape:
        raise ImageSetError(
            f"pictures of {synthetic} are {theirs.image_shape} (channels, height, width), real ones are "
            f"{ours.image_shape}; draw or import the synthetic set at the size of the real one."
        )
    if ours.class_names != theirs.class_names:
        raise ImageSetError(
            f"classes of {synthetic} are {list(theirs.class_names)}, of the real set {list(ours.class_names)}; "
            "give a synthetic set with the same classes in the same order."
        )
    empty = [theirs.class_names[c] for c, count in enumerate(synthetic.manifest.class_counts) if count == 0]
    if empty:
        raise ImageSetError(
            f"{synthetic} has no image of class {', '.join(empty)}; draw more, with generate.synthetic_ratio."
        )
    return synthetic


def synthetic_images(config: Config, real: ImageSet, synthetic: ImageSet) -> int:
    """How many synthetic images `train.synthetic_ratio` asks for: those with the lowest ids.

    Raises:
        ConfigError: more than there are, or none although their weight is not 0.
    """
    ratio = config.train.synthetic_ratio
    if ratio is None:
        return len(synthetic)
    wanted = round(ratio * len(real))
    if wanted > len(synthetic):
        raise ConfigError(
            "train.synthetic_ratio",
            f"at most {len(synthetic) / len(real):.4g} ({len(synthetic)} images in {synthetic})",
            ratio,
            f"draw more with generate.synthetic_ratio={ratio:g}, or lower it",
        )
    if wanted == 0 and config.train.batch_share < 1:
        raise ConfigError(
            "train.synthetic_ratio",
            "greater than 0 while train.real_batch_share is below 1",
            ratio,
            "raise it, or train with train.arms=[baseline]",
        )
    return wanted
