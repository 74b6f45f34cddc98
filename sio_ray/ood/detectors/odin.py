"""ODIN: the softmax probability at a high temperature, after a small step that makes the network more certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import NetworkOutputs

#: T and epsilon of the paper, and of OpenOOD v1.5 before its sweep.
TEMPERATURE = 1000.0
EPSILON = 0.0014


class ODIN(Detector):
    """Scores by -max_c p(c | x'), where x' is the perturbed input and the logits are divided by T.

    Args:
        temperature: T, greater than 0.
        epsilon: size of the step that `perturb` takes, at least 0; what `perturbed_logits` were extracted with.

    Raises:
        ConfigError: T or epsilon is out of range.
    """

    name = "odin"
    title = "ODIN"
    paper = "Liang et al., ICLR 2018, arXiv:1706.02690"
    needs = frozenset({"perturbed_logits"})

    def __init__(self, temperature: float = TEMPERATURE, epsilon: float = EPSILON) -> None:
        if not temperature > 0:
            raise ConfigError("ODIN.temperature", "greater than 0", temperature, f"the paper's is {TEMPERATURE:g}")
        if not epsilon >= 0:
            raise ConfigError("ODIN.epsilon", "at least 0", epsilon, f"the paper's is {EPSILON}")
        self.temperature = temperature
        self.epsilon = epsilon

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; in [-1, -1/C].

        In float64: at T = 1000 all probabilities are close to 1/C, and float32 ties what should be apart.
        """
        if outputs.perturbed_logits is None:
            raise EvaluationError(
                "NetworkOutputs.perturbed_logits must be there for detector odin, got None; "
                "extract the outputs with odin among the detectors."
            )
        return -(outputs.perturbed_logits.double() / self.temperature).softmax(dim=1).amax(dim=1)


def perturb(
    images: Tensor,
    network: Callable[[Tensor], Tensor],
    *,
    std: Sequence[float],
    temperature: float = TEMPERATURE,
    epsilon: float = EPSILON,
) -> Tensor:
    """Move each image a step towards the class that the network predicts.

    x' = x - epsilon / std * sign(grad_x CE(network(x) / T, argmax network(x))), and the sign of 0 is +1, as in OpenOOD
    v1.5 and in the authors' code. The gradient of the summed loss is used, theirs is of the mean: the sign is the same,
    and no image depends on the batch.

    Args:
        images: (B, C, H, W) float32, the normalised input of the network.
        network: gives (B, num_classes) logits; in evaluation mode, so that no image depends on the batch.
        std: (C,) standard deviations that the images were divided by, greater than 0, so that epsilon is in units of
            pixels in [0, 1].
        temperature: T.
        epsilon: size of the step.

    Returns:
        (B, C, H, W), like `images`, without gradient. Gradients of the network's parameters stay as they are.

    Raises:
        EvaluationError: `images` is not a batch of pictures with one standard deviation for each channel.

    Source: ODIN, arXiv:1706.02690, equation 2; OpenOOD v1.5 for the division by std.
    """
    if images.ndim != 4 or images.shape[1] != len(std):
        raise EvaluationError(
            f"perturb.images must have shape (B, {len(std)}, H, W) for {len(std)} standard deviation(s), "
            f"got {tuple(images.shape)}; give the std of every channel."
        )
    if not min(std) > 0:
        raise EvaluationError(f"perturb.std must be greater than 0, got {list(std)}; give the normalisation's std.")
    # Extraction runs in inference mode, where no gradient exists.
    with torch.inference_mode(False), torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        logits = network(inputs)
        loss = F.cross_entropy(logits / temperature, logits.detach().argmax(dim=1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    sign = torch.where(gradient >= 0, 1.0, -1.0).to(images.dtype)
    step = torch.as_tensor(std, dtype=images.dtype, device=images.device).reciprocal() * epsilon
    return images.detach() - sign * step.view(1, -1, 1, 1)
