"""The interface of all detectors: fit once on the ID training set, then score any set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.ood.outputs import LastLayer, NetworkOutputs


class Detector(ABC):
    """Gives every image an ood_score from what the network said of it.

    A subclass sets the four attributes, takes its hyperparameters (each with a default) in its constructor, and is
    listed in `sio_ray.ood.detectors.DETECTORS`.

    Attributes:
        name: in the config and in tables.
        title: in print.
        paper: where the score comes from.
        needs: fields of `NetworkOutputs` that `fit` and `score` read: features, logits, perturbed_logits; and
            last_layer, if `fit` reads that.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def fit(self, train: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """Learn what ID looks like; a detector without anything to learn keeps this method.

        Args:
            train: outputs for the real ID training set, without augmentation.
            last_layer: of the network that gave them; None if that is not linear.

        Returns:
            The detector itself.

        Raises:
            EvaluationError: the training set or the network does not suit the hyperparameters.
        """
        return self

    @abstractmethod
    def score(self, outputs: NetworkOutputs) -> Tensor:
        """Score images, each on its own: other images of the set have no say.

        Args:
            outputs: of N images, ID or OOD.

        Returns:
            (N,) float64 ood_score, larger means more OOD. Only the order means something.

        Raises:
            EvaluationError: `fit` comes first for this detector, or a field of `needs` was not extracted.
        """

    def _not_fitted(self) -> EvaluationError:
        return EvaluationError(f"detector {self.name} must be fitted before it scores; call fit with the training set.")

    def _no_last_layer(self) -> EvaluationError:
        return EvaluationError(
            f"detector {self.name} must be given a linear last layer, got None; leave it out for ensembles and heads "
            "that have none."
        )
