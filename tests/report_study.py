"""A report of a small study with real pictures and random scores, as the report stage would gather it."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.datasets import load_digits, load_sample_image

from sio_ray.config import build_config
from sio_ray.ood.metrics import ood_metrics
from sio_ray.ood.projection import to_arrow
from sio_ray.report.data import ClassGrid, Curve, Mistake, Mistakes, ReportData, StageTime

TITLES = {
    "msp": "MSP",
    "max_logit": "Max logit",
    "energy": "Energy",
    "knn": "KNN",
    "odin": "ODIN",
    "vim": "ViM",
}
DETECTORS = tuple(TITLES)
#: As many as the longest table of a real study, with names as long as real ones.
MANY_DETECTORS = {
    **{"msp": "MSP", "temp_scale": "TempScale", "max_logit": "MLS", "energy": "EBO", "gen": "GEN", "klm": "KLM"},
    **{"openmax": "OpenMax", "react": "ReAct", "dice": "DICE", "ash": "ASH-B", "scale": "SCALE", "vra": "VRA-P"},
    **{"nci": "NCI", "fdbd": "fDBD", "grad_norm": "GradNorm", "knn": "KNN", "nnguide": "NNGuide", "mds": "MDS"},
    **{"rmds": "RMDS", "residual": "Residual", "vim": "ViM", "she": "SHE", "relation": "Relation", "odin": "ODIN"},
    **{"gram": "Gram"},
}
OOD_SETS = (("near", "digits_6_9"), ("far", "letters"), ("far", "photo_patches"), ("far", "noise"))
MANY_SETS = (("near", "cifar100"), ("near", "tin"), *(("far", name) for name in ("mnist", "svhn", "textures")))
MANY_SETS += (("far", "places365"), ("far", "inaturalist"))
NUM_IMAGES = 216
SEPARATION = {"digits_6_9": 1.0, "letters": 1.8, "photo_patches": 2.4, "noise": 2.9}
SHARES = (0.41, 0.173)


def make_data(
    *,
    arms: tuple[str, ...] = ("baseline", "sio"),
    seeds: tuple[int, ...] = (0, 1),
    titles: dict[str, str] = TITLES,
    ood_sets: tuple[tuple[str, str], ...] = OOD_SETS,
    shift: float = 0.35,
    spread: float = 0.03,
    **changes: Any,
) -> ReportData:
    """Build a whole report.

    Args:
        arms: that were run.
        seeds: of each.
        titles: detector to its title.
        ood_sets: (group, name) of each.
        shift: how much further apart SIO moves ID and OOD scores, in standard deviations.
        spread: how much a seed moves them.
        changes: fields of the report to replace.
    """
    rng = np.random.default_rng(0)
    config = build_config(
        {
            "name": "digits",
            "prepare": {"seed": 0},
            "train": {"network": "small_cnn", "width": 32, "seeds": list(seeds), "num_steps": 600},
            "report": {"images_per_class": 10},
        }
    )
    scores, metrics = _measured(arms, seeds, tuple(titles), ood_sets, shift, spread)
    curves, accuracies, settings, costs = [], [], [], []
    for arm in arms:
        for number, seed in enumerate(seeds):
            for i, detector in enumerate(titles):
                run = {"arm": arm, "seed": seed, "detector": detector}
                seconds = {"fit_s": 0.1 * i, "sweep_s": 0.5 * (i % 3), "score_s": 0.2 + 0.01 * i, "metrics_s": 0.05}
                costs.append(run | seconds)
                setting = {"k": 50 + 50 * (number == 0)} if detector == "knn" else {}
                settings.append({**run, "setting": setting, "val_auroc": 0.8 if setting else None})
            curves.append(_curve(rng, arm, seed))
            accuracies.append({"arm": arm, "seed": seed, "accuracy": 0.972 + 0.008 * (arm == "sio") + 0.002 * number})
    generator = [
        {"step": float(step), "loss": 0.9 * np.exp(-step / 150) + 0.14 + 0.01 * rng.normal()}
        for step in range(50, 1201, 50)
    ]
    data = ReportData(
        name="digits",
        title="SIO on scikit-learn's digits",
        detector="energy",
        config=config,
        metrics=metrics,
        id_accuracy=pd.DataFrame(accuracies),
        titles=titles,
        papers={name: f"Somebody et al., arXiv:{2000 + i}.00000" for i, name in enumerate(titles)},
        settings=settings,
        sweeps=[{**row, "setting": {"k": k}} for row in settings if row["detector"] == "knn" for k in (50, 100, 200)],
        costs=costs,
        extraction={"seconds": 12.5, "num_images": 4000},
        overlaps=[],
        scores=scores[scores["detector"] == "energy"].drop(columns="detector").reset_index(drop=True),
        class_grids=_class_grids(rng),
        ood_grids=_ood_grids(rng),
        mistakes=_mistakes(arms, seeds[0]),
        projection=pd.concat([_points(rng, arm, seed, ood_sets) for arm in arms for seed in seeds], ignore_index=True),
        explained_variance={(arm, seed): SHARES for arm in arms for seed in seeds},
        quality={
            "label_agreement": 0.948,
            "num_synthetic": 650,
            "num_real": 650,
            "median_distance_synthetic": 0.118,
            "median_distance_held_out": 0.124,
            "num_copies": 0,
            "copy_distance": 0.051,
        },
        classifier_curves=curves,
        generator_curve=Curve("generator", "generator", generator),
        stage_times=[
            StageTime("prepare", 1.9, "data"),
            StageTime("fit-generator", 161.4, "generator"),
            StageTime("generate", 48.2, "synthetic"),
            StageTime("train", 122.7, "classifiers"),
            StageTime("evaluate", 21.3, "evaluation"),
        ],
        provenance={
            "versions": {
                "sio_ray": "0.1.0",
                "torch": "2.11.0",
                "ray": "2.60.0",
                "diffusers": "0.40.0",
                "numpy": "2.4.6",
            },
            "machine": "2 CPU cores, no GPU",
            "date": "2026-11-14T09:30:15+00:00",
            "git_commit": "c710d95",
        },
        commands=["pip install sio_ray", "sio-ray run digits", "sio-ray report digits"],
    )
    return dataclasses.replace(data, **changes)


@cache
def _measured(
    arms: tuple[str, ...],
    seeds: tuple[int, ...],
    detectors: tuple[str, ...],
    ood_sets: tuple[tuple[str, str], ...],
    shift: float,
    spread: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of every image, and the metrics of these."""
    rng = np.random.default_rng(1)
    scores, metrics = [], []
    for arm in arms:
        for number, seed in enumerate(seeds):
            gain = shift * (arm == "sio") + spread * (-1) ** number
            for i, detector in enumerate(detectors):
                id_scores = rng.normal(0, 1, NUM_IMAGES)
                scores.append(_scores(arm, seed, detector, "id", "test", id_scores))
                for j, (group, name) in enumerate(ood_sets):
                    mean = SEPARATION.get(name, 1.0 + 0.25 * j) + gain + 0.1 * (i % 9)
                    ood = rng.normal(mean, 1.2, NUM_IMAGES)
                    scores.append(_scores(arm, seed, detector, group, name, ood))
                    row = {"arm": arm, "seed": seed, "detector": detector, "group": group, "ood_set": name}
                    metrics.append(row | dataclasses.asdict(ood_metrics(id_scores, ood)))
    return pd.concat(scores, ignore_index=True), pd.DataFrame(metrics)


