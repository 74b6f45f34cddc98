"""What every training algorithm is: pictures may be mixed first, then each image gets a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import Composition
from sio_ray.classifier.model import Classifier
from sio_ray.config import Section
from sio_ray.config.options import NoOptions
from sio_ray.seeding import numpy_generator, torch_generator


@dataclass(frozen=True)
class StepContext:
    """What an algorithm may know of the step.

    Attributes:
        step: from 0.
        num_steps: of the whole run.
        seed: of the run.
        composition: of the global batch.
    """

    step: int
    num_steps: int
    seed: int
    composition: Composition

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator of this step, the same in all workers: draw for the global batch, and take your positions."""
        return torch_generator("algorithm", name, self.seed, self.step)

    def numpy_generator(self, name: str) -> np.random.Generator:
        """The like of `generator`, for distributions that PyTorch draws without one."""
        return numpy_generator("algorithm", name, self.seed, self.step)


@dataclass(frozen=True)
class Losses:
    """What a step is minimised for.

    Attributes:
        per_sample: (B,) float32, one per image; the SIO objective weighs them.
        extra: scalar; this worker's share of a term that is no mean over images. The shares of all workers, and of all
            pieces of a batch, sum to the whole.
    """

    per_sample: Tensor
    extra: Tensor | None = None


class Algorithm(nn.Module, ABC):
    """A training algorithm; what it learns or remembers itself is kept as parameters and buffers, so it is resumed too.

    Args:
        options: of the class's own `Options`.
        num_classes: C.
        num_features: of the network.
        label_smoothing: share of each label that is spread over all classes.

    Attributes:
        Options: its own fields of the config, with the defaults of its paper.
        head: the last layer that it trains.
        needs: further pictures that it takes: `outliers`, `mixing`.
    """

    Options: ClassVar[type[Section]] = NoOptions
    head: ClassVar[Literal["linear", "g_odin"]] = "linear"
    needs: ClassVar[frozenset[Literal["outliers", "mixing"]]] = frozenset()

    def __init__(self, options: Section, *, num_classes: int, num_features: int, label_smoothing: float) -> None:
        super().__init__()
        self.options = options
        self.num_classes, self.num_features, self.label_smoothing = num_classes, num_features, label_smoothing

    def mix(self, batch: MixedBatch, context: StepContext) -> MixedBatch:
        """Change the pictures before the network sees them; called once per step, without gradient."""
        return batch

    @abstractmethod
    def losses(self, classifier: Classifier, batch: MixedBatch, context: StepContext) -> Losses:
        """The loss of every image of a batch, or of a piece of it."""

    def no_decay(self, classifier: Classifier) -> list[nn.Parameter]:
        """Parameters of the classifier, or the algorithm's own, that weight decay leaves alone."""
        return []

    def resting(self, context: StepContext) -> list[nn.Parameter]:
        """Parameters that a step leaves as they are: neither momentum nor weight decay moves them."""
        return []

    def cross_entropy(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        """(B,) cross-entropy in nats with labels, or with what they became by mixing."""
        targets = batch.labels if batch.targets is None else batch.targets
        return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=self.label_smoothing)
