"""WebDataset: tar files whose neighbours of one name are one sample, `000000042.png` and `000000042.cls`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from sio_ray.imageset.exchange.image_folder import safe_name
from sio_ray.imageset.exchange.rows import stored_shards
from sio_ray.imageset.reader import ImageSet


def write_files(image_set: ImageSet, folder: Path, on_images: Callable[[int], None]) -> None:
    """Write one tar per shard, `{set}-000000.tar`; the same set gives the same bytes."""
    name = safe_name(image_set.folder.name)
    for number, rows in enumerate(stored_shards(image_set)):
        with tarfile.open(folder / f"{name}-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                _add(tar, f"{row.image_id:09d}.png", row.png)
                _add(tar, f"{row.image_id:09d}.cls", str(row.label).encode("ascii"))
        on_images(len(rows))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # its time, owner and group are 0 unless set
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
