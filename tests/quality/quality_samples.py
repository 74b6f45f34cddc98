"""Image sets of known quality, and a classifier that is nearly always right, for the quality tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from sio_ray import ImageSet, ImageSetInfo, write_image_set
from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.model import Architecture, Classifier

NAMES = ("dark", "grey", "bright")
INFO = ImageSetInfo(class_names=NAMES, height_px=6, width_px=5, channels=1)


def pictures(count: int, seed: int, *, spread: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Noise of three levels of brightness, the classes in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(NAMES)
    noise = rng.integers(-spread, spread + 1, (count, 1, 6, 5))
    return (50 + 75 * labels[:, None, None, None] + noise).astype(np.uint8), labels


def write_set(folder: Path, images: np.ndarray, labels: np.ndarray, info: ImageSetInfo = INFO) -> ImageSet:
    write_image_set(folder, info, images, labels, images_per_shard=37)
    return ImageSet(folder)


def write_checkpoint(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A network of random features and a last layer fitted to them: right for nearly every picture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        architecture = Architecture(
            network="small_cnn", width=2, class_names=names, image_shape=(1, 6, 5), mean=(0.5,), std=(0.25,)
        )
        classifier = Classifier(architecture).eval()
    images, labels = pictures(300, 99)
    with torch.no_grad():
        features = classifier.features(torch.from_numpy(images).float() / 255)
        fitted = LogisticRegression(C=1e4, max_iter=1000).fit(features / features.std(), labels)
        classifier.last_layer.weight.copy_(torch.from_numpy(fitted.coef_) / features.std())
        classifier.last_layer.bias.copy_(torch.from_numpy(fitted.intercept_))
    save_classifier(folder, architecture, classifier.state_dict())
    return folder
