"""Image sets from and to other people's formats, one file per format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sio_ray.errors import ConfigError, ImageSetError, did_you_mean
from sio_ray.imageset.exchange import image_folder, npy, openood, torchvision, webdataset
from sio_ray.imageset.exchange.place import new_folder
from sio_ray.imageset.exchange.source import Source
from sio_ray.imageset.files import is_shard
from sio_ray.imageset.manifest import MANIFEST_NAME, Manifest
from sio_ray.imageset.reader import ImageSet
from sio_ray.imageset.storage import PARTIAL_SUFFIX, Folder
from sio_ray.imageset.writer import Batch, stream_image_set

T = TypeVar("T")

#: Format to what opens a source of it, and the options that it takes.
IMPORTERS: dict[str, tuple[Callable[..., Source], frozenset[str]]] = {
    "npy": (npy.open_source, frozenset({"class_names"})),
    "image-folder": (image_folder.open_source, frozenset({"size_px", "channels"})),
    "openood": (openood.open_source, frozenset({"size_px", "channels", "root", "class_names"})),
    "torchvision": (
        torchvision.open_source,
        frozenset({"size_px", "channels", "root", "class_names", "split", "download"}),
    ),
}

#: Format to what writes a set into a new, empty folder and calls back with the number of images of each shard.
EXPORTERS: dict[str, Callable[[ImageSet, Path, Callable[[int], None]], None]] = {
    "npy": npy.write_files,
    "image-folder": image_folder.write_files,
    "webdataset": webdataset.write_files,
}

#: Options of the library to those of the command, for messages.
_OPTION_NAMES = {"size_px": "--size", "channels": "--grey/--rgb", "class_names": "--class-names"}

#: A shard holds at most so many images, and at most so many bytes of pixels.
_MAX_IMAGES_PER_SHARD, _MAX_PIXEL_BYTES_PER_SHARD = 4096, 2**28


def import_images(
    format_name: str,
    source: str,
    dest: str,
    *,
    images_per_shard: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Manifest:
    """Write foreign pictures as an image set, as a stream.

    Args:
        format_name: a key of `IMPORTERS`.
        source: what to read; a path, or the name of a torchvision data set.
        dest: path or URI of the set; what an interrupted import left there is overwritten.
        images_per_shard: rows of every shard but the last; 4,096 or fewer by the size of the pictures if not given.
        on_images: called while it goes on with the number of images done, and of all.
        options: of the format; None is not given.

    Raises:
        ConfigError: no such format, or an option that it does not take.
        ImageSetError: the set exists, or the source cannot be used.
        ResourceError: the set cannot be written.
    """
    open_source, allowed = _known(format_name, IMPORTERS)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - allowed:
        takers = ", ".join(other for other, (_, names) in IMPORTERS.items() if name in names)
        option = _OPTION_NAMES.get(name, f"--{name}")
        raise ConfigError(option, f"given only with --format {takers}", format_name, "leave it out")
    folder = Folder(dest)
    _refuse_occupied(folder)
    opened = open_source(source, **given)
    if images_per_shard is None:
        pixel_bytes = opened.info.height_px * opened.info.width_px * opened.info.channels
        images_per_shard = max(1, min(_MAX_IMAGES_PER_SHARD, _MAX_PIXEL_BYTES_PER_SHARD // pixel_bytes))

    def read(start: int, stop: int) -> Batch:
        batch = opened.read(start, stop)
        if on_images is not None:
            on_images(stop, opened.num_images)
        return batch

    return stream_image_set(dest, opened.info, opened.num_images, read, images_per_shard=images_per_shard)


def export_images(
    format_name: str, uri: str, dest: Path, *, on_images: Callable[[int, int], None] | None = None
) -> ImageSet:
    """Write an image set in another format; the folder appears whole or not at all.

    Args:
        format_name: a key of `EXPORTERS`.
        uri: path or URI of the set.
        dest: the folder to make.
        on_images: called while it goes on with the number of images done, and of all.

    Returns:
        The set that was read.

    Raises:
        ConfigError: no such format.
        ImageSetError: the set cannot be read, or the folder exists.
        ResourceError: the folder cannot be written.
    """
    write_files = _known(format_name, EXPORTERS)
    image_set = ImageSet(uri)
    done = 0

    def count(num_images: int) -> None:
        nonlocal done
        done += num_images
        if on_images is not None:
            on_images(done, len(image_set))

    with new_folder(dest) as partial:
        write_files(image_set, partial, count)
    return image_set


def _known(name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise ConfigError("--format", f"among {', '.join(table)}", name, did_you_mean(name, table))
    return table[name]


def _refuse_occupied(folder: Folder) -> None:
    """An interrupted import may be overwritten; nothing else may, such as shards that were drawn by the hour."""
    names = folder.files()
    if MANIFEST_NAME in names:
        raise ImageSetError(f"image set {folder.safe_uri} exists already; give another folder, or delete it first.")
    others = sorted(name for name in names if not is_shard(name) and not name.endswith(PARTIAL_SUFFIX))
    if others:
        raise ImageSetError(
            f"{folder.safe_uri} holds files that no import wrote "
            f"({', '.join(others[:3])}{', ...' * (len(others) > 3)}); give another folder."
        )
