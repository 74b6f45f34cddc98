"""Which classes of a source are in-distribution and which are held out as near-OOD."""

from __future__ import annotations

from collections.abc import Iterable

from sio_ray.config import PrepareConfig
from sio_ray.errors import ConfigError


def id_and_near_classes(
    config: PrepareConfig, *, num_classes: int, default_id: Iterable[int], min_near: int = 1
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The config's choice of classes, with the source's own where it says nothing.

    Args:
        config: `id_classes` and `near_ood_classes` are used.
        num_classes: that the source has, numbered from 0.
        default_id: ID classes if the config names none; near-OOD are then all that are not ID.
        min_near: how many near-OOD classes there must be.

    Raises:
        ConfigError: a class that the source has not, fewer than two ID classes, too few near-OOD classes, or one
            that is on both sides.
    """
    chosen = tuple(default_id) if config.id_classes is None else config.id_classes
    near = config.near_ood_classes
    if near is None:
        near = tuple(sorted(set(range(num_classes)) - set(chosen)))
    for field, classes, at_least in (("id_classes", chosen, 2), ("near_ood_classes", near, min_near)):
        if len(classes) < at_least:
            noun = "class" if at_least == 1 else "classes"
            raise ConfigError(f"prepare.{field}", f"at least {at_least} {noun}", classes, "name more")
        unknown = tuple(number for number in classes if not 0 <= number < num_classes)
        if unknown:
            raise ConfigError(
                f"prepare.{field}", f"classes in [0, {num_classes - 1}]", unknown, f"{config.source} has no others"
            )
    both = sorted(set(chosen) & set(near))
    if both:
        raise ConfigError("prepare.near_ood_classes", "disjoint from id_classes", both, "keep each class on one side")
    return chosen, near
