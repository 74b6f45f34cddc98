"""Networks that somebody else trained; a new place they come from is a file here, a name, and a line in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable

from sio_ray.evaluation.foreign.found import Found
from sio_ray.evaluation.foreign.openood import find_openood
from sio_ray.evaluation.foreign.timm import find_timm
from sio_ray.evaluation.foreign.torchvision import find_torchvision
from sio_ray.evaluation.references import SourceName

#: What stands before a reference's colon to what finds the network; takes the reference, the ID set's constants and
#: whether weights may be downloaded.
SOURCES: dict[SourceName, Callable[..., Found]] = {
    "openood": find_openood,
    "torchvision": find_torchvision,
    "timm": find_timm,
}

__all__ = ["SOURCES", "Found"]
