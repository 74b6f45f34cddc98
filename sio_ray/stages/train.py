"""Stage `train`: the baseline and SIO, once per seed, under Ray Train and in the same number of steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from sio_ray.classifier.algorithms import check_algorithm
from sio_ray.classifier.augment import Augmentation
from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.feed import compose
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.pretrained import fetch_pretrained, normalisation_of
from sio_ray.classifier.schedules import num_steps_of
from sio_ray.classifier.trainee import build_trainee, final_weights
from sio_ray.cluster import check_workers, connect
from sio_ray.config import Config, TrainConfig
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pixel_counts import Statistics, statistics_of
from sio_ray.progress import console
from sio_ray.provenance import versions
from sio_ray.stages.begun import STATE_NAME, note_begun, tell_of_unfinished
from sio_ray.stages.layout import Arm, Run, train_runs
from sio_ray.stages.record import Outcome, reuse, run_once, watched
from sio_ray.stages.shared_storage import check_shared_storage
from sio_ray.stages.training_sets import open_training_sets, pool_sizes, refuse_another_set
from sio_ray.stages.trainings import trainings
from sio_ray.training.feeds import cpus_of_feed, open_feed, share_sources
from sio_ray.training.loggers import open_loggers
from sio_ray.training.loop import train as train_to_the_end
from sio_ray.training.ray_train import RayTrainReporter, Workers, run_on_workers, start_worker
from sio_ray.training.shared_sets import fetch, pixel_counts_of
from sio_ray.training.side_by_side import side_by_side
from sio_ray.training.watch import WatchedRun, watch_runs
from sio_ray.watching.context import bound

_RGB = 3

#: What a finished run leaves: of its last step, and of the report with the highest ID validation accuracy.
LAST_NAME, BEST_NAME = "checkpoint", "checkpoint_best"
CHECKPOINT_FILES = tuple(
    f"{name}/{file}" for name in (LAST_NAME, BEST_NAME) for file in ("model.safetensors", "architecture.json")
)


def train(config: Config) -> Outcome:
    """Train every arm and seed that has not been trained; each leaves checkpoints in a folder of its own.

    Where methods are given, that is done for every training that they need, one after the other.

    Raises:
        StageError: an earlier stage has not run for this config.
        ImageSetError: a set differs from the real one in classes or picture size.
        ConfigError: the network cannot take the pictures, or `train.synthetic_ratio` asks for more synthetic images
            than there are.
        BatchError: a batch cannot hold what is asked for.
        ResourceError: the cluster has too few cores, GPUs or memory.
        TrainingError: a run failed; what it reported so far is kept for the next time.
    """
    outcomes: dict[str, Outcome] = {}
    for training in trainings(config):
        outcomes |= _train(training.config)
    return Outcome(
        stage="train",
        output=config.run_dir,
        reused=all(outcome.reused for outcome in outcomes.values()),
        wall_s=sum(outcome.wall_s for outcome in outcomes.values()),
        result={
            name: {"checkpoint": str(outcome.output / checkpoint_name(config)), **outcome.result["curve"][-1]}
            for name, outcome in outcomes.items()
        },
    )


def _train(config: Config) -> dict[str, Outcome]:
    """The runs of one training, by name."""
    runs = train_runs(config)
    refuse_another_set(config, runs)
    outcomes = {run.name: reuse("train", run.place.folder, _label(run), state=STATE_NAME) for run in runs}
    missing = [run for run in runs if outcomes[run.name] is None]
    for run in missing:
        tell_of_unfinished(config, run)
    if missing:
        with watched("train", config.run_dir, config):
            outcomes |= _train_missing(config, missing)
    return {name: outcome for name, outcome in outcomes.items() if outcome is not None}


def checkpoint_name(config: Config) -> str:
    """The folder, in that of a run, of the checkpoint to evaluate."""
    return BEST_NAME if config.train.keep == "best" else LAST_NAME


def _label(run: Run) -> str:
    return f"train {run.name}"


def _labels(run: Run) -> dict[str, str]:
    """Of what is told of a run while it trains."""
    return {"arm": run.arm, "seed": str(run.seed), "member": str(run.member)}


def _train_missing(config: Config, runs: list[Run]) -> dict[str, Outcome]:
    arms = {run.arm for run in runs}
    sets = open_training_sets(config, "train", with_synthetic="sio" in arms)
    section = config.train.model_copy(update={"num_steps": num_steps_of(config.train, len(sets.real))})
    if section.pretrained is not None:
        fetch_pretrained(section.network, section.pretrained)  # here first, to learn before work starts that it is gone
    connect(config.cluster)
    check_shared_storage(config, "train")
    sources = {arm: sets.sources(arm) for arm in arms}
    cpus_per_worker = {arm: section.cpus_per_worker + cpus_of_feed(section, sources[arm]) for arm in arms}
    _check_workers(section, max(cpus_per_worker.values()), num_runs=min(section.concurrent_runs, len(runs)))
    architecture = architecture_for(section, sets.real.info, statistics_of(pixel_counts_of(sets.real.uri)))
    if section.pretrained is not None:
        _tell_of_new_layers(architecture, section.pretrained)
    opened, val = share_sources(section, sources, sets.val.uri)
    shown = {run.name: WatchedRun(section.num_steps, section.global_batch_size, _labels(run)) for run in runs}
    with watch_runs(shown) as board:

        def job(run: Run) -> Outcome:
            synthetic = sets.synthetic if run.arm == "sio" else None
            loop_config = {
                "section": section.model_dump(mode="json"),
                "architecture": architecture.model_dump(),
                "sources": opened[run.arm],
                "val": val,
                "num_real": len(sets.real),
                "num_synthetic": 0 if synthetic is None else sets.num_synthetic,
                "synthetic_content_id": None if synthetic is None else synthetic.manifest.content_id,
                "experiment": config.name,
                "folder": str(run.place.folder),
                "run": run.name,
                "arm": run.arm,
                "seed": run.training_seed,
                "board": board,
            }
            work = partial(
                _run,
                config=config,
                run=run,
                section=section,
                architecture=architecture,
                loop_config=loop_config,
                cpus_per_worker=cpus_per_worker[run.arm],
            )
            with bound(**_labels(run)):
                return run_once(
                    *("train", run.place.folder, run.place.identity, config, work),
                    outputs=CHECKPOINT_FILES,
                    state=STATE_NAME,
                    label=_label(run),
                )

        outcomes = side_by_side([partial(job, run) for run in runs], limit=section.concurrent_runs)
    return {run.name: outcome for run, outcome in zip(runs, outcomes, strict=True)}


def _check_workers(section: TrainConfig, cpus_per_worker: int, num_runs: int) -> None:
    check_workers(
        "train",
        num_workers=fewest_workers(section, num_runs),
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=section.gpus_per_worker,
        num_runs=num_runs,
    )


def fewest_workers(section: TrainConfig, num_runs: int) -> int:
    """Workers that a run must get to begin: `min_workers`, unless runs that may grow would take each other's cores."""
    return section.num_workers if num_runs > 1 else section.min_workers or section.num_workers


