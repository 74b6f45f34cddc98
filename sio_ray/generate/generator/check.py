"""Whether a generator fits a config and a set: all that can be known before work starts."""

from __future__ import annotations

import inspect
import json
from typing import Any

from sio_ray.config import GenerateConfig
from sio_ray.diffusion.schedulers import FOREIGN_SCHEDULERS, SCHEDULERS, can_take
from sio_ray.errors import ConfigError, ImageSetError
from sio_ray.generate.generator.find import Generator, text_to_image_pipelines
from sio_ray.imageset import ImageSetInfo

#: diffusers hard-codes the null class that its guidance needs.
_NULL_CLASS_OF_DIT = 1000

#: Schedulers of diffusers that add noise in their steps and take no generator for it.
_UNSEEDED = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")


def check_generator(generator: Generator, config: GenerateConfig, info: ImageSetInfo) -> None:
    """Check all that can be known before work starts.

    `prompt` and `negative_prompt` mean nothing to a class-conditional generator and `clip_denoised` nothing to a
    pipeline that is not ours, which clips as it was made to; as two of them have defaults, none is refused there.

    Raises:
        ConfigError: a field does not fit the generator.
        ImageSetError: the generator draws other classes or sizes than the set has.
    """
    if generator.kind == "text_to_image":
        _check_prompts(generator, config, info)
    else:
        _check_classes(generator, config, info)
    _check_shape(generator, config, info)
    if generator.kind != "edm":
        _check_guidance(generator, config)
    _check_scheduler(generator, config)


def _check_classes(generator: Generator, config: GenerateConfig, info: ImageSetInfo) -> None:
    num_classes = generator.num_classes or 0
    if config.class_ids is not None:
        if len(config.class_ids) != info.num_classes:
            raise ConfigError(
                "generate.class_ids",
                f"as many as the set has classes ({info.num_classes})",
                config.class_ids,
                "give the generator's id of each class of the set, in its order",
            )
        unknown = [i for i in config.class_ids if not 0 <= i < num_classes]
        if unknown:
            raise ConfigError(
                "generate.class_ids",
                f"in [0, {num_classes}), the classes of {generator.location}",
                unknown,
                "look them up in its model_index.json",
            )
        return
    fits = info.num_classes <= num_classes if config.stands_alone else info.num_classes == num_classes
    if not fits:
        raise ImageSetError(
            f"the generator {generator.location} draws {num_classes} classes, the set has {info.num_classes}; "
            "give one fitted to that set, or say with generate.class_ids which of its classes are meant."
        )
    names = generator.class_names
    if generator.kind == "edm" and names is not None and names[: info.num_classes] != info.class_names:
        raise ImageSetError(
            f"the classes of the generator {generator.location} are {', '.join(names)}, those of the set "
            f"{', '.join(info.class_names)}; say with generate.class_ids which is which."
        )


def _check_prompts(generator: Generator, config: GenerateConfig, info: ImageSetInfo) -> None:
    if config.class_ids is not None:
        raise ConfigError(
            "generate.class_ids",
            f"left out for a {generator.pipeline_class}",
            config.class_ids,
            "it draws by name: give generate.class_names and generate.prompt",
        )
    if not info.class_names or (config.stands_alone and config.class_names is None):
        raise ConfigError(
            "generate.class_names",
            f"given for a {generator.pipeline_class}",
            config.class_names,
            "it draws by name: say what each class is called",
        )
    try:
        config.prompt.format(class_name="")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            "generate.prompt",
            "a text whose only field is {class_name}",
            config.prompt,
            "write other braces twice, as {{ and }}",
        ) from error
    parameters = inspect.signature(text_to_image_pipelines()[generator.pipeline_class].__call__).parameters
    if config.negative_prompt is not None and "negative_prompt" not in parameters:
        raise ConfigError(
            "generate.negative_prompt",
            f"left out for a {generator.pipeline_class}",
            config.negative_prompt,
            "it takes none",
        )


