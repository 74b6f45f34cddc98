"""One training step of the classifier: mixed batch, the algorithm's losses, SIO weights, SGD."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sio_ray.classifier.algorithms import Algorithm, StepContext, build_algorithm
from sio_ray.classifier.batch import MixedBatch
from sio_ray.classifier.feed import Feed
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.objective import sample_weights
from sio_ray.classifier.schedules import learning_rate, ramped
from sio_ray.compiler import check_compiler
from sio_ray.config import TrainConfig
from sio_ray.imageset import ImageArrays
from sio_ray.seeding import derive_seed
from sio_ray.training.loop import Point
from sio_ray.training.state import flatten_state, model_weights, restore_state
from sio_ray.training.workers import sum_over_workers, synchronise_batch_norm, take_buffers_of_first

_VALIDATION_BATCH_SIZE = 512

_EMA, _CLASSIFIER = "ema.", "classifier."


class Objective(nn.Module):
    """The classifier and its algorithm as one module, from a batch to the loss: what data parallelism wraps."""

    def __init__(self, classifier: Classifier, algorithm: Algorithm) -> None:
        super().__init__()
        self.classifier, self.algorithm = classifier, algorithm

    def forward(self, batch: MixedBatch, real_weight: float, context: StepContext) -> Tensor:
        """This worker's share of the loss of a batch, or of a piece of it; all shares sum to the objective."""
        weights = sample_weights(
            batch.is_synthetic,
            real_weight=real_weight,
            num_real=context.composition.num_real,
            num_synthetic=context.composition.num_synthetic,
        )
        losses = self.algorithm.losses(self.classifier, batch, context)
        loss = (weights * losses.per_sample).sum()
        return loss if losses.extra is None else loss + losses.extra


