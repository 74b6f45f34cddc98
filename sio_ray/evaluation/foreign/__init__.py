"""Networks that somebody else trained; a new place they come from is a file beside this one and a line in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable

from sio_ray.evaluation.foreign.found import Found
from sio_ray.evaluation.foreign.openood import find_openood
from sio_ray.evaluation.foreign.timm import find_timm
from sio_ray.evaluation.foreign.torchvision import find_torchvision

#: What stands before a reference's colon to what finds the network; takes the reference, the ID set's constants and
#: whether weights may be downloaded.
SOURCES: dict[str, Callable[..., Found]] = {
    "openood": find_openood,
    "torchvision": find_torchvision,
    "timm": find_timm,
}

__all__ = ["SOURCES", "Found"]
