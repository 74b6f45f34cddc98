"""What the tests of the training algorithms share: small classifiers, batches, and one step of the objective."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from sio_ray.classifier.algorithms import ALGORITHMS, Algorithm, Losses, StepContext, build_algorithm
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import Composition
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.objective import sample_weights

NUM_CLASSES = 4

#: Sizes that two workers cannot share evenly.
COMPOSITION = Composition(num_real=8, num_synthetic=3, num_outliers=5)

#: Options that let an algorithm do its work in a run of a few steps.
QUICK = {name: {} for name in ALGORITHMS} | {"vos": {"start_share": 0.0, "queue_size": 6, "num_draws": 50}}


def classifier_of(name: str, *, shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = NUM_CLASSES) -> Classifier:
    """A small network for an algorithm; in evaluation mode, as statistics of a batch depend on its parts by design."""
    torch.manual_seed(0)
    channels = shape[0]
    architecture = Architecture(
        network="small_cnn",
        width=4,
        head=ALGORITHMS[name].head,
        class_names=tuple(str(label) for label in range(num_classes)),
        image_shape=shape,
        mean=(0.3,) * channels,
        std=(0.2,) * channels,
    )
    return Classifier(architecture).eval()


def algorithm_of(name: str, classifier: Classifier, *, label_smoothing: float = 0.0, **options) -> Algorithm:
    torch.manual_seed(1)
    return build_algorithm(
        name,
        options,
        num_classes=len(classifier.architecture.class_names),
        num_features=classifier.num_features,
        label_smoothing=label_smoothing,
    )


def context_of(step: int = 1, *, num_steps: int = 10, composition: Composition = COMPOSITION) -> StepContext:
    return StepContext(step=step, num_steps=num_steps, seed=0, composition=composition)


def batch_of(
    step: int = 1, *, composition: Composition = COMPOSITION, shape: tuple[int, int, int] = (1, 8, 8)
) -> MixedBatch:
    """The global batch of a step."""
    generator = torch.Generator().manual_seed(step)
    size = composition.batch_size
    return MixedBatch(
        images=torch.rand(size, *shape, generator=generator),
        labels=torch.randint(NUM_CLASSES, (size,), generator=generator),
        is_synthetic=torch.arange(size) >= composition.num_real,
        positions=torch.arange(size),
        outliers=torch.rand(composition.num_outliers, *shape, generator=generator),
        mixing=torch.rand(size, *shape, generator=generator),
    )


def rows_of(batch: MixedBatch, rows: Tensor, outliers: slice = slice(None)) -> MixedBatch:
    """Some images of a batch, and some outliers."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return MixedBatch(
        **{
            name: value if value is None else value[outliers if name == "outliers" else rows]
            for name, value in values.items()
        }
    )


def part_of(batch: MixedBatch, composition: Composition, rank: int, world_size: int) -> MixedBatch:
    """What a worker gets of a global batch."""
    parts, order = composition.of_rank(rank, world_size), torch.arange(composition.batch_size)
    real, synthetic = order[: composition.num_real], order[composition.num_real :]
    return rows_of(batch, torch.cat([real[parts.real], synthetic[parts.synthetic]]), parts.outliers)


def mixed(algorithm: Algorithm, batch: MixedBatch, context: StepContext) -> MixedBatch:
    with torch.no_grad():
        return algorithm.mix(batch, context)


def losses_of(algorithm: Algorithm, classifier: Classifier, batch: MixedBatch, context: StepContext) -> Losses:
    return algorithm.losses(classifier, mixed(algorithm, batch, context), context)


class Objective(nn.Module):
    """A classifier and its algorithm as data parallelism wraps them: a batch, or a piece, to its share of the loss."""

    def __init__(self, classifier: Classifier, algorithm: Algorithm) -> None:
        super().__init__()
        self.classifier, self.algorithm = classifier, algorithm

    def forward(self, batch: MixedBatch, real_weight: float, context: StepContext) -> Tensor:
        losses = self.algorithm.losses(self.classifier, batch, context)
        weights = sample_weights(
            batch.is_synthetic,
            real_weight=real_weight,
            num_real=context.composition.num_real,
            num_synthetic=context.composition.num_synthetic,
        )
        loss = (weights * losses.per_sample).sum()
        return loss if losses.extra is None else loss + losses.extra


def objective_of(name: str, *, label_smoothing: float = 0.0, warm: bool = True, **options) -> Objective:
    """An objective whose algorithm has seen a step already, so that one with a memory has something in it."""
    classifier = classifier_of(name)
    algorithm = algorithm_of(name, classifier, label_smoothing=label_smoothing, **{**QUICK[name], **options})
    objective = Objective(classifier, algorithm)
    if warm:
        losses_of(algorithm, classifier, batch_of(0), context_of(0))
    return objective


def gradients(objective: Objective, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter; one that the loss does not reach is left out."""
    objective.zero_grad()
    loss.backward()
    return {
        name: parameter.grad.clone() for name, parameter in objective.named_parameters() if parameter.grad is not None
    }


def all_real(batch: MixedBatch) -> MixedBatch:
    """The same pictures, as a baseline would have them."""
    return replace(batch, is_synthetic=torch.zeros_like(batch.is_synthetic))
