"""A network whose weights are at hand, and the rules that any foreign one keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from sio_ray.classifier.exchange import NORMALISATIONS
from sio_ray.classifier.model import Classifier
from sio_ray.errors import CheckpointError, ConfigError, did_you_mean
from sio_ray.evaluation.foreign.wrapped import ForeignNetwork
from sio_ray.imageset import ImageSetInfo

#: The field of the config that references come from; what errors name.
FIELD = "evaluate.checkpoints"

#: Mean and standard deviation of each channel.
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Found:
    """A network that suits the ID set, before it is built.

    Attributes:
        reference: what finds it again from any working directory.
        files: its weights and what belongs to them.
        load: builds it, on the CPU.
        settings: what decides its outputs and is in no file, such as a normalisation.
    """

    reference: str
    files: tuple[Path, ...]
    load: Callable[[], Classifier | ForeignNetwork]
    settings: tuple[object, ...] = ()


def split_options(reference: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """What stands before a question mark, and the options behind it, `key=value&key=value`.

    Raises:
        ConfigError: an unknown key, one twice, or one without a value.
    """
    rest, _, query = reference.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    for key in options:
        if key not in known:
            rule = f"a reference with no options but {', '.join(known)}"
            raise ConfigError(FIELD, rule, reference, did_you_mean(key, known))
    if len(options) < len(pairs) or not all(options.values()) or (query and not pairs):
        rule = "a reference with ?OPTION=VALUE&OPTION=VALUE, each once"
        raise ConfigError(FIELD, rule, reference, f"write e.g. ?{known[0]}=NAME")
    return rest, options


def asked_normalisation(reference: str, options: dict[str, str]) -> Normalisation | None:
    """What the options `normalisation`, or `mean` and `std`, say; None if they are left out.

    Raises:
        ConfigError: an unknown name, or no three numbers each.
    """
    if not options.keys() & {"normalisation", "mean", "std"}:
        return None
    try:
        if options.keys() >= {"mean", "std"} and "normalisation" not in options:
            mean, std = (tuple(float(part) for part in options[key].split(",")) for key in ("mean", "std"))
            if len(mean) == len(std) == 3 and min(std) > 0:
                return mean, std
        elif not options.keys() & {"mean", "std"}:
            return NORMALISATIONS[options["normalisation"]]
    except (ValueError, KeyError):
        pass
    raise no_normalisation(reference, "each std greater than 0")


def no_normalisation(reference: str, when: str) -> ConfigError:
    """The error of a reference that must say what pictures are normalised with."""
    names = "|".join(NORMALISATIONS)
    rule = f"a reference with ?normalisation={names}, or ?mean=R,G,B&std=R,G,B, {when}"
    return ConfigError(FIELD, rule, reference, "give what the network was trained with")


def check_fit(what: str, info: ImageSetInfo, *, num_classes: int, image_shape: tuple[int, int, int]) -> None:
    """Refuse a network that does not suit the ID set; class c of the set is logit c, which no file can prove.

    Args:
        what: the network, for messages.
        info: of the ID set.
        num_classes: logits that the network makes.
        image_shape: (C, H, W) of the pictures that it takes; of stored ones that are larger, the centre.

    Raises:
        CheckpointError: another number of classes or channels, or stored pictures that are too small.
    """
    if num_classes != info.num_classes:
        raise CheckpointError(
            f"{what} makes {num_classes} logits, the ID set has {info.num_classes} classes; "
            "evaluate it on the set that it was trained for."
        )
    channels, height, width = image_shape
    if info.channels != channels or info.height_px < height or info.width_px < width:
        raise CheckpointError(
            f"{what} takes pictures of {width}x{height} px and {channels} channels, the ID set's are of "
            f"{info.width_px}x{info.height_px} px and {info.channels}; prepare them as it was trained "
            "(prepare.image_size_px)."
        )