class ClassifierTrainee:
    """A classifier in training; see `sio_ray.training.loop.Trainee`.

    With `precision: bfloat16` the network runs under autocast; weights, losses, gradients, optimiser and average are
    float32. The average of the weights is young at first: after n updates its decay is min(ema_decay, (1 + n) / (10 +
    n)); it takes in batch normalisation's statistics too.

    Args:
        objective: on its device.
        parallel: the same as it is called in training, wrapped for data parallelism if need be.
        feed: this worker's mixed batches.
        val: ID validation images for the training curve.
        config: recipe, with `num_steps` resolved.
        is_baseline: trains on real images alone, whatever the config's weight.
        seed: of this run.
        rank: position of this worker.
        world_size: number of workers.
    """

    def __init__(
        self,
        objective: Objective,
        parallel: nn.Module,
        feed: Feed,
        val: ImageArrays,
        config: TrainConfig,
        *,
        is_baseline: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._objective, self._parallel, self._feed, self._config = objective, parallel, feed, config
        self._is_baseline, self._seed, self._world_size = is_baseline, seed, world_size
        self._device = next(objective.parameters()).device
        # Copies, as what lies in the object store may not be written to, which PyTorch would warn of.
        self._val_images = torch.tensor(val.images[rank::world_size])
        self._val_labels = torch.tensor(val.labels[rank::world_size])
        exempt = {id(parameter) for parameter in objective.algorithm.no_decay(objective.classifier)}
        groups: list[dict[str, Any]] = [{"params": [p for p in objective.parameters() if id(p) not in exempt]}]
        if exempt:
            others = [p for p in objective.parameters() if id(p) in exempt]
            groups.append({"params": others, "weight_decay": 0.0})
        self._optimizer = torch.optim.SGD(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        self._average = (
            AveragedModel(objective.classifier, multi_avg_fn=self._take_average, use_buffers=True)
            if config.ema_decay is not None
            else None
        )
        if config.compile:
            network = objective.classifier.network
            # The method rather than the module, as algorithms ask for features.
            network.features = torch.compile(network.features)  # type: ignore[method-assign]

    def step(self, step: int) -> Tensor:
        """See `Trainee`; the loss returned is this worker's share of the objective, scaled to the whole."""
        config = self._config
        self._parallel.train()
        context = StepContext(step, config.num_steps, self._seed, self._feed.composition)
        batch = self._feed.batch(step)
        with torch.no_grad():
            batch = self._objective.algorithm.mix(batch, context)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self._optimizer.zero_grad(set_to_none=True)
        pieces = list(batch.chunks(config.micro_batches))
        total = torch.zeros((), device=self._device)
        for number, piece in enumerate(pieces, start=1):
            with self._without_sync(number < len(pieces)):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    # Data parallelism averages gradients over workers; shares are to be summed, hence the factor.
                    loss = self._world_size * self._parallel(piece, self._real_weight(step), context)
                loss.backward()
            total += loss.detach()
        for parameter in self._objective.algorithm.resting(context):
            parameter.grad = None
        if config.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(self._objective.parameters(), config.gradient_clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._objective.classifier)
        return total

    @torch.no_grad()
    def _take_average(
        self,
        averages: tuple[Tensor, ...] | list[Tensor],
        values: tuple[Tensor, ...] | list[Tensor],
        _num_averaged: Tensor | int,
    ) -> None:
        """Take values of one type into their averages, as PyTorch calls it."""
        assert self._average is not None, "called by it"
        assert self._config.ema_decay is not None, "the average's own"
        if averages[0].is_floating_point():
            # The count that lies on the CPU: reading the one that is given would wait for the GPU at every step.
            n = int(self._average.n_averaged)
            torch._foreach_lerp_(averages, values, 1 - min(self._config.ema_decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(averages, values)

    def _real_weight(self, step: int) -> float:
        config = self._config
        if self._is_baseline:
            return 1.0
        return ramped(config.real_weight, config.real_weight_ramp, step, config.num_steps)

    def _without_sync(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Keep gradients to this worker until the last piece of the batch."""
        if wanted and isinstance(self._parallel, DistributedDataParallel):
            return self._parallel.no_sync()
        return contextlib.nullcontext()

    @property
    def classifier(self) -> Classifier:
        """The network in training, or its average where there is one: what is measured and saved."""
        if self._average is None:
            return self._objective.classifier
        assert isinstance(self._average.module, Classifier), "it averages a classifier"
        return self._average.module

    @torch.no_grad()
    def measure(self) -> Point:
        """Loss and accuracy on the ID validation set, of which every worker takes a part."""
        classifier = self.classifier.eval()
        take_buffers_of_first(classifier)
        sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        for images, labels in zip(
            self._val_images.split(_VALIDATION_BATCH_SIZE), self._val_labels.split(_VALIDATION_BATCH_SIZE), strict=True
        ):
            logits = classifier(images.to(self._device).float() / 255)
            labels = labels.to(self._device)
            losses = F.cross_entropy(logits, labels, reduction="none").double()
            correct = (logits.argmax(1) == labels).double()
            sums += torch.stack([losses.sum(), correct.sum(), torch.ones_like(correct).sum()])
        loss, correct, count = sum_over_workers(sums).tolist()
        return {"val_loss": loss / count, "val_accuracy": correct / count}

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        state = flatten_state(self._objective, self._optimizer)
        if self._average is not None:
            average = self._average.state_dict()
            state |= {f"{_EMA}{name}": value.detach().cpu().clone().contiguous() for name, value in average.items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainee`."""
        restore_state(state, self._objective, self._optimizer)
        if self._average is not None:
            self._average.load_state_dict(
                {name.removeprefix(_EMA): value for name, value in state.items() if name.startswith(_EMA)}
            )


def final_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's weights in a trainee's state: the averaged ones where there are some."""
    prefix = f"{_EMA}module."
    averaged = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return averaged or {
        name.removeprefix(_CLASSIFIER): value
        for name, value in model_weights(state).items()
        if name.startswith(_CLASSIFIER)
    }


def build_trainee(
    config: TrainConfig,
    architecture: Architecture,
    feed: Feed,
    val: ImageArrays,
    *,
    arm: Literal["baseline", "sio"],
    seed: int,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    rank: int = 0,
    world_size: int = 1,
) -> ClassifierTrainee:
    """Put network, algorithm and batches together.

    Args:
        config: recipe, with `num_steps` resolved.
        architecture: of the classifier.
        feed: this worker's batches, composed for the arm.
        val: ID validation set.
        arm: `baseline` on real images alone, or `sio`.
        seed: of initialisation and of what the algorithm draws.
        device: where the network runs.
        wrap: makes the network data-parallel.
        rank: position of this worker.
        world_size: number of workers.

    Raises:
        CheckpointError: pretrained weights that were asked for are not to be had.
        ConfigError: the network cannot be compiled here.
    """
    if config.compile:
        check_compiler("train.compile")
    torch.manual_seed(derive_seed("classifier", seed))
    classifier = Classifier(architecture, pretrained=config.pretrained)
    algorithm = build_algorithm(
        config.algorithm,
        config.algorithm_options,
        num_classes=len(architecture.class_names),
        num_features=classifier.num_features,
        label_smoothing=config.label_smoothing,
    )
    # On a GPU convolutions are faster with the channels last.
    memory_format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    objective = Objective(classifier.to(memory_format=memory_format), algorithm).to(device)
    if config.sync_batch_norm:
        synchronise_batch_norm(objective)
    # What an algorithm remembers is the same in all workers by its own means; VOS's queues would be sent at each step.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        objective, [f"algorithm.{name}" for name, _ in algorithm.named_buffers()]
    )
    return ClassifierTrainee(
        objective,
        wrap(objective),
        feed,
        val,
        config,
        is_baseline=arm == "baseline",
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