def _check_shape(generator: Generator, config: GenerateConfig, info: ImageSetInfo) -> None:
    shape, side = generator.image_shape, config.image_size_px
    if generator.kind == "edm" and side is not None:
        raise ConfigError(
            "generate.image_size_px",
            "left out for a generator that fit-generator wrote",
            side,
            f"it draws {_by(shape)} and its pictures are never resized",
        )
    if side is not None:
        shape = (info.channels, side, side)
    if shape is None:
        raise ConfigError(
            "generate.image_size_px",
            f"given for {generator.location}",
            None,
            "its configs do not tell the size that it draws",
        )
    if shape != info.image_shape:
        side = min(info.image_shape[1:])
        remedy = f"generate.image_size_px={side} brings them to {_by((info.channels, side, side))}"
        raise ImageSetError(
            f"the generator {generator.location} draws pictures of {_by(shape)}, the set has {_by(info.image_shape)} "
            f"(channels x height x width); {'give one fitted to that set' if generator.kind == 'edm' else remedy}."
        )


def _check_guidance(generator: Generator, config: GenerateConfig) -> None:
    kind = generator.pipeline_class
    if config.guidance_interval is not None:
        raise ConfigError(
            "generate.guidance_interval",
            f"left out for a {kind}",
            config.guidance_interval,
            "diffusers' own pipelines guide at every noise level",
        )
    if config.guidance_scale < 1:
        raise ConfigError(
            "generate.guidance_scale",
            f"at least 1 for a {kind}",
            config.guidance_scale,
            "diffusers' own pipelines take anything less for no guidance",
        )
    if generator.kind == "dit" and generator.num_classes != _NULL_CLASS_OF_DIT and config.guidance_scale != 1:
        raise ConfigError(
            "generate.guidance_scale",
            f"1 for a {kind} of {generator.num_classes} classes",
            config.guidance_scale,
            f"diffusers takes class {_NULL_CLASS_OF_DIT} for the null class, so it can guide ImageNet's 1000 only",
        )


def _check_scheduler(generator: Generator, config: GenerateConfig) -> None:
    name, saved = config.scheduler, json.loads(generator.scheduler)
    _check_seeded(generator, name, saved)
    if name is None:
        return
    allowed = list(SCHEDULERS if generator.kind == "edm" else FOREIGN_SCHEDULERS)
    remedy = "euler is for pipelines not ours; edm_euler is the same rule for this one"
    if generator.kind != "edm":
        remedy = "edm_* is for generators that fit-generator writes; leave it out for the one saved with the generator"
    if generator.kind == "dit":
        allowed.remove("euler")
        if name == "euler":
            remedy = "DiTPipeline does not scale its first noise as euler needs; ddim is the same rule"
    if name not in allowed:
        raise ConfigError("generate.scheduler", f"one of {', '.join(allowed)}", name, f"{remedy}")
    if generator.kind != "edm" and not can_take(name, saved):
        raise ConfigError(
            "generate.scheduler",
            f"left out for {generator.location}",
            name,
            f"it cannot take the noise levels of the {saved.get('_class_name')} saved with it",
        )


def _check_seeded(generator: Generator, name: str | None, saved: dict[str, Any]) -> None:
    """Refuse a scheduler whose pictures would not follow from their seeds; our own pipeline hands it no generator."""
    if generator.kind == "edm":
        takes_over = name in (None, "edm_dpmsolver_multistep")
        is_unseeded, other = takes_over and str(saved.get("algorithm_type")).startswith("sde-"), "edm_euler"
    else:
        is_unseeded, other = name is None and saved.get("_class_name") in _UNSEEDED, "dpmsolver_multistep"
    if is_unseeded:
        kind = saved.get("algorithm_type") if generator.kind == "edm" else saved.get("_class_name")
        raise ConfigError(
            "generate.scheduler",
            f"another one than the {kind} saved with {generator.location}",
            name,
            f"that adds noise which follows from no seed: name one that does not, such as {other}",
        )


def _by(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape or ()))
