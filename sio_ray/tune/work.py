"""What one trial is: its config, what decides its result, and what its process is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sio_ray.classifier.model import Architecture
from sio_ray.classifier.schedules import num_steps_of
from sio_ray.config import Config, TrainConfig, with_overrides
from sio_ray.provenance import fingerprint
from sio_ray.search.space import Space
from sio_ray.search.trial import Trial
from sio_ray.stages.layout import run_identity

#: Raised when a change of code makes old results of trials wrong.
_GENERATION = 1

#: Trials of all searches of an experiment, by what decides their results; none is trained twice.
TRIALS_FOLDER = "trials"

#: Of fields that decide a trial's synthetic set, and how its networks are judged.
GENERATE_PREFIX, EVALUATE_PREFIX = "generate.", "evaluate."


def draws_sets(space: Space) -> bool:
    """Whether trials of a space need synthetic sets of their own."""
    return any(key.startswith(GENERATE_PREFIX) for key in space)


def keeps_networks(space: Space) -> bool:
    """Whether trials of a space share networks, which are then kept."""
    return any(key.startswith(EVALUATE_PREFIX) for key in space)


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with the config that its values make.

    Attributes:
        trial: what to try.
        config: of the search, with the trial's values, and with the number of steps resolved.
        parent: the trial that it continues.
    """

    trial: Trial
    config: Config
    parent: PlannedTrial | None = None

    @classmethod
    def of(cls, trial: Trial, base: Config, num_real: int, parent: PlannedTrial | None = None) -> PlannedTrial:
        """Put a trial's values into the config of its search.

        Raises:
            ConfigError: a value breaks a rule.
        """
        values = dict(trial.values)
        if parent is not None or trial.last < base.tune.num_validations:
            # A segment of a schedule: what its batches hold stays, as it will when the schedule is run as a whole.
            values.setdefault("train.real_batch_share", base.train.batch_share)
        config = with_overrides(base, values)
        section = config.train.model_copy(
            update={"num_steps": base.tune.num_steps or num_steps_of(config.train, num_real), "num_epochs": None}
        )
        return cls(trial, config.model_copy(update={"train": section}), parent)

    @cached_property
    def training_identity(self) -> dict[str, Any]:
        """What decides the networks that it trains."""
        trial, section = self.trial, self.config.tune
        return {
            "generation": _GENERATION,
            **run_identity(self.config, trial.arm),
            "seeds": list(trial.seeds),
            "num_validations": section.num_validations,
            "from": trial.first,
            "to": trial.last,
            "parent": self.parent.key if self.parent else None,
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides its result: its networks, how they are judged, and when it stops."""
        section = self.config.tune
        return {
            **self.training_identity,
            "detectors": list(section.detectors),
            "detector_options": self.config.judging_options,
            "fit_images": section.fit_images,
            "objective": section.objectives[0] if self.trial.floors.values else None,
            "floors": {"rule": self.trial.floors.rule, "values": list(self.trial.floors.values)},
        }

    @property
    def key(self) -> str:
        """Fingerprint of the identity."""
        return fingerprint(self.identity)

    @property
    def training_key(self) -> str:
        """Fingerprint of what decides the networks alone."""
        return fingerprint(self.training_identity)

    @property
    def folder(self) -> Path:
        """Where its result goes."""
        return self.config.run_dir / TRIALS_FOLDER / self.key

    @property
    def networks_folder(self) -> Path:
        """Where its networks go, in a search over how networks are judged."""
        return self.config.run_dir / TRIALS_FOLDER / f"networks-{self.training_key}"


@dataclass(frozen=True)
class TrialWork:
    """All that the process of a trial is handed; small, as image sets are references.

    Attributes:
        trial: what to try.
        section: recipe, with its values and the number of steps.
        architecture: of the classifier.
        sources: of batches, by name; of `share_sources`.
        val: ID validation set.
        ood: OOD validation sets by `group/name`.
        fit_set: training images that detectors are fitted to.
        num_real: images of the real training set.
        num_synthetic: synthetic images in use, at the most.
        detectors: names.
        detector_options: name to options.
        objective: metric that floors are compared with.
        num_validations: of a whole run.
        batch_size: of extraction.
        folder: where result and state go.
        parent: folder whose state it starts from; None if it starts anew.
        networks: folder that networks are kept in and taken from; None if they are not.
        keeps_state: whether others may continue from its end.
    """

    trial: Trial
    section: TrainConfig
    architecture: Architecture
    sources: Mapping[str, Any]
    val: Any
    ood: Mapping[str, Any]
    fit_set: Any
    num_real: int
    num_synthetic: int
    detectors: tuple[str, ...]
    detector_options: Mapping[str, Any]
    objective: str
    num_validations: int
    batch_size: int
    folder: str
    parent: str | None = None
    networks: str | None = None
    keeps_state: bool = False

    def step_of(self, validation: int) -> int:
        """Optimiser steps done at a validation; 0 is the start."""
        return round(self.section.num_steps * validation / self.num_validations)
