"""Where real images come from: one file per source, and the sets that are drawn because no data is needed for them."""

from __future__ import annotations

from collections.abc import Callable

from sio_ray.config import PrepareConfig
from sio_ray.datasets.digits import load_digits_source
from sio_ray.datasets.image_folder import load_image_folder
from sio_ray.datasets.source import SourceCollection, SourceSet

#: Loader of each `prepare.source`.
SOURCES: dict[str, Callable[[PrepareConfig], SourceCollection]] = {
    "digits": load_digits_source,
    "image_folder": load_image_folder,
}


def load_source(config: PrepareConfig) -> SourceCollection:
    """Load all real sets of the source that the config names.

    Raises:
        ConfigError: a field does not fit the source.
        ImageSetError: the pictures cannot be read, or are too few.
    """
    return SOURCES[config.source](config)


__all__ = ["SOURCES", "SourceCollection", "SourceSet", "load_source"]
