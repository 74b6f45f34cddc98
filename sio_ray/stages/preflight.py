"""Checks a whole config before any work starts: what no single field can know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sio_ray.classifier.algorithms import ALGORITHMS, check_algorithm
from sio_ray.classifier.checkpoint import load_classifier
from sio_ray.classifier.ensemble import Ensemble
from sio_ray.classifier.feed import compose
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import NETWORKS, check_network
from sio_ray.config import Config, FitGeneratorConfig, GenerateConfig, TrainConfig
from sio_ray.errors import BatchError, ConfigError, ResourceError
from sio_ray.imageset import ImageSet
from sio_ray.imageset.storage import Folder
from sio_ray.ood.detectors.reading import choose_detectors
from sio_ray.ood.probe import ScoredNetwork
from sio_ray.stages.trainings import trainings
from sio_ray.training.loggers import check_loggers

_RGB = 3


def check(config: Config, stages: Sequence[str]) -> None:
    """Refuse a config whose later stages could not work here.

    Args:
        config: already valid field by field.
        stages: those about to run.

    Raises:
        ConfigError: fields contradict each other, or a package that is asked for is missing.
        BatchError: a batch cannot hold both sources.
        ImageSetError: a set that was named is missing or unfinished.
        CheckpointError: a generator or classifier that was named is missing.
        ResourceError: the output folder cannot be written.
    """
    _check_writable(config.run_dir)
    check_settings(config, stages)
    if "generate" in stages:
        _find_generate_inputs(config.generate)
    if {"train", "tune"} & set(stages):
        _find_train_inputs(config.train)


def check_settings(config: Config, stages: Sequence[str]) -> None:
    """Refuse what the config alone tells, wherever the stages will run; nothing that it names is looked at.

    Args:
        config: already valid field by field.
        stages: those that shall run.

    Raises:
        ConfigError: fields contradict each other.
        BatchError: a batch cannot hold both sources.
    """
    if "fit-generator" in stages:
        _check_fit_generator(config.fit_generator)
    if "generate" in stages:
        _check_generate(config.generate)
    for training in trainings(config):
        if {"train", "tune"} & set(stages):
            _check_train_settings(training.config)
        section = training.config.evaluate
        if "evaluate" in stages and not (section.checkpoints or section.outputs):
            choose_detectors(section.detectors, section.detector_options, _network_to_be(training.config.train))
    if "tune" in stages:
        check_judges(config)
        if config.train.ensemble_size > 1:
            raise ConfigError(
                "train.ensemble_size",
                "1 while the weight and the ratio are searched",
                config.train.ensemble_size,
                "tune one member, and train the ensemble with what is found",
            )
    rows = config.method_names or config.evaluate.detectors
    if "report" in stages and not {config.report.detector, "all"} & set(rows):
        source = "methods" if config.methods else "evaluate.detectors"
        raise ConfigError(
            "report.detector",
            f"among {source} ({', '.join(rows)})",
            config.report.detector,
            "choose one of them",
        )


def check_judges(config: Config) -> None:
    """Refuse detectors that could not judge the trials of a search.

    Raises:
        ConfigError: names or options that do not suit, or a detector that reads what the network has not.
    """
    choose_detectors(
        config.tune.detectors, config.judging_options, _network_to_be(config.train), field="tune.detectors"
    )


def _network_to_be(section: TrainConfig) -> ScoredNetwork:
    """A network of the kind that will be trained, without memory for its weights."""
    head = check_algorithm(section.algorithm, section.algorithm_options).head
    check_network(section.network, section.width, section.pretrained, None, head)
    side = NETWORKS[section.network].min_px
    architecture = Architecture(
        network=section.network,
        width=section.width,
        head=head,
        class_names=("one", "two"),
        image_shape=(_RGB, side, side),
        mean=(0.5,) * _RGB,
        std=(0.5,) * _RGB,
    )
    with torch.device("meta"):
        members = [Classifier(architecture).eval() for _ in range(min(2, section.ensemble_size))]
        return members[0] if len(members) == 1 else Ensemble(members)


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


def _find_generate_inputs(section: GenerateConfig) -> None:
    if section.generator is not None:
        from sio_ray.generate.generator import find_generator  # diffusers takes seconds, and few configs name one

        find_generator(section.generator)
    if section.curation.classifier is not None:
        load_classifier(section.curation.classifier)
    if section.output is not None:
        Folder(section.output).exists()  # a scheme that cannot be opened is an error


def check_train(config: Config) -> None:
    """Refuse settings of training runs that could not work.

    Raises:
        ConfigError: fields contradict each other.
        BatchError: a batch cannot hold both sources.
        ImageSetError: a set that was named is missing or unfinished.
    """
    _check_train_settings(config)
    _find_train_inputs(config.train)


def _find_train_inputs(section: TrainConfig) -> None:
    check_loggers(section.loggers)
    sets = [section.outlier_set, section.mixing_set]
    if "sio" in section.arms:
        sets.append(section.synthetic_set)
    for uri in sets:
        if uri is not None:
            ImageSet(uri)


def _check_train_settings(config: Config) -> None:
    section = config.train
    _check_batch_feeds_workers("train", section.global_batch_size, section.num_workers)
    smallest_part = section.global_batch_size // section.num_workers
    if section.micro_batches > smallest_part:
        raise ConfigError(
            "train.micro_batches",
            f"at most a worker's part of the batch ({smallest_part})",
            section.micro_batches,
            "lower it, or take a larger batch",
        )
    _check_algorithm(section)
    if "sio" in section.arms:
        _check_sio(config)


def _check_algorithm(section: TrainConfig) -> None:
    algorithm = check_algorithm(section.algorithm, section.algorithm_options)
    check_network(section.network, section.width, section.pretrained, None, algorithm.head)
    # The statistics of one image are none, and its normalised value is zero.
    if algorithm.head == "g_odin" and section.global_batch_size // section.num_workers // section.micro_batches < 2:
        raise ConfigError(
            "train.global_batch_size",
            f"at least 2 for each of train.num_workers ({section.num_workers}) times train.micro_batches "
            f"({section.micro_batches}) with train.algorithm={section.algorithm}",
            section.global_batch_size,
            "take a larger batch, as its head normalises over it",
        )
    for need, fields in (("outliers", ("outlier_set", "outlier_batch_size")), ("mixing", ("mixing_set",))):
        for field in fields:
            value = getattr(section, field)
            if value is not None and need not in algorithm.needs:
                takers = ", ".join(name for name, kind in ALGORITHMS.items() if need in kind.needs)
                raise ConfigError(
                    f"train.{field}",
                    f"left out for train.algorithm={section.algorithm}",
                    value,
                    f"only {takers} trains on such pictures",
                )


def _check_sio(config: Config) -> None:
    section = config.train
    compose(section.global_batch_size, section.batch_share)
    ramp = section.real_weight_ramp
    for real_weight in (section.real_weight, *(value for _, value in (ramp.values if ramp else ()))):
        weights = (
            ("real", real_weight, section.batch_share),
            ("synthetic", 1 - real_weight, 1 - section.batch_share),
        )
        for source, weight, share in weights:
            if weight > 0 and share == 0:
                raise BatchError(
                    f"train.real_batch_share={section.batch_share} leaves no {source} image in a batch although "
                    f"a train.real_weight of {real_weight} gives that source weight; change one of the two."
                )
    ramp = section.synthetic_ratio_ramp
    ratios = [("synthetic_ratio", section.synthetic_ratio)]
    ratios += [(f"synthetic_ratio_ramp.{name}", ratio) for name, ratio in (ramp.values if ramp else ())]
    for field, ratio in ratios:
        if ratio == 0 and section.batch_share < 1:
            raise ConfigError(
                f"train.{field}",
                "greater than 0 while train.real_batch_share is below 1",
                ratio,
                "raise it, or train with train.arms=[baseline]",
            )
    if section.synthetic_set is not None:
        return
    drawn = config.generate.synthetic_ratio
    for field, ratio in ratios:
        if config.generate.num_images is None and (ratio or 0) > drawn:
            raise ConfigError(
                f"train.{field}",
                f"at most generate.synthetic_ratio ({drawn:g})",
                ratio,
                f"draw more with generate.synthetic_ratio={ratio:g}, or lower it",
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
