"""A further array per image that some detectors read, made in the same pass as features and logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from sio_ray.errors import EvaluationError
from sio_ray.ood.outputs import NetworkOutputs

_NO_MAPS = "feature maps"


class ScoredNetwork(Protocol):
    """A classifier or an ensemble in evaluation mode, which takes pictures in [0, 1]."""

    @property
    def last_layer(self) -> nn.Linear:
        """Makes logits of features; an `EvaluationError` where that is no linear layer."""

    def features(self, images: Tensor) -> Tensor:
        """Input of the last layer, (B, D)."""

    def logits(self, features: Tensor) -> Tensor:
        """What the last layer makes of features, (B, num_classes)."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights; they are all on one device."""


@runtime_checkable
class StagedNetwork(Protocol):
    """What a `ScoredNetwork` has beside if it works in stages; an ensemble does not."""

    @property
    def resumable(self) -> bool:
        """Whether maps are all that the next stage reads; a transformer's lack the class token."""

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What each stage gives, stem first, (B, C, H, W) each."""

    def features_from(self, maps: Tensor, num_left: int) -> Tensor:
        """Features, (B, D), of the maps of a stage that `num_left` stages follow, if it is `resumable`."""


class BatchPass:
    """One batch on its way through a network; what several probes need is computed once, and only if it is needed.

    Args:
        network: in evaluation mode, its parameters without gradients.
        images: (B, C, H, W) float32 in [0, 1], on the network's device.
        with_gradient: whether a probe will differentiate by the pixels, so that the one forward pass keeps its graph.
        with_maps: whether a probe will read feature maps, so that the features are made of these, in the same pass.
    """

    def __init__(
        self, network: ScoredNetwork, images: Tensor, *, with_gradient: bool = False, with_maps: bool = False
    ) -> None:
        self.network = network
        self._with_maps = with_maps
        with torch.inference_mode(False):
            self.images = images.clone().requires_grad_() if with_gradient else images

    @property
    def staged(self) -> StagedNetwork:
        """The network, which has feature maps.

        Raises:
            EvaluationError: it has none.
        """
        if not isinstance(self.network, StagedNetwork):
            raise EvaluationError(
                f"a probe must be given a network with {_NO_MAPS}, got {type(self.network).__name__}; "
                "leave out the detectors that read them."
            )
        return self.network

    @cached_property
    def maps(self) -> list[Tensor]:
        """What each stage gives, stem first, (B, C, H, W) each."""
        with self.recording():
            return self.staged.feature_maps(self.images)

    @cached_property
    def features(self) -> Tensor:
        """(B, D); a second pass only where maps do not hold what features are made of."""
        with self.recording():
            if self._with_maps and self.staged.resumable:
                return self.staged.features_from(self.maps[-1], 0)
            return self.network.features(self.images)

    @cached_property
    def logits(self) -> Tensor:
        """(B, C)."""
        with self.recording():
            return self.network.logits(self.features)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What is computed inside can be differentiated by the pixels, if the pass is `with_gradient`."""
        # Whoever extracts may be in inference mode, where no gradient exists.
        with torch.inference_mode(False), torch.set_grad_enabled(self.images.requires_grad):
            yield

    def gradient(self, values: Tensor, direction: Tensor) -> Tensor:
        """By the pixels, of each image's inner product of values and direction: (B, C, H, W).

        No image depends on the batch, and gradients of parameters stay as they are.

        Args:
            values: (B, ...), computed from this pass.
            direction: (B, ...) likewise, what the values are weighted with.
        """
        with torch.inference_mode(False):
            (gradient,) = torch.autograd.grad(values, self.images, direction.to(values), retain_graph=True)
        return gradient

    def step(self, gradient: Tensor, size: float) -> Tensor:
        """The images a step along the sign of a gradient, (B, C, H, W); the sign of 0 is +1, as in OpenOOD.

        Pixels are in [0, 1] and the network normalises them itself, so this is OpenOOD's step of size / std after
        normalising, with the data's own std.
        """
        return self.images.detach() + size * torch.where(gradient >= 0, 1.0, -1.0)


class Probe(ABC):
    """Something to read off a batch's pass; a frozen dataclass whose fields decide its values.

    Attributes:
        name: of the array in `NetworkOutputs.probes`; with the fields it names what is kept on disk.
        differentiates: whether it takes gradients by the pixels.
        reads_maps: whether it reads feature maps, which an ensemble does not have.
        fits: whether `fitted` comes before `read`; such a probe is not read of the training set.
    """

    name: ClassVar[str]
    differentiates: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False
    fits: ClassVar[bool] = False

    @abstractmethod
    def read(self, batch: BatchPass) -> Tensor:
        """(B, ...) float32, of the same trailing shape for every batch; without a graph."""

    def refusal(self, network: ScoredNetwork) -> str | None:
        """What a network would need to have for it, such as `feature maps`; None if it has that. Asked before work."""
        return _NO_MAPS if self.reads_maps and not isinstance(network, StagedNetwork) else None

    def fitted(self, train: NetworkOutputs) -> Self:
        """The probe as it is for this network.

        Args:
            train: outputs of the training set, with the probes that do not fit.
        """
        return self

    def identity(self) -> dict[str, Any]:
        """What decides its values, as JSON values."""
        return {"probe": self.name, **asdict(self)}  # type: ignore[call-overload]


def no_graph(tensor: Tensor) -> Tensor:
    """On the CPU, as float32, without a graph."""
    return tensor.detach().to("cpu", torch.float32)


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Parts of several widths side by side, in rows that say their own layout.

    Args:
        parts: L parts, (B, D_l) each.

    Returns:
        (B, 1 + L + sum of D_l): L, then the widths, then the parts.
    """
    widths = [part.shape[1] for part in parts]
    layout = torch.tensor([len(widths), *widths]).to(parts[0]).expand(len(parts[0]), -1)
    return torch.cat([layout, *parts], 1)


def unpack(rows: Tensor) -> list[Tensor]:
    """Views of the parts that `pack` put side by side."""
    num_parts = int(rows[0, 0])
    widths = [int(width) for width in rows[0, 1 : 1 + num_parts]]
    return list(rows[:, 1 + num_parts :].split(widths, 1))
