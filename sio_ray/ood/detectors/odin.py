"""ODIN: the softmax probability at a high temperature, after a small step that makes the network more certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, no_graph


@dataclass(frozen=True)
class ODINStep(Probe):
    """Logits, (B, T, E, C), after a step for each temperature and each epsilon: 1 + T * E forwards and T backwards.

    x' = x - epsilon * sign(grad_x CE(logits / T, argmax logits)). The loss has the gradient p - onehot by the logits;
    it is made of float64 and scaled to 1, or float32 would lose it for a certain image at T = 1.
    """

    temperatures: tuple[float, ...]
    epsilons: tuple[float, ...]

    differentiates = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """By all values, so that a score never reads another setting than its own."""
        return "_".join(["odin", *(f"{value:g}" for value in (*self.temperatures, *self.epsilons))])

    def read(self, batch: BatchPass) -> Tensor:
        """See `Probe`."""
        logits = batch.logits.detach().double()
        of_predicted = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
        moved = []
        for temperature in self.temperatures:
            others = (logits / temperature).softmax(1) * (1 - of_predicted)
            share = others / others.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
            gradient = batch.gradient(batch.logits, share - of_predicted)
            for epsilon in self.epsilons:
                step = batch.step(gradient, -epsilon)
                moved.append(batch.network.logits(batch.network.features(step)))
        return no_graph(torch.stack(moved, 1).unflatten(1, (len(self.temperatures), len(self.epsilons))))


class ODINOptions(Section):
    """Of ODIN.

    Attributes:
        temperature: T. 1000 in the paper, and in OpenOOD v1.5 before its sweep.
        epsilon: size of the step, of pixels in [0, 1]. 0.0014 in OpenOOD v1.5.
    """

    temperature: float = Field(1000.0, gt=0)
    epsilon: float = Field(0.0014, ge=0)


class ODIN(Detector):
    """Scores by -max_c softmax(logits(x') / T)_c, x' as in `ODINStep`.

    As in OpenOOD v1.5: the sign of 0 is +1, and the step is divided by the standard deviation of the data after
    normalising, which is a step of epsilon in pixels. OpenOOD differentiates the batch's mean in float32, so a step
    there can lose its direction for certain images; here no image depends on the batch.
    """

    name = "odin"
    title = "ODIN"
    paper = "Liang et al., ICLR 2018, arXiv:1706.02690"
    cost = "validation images: 8 further forwards and 4 backwards for the whole sweep; test images: 1 and 1"
    needs = frozenset()
    Options = ODINOptions
    options: ODINOptions
    sweep: ClassVar = {"temperature": [1.0, 10.0, 100.0, 1000.0], "epsilon": [0.0014, 0.0028]}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Made once: `with_setting` changes options, but not what was extracted.
        self._grid = ODINStep(
            tuple(sorted({*self.sweep["temperature"], self.options.temperature})),
            tuple(sorted({*self.sweep["epsilon"], self.options.epsilon})),
        )

    def probes(self) -> tuple[Probe, ...]:
        """See `Detector`."""
        return (self._grid,)

    def chosen_probes(self) -> tuple[Probe, ...]:
        """See `Detector`; 2 forwards and 1 backward, whatever the sweep had."""
        return (self._chosen(),)

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; in [-1, -1 / C]. Reads what either kind of probe gave.

        In float64: at T = 1000 all probabilities are close to 1 / C, and float32 ties what should be apart.
        """
        T, epsilon = self.options.temperature, self.options.epsilon
        grid, chosen = self._grid, self._chosen()
        if chosen.name in outputs.probes:
            logits = outputs.probes[chosen.name][:, 0, 0]
        elif T not in grid.temperatures or epsilon not in grid.epsilons:
            raise EvaluationError(
                f"detector odin must have a setting that was extracted, temperature in {list(grid.temperatures)} and "
                f"epsilon in {list(grid.epsilons)}, got {T:g} and {epsilon:g}; give it in evaluate.detector_options."
            )
        else:
            of_grid = outputs.probe(grid.name, detector=self.name)
            logits = of_grid[:, grid.temperatures.index(T), grid.epsilons.index(epsilon)]
        return -(logits.double() / T).softmax(1).amax(1)

    def _chosen(self) -> ODINStep:
        return ODINStep((self.options.temperature,), (self.options.epsilon,))