def _tell_of_new_layers(architecture: Architecture, pretrained: str) -> None:
    """Say what of a network did not come from its pretrained weights."""
    new = Classifier(architecture, pretrained=pretrained).new_tensors
    layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in new)) or "none"
    told = f"  {architecture.network} starts from {pretrained}; new layers: {layers}"
    console.print(told, markup=False, soft_wrap=True)


def _run(
    folder: Path,
    config: Config,
    run: Run,
    section: TrainConfig,
    architecture: Architecture,
    loop_config: dict[str, Any],
    cpus_per_worker: int,
) -> dict[str, Any]:
    state_dir = folder / STATE_NAME
    note_begun(state_dir, config, run)
    trained = run_on_workers(
        _train_loop,
        loop_config,
        name=folder.name,
        state_dir=state_dir,
        workers=Workers(section.num_workers, cpus_per_worker, section.gpus_per_worker, min_workers=section.min_workers),
        best_by="val_accuracy",
    )
    training = {
        **{name: loop_config[name] for name in ("arm", "seed", "num_real", "num_synthetic")},
        "config": loop_config["section"],
        "versions": versions(),
    }
    for name, state in ((LAST_NAME, trained.state), (BEST_NAME, trained.best)):
        save_classifier(folder / name, architecture, final_weights(state), training=training)
    return {"curve": trained.points, **{name: loop_config[name] for name in ("num_synthetic", "synthetic_content_id")}}


def _train_loop(loop_config: dict[str, Any]) -> None:
    """Runs in every worker."""
    import ray.train
    import ray.train.torch

    section = TrainConfig.model_validate(loop_config["section"])
    arm, num_real = loop_config["arm"], loop_config["num_real"]
    context = ray.train.get_context()
    place: dict[str, Any] = {
        "seed": loop_config["seed"],
        "device": start_worker(section.cpus_per_worker),
        "rank": context.get_world_rank(),
        "world_size": context.get_world_size(),
    }
    feed = open_feed(
        section,
        loop_config["sources"],
        arm=arm,
        pool_size=pool_sizes(section, num_real, loop_config["num_synthetic"]),
        **place,
    )
    try:
        trainee = build_trainee(
            section,
            Architecture.model_validate(loop_config["architecture"]),
            feed,
            fetch(loop_config["val"]),
            arm=arm,
            wrap=ray.train.torch.prepare_model,
            **place,
        )
        is_first = place["rank"] == 0
        with open_loggers(
            section.loggers if is_first else (),
            experiment=loop_config["experiment"],
            run=loop_config["run"],
            folder=Path(loop_config["folder"]),
            params={"arm": arm, "seed": loop_config["seed"], **loop_config["section"]},
        ) as log:
            train_to_the_end(
                trainee,
                num_steps=section.num_steps,
                report_every_steps=report_every_steps(section, num_real, arm),
                reporter=RayTrainReporter(
                    loop_config["run"],
                    loop_config["board"],
                    lambda step, points: log(points[-1]),
                    lambda: feed.wait_s,
                ),
            )
    finally:
        feed.close()


def report_every_steps(section: TrainConfig, num_real: int, arm: Arm) -> int:
    """Steps between two reports: as asked for, or those of one pass over the real set."""
    if section.report_every_steps is not None:
        return section.report_every_steps
    share = 1.0 if arm == "baseline" else section.batch_share
    per_step = compose(section.global_batch_size, share).num_real
    return -(-num_real // per_step) if per_step else section.num_steps


def architecture_for(section: TrainConfig, info: ImageSetInfo, statistics: Statistics) -> Architecture:
    """The classifier that the config asks for, for pictures of the real training set.

    Args:
        section: of the config.
        info: of the real training set.
        statistics: mean and standard deviation of its pixels, per channel, by which the classifier normalises;
            pretrained weights come with their own.
    """
    mean, std = statistics
    if section.pretrained is not None and info.channels == _RGB:
        mean, std = normalisation_of(section.network, section.pretrained)
    return Architecture(
        network=section.network,
        width=section.width,
        head=check_algorithm(section.algorithm, section.algorithm_options).head,
        class_names=info.class_names,
        image_shape=Augmentation.of(section).output_shape(info.image_shape),
        mean=mean,
        std=std,
    )
