"""A report of a small study with real pictures and random scores, as the report stage would gather it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits, load_sample_image

from sio_ray.config import build_config
from sio_ray.ood.metrics import ood_metrics
from sio_ray.report.data import ClassGrid, Curve, ReportData, StageTime

DETECTORS = ("msp", "max_logit", "energy", "knn", "odin", "vim")
OOD_SETS = (("near", "digits_6_9"), ("far", "letters"), ("far", "photo_patches"), ("far", "noise"))
NUM_IMAGES = 216
SEPARATION = {"digits_6_9": 1.0, "letters": 1.8, "photo_patches": 2.4, "noise": 2.9}


def make_data(
    *,
    arms: tuple[str, ...] = ("baseline", "sio"),
    seeds: tuple[int, ...] = (0, 1),
    shift: float = 0.35,
    spread: float = 0.03,
    **changes: Any,
) -> ReportData:
    """Build a whole report.

    Args:
        arms: that were run.
        seeds: of each.
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
    scores, metrics, curves, accuracies = [], [], [], []
    for arm in arms:
        for number, seed in enumerate(seeds):
            gain = shift * (arm == "sio") + spread * (-1) ** number
            for i, detector in enumerate(DETECTORS):
                id_scores = rng.normal(0, 1, NUM_IMAGES)
                scores.append(_scores(arm, seed, detector, "id", "test", id_scores))
                for group, name in OOD_SETS:
                    ood = rng.normal(SEPARATION[name] + gain + 0.1 * i, 1.2, NUM_IMAGES)
                    scores.append(_scores(arm, seed, detector, group, name, ood))
                    row = {"arm": arm, "seed": seed, "detector": detector, "group": group, "ood_set": name}
                    metrics.append(row | dataclasses.asdict(ood_metrics(id_scores, ood)))
            curves.append(_curve(rng, arm, seed))
            accuracies.append({"arm": arm, "seed": seed, "accuracy": 0.972 + 0.008 * (arm == "sio") + 0.002 * number})
    generator = [
        {"step": float(step), "loss": 0.9 * np.exp(-step / 150) + 0.14 + 0.01 * rng.normal()}
        for step in range(50, 1201, 50)
    ]
    data = ReportData(
        title="SIO on scikit-learn's digits",
        config=config,
        metrics=pd.DataFrame(metrics),
        id_accuracy=pd.DataFrame(accuracies),
        scores=pd.concat(scores, ignore_index=True),
        class_grids=_class_grids(rng),
        ood_grids=_ood_grids(rng),
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
