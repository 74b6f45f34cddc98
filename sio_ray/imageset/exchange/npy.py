"""The pair `images.npy` and `labels.npy`, as the authors of SIO keep synthetic images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sio_ray.errors import ImageSetError
from sio_ray.imageset.exchange.source import Source, checked_info, name_classes
from sio_ray.imageset.reader import ImageSet
from sio_ray.imageset.writer import Batch
from sio_ray.reading import reason_of

IMAGES_NAME, LABELS_NAME = "images.npy", "labels.npy"


def open_source(source: str, class_names: tuple[str, ...] | None = None) -> Source:
    """Open a pair without reading it.

    Args:
        source: the folder of both, or the images file, beside which `labels.npy` lies. Images are uint8, (N, H, W, C)
            or (N, H, W); labels are integers, (N,), in [0, num_classes) or all -1.
        class_names: name of class c at position c; "0", "1", ... if not given.

    Raises:
        ImageSetError: a file is missing, or holds something else.
    """
    path = Path(source)
    images_path = path / IMAGES_NAME if path.is_dir() else path
    images, labels = _map(images_path), _map(images_path.with_name(LABELS_NAME))
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise ImageSetError(
            f"{images_path} must hold uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), got "
            f"{images.dtype} of shape {images.shape}; convert it first."
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ImageSetError(
            f"{images_path.with_name(LABELS_NAME)} must hold {len(images)} integers, one for each image, got "
            f"{labels.dtype} of shape {labels.shape}; give the labels of these images."
        )
    labels = labels.astype(np.int64)
    info = checked_info(
        class_names=name_classes(source, labels, class_names),
        height_px=images.shape[1],
        width_px=images.shape[2],
        channels=1 if images.ndim == 3 else images.shape[3],
        provenance={"source": "npy", "path": source},
    )

    def read(start: int, stop: int) -> Batch:
        rows = np.asarray(images[start:stop])
        return Batch(rows[:, None] if rows.ndim == 3 else rows.transpose(0, 3, 1, 2), labels[start:stop])

    return Source(info, len(images), read)


def _map(path: Path) -> npt.NDArray[Any]:
    try:
        # Not numpy.load, which opens an archive of arrays too; neither unpickles here.
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ImageSetError(f"{path} is missing; give a folder with {IMAGES_NAME} and {LABELS_NAME}.") from None
    except Exception as error:  # its header is parsed as Python's literals, which raise of many kinds
        raise ImageSetError(
            f"{path} is no .npy file of numbers ({reason_of(error)}); save it with numpy.save."
        ) from error


def write_files(image_set: ImageSet, folder: Path, on_images: Callable[[int], None]) -> None:
    """Write both files; a grey set becomes (N, H, W), any other (N, H, W, C); labels are int64."""
    channels, height, width = image_set.info.image_shape
    shape = (len(image_set), height, width) if channels == 1 else (len(image_set), height, width, channels)
    labels = []
    with (folder / IMAGES_NAME).open("wb") as stream:
        # Written and not mapped: a full disk is an error here, and the end of the process there.
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for arrays in image_set.shards():
            rows = arrays.images[:, 0] if channels == 1 else arrays.images.transpose(0, 2, 3, 1)
            stream.write(rows.tobytes())
            labels.append(arrays.labels)
            on_images(len(arrays))
    np.save(folder / LABELS_NAME, np.concatenate(labels))
