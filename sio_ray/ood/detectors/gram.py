"""Gram: how far correlations between channels leave the range that they have in training images of the same class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from sio_ray.config import Section
from sio_ray.errors import EvaluationError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.classes import check_classes
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.probe import BatchPass, Probe, no_graph, pack, unpack

#: Numbers that a block of rows holds in float64.
_NUMBERS_PER_BLOCK = 2**24


@dataclass(frozen=True)
class GramSums(Probe):
    """Row sums of Gram matrices of powers of each stage's maps: `pack`ed, (B, P * C_l) for stage l. No further pass.

    G^p_c = sign(s) |s|^(1/p), s = sum_c' (F^p F^pT)_cc', with F the (C_l, H W) map. The row sum is F^p times the sum of
    F^p over channels, so no matrix of C_l^2 is made. In float64: a tenth power leaves the range of float32.

    Attributes:
        powers: p, ascending.
    """

    powers: tuple[int, ...]

    name = "gram"
    reads_maps = True

    def read(self, batch: BatchPass) -> Tensor:
        """See `Probe`."""
        return no_graph(pack([self._sums(maps.detach().flatten(2).double()) for maps in batch.maps]))

    def _sums(self, F: Tensor) -> Tensor:
        sums, to_p = [], torch.ones_like(F)
        for before, p in pairwise((0, *self.powers)):
            for _ in range(before, p):
                to_p *= F  # in place, which takes a third of the time of F**p
            s = (to_p @ to_p.sum(1)[..., None])[..., 0]
            sums.append(s.sign() * s.abs() ** (1 / p))
        return torch.cat(sums, 1).float()


class GramOptions(Section):
    """Of Gram.

    Attributes:
        powers: p. 1 to 5 in OpenOOD v1.5, 1 to 10 in the paper.
    """

    powers: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 3, 4, 5), min_length=1)


class Gram(Detector):
    """Scores by sum_l (delta_l / E[delta_l]) / max_c p_c, with delta_l summed over powers and channels of stage l.

    delta = relu(min - G) / |min + 1e-6| + relu(G - max) / |max + 1e-6|, with min and max over training images of the
    class that the network predicts, and E the mean over validation ID (1 for a stage that no validation image leaves).

    As OpenOOD v1.5 in the formula, the powers, and the bounds by label. It differs in two: maps are what stages give,
    where OpenOOD hooks every convolution before its normalisation (20 of a ResNet-18) and every ReLU that is a module;
    and E is of validation ID, where OpenOOD draws a tenth of the training set for it without a seed, and takes that
    tenth from the bounds.

    Each image's sums take 4 P sum_l C_l bytes: 20 KB for a ResNet-18, 78 KB for a ResNet-50 (100 GB for 1.28M on disk).
    Memory: 16 C P sum_l C_l bytes for bounds, and blocks of 2^24 float64.
    """

    name = "gram"
    title = "Gram"
    paper = "Sastry and Oore, ICML 2020, arXiv:1912.12510"
    cost = "no further pass; P numbers for each channel of each stage are kept for every image"
    needs = frozenset({"logits"})
    fits_on_probes = True
    Options = GramOptions
    options: GramOptions

    _bounds: tuple[Tensor, Tensor] | None = None
    _expected: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._probe = GramSums(tuple(sorted(set(self.options.powers))))

    def probes(self) -> tuple[Probe, ...]:
        """See `Detector`."""
        return (self._probe,)

    def fit(self, train: NetworkOutputs, val: NetworkOutputs, last_layer: LastLayer | None) -> Self:
        """See `Detector.fit`.

        Raises:
            EvaluationError: a class without a training image, or a training image without a class.
        """
        check_classes(train, detector=self.name)
        sums = train.probe("gram", detector=self.name)
        low = sums.new_full((train.logits.shape[1], sums.shape[1]), torch.inf, device=self.device)
        high = -low
        for start, rows in self._blocks(sums):
            classes = train.labels[start : start + len(rows), None].to(self.device).expand_as(rows)
            low.scatter_reduce_(0, classes, rows, "amin")
            high.scatter_reduce_(0, classes, rows, "amax")
        self._bounds = low, high
        self._expected = self._deviations(val).mean(0)
        return self

    def score(self, outputs: NetworkOutputs) -> Tensor:
        """See `Detector.score`; at least 0."""
        if self._bounds is None:
            raise self._not_fitted()
        unknown = set(self.options.powers) - set(self._probe.powers)
        if unknown:
            raise EvaluationError(
                f"detector gram must have powers that were extracted, of {list(self._probe.powers)}, got "
                f"{sorted(unknown)}; give them in evaluate.detector_options."
            )
        at = [place for place, p in enumerate(self._probe.powers) if p in self.options.powers]
        expected = self._expected[:, at].sum(1)
        deviations = self._deviations(outputs)[..., at].sum(2) / expected.where(expected > 0, 1.0)
        return deviations.sum(1) / outputs.logits.double().softmax(1).amax(1)

    def _deviations(self, outputs: NetworkOutputs) -> Tensor:
        """Summed over channels, (M, L, P) float64."""
        assert self._bounds is not None, "fit comes first"
        low, high = self._bounds
        parts = []
        for start, rows in self._blocks(outputs.probe("gram", detector=self.name)):
            predicted = outputs.logits[start : start + len(rows)].argmax(1).to(self.device)
            G, least, most = rows.double(), low[predicted].double(), high[predicted].double()
            delta = (least - G).relu() / (least + 1e-6).abs() + (G - most).relu() / (most + 1e-6).abs()
            # The columns of the layout are the same for all images, so that they do not deviate.
            by_stage = delta[:, 1 + int(rows[0, 0]) :].split([part.shape[1] for part in unpack(rows)], 1)
            parts.append(
                torch.stack(
                    [of_stage.unflatten(1, (len(self._probe.powers), -1)).sum(2) for of_stage in by_stage], 1
                ).cpu()
            )
        return torch.cat(parts)

    def _blocks(self, sums: Tensor) -> Iterator[tuple[int, Tensor]]:
        rows_per_block = max(1, _NUMBERS_PER_BLOCK // sums.shape[1])
        for start in range(0, len(sums), rows_per_block):
            yield start, sums[start : start + rows_per_block].to(self.device)
