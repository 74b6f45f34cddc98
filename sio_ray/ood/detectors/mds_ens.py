"""MDSEns: Mahalanobis distances at every stage of the network, each after a small step that makes it smaller."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.gaussian import ClassStatistics, Mahalanobis
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, no_graph, pack, unpack

#: Gaussians of stages are small, and travel with the probe.
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class StageMeans(Probe):
    """What each stage gives, as means over places: `pack`ed, one part a stage. No further pass."""

    name = "stage_means"
    reads_maps = True

    def read(self, batch: BatchPass) -> Tensor:
        """See `Probe`."""
        return no_graph(pack([maps.mean((2, 3)) for maps in batch.maps]))


@dataclass(frozen=True, eq=False)
class MahalanobisStep(Probe):
    """Squared distances, (B, E, L), for E epsilons and L stages: E * L forwards and L backwards.

    x' = x - epsilon * sign(grad_x M_l(x)), for each stage l by itself. The Gaussians are of the training set's
    `StageMeans`, so `fitted` comes first.
    """

    epsilons: tuple[float, ...]
    gaussians: tuple[Mahalanobis, ...] = ()

    name = "mahalanobis_step"
    differentiates = True
    reads_maps = True
    fits = True

    def fitted(self, train: NetworkOutputs) -> Self:
        """See `Probe`.

        Raises:
            EvaluationError: a class without a training image, a training image without a class, or a stage that gives
                the same for all.
        """
        gaussians = []
        for stage in unpack(train.probe("stage_means", detector="mds_ens")):
            statistics = ClassStatistics.of(replace(train, features=stage), detector="mds_ens", device=_CPU)
            gaussians.append(Mahalanobis.of(statistics.means, statistics.within, detector="mds_ens"))
        return replace(self, gaussians=tuple(gaussians))

    def read(self, batch: BatchPass) -> Tensor:
        """See `Probe`."""
        if not self.gaussians:
            raise EvaluationError(
                "probe mahalanobis_step must be fitted before it reads; call fitted with the training set."
            )
        distances = []
        for stage, gaussians in enumerate(self.gaussians):
            maps = batch.maps[stage]
            here, direction = gaussians.nearest(maps.detach().mean((2, 3)))
            gradient = batch.gradient(maps, direction[:, :, None, None].expand_as(maps))
            for epsilon in self.epsilons:
                if epsilon == 0:
                    distances.append(here)
                    continue
                moved = batch.staged.feature_maps(batch.step(gradient, -epsilon))[stage]
                distances.append(gaussians.nearest(moved.mean((2, 3)))[0])
        return no_graph(torch.stack(distances, 1).unflatten(1, (len(self.gaussians), -1)).mT)

    def identity(self) -> dict[str, Any]:
        """See `Probe`; the Gaussians by a digest."""
        digest = hashlib.blake2b(digest_size=16)
        for gaussians in self.gaussians:
            for tensor in (gaussians.centre, gaussians.whitening, gaussians.means):
                digest.update(tensor.numpy().tobytes())
        return {"probe": self.name, "epsilons": list(self.epsilons), "gaussians": digest.hexdigest()}


class MDSEnsOptions(Section):
    """Of MDSEns.

    Attributes:
        epsilon: size of the step, of pixels in [0, 1]; 0 for none. 0.0014 in OpenOOD v1.5, see `MDSEns`.
        stages: `all`, or the `stem` alone as in OpenOOD v1.5.
    """

    epsilon: float = Field(0.0014, ge=0)
    stages: Literal["all", "stem"] = "all"


class MDSEns(Detector):
    """Scores by sum_l M_l(x'_l) / std_l, M_l the squared Mahalanobis distance to the nearest class mean at stage l.

    Features of a stage are its means over places; class means and the shared covariance are of the training set, and
    x'_l is as in `MahalanobisStep`. std_l is the standard deviation of M_l over validation ID, so that no stage
    decides by its scale alone.

    The paper weights stages by a logistic regression of validation ID against OOD, which is not at hand in `fit` (nor
    should a detector see OOD). OpenOOD v1.5 can do the same, but its defaults, one feature type and one weight,
    leave the stem alone: that is `stages: stem`. It divides the step by 0.5 whatever the data's standard deviation, so
    that its 0.0014 is half of that in pixels for CIFAR; here it is pixels, as in the paper. Both centre the
    covariance by class and take its pseudo-inverse, as here.

    Memory of the fit: as MDS, for the largest D_l.
    """

    name = "mds_ens"
    title = "MDSEns"
    paper = "Lee et al., NeurIPS 2018, arXiv:1807.03888"
    cost = "a further forward and a backward for each stage; a second pass, as its step needs the training set"
    needs = frozenset()
    fits_on_probes = True
    Options = MDSEnsOptions
    options: MDSEnsOptions
    sweep: ClassVar = {"epsilon": [0.0014]}

    _spread: Tensor | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._probe = MahalanobisStep(tuple(sorted({*self.sweep["epsilon"], self.options.epsilon})))

    def probes(self) -> tuple[Probe, ...]:
        """See `Detector`."""
        return (StageMeans(), self._probe)

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`; the training set is in the fitted probe, the weights are of the validation set.

        Raises:
            EvaluationError: the validation set's distances are all the same, or there is but one.
        """
        spread = val.probe(self._probe.name, detector=self.name).double().std(0, correction=0)
        if not (spread > 0).all():
            raise EvaluationError(
                f"detector mds_ens must have validation images at different distances in every stage, got "
                f"{len(val)} image(s) at the same one; give a larger ID validation set."
            )
        self._spread = spread
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0."""
        if self._spread is None:
            raise self._not_fitted()
        epsilon, epsilons = self.options.epsilon, self._probe.epsilons
        if epsilon not in epsilons:
            raise EvaluationError(
                f"detector mds_ens must have an epsilon that was extracted, one of {list(epsilons)}, got {epsilon:g}; "
                "give it in evaluate.detector_options."
            )
        at = epsilons.index(epsilon)
        weighted = outputs.probe(self._probe.name, detector=self.name)[:, at].double() / self._spread[at]
        return weighted.sum(1) if self.options.stages == "all" else weighted[:, 0].clone()
