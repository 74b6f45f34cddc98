"""VOS: outliers are drawn where the features of a class become rare, and the energy learns to tell them apart."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from scipy.special import gammainccinv
from torch import Tensor, nn

from sio_ray.classifier.algorithms.algorithm import Algorithm, Losses, StepContext
from sio_ray.classifier.algorithms.gather import gather
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.model import Classifier
from sio_ray.config import Section
from sio_ray.config.section import share
from sio_ray.errors import ConfigError

#: Added to the covariance, as in the authors' code; the units that never fire have none of their own.
_RIDGE = 1e-4


class VOSOptions(Section):
    """Of VOS; defaults are those of the authors' code and of OpenOOD v1.5.

    Attributes:
        weight: beta, of the regulariser.
        start_share: share of the run after which it starts; epoch 40 of 100.
        queue_size: features kept of each class, the newest.
        num_draws: candidates drawn around each class in each step.
        num_selected: how many of them, the least likely, become virtual outliers.
        detached: the regulariser trains nothing but its own head, and the network as if it were not there. That is what
            OpenOOD v1.5 and the SIO authors' code do (theirs rebuilds the energy from plain numbers).
    """

    weight: float = Field(0.1, ge=0)
    start_share: float = share(0.4)
    queue_size: int = Field(1000, ge=1)
    num_draws: int = Field(10_000, ge=1)
    num_selected: int = Field(1, ge=1)
    detached: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_selected > self.num_draws:
            raise ConfigError(
                "train.algorithm_options.num_selected",
                f"at most num_draws ({self.num_draws})",
                self.num_selected,
                "lower it, or raise the other",
            )
        return self


class VOS(Algorithm):
    """sum_i w_i (CE_i + beta R(E_i, 0)) + beta mean_v R(E_v, 1) (Du et al., arXiv:2202.01197).

    E(f) = log sum_c relu(a_c) exp(f_c) is the energy, negated, of logits f with learned weights a; R(E, k) is the
    cross-entropy of logistic regression on it, class 0 for images and 1 for virtual outliers v. These are drawn around
    the mean feature of each class with one covariance for all: of `num_draws` the `num_selected` of least density.

    The images' part of the regulariser is a loss of each image, weighed by SIO like the rest; the outliers' part has a
    mean of its own, as in the paper. (The code takes one mean over both, which gives each outlier no more say than an
    image: 10 of 138 on CIFAR-10.) The outliers of a step come from the queues as the steps before left them, so all
    pieces of a batch have the same. From `start_share` on, whatever is queued is used; the code waits until every queue
    is full, which may be never. The queues take num_classes * queue_size * num_features float32, the same in all
    workers.
    """

    Options = VOSOptions
    options: VOSOptions
    queue: Tensor
    num_seen: Tensor
    sums: Tensor
    second_moments: Tensor

    def __init__(self, options: VOSOptions, *, num_classes: int, num_features: int, label_smoothing: float) -> None:
        super().__init__(options, num_classes=num_classes, num_features=num_features, label_smoothing=label_smoothing)
        self.energy_weight = nn.Parameter(torch.rand(num_classes))
        self.logistic = nn.Linear(1, 2)
        self.register_buffer("queue", torch.zeros(num_classes, options.queue_size, num_features))
        self.register_buffer("num_seen", torch.zeros(num_classes, dtype=torch.int64))
        # Sums over the queues, kept up to date rather than made anew; in float64, where nothing of note is lost.
        self.register_buffer("sums", torch.zeros(num_classes, num_features, dtype=torch.float64))
        self.register_buffer("second_moments", torch.zeros(num_features, num_features, dtype=torch.float64))
        self._outliers: Tensor | None = None
        self._pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        self._num_to_come = 0

    def mix(self, batch: MixedBatch, context: StepContext) -> MixedBatch:
        """See `Algorithm`; draws the virtual outliers of the step, the same in all workers."""
        self._outliers = self._draw(context.generator("virtual outliers")) if self._has_started(context) else None
        self._pieces, self._num_to_come = [], len(batch.labels)
        return batch

    def resting(self, context: StepContext) -> list[nn.Parameter]:
        """See `Algorithm`; weight decay over all the steps before the start would leave nothing of the weights."""
        return [] if self._has_started(context) else list(self.parameters())

    def _has_started(self, context: StepContext) -> bool:
        return context.step >= max(1, self.options.start_share * context.num_steps)

    def losses(self, classifier: Classifier, batch: MixedBatch, context: StepContext) -> Losses:
        """See `Algorithm`; the last piece of a batch puts all its features into the queues."""
        features = classifier.features(batch.images)
        logits = classifier.logits(features).float()
        per_sample = self.cross_entropy(logits, batch)
        if self._outliers is None:
            # Data parallelism waits for the gradient of every parameter.
            extra = 0 * torch.cat([parameter.flatten() for parameter in self.parameters()]).sum()
        else:
            per_sample = per_sample + self.options.weight * self._regulariser(logits, 0)
            of_outliers = self._regulariser(classifier.logits(self._outliers).float(), 1)
            known = (self.num_seen > 0).repeat_interleave(self.options.num_selected)
            mean = (of_outliers * known).sum() / known.sum().clamp(min=1)
            extra = self.options.weight * mean * (len(batch.labels) / context.composition.batch_size)
        self._pieces.append((features.detach().float(), batch.labels, batch.positions))
        self._num_to_come -= len(batch.labels)
        assert self._num_to_come >= 0, "mix is called once before the losses of a step"
        if self._num_to_come == 0:
            parts = [torch.cat(part) for part in zip(*self._pieces, strict=True)]
            positions, size = parts.pop(), context.composition.batch_size
            self._remember(*(gather(part, positions, size) for part in parts))
        return Losses(per_sample, extra)

    def _regulariser(self, logits: Tensor, kind: int) -> Tensor:
        """R(E, kind) of (N, C) logits, (N,) in nats."""
        logits = logits.detach() if self.options.detached else logits
        # In float32: the energy is some tens, of which bfloat16 keeps not even the tenths.
        with torch.autocast(logits.device.type, enabled=False):
            largest = logits.detach().amax(1, keepdim=True)
            total = (F.relu(self.energy_weight) * (logits - largest).exp()).sum(1)
            # The clamp is for weights that have all become zero where the logits are large.
            energy = largest.squeeze(1) + total.clamp(min=torch.finfo(total.dtype).tiny).log()
            scores = self.logistic(energy[:, None])
            return F.cross_entropy(scores, torch.full_like(energy, kind, dtype=torch.int64), reduction="none")

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Virtual outliers, (C * num_selected, D); those of a class without features mean nothing."""
        num_classes, size, num_features = self.queue.shape
        counts = self.num_seen.clamp(max=size).double()
        means = self.sums / counts.clamp(min=1)[:, None]
        covariance = (self.second_moments - means.T @ self.sums) / counts.sum().clamp(min=1)
        covariance.diagonal().add_(_RIDGE)
        noise = longest_noise(
            num_classes, self.options.num_selected, num_features, self.options.num_draws, generator=generator
        ).to(self.queue.device)
        # Without a check: features that are no numbers make such a loss, which the training loop reports.
        root, _ = torch.linalg.cholesky_ex(covariance)
        outliers: Tensor = means[:, None] + noise @ root.T
        return outliers.flatten(0, 1).float()

    def _remember(self, features: Tensor, labels: Tensor) -> None:
        """Put features (N, D) into the queues of their classes, over the oldest."""
        size = self.options.queue_size
        one_hot = F.one_hot(labels, self.num_classes)
        order, counts = (one_hot.cumsum(0) * one_hot).sum(1) - 1, one_hot.sum(0)
        slots = (self.num_seen[labels] + order) % size
        if len(labels) > size:  # only then can two features come to the same slot, of which the later stays
            stays = order >= (counts - size)[labels]
            features, labels, slots, one_hot = features[stays], labels[stays], slots[stays], one_hot[stays]
        new, old = features.double(), self.queue[labels, slots].double()
        self.sums += one_hot.double().T @ (new - old)
        self.second_moments += new.T @ new - old.T @ old
        self.queue[labels, slots] = features
        self.num_seen += counts


def longest_noise(
    num_groups: int, num_selected: int, dim: int, num_draws: int, *, generator: torch.Generator
) -> Tensor:
    """Per group the longest of `num_draws` standard normal vectors, without drawing the others.

    Around one mean the least likely draw is the one with the longest noise. The length of such a vector is independent
    of its direction, its square is chi-squared, and the largest of n uniform numbers are U_1^(1/n), that times
    U_2^(1/(n-1)), and so on; so the result has exactly the distribution of a search through all draws, at
    num_selected/num_draws of the cost.

    Returns:
        (num_groups, num_selected, dim) float64, longest first.
    """
    uniform = torch.rand(num_groups, num_selected, generator=generator, dtype=torch.float64)
    log_largest = (uniform.log() / (num_draws - torch.arange(num_selected))).cumsum(1)
    # The chance of a longer one is 1 - largest, here without cancellation.
    squared_length = torch.from_numpy(2 * gammainccinv(dim / 2, -torch.expm1(log_largest).numpy()))
    direction = torch.randn(num_groups, num_selected, dim, generator=generator, dtype=torch.float64)
    return F.normalize(direction, dim=2) * squared_length.sqrt()[:, :, None]
