"""What detectors ask of a network: whether it has that, and which probes read which image sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sio_ray.errors import ConfigError, EvaluationError
from sio_ray.ood.detectors import DETECTORS, build_detectors
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.probe import Probe, ScoredNetwork


def lack(detector: Detector, network: ScoredNetwork) -> str | None:
    """What a network would need to have for a detector, such as `a linear last layer`; None if it has all of it."""
    if "last_layer" in detector.needs:
        try:
            _ = network.last_layer
        except EvaluationError:
            return "a linear last layer"
    return next((need for probe in detector.probes() if (need := probe.refusal(network)) is not None), None)


def unsuited(network: ScoredNetwork) -> dict[str, str]:
    """What a network lacks for each detector that does not suit it, by name: those that `all` leaves out."""
    lacks = ((detector.name, lack(detector, network)) for detector in build_detectors(list(DETECTORS)))
    return {name: lacked for name, lacked in lacks if lacked is not None}


def choose_detectors(
    names: Sequence[str],
    options: Mapping[str, Mapping[str, Any]] | None,
    network: ScoredNetwork,
    *,
    field: str = "evaluate.detectors",
) -> list[Detector]:
    """Make detectors that a network can be scored by.

    Args:
        names: as for `build_detectors`, or `all` alone for every detector that suits the network.
        options: as for `build_detectors`.
        network: to score; its weights do not matter.
        field: the field of the config that the names come from; what an error names.

    Raises:
        ConfigError: names or options that do not suit, or a detector that reads what the network has not.
    """
    wants_all = "all" in names
    if wants_all and len(names) > 1:
        raise ConfigError(field, "all, or names", list(names), "give one of the two")
    chosen = []
    for detector in build_detectors(list(DETECTORS) if wants_all else names, options, field=field):
        lacked = lack(detector, network)
        if lacked is None:
            chosen.append(detector)
        elif not wants_all:
            usable = ", ".join(name for name in DETECTORS if name not in unsuited(network))
            rule = f"among {usable} for a network without {lacked}"
            raise ConfigError(field, rule, detector.name, f"leave it out, or set {field}=[all] for all that suit")
    return chosen


def probes_of_train(detectors: Iterable[Detector]) -> tuple[Probe, ...]:
    """What is read of the training set beside features and logits: what detectors or other probes are fitted on."""
    return _each_once(
        probe for detector in detectors if detector.fits_on_probes for probe in detector.probes() if not probe.fits
    )


def probes_of(detectors: Iterable[Detector]) -> tuple[Probe, ...]:
    """What is read of validation sets; probes that are fitted are fitted first, to the outputs of the training set."""
    return _each_once(probe for detector in detectors for probe in detector.probes())


def _each_once(probes: Iterable[Probe]) -> tuple[Probe, ...]:
    return tuple({probe.name: probe for probe in probes}.values())
