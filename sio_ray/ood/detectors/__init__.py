"""The table of detectors; a new one is a file beside this one, imported here, and a line in `DETECTORS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sio_ray.errors import ConfigError, did_you_mean
from sio_ray.ood.detectors.ash import ASH
from sio_ray.ood.detectors.base import Detector, Setting, Sizes
from sio_ray.ood.detectors.cop import CoP
from sio_ray.ood.detectors.corp import CoRP
from sio_ray.ood.detectors.dice import DICE
from sio_ray.ood.detectors.energy import Energy
from sio_ray.ood.detectors.fdbd import FDBD
from sio_ray.ood.detectors.g_odin import GODIN
from sio_ray.ood.detectors.gen import GEN
from sio_ray.ood.detectors.grad_norm import GradNorm
from sio_ray.ood.detectors.gram import Gram
from sio_ray.ood.detectors.klm import KLM
from sio_ray.ood.detectors.knn import KNN
from sio_ray.ood.detectors.max_logit import MaxLogit
from sio_ray.ood.detectors.mds import MDS
from sio_ray.ood.detectors.mds_ens import MDSEns
from sio_ray.ood.detectors.mds_plus_plus import MDSPlusPlus
from sio_ray.ood.detectors.msp import MSP
from sio_ray.ood.detectors.nci import NCI
from sio_ray.ood.detectors.neco import NECO
from sio_ray.ood.detectors.nnguide import NNGuide
from sio_ray.ood.detectors.odin import ODIN
from sio_ray.ood.detectors.openmax import OpenMax
from sio_ray.ood.detectors.rank_feat import RankFeat
from sio_ray.ood.detectors.react import ReAct
from sio_ray.ood.detectors.relation import Relation
from sio_ray.ood.detectors.residual import Residual
from sio_ray.ood.detectors.rmds import RMDS
from sio_ray.ood.detectors.scale import SCALE
from sio_ray.ood.detectors.she import SHE
from sio_ray.ood.detectors.temp_scale import TempScale
from sio_ray.ood.detectors.vim import ViM
from sio_ray.ood.detectors.vra import VRA

__all__ = ["DETECTORS", "Detector", "Setting", "Sizes", "build_detectors"]

#: Name in the config to detector, in the order of tables: what reads logits, then features, then more of the network.
DETECTORS: dict[str, type[Detector]] = {
    "msp": MSP,
    "temp_scale": TempScale,
    "max_logit": MaxLogit,
    "energy": Energy,
    "gen": GEN,
    "klm": KLM,
    "openmax": OpenMax,
    "react": ReAct,
    "dice": DICE,
    "ash": ASH,
    "scale": SCALE,
    "vra": VRA,
    "nci": NCI,
    "fdbd": FDBD,
    "grad_norm": GradNorm,
    "she": SHE,
    "residual": Residual,
    "vim": ViM,
    "mds": MDS,
    "rmds": RMDS,
    "mds_plus_plus": MDSPlusPlus,
    "neco": NECO,
    "cop": CoP,
    "corp": CoRP,
    "knn": KNN,
    "nnguide": NNGuide,
    "relation": Relation,
    "odin": ODIN,
    "g_odin": GODIN,
    "mds_ens": MDSEns,
    "gram": Gram,
    "rank_feat": RankFeat,
}


def build_detectors(
    names: Sequence[str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    field: str = "evaluate.detectors",
    device: torch.device | str = "cpu",
) -> list[Detector]:
    """Make detectors in the order of their names.

    Args:
        names: keys of `DETECTORS`, each once, at least one.
        options: name to options, where a detector's defaults are not wanted; of detectors in `names` alone.
        field: the field of the config that the names come from; what an error names.
        device: where large matrix products run.

    Raises:
        ConfigError: no name, an unknown name, a name twice, or options that do not suit.
    """
    for name in names:
        if name not in DETECTORS:
            raise ConfigError(field, f"among {', '.join(DETECTORS)}", name, did_you_mean(name, DETECTORS))
    if not names or len(set(names)) != len(names):
        raise ConfigError(field, "one or more names without repeats", list(names), "name each detector once")
    options = options or {}
    for name in options:
        if name not in names:
            raise ConfigError("evaluate.detector_options", f"of detectors in {field}", name, did_you_mean(name, names))
    return [DETECTORS[name](device=device, **options.get(name, {})) for name in names]
