"""The curation rule: keep a picture if a real-trained classifier gives it its label, with a confidence in a range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from sio_ray.classifier.checkpoint import load_classifier
from sio_ray.config import CurationConfig
from sio_ray.errors import ImageSetError
from sio_ray.imageset import ImageSetInfo
from sio_ray.imageset.pictures import UInt8Array


class Curator:
    """Decides picture by picture.

    Args:
        config: the rule; names a classifier.
        info: the set that is drawn.
        device: where the classifier runs.

    Raises:
        CheckpointError: the classifier cannot be loaded.
        ImageSetError: it is of other classes or pictures.
    """

    def __init__(self, config: CurationConfig, info: ImageSetInfo, device: str = "cpu") -> None:
        self._config, self._device = config, device
        self._classifier = load_classifier(str(config.classifier)).to(device)
        architecture = self._classifier.architecture
        if not architecture.suits(info.class_names, info.image_shape):
            theirs, ours = (architecture.image_shape, architecture.class_names), (info.image_shape, info.class_names)
            raise ImageSetError(
                f"the classifier {config.classifier} knows {_describe(*theirs)}, the set has {_describe(*ours)}; "
                "give generate.curation.classifier one that was trained on the same classes and pictures."
            )

    @property
    def max_attempts(self) -> int:
        """Pictures drawn for one place before its shard fails."""
        return self._config.max_attempts

    @torch.no_grad()
    def keeps(self, pictures: UInt8Array, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(B,) which of (B, C, H, W) uint8 pictures to keep, given the (B,) labels that they were drawn for."""
        images = torch.from_numpy(pictures).to(self._device).float() / 255
        asked = torch.from_numpy(labels).to(self._device)
        probabilities = self._classifier(images).float().softmax(1)
        confidence = probabilities.gather(1, asked[:, None])[:, 0]
        agrees = probabilities.argmax(1) == asked
        in_range = (confidence >= self._config.min_confidence) & (confidence <= self._config.max_confidence)
        kept: npt.NDArray[np.bool_] = (agrees & in_range).cpu().numpy()
        return kept


def _describe(shape: tuple[int, int, int], class_names: tuple[str, ...]) -> str:
    shown = ", ".join([*class_names[:3], *(["..."] if len(class_names) > 3 else [])])
    return f"{len(class_names)} classes ({shown}) of {'x'.join(map(str, shape))}"
