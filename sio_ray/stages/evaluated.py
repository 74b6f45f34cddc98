"""What a config evaluates: its trained networks or given ones, over the sets that `prepare` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sio_ray.config import Config, EvaluateConfig
from sio_ray.config.evaluate_section import Arm
from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.evaluation.networks import check_references, load_network
from sio_ray.evaluation.overlap import Pictures
from sio_ray.evaluation.references import members_in
from sio_ray.evaluation.subjects import EvaluatedSets, Subject
from sio_ray.imageset import ImageSet
from sio_ray.ood.detectors import Detector, Sizes
from sio_ray.ood.detectors.reading import choose_detectors, unsuited
from sio_ray.ood.extract import last_layer_of
from sio_ray.ood.protocol import suitable_settings
from sio_ray.progress import console
from sio_ray.provenance import fingerprint
from sio_ray.stages.layout import synthetic_set_uri, train_runs
from sio_ray.stages.prepared_sets import PreparedSets
from sio_ray.stages.record import require
from sio_ray.stages.train import checkpoint_name
from sio_ray.stages.training_sets import further_sets


@dataclass(frozen=True)
class _Named:
    """A network by the places of its checkpoints."""

    arm: Arm
    seed: int
    references: tuple[str, ...]


def evaluated_sets(config: Config, prepared: PreparedSets) -> EvaluatedSets:
    """The image sets that networks run over.

    Raises:
        ConfigError: the full spectrum is asked for, and there is no shifted set.
    """
    trains_sio = "sio" in config.train.arms and not config.evaluate.checkpoints
    shifted = prepared.shifted() if config.evaluate.full_spectrum else {}
    if config.evaluate.full_spectrum and not shifted:
        raise ConfigError(
            "evaluate.full_spectrum",
            f"false for source {config.prepare.source} as it was prepared",
            True,
            "it has no covariate-shifted ID sets; those of source openood do (docs/data.md)",
        )
    return EvaluatedSets(
        train=prepared.open("id/train").uri,
        val=prepared.open("id/val").uri,
        test=prepared.open("id/test").uri,
        ood={(group, name): str(path) for (group, name), path in prepared.ood("test").items()},
        val_ood={(group, name): str(path) for (group, name), path in prepared.ood("val").items()},
        shifted={name: str(path) for name, path in shifted.items()},
        synthetic=synthetic_set_uri(config) if trains_sio else None,
    )


def subjects_of(config: Config, sets: EvaluatedSets) -> list[Subject]:
    """The networks, each with the detectors that score it; every network is loaded once, to see that it can be.

    Raises:
        StageError: a network has not been trained yet.
        CheckpointError: a checkpoint is broken, or of other classes or pictures.
        ConfigError: a reference to nothing that is known, a network twice in an arm, or detectors that do not suit one.
    """
    section, train = config.evaluate, ImageSet(sets.train)
    info = train.info
    subjects: list[Subject] = []
    left_out = LeftOut()
    for named in _networks(config):
        checked = check_references(named.references, info, download=section.download)
        references = tuple(each.reference for each in checked)
        sha256 = tuple(each.sha256 for each in checked)
        for other in subjects:
            if section.checkpoints and (other.arm, other.sha256) == (named.arm, sha256):
                rule = f"different networks, one per seed, and not {'+'.join(other.references)} once more"
                raise ConfigError(f"evaluate.checkpoints.{named.arm}", rule, "+".join(references), "leave the copy out")
        network = load_network(references, info, download=section.download)
        with torch.no_grad():
            num_features = network.features(torch.zeros(1, *info.image_shape)).shape[1]
        sizes = Sizes(len(train), num_features, info.num_classes)
        if "all" in section.detectors:
            left_out.lacking(unsuited(network))
        subjects.append(
            Subject(
                arm=named.arm,
                seed=named.seed,
                references=references,
                sha256=sha256,
                last_layer=last_layer_of(network),
                detectors=suited(
                    choose_detectors(section.detectors, section.detector_options, network), sizes, section, left_out
                ),
                folder=str(config.run_dir / f"outputs-{fingerprint({'network': sha256})}"),
            )
        )
    left_out.say()
    return subjects


class LeftOut:
    """The detectors that `all` leaves out, each named once however many networks it does not suit."""

    def __init__(self) -> None:
        self._lacking: dict[str, str] = {}
        self._refused: dict[str, None] = {}

    def lacking(self, needs: Mapping[str, str]) -> None:
        """Detectors, with what they need and there is not."""
        self._lacking |= needs

    def refused(self, why: str) -> None:
        """A detector whose options do not fit, in words."""
        self._refused[why] = None

    def say(self) -> None:
        """Print them, those that need the same in one line."""
        for need in dict.fromkeys(self._lacking.values()):
            names = [name for name, other in self._lacking.items() if other == need]
            self._print(f"for want of {need}: {', '.join(names)}")
        for why in self._refused:
            self._print(why)

    def _print(self, what: str) -> None:
        console.print(f"  left out: {what}", style="dim", markup=False, soft_wrap=True)


def suited(
    detectors: Iterable[Detector], sizes: Sizes, section: EvaluateConfig, left_out: LeftOut
) -> tuple[Detector, ...]:
    """The detectors that can work; of `all`, those that cannot are left out.

    Raises:
        EvaluationError: one that was asked for by name cannot work.
    """
    usable = []
    for detector in detectors:
        try:
            suitable_settings(detector, sizes, sweep=section.sweep)
            usable.append(detector)
        except EvaluationError as error:
            if "all" not in section.detectors:
                raise
            left_out.refused(str(error))
    return tuple(usable)


def trained_on(config: Config, prepared: PreparedSets) -> dict[str, Pictures]:
    """What no test image may be among: all that is trained on, and all that choices are made on."""
    names = ["id/train", "id/val", *(f"{group}_ood/val/{name}" for group, name in prepared.ood("val"))]
    sets = {name: prepared.open(name) for name in names}
    if not config.evaluate.checkpoints:
        sets |= further_sets(config, prepared)
    return {name: Pictures(image_set.uri) for name, image_set in sets.items()}


def _networks(config: Config) -> Iterator[_Named]:
    if config.evaluate.checkpoints:
        for arm, given in config.evaluate.checkpoints.items():
            for number, references in enumerate(given):
                yield _Named(arm, number, members_in(references))
        return
    runs = train_runs(config)
    for run in runs:
        require(run.place.folder, "train", "evaluate")
    for run in runs:
        if run.member == 0:
            members = [other for other in runs if (other.arm, other.seed) == (run.arm, run.seed)]
            yield _Named(run.arm, run.seed, tuple(_checkpoint(config, member.place.folder) for member in members))


def _checkpoint(config: Config, folder: Path) -> str:
    return str(folder / checkpoint_name(config))
