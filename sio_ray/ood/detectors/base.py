"""The interface of all detectors: fit once on ID images, then score any images under every setting of a sweep."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sio_ray.config import Section
from sio_ray.config.options import NoOptions, read_options
from sio_ray.errors import EvaluationError
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.probe import Probe

#: Values for some or all options of a detector.
Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What decides whether a setting suits.

    Attributes:
        num_train: N, images of the training set.
        num_features: D.
        num_classes: C.
    """

    num_train: int
    num_features: int
    num_classes: int

    @classmethod
    def of(cls, train: NetworkOutputs) -> Self:
        """The sizes of a training set's outputs."""
        return cls(len(train), train.features.shape[1], train.logits.shape[1])


class Detector(ABC):
    """Gives every image an ood_score from what the network said of it.

    A new one is a file with a subclass, and a line in `sio_ray.ood.detectors.DETECTORS`. `fit` does all that does not
    depend on the options of `sweep`, `score` reads these when it is called: so a sweep fits once.

    Args:
        device: where large matrix products run; outputs lie in host memory and are moved block by block.
        **options: fields of `Options`, where its defaults are not wanted.

    Attributes:
        name: in the config and in tables.
        title: in print.
        paper: where the score comes from.
        cost: what it costs, in a few words; N training images, M scored ones, D features, C classes.
        needs: what `fit` and `score` read: `features`, `logits`, `last_layer`. Labels and image ids are always there.
        fits_on_probes: whether `fit` reads the probes of the training set too; if not, these are not extracted.
        Options: its hyperparameters, with OpenOOD v1.5's defaults.
        sweep: option to the values that are tried on validation sets, those of OpenOOD v1.5.
        options: the hyperparameters.

    Raises:
        ConfigError: an unknown option, or one out of range.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    fits_on_probes: ClassVar[bool] = False
    Options: ClassVar[type[Section]] = NoOptions
    sweep: ClassVar[Mapping[str, Sequence[Any]]] = {}
    options: Section

    def __init__(self, *, device: torch.device | str = "cpu", **options: Any) -> None:
        self.device = torch.device(device)
        prefix = f"evaluate.detector_options.{self.name}."
        self.options = read_options(self.Options, options, owner=self.name, prefix=prefix)

    def probes(self) -> tuple[Probe, ...]:
        """What it reads beside features and logits, for all settings of its sweep and its own."""
        return ()

    def chosen_probes(self) -> tuple[Probe, ...]:
        """What it reads of test sets, for its own options; less than `probes` where these are for a whole sweep."""
        return self.probes()

    def refusal(self, sizes: Sizes) -> str | None:
        """Why its options do not suit a network and a training set, as `{option} must be ...`; None if they do."""
        return None

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """Learn what ID looks like; a detector without anything to learn keeps this method.

        Args:
            train: outputs for the real ID training set, without augmentation.
            val: outputs for the ID validation set.
            last_layer: of the network that gave them; None if that is not linear.

        Returns:
            The detector itself.

        Raises:
            EvaluationError: the training set or the network does not suit.
        """
        return self

    @abstractmethod
    def score(self, outputs: NetworkOutputs) -> Tensor:
        """Score images, each on its own: other images of the set have no say.

        Args:
            outputs: of M images, ID or OOD.

        Returns:
            (M,) float64 ood_score on the CPU, larger means more OOD. Only the order means something.

        Raises:
            EvaluationError: `fit` comes first for this detector, or a probe was not extracted.
        """

    def score_sweep(self, outputs: NetworkOutputs, settings: Sequence[Setting]) -> list[Tensor]:
        """`score` under each setting; overridden where settings can share work."""
        return [self.with_setting(setting).score(outputs) for setting in settings]

    def with_setting(self, setting: Setting) -> Self:
        """The same detector, fitted to the same set, with some options changed; all others stay."""
        other = copy.copy(self)
        other.options = type(self.options).model_validate({**self.options.model_dump(), **setting})
        return other

    def settings(self) -> list[dict[str, Any]]:
        """All combinations of `sweep`, the first option fastest, as OpenOOD tries them; without a sweep an empty one.

        An option that was given is not swept.
        """
        swept = {name: values for name, values in self.sweep.items() if name not in self.options.model_fields_set}
        # `product` has the last one fastest.
        backwards = itertools.product(*reversed(swept.values()))
        return [dict(zip(swept, reversed(values), strict=True)) for values in backwards]

    def _not_fitted(self) -> EvaluationError:
        return EvaluationError(f"detector {self.name} must be fitted before it scores; call fit with the training set.")

    def _linear(self, last_layer: LastLayer | None) -> LastLayer:
        """The last layer, or the error that there is none."""
        if last_layer is None:
            raise EvaluationError(
                f"detector {self.name} must be given a linear last layer, got None; leave it out for ensembles and "
                "heads that have none."
            )
        return last_layer
