"""Detectors over what one network said, as Ray tasks: one per detector, each leaves its part whole or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sio_ray.cluster import limit_threads
from sio_ray.config import EvaluateConfig
from sio_ray.errors import EvaluationError
from sio_ray.evaluation.shared_outputs import SharedOutputs, fetch_outputs
from sio_ray.imageset.storage import Folder
from sio_ray.ood.groups import OODSet
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.protocol import EvaluationSets
from sio_ray.reading import parse_json_object, reason_of

#: Parts of a network beside those of its detectors.
ABOUT, PROJECTION = "about", "projection"


@dataclass(frozen=True)
class SharedSets:
    """All sets of one network by object references; see `EvaluationSets`.

    Attributes:
        chosen: detector to the names of the probes that it reads of test sets.
    """

    train: SharedOutputs
    val: SharedOutputs
    test: SharedOutputs
    ood: Mapping[OODSet, SharedOutputs]
    val_ood: Mapping[OODSet, SharedOutputs]
    shifted: Mapping[str, SharedOutputs]
    last_layer: LastLayer | None
    chosen: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def of_test(self) -> dict[tuple[str, str], SharedOutputs]:
        """All test sets by group and name, as score tables name them."""
        sets: dict[tuple[str, str], SharedOutputs] = {("id", "test"): self.test}
        sets |= {("id_shifted", name): shared for name, shared in self.shifted.items()}
        return sets | {(group, name): shared for (group, name), shared in self.ood.items()}


class Parts:
    """What the tasks of one network leave: `NAME.parquet` where there is a table, then `NAME.json`, which commits both.

    Args:
        uri: path or URI of their folder.
    """

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)

    def has(self, name: str) -> bool:
        """Whether the part is there."""
        return self.folder.exists(f"{name}.json")

    def write(self, name: str, values: Mapping[str, Any], table: pd.DataFrame | None = None) -> None:
        """Write JSON values, and a table."""
        if table is not None:
            buffer = io.BytesIO()
            table.to_parquet(buffer, index=False)
            self.folder.write_bytes(f"{name}.parquet", buffer.getvalue())
        self.folder.write_bytes(f"{name}.json", json.dumps(values).encode())

    def read(self, name: str) -> dict[str, Any]:
        """The JSON values of a part that is there."""
        try:
            return parse_json_object(self.folder.read_bytes(f"{name}.json"))
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"{self.folder.join(name)}.json cannot be read ({reason_of(error)}); delete it and run the same "
                "command again."
            ) from error

    def table(self, name: str) -> pd.DataFrame:
        """Its table."""
        return pd.read_parquet(io.BytesIO(self.folder.read_bytes(f"{name}.parquet")))


def score(detector: str, sets: SharedSets, section: EvaluateConfig, parts: Parts) -> None:
    """Evaluate one detector on one network; runs in a Ray task.

    Leaves the lists of rows, the setting and the seconds of its `DetectorEvaluation`, and the scores as its table; or
    `failed`, the reason why the detector cannot score this network.
    """
    from sio_ray.ood.detectors import build_detectors
    from sio_ray.ood.detectors.reading import probes_of_train
    from sio_ray.ood.protocol import evaluate_detector

    limit_threads(section.cpus_per_task)
    options = {name: given for name, given in section.detector_options.items() if name == detector}
    (built,) = build_detectors([detector], options, device="cuda" if section.gpus_per_task else "cpu")

    def of_val(shared: SharedOutputs) -> NetworkOutputs:
        return fetch_outputs(shared, built.needs, [probe.name for probe in built.probes()])

    def of_test(shared: SharedOutputs) -> NetworkOutputs:
        return fetch_outputs(shared, built.needs, sets.chosen.get(detector, ()))

    outputs = EvaluationSets(
        train=fetch_outputs(sets.train, built.needs, [probe.name for probe in probes_of_train([built])]),
        val=of_val(sets.val),
        test=of_test(sets.test),
        ood={key: of_test(shared) for key, shared in sets.ood.items()},
        val_ood={key: of_val(shared) for key, shared in sets.val_ood.items()},
        shifted={key: of_test(shared) for key, shared in sets.shifted.items()},
        last_layer=sets.last_layer,
    )
    try:
        evaluation = evaluate_detector(built, outputs, sweep=section.sweep)
    except EvaluationError as error:
        parts.write(detector, {"failed": str(error)})
        return
    values = {
        "metrics": evaluation.metrics.to_dict(orient="records"),
        "full_spectrum": evaluation.full_spectrum.to_dict(orient="records"),
        "setting": evaluation.setting,
        "sweep": evaluation.sweep,
        "seconds": evaluation.seconds,
    }
    parts.write(detector, values, evaluation.scores)


def project(sets: SharedSets, section: EvaluateConfig, parts: Parts) -> None:
    """Place samples of the training and test sets on the main axes of the training features; runs in a Ray task."""
    from sio_ray.ood.projection import fit_projection, project_sample

    limit_threads(section.cpus_per_task)
    projection = fit_projection(fetch_outputs(sets.train, {"features"}).features)
    tables = []
    for (group, name), shared in {("train", "train"): sets.train, **sets.of_test}.items():
        outputs = fetch_outputs(shared, {"features"})
        tables.append(project_sample(projection, outputs, group=group, image_set=name))
    parts.write(PROJECTION, {"shares": projection.shares}, pd.concat(tables, ignore_index=True))


def describe(sets: SharedSets, synthetic: SharedOutputs | None, parts: Parts) -> None:
    """ID accuracy, and the share of synthetic images that the network gives their label; runs in a Ray task.

    With covariate-shifted sets also the accuracy over all images of the ID test set and of these together, which is
    OpenOOD's of the full spectrum. The share of a class without synthetic images is None.
    """
    from sio_ray.ood.protocol import id_accuracy

    accuracies, sizes = [], []
    for shared in (sets.test, *sets.shifted.values()):
        outputs = fetch_outputs(shared, {"logits"})
        accuracies.append(id_accuracy(outputs))
        sizes.append(len(outputs))
    values: dict[str, Any] = {"accuracy": accuracies[0], "agreement": None}
    if sets.shifted:
        values["full_spectrum_accuracy"] = float(np.average(accuracies, weights=sizes))
    if synthetic is not None:
        outputs = fetch_outputs(synthetic, {"logits"})
        agrees = (outputs.logits.argmax(1) == outputs.labels).double()
        classes = range(outputs.logits.shape[1])
        of_class = (agrees[outputs.labels == c] for c in classes)
        by_class = [each.mean().item() if len(each) else None for each in of_class]
        values["agreement"] = {"mean": agrees.mean().item(), "by_class": by_class}
    parts.write(ABOUT, values)
