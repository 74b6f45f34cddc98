"""`torchvision:NAME[:WEIGHTS]`: a classification network of torchvision with its published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sio_ray.classifier.foreign_weights import read_state_dict
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.classifier.networks import NETWORKS
from sio_ray.errors import CheckpointError, ConfigError, did_you_mean
from sio_ray.evaluation.foreign.found import FIELD, Found, check_fit
from sio_ray.evaluation.foreign.wrapped import ForeignNetwork, wrap
from sio_ray.imageset import ImageSetInfo
from sio_ray.reading import reason_of


def find_torchvision(reference: str, info: ImageSetInfo, *, download: bool) -> Found:
    """Find published weights; our own class of the network takes them where there is one.

    Pictures are normalised, and cropped, as torchvision does it for these weights.

    Args:
        reference: `torchvision:NAME:WEIGHTS`; without weights, the first of torchvision's list, which stays the same.
        info: of the ID set.
        download: fetch weights that are not here yet.

    Raises:
        ConfigError: an unknown network or weights.
        CheckpointError: the weights are not here, or do not suit the ID set.
    """
    from torchvision import models  # takes seconds

    _, name, *rest = reference.split(":", 2)
    names = models.list_models(module=models)
    if name not in names:
        rule = "torchvision:NAME of one of its classification networks"
        raise ConfigError(FIELD, rule, reference, did_you_mean(name, names, "see torchvision's list"))
    published = list(models.get_model_weights(name))
    found = [weights for weights in published if [weights.name] == rest] if rest else published[:1]
    if not found:
        rule = f"torchvision:{name}:WEIGHTS with one of {', '.join(weights.name for weights in published) or 'none'}"
        raise ConfigError(FIELD, rule, reference, "choose from these")
    weights = found[0]
    reference, transforms = f"torchvision:{name}:{weights.name}", weights.transforms()
    side_px = transforms.crop_size[0]
    check_fit(reference, info, num_classes=len(weights.meta["categories"]), image_shape=(3, side_px, side_px))
    file = _file(reference, weights, download=download)
    ours = next((key for key, network in NETWORKS.items() if network.torchvision_name == name), None)
    architecture = Architecture(
        network=ours or reference,
        class_names=info.class_names,
        image_shape=(3, side_px, side_px),
        mean=transforms.mean,
        std=transforms.std,
    )

    def load() -> Classifier | ForeignNetwork:
        if ours is not None:
            return Classifier(architecture, pretrained=weights.name).eval()
        read_state_dict(file)  # tensors alone, or an error: torchvision would run what else a pickle holds
        return wrap_torchvision(models.get_model(name, weights=weights), architecture)

    return Found(reference, (file,), load, (name, side_px, *transforms.mean, *transforms.std))


def wrap_torchvision(model: nn.Module, architecture: Architecture) -> ForeignNetwork:
    """Divide a network before the last of its linear layers, whose place an identity takes.

    What each stage gives is what the last of its top modules that works at one resolution gives, where these give maps.

    Raises:
        CheckpointError: its logits are not what its last linear layer makes of (B, D) features.
    """
    return wrap(model, architecture, _cut, _Stages(model))


def _cut(model: nn.Module) -> tuple[nn.Module, Any]:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return model, None
    parent, _, child = linear[-1].rpartition(".")
    head = model.get_submodule(linear[-1])
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model, head


class _Stages:
    """What the top modules of a network give, or those of its `features`, that last at each resolution."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        top = getattr(model, "features", model)
        self._modules = list((top if isinstance(top, nn.Sequential) else model).children())

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Of normalised pictures, (B, C, H, W) each, first to last."""
        of_side: dict[int, Tensor] = {}

        def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.ndim == 4 and out.shape[-2] > 1:
                of_side[out.shape[-2]] = out

        handles = [module.register_forward_hook(keep) for module in self._modules]
        try:
            self._model(x)
        finally:
            for handle in handles:
                handle.remove()
        return list(of_side.values())


def _file(reference: str, weights: Any, *, download: bool) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if file.is_file():
        return file
    elsewhere = f"`curl --create-dirs -Lo {file} {weights.url}`"
    if not download:
        raise CheckpointError(
            f"the weights of {reference} must be at {file}, on every node, and are not; set evaluate.download=true, or "
            f"run {elsewhere}."
        )
    try:
        weights.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights of {reference} cannot be downloaded ({reason_of(error)}); run {elsewhere} where "
            "there is a network."
        ) from error
    return file
