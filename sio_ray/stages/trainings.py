"""What a config with methods stands for: one ordinary config per training, whose networks several methods share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sio_ray.config import Config
from sio_ray.methods import METHODS

#: Fields of `train` that one algorithm reads, and the others refuse.
ALGORITHM_FIELDS = {
    "outlier_set": "outlier_exposure",
    "outlier_batch_size": "outlier_exposure",
    "mixing_set": "pixmix",
}


@dataclass(frozen=True)
class Training:
    """The networks of one training algorithm, and what is made of them.

    Attributes:
        name: the algorithm, and the number of networks that are scored as one where that is not 1.
        config: an ordinary one, with no methods: the algorithm, the ensemble, and the detectors of the methods.
        methods: detector to the method that it is on these networks; empty where the config names no methods.
    """

    name: str
    config: Config
    methods: Mapping[str, str]


def trainings(config: Config) -> list[Training]:
    """All trainings of a config, in the order of its methods; without methods, the config itself."""
    if not config.methods:
        return [Training(config.train.algorithm, config, {})]
    by_networks: dict[tuple[str, int], dict[str, str]] = {}
    for name in config.method_names:
        method = METHODS[name]
        by_networks.setdefault((method.algorithm, method.ensemble_size), {})[method.detector] = name
    return [
        Training(
            algorithm + (f", {ensemble_size} networks" if ensemble_size > 1 else ""),
            _ordinary(config, algorithm, ensemble_size, tuple(methods)),
            methods,
        )
        for (algorithm, ensemble_size), methods in by_networks.items()
    ]


def _ordinary(config: Config, algorithm: str, ensemble_size: int, detectors: tuple[str, ...]) -> Config:
    idle = {field: None for field, reader in ALGORITHM_FIELDS.items() if reader != algorithm}
    train = config.train.model_copy(update={"algorithm": algorithm, "ensemble_size": ensemble_size, **idle})
    options = {name: given for name, given in config.evaluate.detector_options.items() if name in detectors}
    evaluate = config.evaluate.model_copy(update={"detectors": detectors, "detector_options": options})
    return config.model_copy(update={"train": train, "evaluate": evaluate, "methods": ()})
