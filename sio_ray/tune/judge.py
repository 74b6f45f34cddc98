"""Judges a network in training: OOD AUROC on the validation sets, by detectors that have never seen a test set."""

from __future__ import annotations

from functools import partial

import numpy as np

from sio_ray.classifier.model import Classifier
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.reading import choose_detectors, probes_of_train
from sio_ray.ood.extract import extract, last_layer_of
from sio_ray.ood.metrics import auroc
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.protocol import FittingSets, choose
from sio_ray.training.shared_sets import fetch
from sio_ray.tune.work import TrialWork


class Judge:
    """Gives a network its AUROCs, means over detectors and then over the sets of a group.

    Args:
        work: whose sets and detectors these are.
    """

    def __init__(self, work: TrialWork) -> None:
        self._work = work
        self._val = fetch(work.val)
        self._ood = {key: fetch(shared) for key, shared in work.ood.items()}

    def __call__(self, network: Classifier) -> dict[str, float]:
        """Judge a network in evaluation mode.

        Returns:
            `near_auroc`, `far_auroc` (where there is a far set) and `mean_auroc`, of both or of the one there is.
        """
        work = self._work
        detectors = choose_detectors(work.detectors, work.detector_options, network, field="tune.detectors")
        of = partial(extract, network, batch_size=work.batch_size)
        train = None
        if any(type(detector).fit is not Detector.fit for detector in detectors):
            train = of(fetch(work.fit_set), probes=probes_of_train(detectors), where="id/train")
        # Options are not swept here: the validation sets that would choose them are those that judge.
        probes = [
            probe if train is None else probe.fitted(train)
            for detector in detectors
            for probe in detector.chosen_probes()
        ]
        val = of(self._val, probes=probes, where="id/val")
        # Detectors that learn nothing are content with the sizes of any ID set.
        sets = FittingSets(train=val if train is None else train, val=val, last_layer=last_layer_of(network))
        fitted = [choose(detector, sets, sweep=False).detector for detector in detectors]
        of_id = [detector.score(val).numpy() for detector in fitted]
        by_group: dict[str, list[float]] = {}
        for key, arrays in self._ood.items():
            outputs: NetworkOutputs = of(arrays, probes=probes, where=key)
            areas = [auroc(mine, detector.score(outputs).numpy()) for mine, detector in zip(of_id, fitted, strict=True)]
            by_group.setdefault(key.split("/")[0], []).append(float(np.mean(areas)))
        means = {f"{group}_auroc": float(np.mean(areas)) for group, areas in by_group.items()}
        return {**means, "mean_auroc": float(np.mean(list(means.values())))}
