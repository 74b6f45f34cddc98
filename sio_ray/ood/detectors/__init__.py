"""The table of detectors; a new one is a file beside this one, imported here, and a line in `DETECTORS`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sio_ray.errors import ConfigError
from sio_ray.ood.detectors.base import Detector
from sio_ray.ood.detectors.energy import Energy
from sio_ray.ood.detectors.knn import KNN
from sio_ray.ood.detectors.max_logit import MaxLogit
from sio_ray.ood.detectors.msp import MSP
from sio_ray.ood.detectors.odin import ODIN
from sio_ray.ood.detectors.vim import ViM

__all__ = ["DETECTORS", "Detector", "build_detectors"]

#: Name in the config to detector.
DETECTORS: dict[str, type[Detector]] = {
    "msp": MSP,
    "max_logit": MaxLogit,
    "energy": Energy,
    "knn": KNN,
    "odin": ODIN,
    "vim": ViM,
}


def build_detectors(
    names: Sequence[str], *, field: str = "evaluate.detectors", has_last_layer: bool = True
) -> list[Detector]:
    """Make detectors with their default hyperparameters, in the order of their names.

    Args:
        names: keys of `DETECTORS`, each once, at least one.
        field: the field of the config that the names come from; what an error names.
        has_last_layer: whether the network to score is a single one with a linear head.

    Raises:
        ConfigError: no name, an unknown name, a name twice, or a detector that reads a last layer that is not there.
    """
    for name in names:
        if name not in DETECTORS:
            near = difflib.get_close_matches(name, DETECTORS, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}" if near else "choose from these"
            raise ConfigError(field, f"among {', '.join(DETECTORS)}", name, remedy)
    if not names or len(set(names)) != len(names):
        raise ConfigError(field, "one or more names without repeats", list(names), "name each detector once")
    for name in names:
        if not has_last_layer and "last_layer" in DETECTORS[name].needs:
            usable = ", ".join(other for other, cls in DETECTORS.items() if "last_layer" not in cls.needs)
            raise ConfigError(
                field,
                f"among {usable} for ensembles and heads that are not linear",
                name,
                "it reads the last layer's weights: leave it out",
            )
    return [DETECTORS[name]() for name in names]
