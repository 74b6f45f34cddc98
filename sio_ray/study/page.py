"""Writes the page of a study and its pictures."""

from __future__ import annotations

import os
from pathlib import Path

from sio_ray.imageset.storage import Folder
from sio_ray.study.figures import draw_ablation, draw_methods, draw_pictures
from sio_ray.study.markdown import to_markdown
from sio_ray.study.results import StudyResults


def write_study(results: StudyResults, page: Path, pictures: Path, command: str) -> list[Path]:
    """Write the page, and the pictures that it links.

    Args:
        results: of the study.
        page: the Markdown file.
        pictures: folder of the pictures.
        command: that does all this.

    Returns:
        The files, the page last.

    Raises:
        ResourceError: a folder cannot be written.
    """
    drawn: dict[str, tuple[str, bytes]] = {
        name: (f"{name}.svg", draw_methods([*results.rows, results.mean], name)) for name in ("near", "far")
    }
    if results.data.class_grids:
        drawn["pictures"] = ("pictures.png", draw_pictures(results.data.class_grids))
    for ablation, rows in results.ablations:
        if (svg := draw_ablation(ablation, rows)) is not None:
            drawn[ablation.name] = (f"{ablation.name}.svg", svg)
    folder = Folder(str(pictures.absolute()))
    for file, content in drawn.values():
        folder.write_bytes(file, content)
    beside = page.absolute().parent
    links = {
        name: Path(os.path.relpath(pictures.absolute() / file, beside)).as_posix() for name, (file, _) in drawn.items()
    }
    Folder(str(beside)).write_bytes(page.name, to_markdown(results, links, command).encode())
    return [*(pictures / file for file, _ in drawn.values()), page]
