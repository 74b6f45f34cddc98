"""What a generator is, known from its JSON files alone: which family, which classes, what size."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from sio_ray.errors import CheckpointError
from sio_ray.generate.generator.files import INDEX_NAME, GeneratorFiles, open_files, refuse_code
from sio_ray.reading import reason_of

#: What fit-generator writes, and DiT; text-to-image pipelines are those of `text_to_image_pipelines`.
EDM, DIT = "ClassConditionalEDMPipeline", "DiTPipeline"


@dataclass(frozen=True)
class Generator:
    """A generator that was found, not loaded; it is small and can be sent to any worker.

    Attributes:
        location: absolute folder, or hub id.
        revision: commit of a hub id.
        kind: family; decides the sampler.
        pipeline_class: its class in diffusers, or ours.
        class_names: name of class c at position c, if it knows them.
        num_classes: classes that can be asked for; None for text-to-image.
        image_shape: (C, H, W) that it draws, if its configs tell.
        scheduler: config of the scheduler saved with it, as JSON.
        content_id: SHA-256 over the folder's file names and contents, or hub id and commit.
    """

    location: str
    revision: str | None
    kind: Literal["edm", "dit", "text_to_image"]
    pipeline_class: str
    class_names: tuple[str, ...] | None
    num_classes: int | None
    image_shape: tuple[int, int, int] | None
    scheduler: str
    content_id: str


def find_generator(name: str) -> Generator:
    """Find a generator by its folder or hub id; no weights are loaded.

    Raises:
        CheckpointError: there is none, it is none that can be drawn from, or it holds pickles or code.
    """
    files = open_files(name)
    try:
        index = files.json(INDEX_NAME)
        refuse_code(files, index)
        pipeline_class = index["_class_name"]
        if pipeline_class == EDM:
            return _edm(files, index)
        if pipeline_class == DIT:
            return _dit(files, index)
        if pipeline_class in text_to_image_pipelines():
            return _text_to_image(files, index)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{name} holds no generator that can be read ({type(error).__name__}: {reason_of(error)}); "
            "give generate.generator a folder that fit-generator or diffusers wrote, whole."
        ) from error
    raise CheckpointError(
        f"{name} is a {pipeline_class}, which sio_ray cannot draw from; give generate.generator what fit-generator "
        f"writes ({EDM}), a {DIT}, or a text-to-image pipeline: {', '.join(sorted(text_to_image_pipelines()))}."
    )


def text_to_image_pipelines() -> dict[str, type]:
    """Pipelines of diffusers that draw from a prompt alone, by name: those that it offers for text to image.

    Left out are those with a ControlNet or a control picture, those of several pipelines ("combined"), and videos.

    Raises:
        CheckpointError: the package transformers is missing.
    """
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError(
            "text-to-image generators need the package transformers, which is not installed; "
            "pip install 'sio_ray[text-to-image]'."
        )
    # Imports some fifty pipelines, which takes seconds.
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    needed = {"prompt", "guidance_scale", "generator", "num_inference_steps", "output_type", "height", "width"}
    excluded = {"controlnet", "control_image", "num_frames"}

    def takes(kind: type, method: str) -> set[str]:
        return set(inspect.signature(getattr(kind, method)).parameters)

    return {
        kind.__name__: kind
        for kind in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
        if needed <= takes(kind, "__call__")
        and not excluded & (takes(kind, "__call__") | takes(kind, "__init__"))
        and "Combined" not in kind.__name__
    }


def _edm(files: GeneratorFiles, index: dict[str, Any]) -> Generator:
    unet = files.json("unet/config.json")
    if unet.get("num_class_embeds") is None:
        raise CheckpointError(
            f"the UNet in {files.location} takes no class; "
            "give generate.generator a class-conditional one, as fit-generator writes."
        )
    num_classes = unet["num_class_embeds"] - 1  # the last is the null class
    names = index.get("class_names")
    if names is not None and len(names) != num_classes:
        raise ValueError(f"{len(names)} class names for {num_classes} classes")
    return _generator(
        files,
        index,
        "edm",
        class_names=None if names is None else tuple(names),
        num_classes=num_classes,
        image_shape=(unet["in_channels"], *_pair(unet["sample_size"])),
    )


def _dit(files: GeneratorFiles, index: dict[str, Any]) -> Generator:
    num_classes = files.json("transformer/config.json")["num_embeds_ada_norm"]
    labels = index.get("id2label") or {}
    names = tuple(str(labels[str(label)]) for label in range(num_classes)) if len(labels) == num_classes else None
    if names is not None:
        # ImageNet has two cranes; a set needs names without repeats.
        counts = Counter(names)
        names = tuple(name if counts[name] == 1 else f"{name} ({label})" for label, name in enumerate(names))
    return _generator(
        files, index, "dit", class_names=names, num_classes=num_classes, image_shape=_decoded_shape(files, index)
    )


def _text_to_image(files: GeneratorFiles, index: dict[str, Any]) -> Generator:
    shape = _decoded_shape(files, index)
    return _generator(files, index, "text_to_image", class_names=None, num_classes=None, image_shape=shape)


def _generator(files: GeneratorFiles, index: dict[str, Any], kind: Any, **known: Any) -> Generator:
    return Generator(
        location=files.location,
        revision=files.revision,
        kind=kind,
        pipeline_class=index["_class_name"],
        scheduler=json.dumps(files.json("scheduler/scheduler_config.json")),
        content_id=files.content_id,
        **known,
    )


def _decoded_shape(files: GeneratorFiles, index: dict[str, Any]) -> tuple[int, int, int] | None:
    """Size of the latents times the VAE's factor: each of its blocks but one doubles it; None if not told so."""
    denoiser = next((name for name in ("transformer", "unet") if index.get(name)), None)
    if denoiser is None or not index.get("vae"):
        return None
    size, vae = files.json(f"{denoiser}/config.json").get("sample_size"), files.json("vae/config.json")
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    if size is None or blocks is None:
        return None
    height, width = (side * 2 ** (len(blocks) - 1) for side in _pair(size))
    return vae.get("out_channels", 3), height, width


def _pair(size: int | list[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
