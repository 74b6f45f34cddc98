"""One generation job: what to draw, from which generator, into which folder, and all that its bytes depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sio_ray.config import GenerateConfig
from sio_ray.errors import ConfigError, StageError
from sio_ray.generate.curation import Curator
from sio_ray.generate.generator import Generator
from sio_ray.generate.generator.files import INDEX_NAME, open_files
from sio_ray.generate.notes import DrawnShard
from sio_ray.generate.plan import Plan, class_weights_like
from sio_ray.generate.samplers import Sampler, open_sampler
from sio_ray.generate.shards import ShardWriter, adopt_shard
from sio_ray.imageset import ImageSetInfo, Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.provenance import changes, versions
from sio_ray.reading import parse_json_object, reason_of

#: Written first: what every shard of the set is drawn with.
PLAN_NAME = "plan.json"

#: Fields that act through the plan, the generator or the classifier, which are compared themselves.
_SAID_OTHERWISE = (
    *("generator", "output", "synthetic_ratio", "num_images"),
    *("labels", "num_classes", "class_names", "curation"),
)

#: Packages whose version may change a pixel or a byte of a shard.
_DECISIVE_PACKAGES = ("sio_ray", "torch", "diffusers", "transformers", "numpy", "pyarrow", "pillow")


def plan_of(section: GenerateConfig, generator: Generator | None, train: Manifest | None) -> tuple[Plan, ImageSetInfo]:
    """What a config asks for: the plan, and the constants of the set.

    Args:
        section: of the config.
        generator: whose classes and size a set that stands alone takes over; None if it cannot be looked at.
        train: the real training set; None for a set that stands alone.

    Raises:
        ConfigError: the number of classes or the size of the pictures follows from nothing.
    """
    if train is not None:
        info = train.info.model_copy(update={"provenance": {}})
        num_images = section.num_images or max(1, round(section.synthetic_ratio * train.num_images))
        weights = class_weights_like(train.class_counts)
    else:
        info = _info_of_its_own(section, generator)
        num_images = section.num_images or 0
        weights = (1,) * info.num_classes
    _check_classes(section, info, stands_alone=train is None)
    plan = Plan(
        num_images=num_images,
        class_weights=weights if section.labels == "proportional" else (1,) * info.num_classes,
        images_per_shard=section.images_per_shard,
        sampler_batch_size=section.sampler_batch_size,
        base_seed=section.base_seed,
    )
    return plan, info


def _info_of_its_own(section: GenerateConfig, generator: Generator | None) -> ImageSetInfo:
    names = section.class_names or _generator_names(section, generator)
    if names is None:
        raise ConfigError("generate.num_classes", "given, as the generator does not tell", None, "say how many")
    shape = generator.image_shape if generator else None
    side = section.image_size_px
    if shape is None and side is None:
        raise ConfigError("generate.image_size_px", "given, as the generator does not tell", None, "say which size")
    channels, height, width = shape or (3, 0, 0)
    return ImageSetInfo(
        class_names=names,
        height_px=side or height,
        width_px=side or width,
        channels=channels,
    )


def _generator_names(section: GenerateConfig, generator: Generator | None) -> tuple[str, ...] | None:
    """Names of the classes that a set takes from its generator; their numbers where it has no names."""
    num_classes = section.num_classes or (generator.num_classes if generator else None)
    names = generator.class_names if generator else None
    if names is None and num_classes is not None:
        names = tuple(str(class_id) for class_id in range(num_classes))
    if names is None or section.class_ids is None:
        return names and names[:num_classes]
    return tuple(names[class_id] if class_id < len(names) else str(class_id) for class_id in section.class_ids)


def _check_classes(section: GenerateConfig, info: ImageSetInfo, *, stands_alone: bool) -> None:
    if stands_alone and section.labels == "proportional":
        raise ConfigError(
            "generate.labels",
            "balanced for a set that stands alone",
            section.labels,
            "leave out generate.num_images to follow the training set",
        )
    given = {
        "num_classes": section.num_classes,
        "class_names": len(section.class_names) if section.class_names else None,
        "class_ids": len(section.class_ids) if section.class_ids else None,
    }
    for field, count in given.items():
        if count is not None and count != info.num_classes:
            raise ConfigError(
                f"generate.{field}",
                f"for {info.num_classes} classes, as many as the set has",
                getattr(section, field),
                "name each class once, in the order of the labels",
            )


@dataclass(frozen=True)
class Job:
    """A set to draw.

    Attributes:
        section: of the config.
        plan: which images.
        info: constants of the set, without where it comes from.
        generator: what draws.
        folder: where the set goes.
    """

    section: GenerateConfig
    plan: Plan
    info: ImageSetInfo
    generator: Generator
    folder: Folder

    @property
    def device(self) -> str:
        """What actors draw on."""
        return "cuda" if self.section.gpus_per_actor else "cpu"

    @cached_property
    def drawn_with(self) -> dict[str, Any]:
        """Field to JSON value, of all that the bytes of a shard depend on; what is compared on a resume."""
        section = self.section
        fields = {f"generate.{name}": value for name, value in section.identity().items()}
        for name in _SAID_OTHERWISE:
            del fields[f"generate.{name}"]
        if section.curation.classifier is not None:
            rule = section.curation.model_dump(mode="json", exclude={"classifier"})
            fields |= {f"generate.curation.{name}": value for name, value in rule.items()}
            fields["generate.curation.classifier"] = _content_of(section.curation.classifier)
        weights = json.dumps(self.plan.class_weights).encode()
        return {
            **fields,
            "generator": self.generator.content_id,
            "num_images": self.plan.num_images,
            "class_names": list(self.info.class_names),
            "class_weights": hashlib.sha256(weights).hexdigest()[:12],
            "image_shape": list(self.info.image_shape),
            "device": self.device,
            **{f"versions.{name}": versions()[name] for name in _DECISIVE_PACKAGES},
        }

    @cached_property
    def full_info(self) -> ImageSetInfo:
        """Constants of the set, with where it comes from."""
        drawn_with = {name.removeprefix("generate."): value for name, value in self.drawn_with.items()}
        del drawn_with["class_names"], drawn_with["image_shape"]  # the info says them itself
        provenance = {"source": "synthetic", **drawn_with, "id_stride": self.plan.stride}
        return self.info.model_copy(update={"provenance": provenance})

    def make_sampler(self) -> Sampler:
        """The sampler alone; loads the generator."""
        return open_sampler(self.generator, self.section, self.info, self.device)

    def make_writer(self) -> ShardWriter:
        """What an actor draws shards with; loads the generator.

        Raises:
            ConfigError: the actor has other versions than the driver, which says in every shard what it is drawn with.
            CheckpointError: the generator or the classifier cannot be loaded.
            ImageSetError: the classifier is of other classes or pictures.
        """
        _check_versions(self.drawn_with)
        curation = self.section.curation
        curator = Curator(curation, self.info, self.device) if curation.classifier is not None else None
        return ShardWriter(self.make_sampler(), self.plan, self.full_info, self.folder, curator)

    def adopt(self, shard_id: int) -> DrawnShard:
        """Describe a shard that is there; see `adopt_shard`."""
        is_curated = self.section.curation.classifier is not None
        return adopt_shard(self.plan, self.full_info, self.folder, is_curated, shard_id)

    def begin(self) -> None:
        """Write what the set is drawn with before its first shard, or compare with what a run before this wrote.

        Raises:
            StageError: the set was begun, or finished, with other settings.
        """
        wanted = json.loads(json.dumps(self.drawn_with))
        if not self.folder.exists(PLAN_NAME):
            names = self.folder.list()
            if not names:
                self.folder.write_bytes(PLAN_NAME, (json.dumps(wanted, indent=1) + "\n").encode())
                return
            if PLAN_NAME not in names:  # else another driver has begun the set in this moment
                raise StageError(
                    f"{self.folder.safe_uri} holds files that generate did not write (there is no {PLAN_NAME}); "
                    "give an empty folder as generate.output."
                )
        _refuse_changes(self.folder, _begun_with(self.folder), wanted)


def _check_versions(drawn_with: dict[str, Any]) -> None:
    """Refuse to draw with other versions; what is missing on either side draws nothing, or fails by itself."""
    here = versions()
    pairs = {name: (drawn_with[f"versions.{name}"], here[name]) for name in _DECISIVE_PACKAGES}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and "not installed" not in pair}
    if differing:
        wanted, found = (", ".join(f"{name} {pair[side]}" for name, pair in differing.items()) for side in (0, 1))
        raise ConfigError(
            "cluster.address",
            f"of a cluster with the driver's versions ({wanted})",
            found,
            "install the same on all nodes, as pictures depend on it",
        )


def check_sources(section: GenerateConfig, folder: Folder) -> None:
    """See that the generator and the classifier of a finished set, which a config gives by their paths, are the same.

    What else a resume compares, such as versions, may have changed since, as nothing is drawn any more; a hub id is not
    looked up, and what is gone cannot differ.

    Raises:
        StageError: the set was drawn from others.
    """
    if not folder.exists(PLAN_NAME):
        return
    sources, classifier = {}, section.curation.classifier
    if section.generator is not None and Path(section.generator, INDEX_NAME).is_file():
        sources["generator"] = open_files(section.generator).content_id
    if classifier is not None and classifier.is_dir():
        sources["generate.curation.classifier"] = _content_of(classifier)
    begun = _begun_with(folder)
    _refuse_changes(folder, begun, begun | sources)


def _refuse_changes(folder: Folder, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    changed = changes(begun, wanted)
    if changed:
        raise StageError(
            f"{folder.safe_uri} was begun with other settings, so its bytes would not match:\n"
            + "".join(f"  {change}\n" for change in changed)
            + "Go back to those, give another generate.output, or delete it to draw it anew."
        )


def _begun_with(folder: Folder) -> dict[str, Any]:
    try:
        return parse_json_object(folder.read_bytes(PLAN_NAME))
    except (OSError, ValueError) as error:
        raise StageError(
            f"{folder.join(PLAN_NAME)} cannot be read ({reason_of(error)}), so nobody knows what its shards "
            "were drawn with; delete the folder to draw the set anew."
        ) from error


def _content_of(checkpoint: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
