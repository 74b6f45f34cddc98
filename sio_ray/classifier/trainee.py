"""One training step of the classifier: mixed batch, per-sample loss, SIO weights, SGD."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sio_ray.classifier.augment import augment
from sio_ray.classifier.feed import MixedBatches
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.objective import sample_weights
from sio_ray.config import TrainConfig
from sio_ray.imageset import ImageArrays
from sio_ray.seeding import derive_seed
from sio_ray.training.loop import Point
from sio_ray.training.state import flatten_state, restore_state

#: The cosine ends here, as in OpenOOD's recipe.
_FINAL_LEARNING_RATE = 1e-6

_VALIDATION_BATCH_SIZE = 512


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to 1e-6 over all steps."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return _FINAL_LEARNING_RATE + (config.learning_rate - _FINAL_LEARNING_RATE) * (1 + math.cos(math.pi * done)) / 2


class ClassifierTrainee:
    """A classifier in training; see `sio_ray.training.loop.Trainee`.

    Args:
        classifier: on its device.
        parallel: the same classifier as it is called in training, wrapped for data parallelism if need be.
        batches: this worker's mixed batches.
        val: ID validation images for the training curve.
        config: recipe.
        real_weight: alpha of this run; 1 for the baseline.
        seed: of this run.
        world_size: number of workers.
    """

    def __init__(
        self,
        classifier: Classifier,
        parallel: nn.Module,
        batches: MixedBatches,
        val: ImageArrays,
        config: TrainConfig,
        *,
        real_weight: float,
        seed: int,
        world_size: int = 1,
    ) -> None:
        self._classifier, self._parallel, self._batches, self._config = classifier, parallel, batches, config
        self._real_weight, self._seed, self._world_size = real_weight, seed, world_size
        self._device = next(classifier.parameters()).device
        self._positions = torch.from_numpy(batches.sampler.positions())
        self._val_images = torch.from_numpy(val.images)
        self._val_labels = torch.from_numpy(val.labels)
        self._optimizer = torch.optim.SGD(
            classifier.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )

    def step(self, step: int) -> Tensor:
        """See `Trainee`; the loss returned is this worker's share of the objective, scaled to the whole."""
        self._parallel.train()
        batch = self._batches.batch(step)
        images = augment(
            batch.images.to(self._device),
            self._positions,
            crop_padding_px=self._config.crop_padding_px,
            horizontal_flip=self._config.horizontal_flip,
            batch_size=self._batches.composition.batch_size,
            seed=(self._seed, step),
        )
        weights = sample_weights(
            batch.is_synthetic,
            real_weight=self._real_weight,
            num_real=self._batches.composition.num_real,
            num_synthetic=self._batches.composition.num_synthetic,
        ).to(self._device)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, self._config)
        self._optimizer.zero_grad(set_to_none=True)
        losses = F.cross_entropy(self._parallel(images), batch.labels.to(self._device), reduction="none")
        # Data parallelism averages gradients over workers; the weights sum to 1 over all of them, hence the factor.
        loss = self._world_size * (weights * losses).sum()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    @property
    def classifier(self) -> Classifier:
        """The network in training."""
        return self._classifier

    @torch.no_grad()
    def measure(self) -> Point:
        """Loss and accuracy on the ID validation set."""
        self._classifier.eval()
        parts = [
            self._classifier(part.to(self._device).float() / 255).cpu()
            for part in self._val_images.split(_VALIDATION_BATCH_SIZE)
        ]
        logits = torch.cat(parts)
        return {
            "val_loss": F.cross_entropy(logits, self._val_labels).item(),
            "val_accuracy": (logits.argmax(1) == self._val_labels).double().mean().item(),
        }

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        return flatten_state(self._classifier, self._optimizer)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainee`."""
        restore_state(state, self._classifier, self._optimizer)


def build_trainee(
    config: TrainConfig,
    architecture: Architecture,
    real: ImageArrays,
    synthetic: ImageArrays | None,
    val: ImageArrays,
    *,
    seed: int,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    rank: int = 0,
    world_size: int = 1,
) -> ClassifierTrainee:
    """Put network and batches together: the baseline on real images alone, or SIO.

    Args:
        config: recipe.
        architecture: of the classifier.
        real: real training set.
        synthetic: synthetic images to use; None is the baseline, whatever the config's weight.
        val: ID validation set.
        seed: of initialisation, batches and augmentation.
        device: where the network runs.
        wrap: makes the network data-parallel.
        rank: position of this worker.
        world_size: number of workers.

    Raises:
        BatchError: a batch cannot hold what is asked for.
    """
    torch.manual_seed(derive_seed("classifier", seed))
    classifier = Classifier(architecture).to(device)
    batches = MixedBatches(
        real,
        synthetic,
        global_batch_size=config.global_batch_size,
        real_batch_share=1.0 if synthetic is None else config.batch_share,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return ClassifierTrainee(
        classifier,
        wrap(classifier),
        batches,
        val,
        config,
        real_weight=1.0 if synthetic is None else config.real_weight,
        seed=seed,
        world_size=world_size,
    )