def write_evaluation(folder: Path, data: ReportData, *, whole: bool = True) -> None:
    """Write the files of `evaluate`; without `whole` those alone that an older or foreign one has."""
    folder.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Any] = {"metrics": data.metrics.to_dict("records")}
    scores = pd.concat([data.scores.assign(detector=name) for name in dict.fromkeys(data.metrics["detector"])])
    scores.to_parquet(folder / "scores.parquet", index=False)
    if whole:
        measured |= {
            "id_accuracy": data.id_accuracy.to_dict("records"),
            "settings": list(data.settings),
            "sweeps": list(data.sweeps),
            "costs": list(data.costs),
            "extraction": data.extraction,
            "overlaps": data.overlaps,
            "quality": {**data.quality, "label_agreement_by_class": [0.9] * 6},
        }
        runs = [
            (arm, seed, SHARES, rows.drop(columns=["arm", "seed"]))
            for (arm, seed), rows in data.projection.groupby(["arm", "seed"], sort=False)
        ]
        pq.write_table(to_arrow(runs), folder / "projection.parquet")
    (folder / "metrics.json").write_text(json.dumps(measured))


def _points(rng: np.random.Generator, arm: str, seed: int, ood_sets: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    parts = []
    for i, (group, name) in enumerate((("train", "train"), ("id", "test"), *ood_sets)):
        angles = rng.integers(0, 6, 150) * np.pi / 3
        radius = 4 if group in ("train", "id") else 1.2 + 0.3 * i
        values = {"x": radius * np.cos(angles) + rng.normal(size=150), "y": radius * np.sin(angles)}
        values["y"] += rng.normal(size=150)
        columns = {"arm": arm, "seed": seed, "group": group, "image_set": name}
        parts.append(pd.DataFrame({**columns, "image_id": np.arange(150), "label": -1, **values}))
    return pd.concat(parts, ignore_index=True)


def _mistakes(arms: tuple[str, ...], seed: int) -> list[Mistakes]:
    pixels, labels = load_digits(return_X_y=True)
    pictures = np.round(pixels.reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    found = []
    for group, names in (("near", ("digits_6_9",)), ("far", ("letters", "photo_patches")), ("id", "012345")):
        chosen = np.flatnonzero(labels >= 6 if group == "near" else labels < 6)[:10]
        images = [Mistake(pictures[i], names[n % len(names)], int(i), 0.99 - 0.01 * n) for n, i in enumerate(chosen)]
        found += [Mistakes(arm, seed, group, images) for arm in arms]
    return found


def _scores(arm: str, seed: int, detector: str, group: str, name: str, values: np.ndarray) -> pd.DataFrame:
    ids = np.arange(len(values))
    columns = {"arm": arm, "seed": seed, "detector": detector, "group": group, "image_set": name}
    return pd.DataFrame({**columns, "image_id": ids, "ood_score": values})


def _curve(rng: np.random.Generator, arm: str, seed: int) -> Curve:
    points = [
        {
            "step": float(step),
            "loss": 1.8 * np.exp(-step / 90) + (0.03 if arm == "sio" else 0.008) * (1 + 0.2 * rng.normal()),
            "val_accuracy": 0.975 - 0.6 * np.exp(-step / 60) + 0.004 * rng.normal(),
        }
        for step in range(20, 601, 20)
    ]
    return Curve(f"{arm}, seed {seed}", arm, points)


def _class_grids(rng: np.random.Generator) -> list[ClassGrid]:
    images, labels = load_digits(return_X_y=True)
    pictures = np.round(images.reshape(-1, 1, 8, 8) * 255 / 16)
    grids = []
    for label in range(6):
        real = pictures[labels == label]
        synthetic = np.clip(real[10:20] + rng.normal(0, 18, (10, 1, 8, 8)), 0, 255).astype(np.uint8)
        grids.append(ClassGrid(str(label), real[:10].astype(np.uint8), synthetic, 0.92 + 0.012 * label))
    return grids


def _ood_grids(rng: np.random.Generator) -> list[ClassGrid]:
    images, labels = load_digits(return_X_y=True)
    near = np.round(images[labels >= 6][:10].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    photo = load_sample_image("china.jpg").mean(axis=2).astype(np.uint8)
    patches = np.stack([photo[200 : 200 + 64 : 8, x : x + 64 : 8] for x in range(0, 600, 60)])[:, None]
    noise = rng.integers(0, 256, (10, 1, 8, 8)).astype(np.uint8)
    letters = np.rot90(near, axes=(2, 3))
    return [
        ClassGrid("digits_6_9 (near-OOD)", near),
        ClassGrid("letters (far-OOD)", letters),
        ClassGrid("photo_patches (far-OOD)", patches),
        ClassGrid("noise (far-OOD)", noise),
    ]
