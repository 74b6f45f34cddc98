"""Checks a whole config before any work starts: what no single field can know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sio_ray.classifier.checkpoint import load_classifier
from sio_ray.classifier.feed import compose
from sio_ray.config import Config, FitGeneratorConfig, GenerateConfig
from sio_ray.errors import BatchError, ConfigError, ResourceError
from sio_ray.generate.generator import find_generator
from sio_ray.imageset import ImageSet
from sio_ray.imageset.storage import Folder
from sio_ray.ood.detectors import build_detectors


def check(config: Config, stages: Sequence[str]) -> None:
    """Refuse a config whose later stages could not work.

    Args:
        config: already valid field by field.
        stages: those about to run.

    Raises:
        ConfigError: fields contradict each other.
        BatchError: a batch cannot hold both sources.
        ImageSetError: a set that was named is missing or unfinished.
        CheckpointError: a generator or classifier that was named is missing.
        ResourceError: the output folder cannot be written.
    """
    _check_writable(config.run_dir)
    if "fit-generator" in stages:
        _check_fit_generator(config.fit_generator)
    if "generate" in stages:
        _check_generate(config.generate)
    if {"train", "tune"} & set(stages):
        _check_train(config)
    if "evaluate" in stages:
        build_detectors(config.evaluate.detectors)
    if "tune" in stages:
        build_detectors(config.tune.detectors, field="tune.detectors")
    if "report" in stages and config.report.detector not in config.evaluate.detectors:
        raise ConfigError(
            "report.detector",
            f"among evaluate.detectors ({', '.join(config.evaluate.detectors)})",
            config.report.detector,
            "choose one of them",
        )


def _check_batch_feeds_workers(section: str, global_batch_size: int, num_workers: int) -> None:
    if global_batch_size < num_workers:
        raise ConfigError(
            f"{section}.global_batch_size",
            f"at least {section}.num_workers ({num_workers})",
            global_batch_size,
            "take a larger batch or fewer workers",
        )


def _check_fit_generator(section: FitGeneratorConfig) -> None:
    if section.kind == "gaussian":
        return
    _check_batch_feeds_workers("fit_generator", section.global_batch_size, section.num_workers)
    if section.preview_every_steps % section.report_every_steps:
        raise ConfigError(
            "fit_generator.preview_every_steps",
            f"a multiple of report_every_steps ({section.report_every_steps})",
            section.preview_every_steps,
            "change one of the two, or give 0 for no previews",
        )


def _check_generate(section: GenerateConfig) -> None:
    if section.accelerator_type is not None and not section.gpus_per_actor:
        raise ConfigError(
            "generate.accelerator_type",
            "left out while generate.gpus_per_actor is 0",
            section.accelerator_type,
            "give actors a GPU",
        )
    if section.generator is not None:
        find_generator(section.generator)
    if section.curation.classifier is not None:
        load_classifier(section.curation.classifier)
    if section.output is not None:
        Folder(section.output).exists()  # a scheme that cannot be opened is an error


def _check_train(config: Config) -> None:
    section = config.train
    _check_batch_feeds_workers("train", section.global_batch_size, section.num_workers)
    if "sio" not in section.arms:
        return
    compose(section.global_batch_size, section.batch_share)
    weights = (
        ("real", section.real_weight, section.batch_share),
        ("synthetic", 1 - section.real_weight, 1 - section.batch_share),
    )
    for source, weight, share in weights:
        if weight > 0 and share == 0:
            raise BatchError(
                f"train.real_batch_share={section.batch_share} leaves no {source} image in a batch although "
                f"train.real_weight={section.real_weight} gives that source weight; change one of the two."
            )
    if section.synthetic_ratio == 0 and section.batch_share < 1:
        raise ConfigError(
            "train.synthetic_ratio",
            "greater than 0 while train.real_batch_share is below 1",
            section.synthetic_ratio,
            "raise it, or train with train.arms=[baseline]",
        )
    if section.synthetic_set is not None:
        ImageSet(section.synthetic_set)
    elif config.generate.num_images is None and (section.synthetic_ratio or 0) > config.generate.synthetic_ratio:
        raise ConfigError(
            "train.synthetic_ratio",
            f"at most generate.synthetic_ratio ({config.generate.synthetic_ratio:g})",
            section.synthetic_ratio,
            f"draw more with generate.synthetic_ratio={section.synthetic_ratio:g}, or lower it",
        )


def _check_writable(folder: Path) -> None:
    probe = ".write-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"output_dir must be a folder that you may write to, got {folder.parent} "
            f"({error.strerror}: {error.filename}); set output_dir=/another/folder."
        ) from error
    Folder(str(folder)).write_bytes(probe, b"")
    (folder / probe).unlink(missing_ok=True)  # another session may have probed at the same time
