"""The pictures that a report shows: real beside synthetic ones, OOD sets, and those that detectors take wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sio_ray.config import Config
from sio_ray.imageset import ImageSet
from sio_ray.imageset.lookup import pictures_by_id
from sio_ray.imageset.manifest import MANIFEST_NAME
from sio_ray.imageset.sample import sample_pictures
from sio_ray.imageset.storage import Folder
from sio_ray.redaction import is_redacted
from sio_ray.report.data import ClassGrid, Mistake, Mistakes
from sio_ray.report.mistakes import worst_mistakes
from sio_ray.report.pictures import COLUMNS, choose_classes
from sio_ray.stages.layout import synthetic_set_uri
from sio_ray.stages.prepared_sets import PreparedSets


def class_grids(config: Config, prepared: PreparedSets, quality: Mapping[str, Any]) -> list[ClassGrid]:
    """Real pictures of each class beside synthetic ones, where there are some."""
    train_set = prepared.open("id/train")
    names = train_set.info.class_names
    agreement = quality.get("label_agreement_by_class", [None] * len(names))
    wanted = dict.fromkeys(choose_classes(agreement), config.report.images_per_class)
    real = sample_pictures(train_set, wanted, seed=0)
    synthetic = {}
    uri = synthetic_set_uri(config)
    # A set whose secret no record holds cannot be opened from one.
    if "sio" in config.train.arms and not is_redacted(uri) and Folder(uri).exists(MANIFEST_NAME):
        synthetic = sample_pictures(ImageSet(uri), wanted, seed=0)
    return [
        ClassGrid(name, real.get(label), synthetic.get(label), agreement[label]) for label, name in enumerate(names)
    ]


def ood_grids(config: Config, prepared: PreparedSets) -> list[ClassGrid]:
    """Examples of every OOD test set."""
    wanted = {-1: config.report.images_per_class}
    return [
        ClassGrid(f"{name} ({group}-OOD)", sample_pictures(ImageSet(path), wanted, seed=0)[-1])
        for (group, name), path in prepared.ood("test").items()
    ]


def mistakes(prepared: PreparedSets, scores: pd.DataFrame) -> list[Mistakes]:
    """Of the first seed of each arm, as many as fit in a line of the page."""
    found = []
    paths = {f"{group}/{name}": path for (group, name), path in prepared.ood("test").items()}
    first_seeds = scores.groupby("arm", observed=True)["seed"].min()
    for group in ("near", "far", "id"):
        for arm in [arm for arm in ("baseline", "sio") if arm in first_seeds]:
            run = scores[(scores["arm"] == arm) & (scores["seed"] == first_seeds[arm])]
            worst = worst_mistakes(run, group, COLUMNS)
            images: dict[int, Mistake] = {}
            for name, rows in worst.groupby("image_set", observed=True):
                image_set = prepared.open(f"id/{name}") if group == "id" else ImageSet(paths[f"{group}/{name}"])
                pictures = pictures_by_id(image_set, rows["image_id"])
                for place, image_id, passed in zip(rows.index, rows["image_id"], rows["passed"], strict=True):
                    picture, label = pictures[image_id]
                    called = image_set.info.class_names[label] if group == "id" else str(name)
                    images[place] = Mistake(picture, called, int(image_id), float(passed))
            if images:
                found.append(Mistakes(arm, int(first_seeds[arm]), group, [images[place] for place in sorted(images)]))
    return found
