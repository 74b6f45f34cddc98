"""Weights of torchvision that a classifier starts from, fetched once and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sio_ray.classifier.foreign_weights import read_state_dict, torchvision_names
from sio_ray.classifier.networks import NETWORKS
from sio_ray.errors import CheckpointError
from sio_ray.reading import reason_of

if TYPE_CHECKING:
    from sio_ray.classifier.model import Classifier

#: What reads the pictures' channels.
_FIRST_LAYERS = ("network.conv1.", "network.conv_proj.")


def normalisation_of(network: str, pretrained: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of three channels, of pixels in [0, 1], that the weights were trained with."""
    transforms = _weights(network, pretrained).transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def fetch_pretrained(network: str, pretrained: str) -> Path:
    """Have torchvision's file in `torch.hub.get_dir()`: downloaded with a progress bar if it is not there yet.

    Args:
        network: key of `NETWORKS` with a `torchvision_name`.
        pretrained: name in torchvision's enum of weights for it, as `check_network` knows.

    Returns:
        The file; a download's SHA-256 begins as its name ends.

    Raises:
        CheckpointError: it can be neither found nor downloaded.
    """
    url = _weights(network, pretrained).url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"the weights {pretrained} of {network} cannot be downloaded ({reason_of(error)}); "
                f"fetch {url} elsewhere and put it at {file}."
            ) from error
    return file


def load_pretrained(classifier: Classifier, pretrained: str) -> list[str]:
    """Start a classifier from torchvision's weights; what cannot start there keeps its random weights.

    The first convolution is new where pictures do not have 3 channels, the last layer where the classes are not as
    many or the head is not linear. A ViT's places are interpolated to other sizes of pictures, as torchvision does it.

    Args:
        classifier: of a network with a `torchvision_name`.
        pretrained: as for `fetch_pretrained`.

    Returns:
        Names of the tensors that are new.

    Raises:
        CheckpointError: the weights can be neither found nor downloaded, or the file is broken.
    """
    architecture = classifier.architecture
    file = fetch_pretrained(architecture.network, pretrained)
    theirs = read_state_dict(file)
    if "encoder.pos_embedding" in theirs:
        from torchvision.models.vision_transformer import interpolate_embeddings

        theirs = interpolate_embeddings(architecture.image_shape[1], 16, theirs)
    ours = classifier.state_dict()
    starts = {
        name: theirs[foreign]
        for name, foreign in torchvision_names(classifier).items()
        if foreign in theirs and theirs[foreign].shape == ours[name].shape
    }
    # torchvision's oldest files are from before batch norms counted their batches.
    new = [name for name in ours if name not in starts and not name.endswith(".num_batches_tracked")]
    first = _FIRST_LAYERS if architecture.image_shape[0] != 3 else ()
    if wrong := [name for name in new if not name.startswith(("head.", *first))]:
        raise CheckpointError(
            f"{file} does not hold {architecture.network} ({len(wrong)} tensors are missing or of another shape, the "
            f"first is {wrong[0].removeprefix('network.')}); delete it, so that it is fetched again."
        )
    classifier.load_state_dict(starts, strict=False)
    return new


def _weights(network: str, pretrained: str) -> Any:
    from torchvision.models import get_model_weights  # takes seconds

    name = NETWORKS[network].torchvision_name
    assert name is not None, "check_network comes first"
    return get_model_weights(name)[pretrained]
