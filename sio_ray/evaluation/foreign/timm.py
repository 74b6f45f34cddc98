"""`timm:NAME[@FILE][?normalisation=NAME]`: a network of the timm package, with its published weights or yours."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sio_ray.classifier.checkpoint import different_tensors
from sio_ray.classifier.foreign_weights import read_state_dict
from sio_ray.classifier.model import Architecture
from sio_ray.errors import CheckpointError, ConfigError, did_you_mean
from sio_ray.evaluation.foreign.found import FIELD, Found, asked_normalisation, check_fit, split_options
from sio_ray.evaluation.foreign.wrapped import ForeignNetwork, wrap
from sio_ray.imageset import ImageSetInfo
from sio_ray.reading import reason_of


def find_timm(reference: str, info: ImageSetInfo, *, download: bool) -> Found:
    """Find a network and its weights.

    Pictures are cropped to timm's size for it, or to the stored size where your own weights are of a network that takes
    any; they are normalised as timm does it, unless the reference says otherwise.

    Args:
        reference: `timm:NAME@FILE?...`. FILE holds the network's state dict, as safetensors or as
            `torch.save` writes it.
        info: of the ID set.
        download: fetch published weights that are not here yet.

    Raises:
        ConfigError: an unknown network or option, or timm is not installed.
        CheckpointError: the weights are not here, are broken, or do not suit the ID set.
    """
    try:
        import timm
    except ImportError:
        rule, remedy = "of another kind while timm is not installed", "run `pip install 'sio_ray[timm]'`, on every node"
        raise ConfigError(FIELD, rule, reference, remedy) from None

    asked, options = split_options(reference, ("normalisation", "mean", "std"))
    name, _, path = asked.removeprefix("timm:").partition("@")
    if name not in (known := timm.list_models() + timm.list_pretrained()):
        rule = "timm:NAME of one of timm's networks"
        raise ConfigError(FIELD, rule, reference, did_you_mean(name, known, "see timm.list_models()"))
    settings: Any = timm.get_pretrained_cfg(name)
    _, *size = settings.input_size
    if path and not settings.fixed_input_size:
        size = [min(pair) for pair in zip(size, (info.height_px, info.width_px), strict=True)]
    image_shape = (3, size[0], size[1])
    yours = Path(path).absolute() if path else None
    num_classes = _num_classes(_read(yours), settings, info) if yours else settings.num_classes
    reference = f"timm:{name}{f'@{yours}' if yours else ''}{reference.removeprefix(asked)}"
    check_fit(reference, info, num_classes=num_classes, image_shape=image_shape)
    file = yours or _published(name, settings, download=download)
    mean, std = asked_normalisation(reference, options) or (settings.mean, settings.std)
    architecture = Architecture(
        network=reference, class_names=info.class_names, image_shape=image_shape, mean=mean, std=std
    )

    def load() -> ForeignNetwork:
        if yours:
            model = timm.create_model(name, num_classes=num_classes)
            _load(model, _read(file), reference)
        else:
            model = _build_published(name, file)
        return wrap_timm(model, architecture)

    return Found(reference, (file,), load, (name, image_shape, mean, std))


def wrap_timm(model: Any, architecture: Architecture) -> ForeignNetwork:
    """Divide a network of timm before its classifier; its stages are those of timm's `forward_intermediates`.

    Raises:
        CheckpointError: its logits are not what a linear layer makes of (B, D) features.
    """
    has_maps = hasattr(model, "forward_intermediates")
    maps = partial(model.forward_intermediates, intermediates_only=True) if has_maps else None
    return wrap(model, architecture, lambda model: (_Body(model), model.get_classifier()), maps)


class _Body(nn.Module):
    """All of a network of timm but its last layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return out


def _published(name: str, settings: Any, *, download: bool) -> Path:
    repository, file_name = settings.hf_hub_id, settings.hf_hub_filename or "model.safetensors"
    if not repository:
        raise CheckpointError(f"timm has no weights for {name}; name a file of your own: timm:{name}@FILE.")
    cached = try_to_load_from_cache(repository, file_name)
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise CheckpointError(
            f"the weights of timm:{name} must be in the hub's cache, on every node, and are not; set "
            f"evaluate.download=true, run `hf download {repository} {file_name}`, or name the file: timm:{name}@FILE."
        )
    try:
        return Path(hf_hub_download(repository, file_name))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the weights of timm:{name} cannot be downloaded ({reason_of(error)}); run `hf download "
            f"{repository} {file_name}` where there is a network, and name the file: timm:{name}@FILE."
        ) from error


def _build_published(name: str, file: Path) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = reason_of(error)
        raise CheckpointError(f"{file} cannot be read as timm:{name} ({reason}); fetch it again.") from error
    return model


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"timm:NAME@{file} names no file; give the path of the network's weights.")
    if file.suffix != ".safetensors":
        return read_state_dict(file)
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        reason = reason_of(error)
        raise CheckpointError(f"{file} cannot be read ({reason}); give safetensors of a network of timm.") from error


def _num_classes(weights: dict[str, Tensor], settings: Any, info: ImageSetInfo) -> int:
    """Rows of the last layer; what the ID set has where that is not there, so that loading says what is missing."""
    last = f"{settings.classifier}.weight"
    return len(weights[last]) if last in weights else info.num_classes


def _load(model: nn.Module, weights: dict[str, Tensor], reference: str) -> None:
    if differences := different_tensors(model.state_dict(), weights):
        raise CheckpointError(
            f"{reference} must hold that network, got other tensors ({differences}); give timm's name for it."
        )
    model.load_state_dict(weights)
