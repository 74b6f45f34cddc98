"""What is evaluated: networks, the image sets that they run over, and where what they say is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from sio_ray.cluster import limit_threads, value_of
from sio_ray.config import ClusterConfig, EvaluateConfig
from sio_ray.config.evaluate_section import Arm
from sio_ray.evaluation.extraction import Extraction, ExtractionCost, extract_all
from sio_ray.evaluation.scoring import SharedSets
from sio_ray.evaluation.shared_outputs import SharedOutputs, share_outputs
from sio_ray.imageset import ImageSet
from sio_ray.ood.detectors import Detector
from sio_ray.ood.detectors.reading import probes_of, probes_of_train
from sio_ray.ood.groups import OODSet
from sio_ray.ood.outputs import LastLayer, NetworkOutputs
from sio_ray.ood.probe import Probe
from sio_ray.ood.protocol import FittingSets, choose
from sio_ray.ood.store import OutputStore

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluatedSets:
    """Paths or URIs of all image sets; see `EvaluationSets` for what each is for.

    Attributes:
        synthetic: what baselines are asked to label, so that the generator's labels can be judged; None for none.
    """

    train: str
    val: str
    test: str
    ood: Mapping[OODSet, str]
    val_ood: Mapping[OODSet, str]
    shifted: Mapping[str, str]
    synthetic: str | None = None

    @property
    def of_val(self) -> dict[str, str]:
        """The validation sets, by a name for each."""
        return {"id/val": self.val, **{f"{group}/val/{name}": uri for (group, name), uri in self.val_ood.items()}}

    @property
    def of_test(self) -> dict[str, str]:
        """The test sets, by a name for each."""
        return {
            "id/test": self.test,
            **{f"id_shifted/{name}": uri for name, uri in self.shifted.items()},
            **{f"{group}/test/{name}": uri for (group, name), uri in self.ood.items()},
        }


@dataclass(frozen=True)
class Subject:
    """One network, or an ensemble that is scored as one.

    Attributes:
        arm: whose figures these are.
        seed: of the training run, or its number among networks that were given.
        references: for `load_network`.
        sha256: of the files of each.
        last_layer: None if it is not linear.
        detectors: that score it.
        folder: of all its outputs.
    """

    arm: Arm
    seed: int
    references: tuple[str, ...]
    sha256: tuple[str, ...]
    last_layer: LastLayer | None
    detectors: tuple[Detector, ...]
    folder: str

    @property
    def name(self) -> str:
        """Such as `sio, seed 0`."""
        return f"{self.arm}, seed {self.seed}"

    def store(self, name: str, uri: str) -> str:
        """The folder of its outputs for an image set; another content of the set has another."""
        return f"{self.folder}/{name.replace('/', '-')}-{ImageSet(uri).manifest.content_id[:12]}"

    def extraction(self, name: str, uri: str, probes: Sequence[Probe]) -> Extraction:
        """Its pass over an image set."""
        identity: dict[str, Any] = {"network": list(self.sha256)}
        return Extraction(self.name, self.references, uri, self.store(name, uri), tuple(probes), identity)


@dataclass(frozen=True)
class Extracted:
    """A subject that has run over all sets.

    Attributes:
        subject: the network.
        sets: that it ran over.
        probes: what was read of validation sets.
        chosen: detector to what was read for it of test sets.
    """

    subject: Subject
    sets: EvaluatedSets
    probes: tuple[Probe, ...]
    chosen: Mapping[str, tuple[Probe, ...]]

    def share(self) -> SharedSets:
        """Begin to read all that detectors read into the object store."""
        sets = self.sets
        val = {name: self._share(name, uri, self.probes) for name, uri in sets.of_val.items()}
        test = {name: self._share(name, uri, _each_once(self.chosen)) for name, uri in sets.of_test.items()}
        return SharedSets(
            train=self._share("id/train", sets.train, probes_of_train(self.subject.detectors)),
            val=val["id/val"],
            test=test["id/test"],
            ood={(group, name): test[f"{group}/test/{name}"] for group, name in sets.ood},
            val_ood={(group, name): val[f"{group}/val/{name}"] for group, name in sets.val_ood},
            shifted={name: test[f"id_shifted/{name}"] for name in sets.shifted},
            last_layer=self.subject.last_layer,
            chosen={name: [probe.name for probe in probes] for name, probes in self.chosen.items()},
        )

    def share_synthetic(self) -> SharedOutputs | None:
        """What a baseline says of the synthetic set, if there is one."""
        uri = self.sets.synthetic if self.subject.arm == "baseline" else None
        return None if uri is None else share_outputs(self.subject.store("synthetic", uri), {"logits"})

    def _share(self, name: str, uri: str, probes: Sequence[Probe]) -> SharedOutputs:
        return share_outputs(self.subject.store(name, uri), probes=probes)


def extract_sets(
    subjects: Sequence[Subject], sets: EvaluatedSets, section: EvaluateConfig, cluster: ClusterConfig
) -> tuple[list[Extracted], ExtractionCost]:
    """Run every network over every image set; what is there already is kept.

    Each image passes a network once. Training and validation sets go first where a detector's probes are fitted to the
    one, or chosen on the other; validation sets go again only for probes that are fitted.

    Raises:
        EvaluationError, CheckpointError, ConfigError, ImageSetError, ResourceError: see `extract_all`.
    """
    info, cost = ImageSet(sets.train).info, ExtractionCost()
    probes = [probes_of(subject.detectors) for subject in subjects]
    chosen = [{each.name: each.chosen_probes() for each in subject.detectors} for subject in subjects]
    passes = []
    for subject, of_subject in zip(subjects, probes, strict=True):
        passes.append(subject.extraction("id/train", sets.train, probes_of_train(subject.detectors)))
        passes += _passes(subject, sets.of_val, [probe for probe in of_subject if not probe.fits])
        if subject.arm == "baseline" and sets.synthetic is not None:
            passes.append(subject.extraction("synthetic", sets.synthetic, ()))
    if any(each.chosen_probes() != each.probes() for subject in subjects for each in subject.detectors) or any(
        probe.fits for of_subject in probes for probe in of_subject
    ):
        cost += extract_all(_each_folder(passes), info, section, cluster)
        probes = _on_cluster(_fit_probes, section, [(subject, sets) for subject in subjects])
        pairs = list(zip(subjects, probes, strict=True))
        again = [each for subject, of_val in pairs for each in _passes(subject, sets.of_val, of_val)]
        cost += extract_all(_each_folder(again), info, section, cluster)
        chosen = _on_cluster(_choose_probes, section, [(*pair, sets, section.sweep) for pair in pairs])
        passes = []
    for subject, of_detector in zip(subjects, chosen, strict=True):
        passes += _passes(subject, sets.of_test, _each_once(of_detector))
    cost += extract_all(_each_folder(passes), info, section, cluster)
    read = zip(subjects, probes, chosen, strict=True)
    return [Extracted(subject, sets, of_val, of_test) for subject, of_val, of_test in read], cost


def _passes(subject: Subject, sets: Mapping[str, str], probes: Sequence[Probe]) -> list[Extraction]:
    return [subject.extraction(name, uri, probes) for name, uri in sets.items()]


def _each_folder(passes: Sequence[Extraction]) -> list[Extraction]:
    """Each once; two subjects of the same weights share a folder, as SIO's do with the baseline's at a weight of 1."""
    return list({each.folder: each for each in passes}.values())


def _each_once(of_detector: Mapping[str, Sequence[Probe]]) -> list[Probe]:
    return list({probe.name: probe for probes in of_detector.values() for probe in probes}.values())


def _on_cluster(function: Callable[..., T], section: EvaluateConfig, calls: Sequence[tuple[Any, ...]]) -> list[T]:
    """Call a function in a task for each tuple of arguments."""
    task = ray.remote(num_cpus=section.cpus_per_task)(_with_threads)
    return [value_of(ref) for ref in [task.remote(function, section.cpus_per_task, *call) for call in calls]]


def _with_threads(function: Callable[..., T], cpus: int, *arguments: Any) -> T:
    limit_threads(cpus)
    return function(*arguments)


def _fit_probes(subject: Subject, sets: EvaluatedSets) -> tuple[Probe, ...]:
    """What is read of validation sets, fitted to the training set; runs in a task."""
    train = OutputStore(subject.store("id/train", sets.train)).read((), probes_of_train(subject.detectors))
    return tuple(probe.fitted(train) for probe in probes_of(subject.detectors))


def _choose_probes(
    subject: Subject, probes: Sequence[Probe], sets: EvaluatedSets, sweep: bool
) -> dict[str, tuple[Probe, ...]]:
    """What detectors read of test sets; those whose options decide that choose them first. Runs in a task."""
    fitted = {probe.name: probe for probe in probes}

    def outputs(detector: Detector, name: str, uri: str, probes: Sequence[Probe]) -> NetworkOutputs:
        return OutputStore(subject.store(name, uri)).read(detector.needs, probes)

    def after_sweep(detector: Detector) -> tuple[Probe, ...]:
        read = [fitted[probe.name] for probe in detector.probes()]
        if detector.chosen_probes() == detector.probes():
            return tuple(read)
        val = {name: outputs(detector, name, uri, read) for name, uri in sets.of_val.items()}
        fitting = FittingSets(
            train=outputs(detector, "id/train", sets.train, probes_of_train([detector])),
            val=val["id/val"],
            val_ood={(group, name): val[f"{group}/val/{name}"] for group, name in sets.val_ood},
            last_layer=subject.last_layer,
        )
        return choose(detector, fitting, sweep=sweep).detector.chosen_probes()

    return {detector.name: after_sweep(detector) for detector in subject.detectors}
