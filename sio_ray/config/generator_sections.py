"""The sections of the config that make synthetic images: the generator's training, and drawing from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sio_ray.config.section import Section, place, resource, share
from sio_ray.errors import ConfigError

Precision = Literal["float32", "bfloat16"]

#: Samplers by name; `edm_*` are for generators that fit-generator writes, `euler` for those from elsewhere.
SchedulerName = Literal["edm_euler", "edm_dpmsolver_multistep", "ddim", "dpmsolver_multistep", "unipc", "deis", "euler"]


class FitGeneratorConfig(Section):
    """The diffusion model: a class-conditional UNet with EDM preconditioning (arXiv:2206.00364), or a closed form.

    Attributes:
        kind: `unet`, or `gaussian`: one Gaussian per class, whose optimal denoiser is known exactly; a reference, and
            fast, but no good pictures.
        gaussian_rank: principal components of each class's covariance in a `gaussian`; the rest is isotropic.
        block_out_channels: width of each resolution level, finest first; each level after the first halves the size.
        layers_per_block: residual blocks per level.
        attention: self-attention at the coarsest level.
        num_steps: optimiser steps.
        global_batch_size: images per step over all workers.
        learning_rate: of Adam, after warm-up.
        warmup_steps: linear warm-up.
        ema_decay: of the averaged weights, which are the ones saved.
        label_dropout: share of labels replaced by the null class, for classifier-free guidance.
        gradient_clip_norm: largest norm of the gradient.
        precision: `bfloat16` runs the network under autocast; weights, loss and optimiser stay in float32.
        compile: compile the network with `torch.compile`.
        seed: of initialisation, batches and noise.
        report_every_steps: steps between two points of the loss curve, each with a checkpoint to resume from.
        preview_every_steps: steps between two grids of sampled pictures, a multiple of `report_every_steps`; 0: none.
        num_workers: Ray Train workers.
        cpus_per_worker: CPU cores, and threads, of each.
        gpus_per_worker: GPUs of each; 0 trains on CPUs.
    """

    kind: Literal["unet", "gaussian"] = "unet"
    gaussian_rank: int = Field(8, ge=0)
    block_out_channels: tuple[int, ...] = Field((32, 64), min_length=1)
    layers_per_block: int = Field(2, ge=1)
    attention: bool = True
    num_steps: int = Field(1000, ge=1)
    global_batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(100, ge=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    label_dropout: float = share(0.1)
    gradient_clip_norm: float = Field(1.0, gt=0)
    precision: Precision = "float32"
    compile: bool = False
    seed: int = Field(0, ge=0)
    report_every_steps: int = resource(100, ge=1)
    preview_every_steps: int = resource(0, ge=0)
    num_workers: int = resource(1, ge=1)
    cpus_per_worker: int = resource(1, ge=1)
    gpus_per_worker: int = resource(0, ge=0, le=1)


class CurationConfig(Section):
    """Which drawn images are kept: those that a classifier gives their label, with a confidence in a range.

    An image that is not kept is replaced by one of a further id and the same class, so the set is still complete,
    balanced and the same every time.

    Attributes:
        classifier: checkpoint folder of a classifier trained on real images; every image is kept if not given.
        min_confidence: softmax probability of the label that an image needs.
        max_confidence: the most it may have; below 1 it leaves out the easiest images.
        max_attempts: images drawn for one place before its shard fails.
    """

    classifier: Path | None = None
    min_confidence: float = share(0.0)
    max_confidence: float = share(1.0)
    max_attempts: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_confidence >= self.max_confidence:
            raise ConfigError(
                "generate.curation.min_confidence",
                f"less than max_confidence ({self.max_confidence:g})",
                self.min_confidence,
                "leave a range between them",
            )
        return self


class GenerateConfig(Section):
    """How the synthetic images are drawn.

    Attributes:
        generator: what to draw from instead of what fit-generator wrote: a diffusers folder, or a hub id such as
            `facebook/DiT-XL-2-256` (or `...@revision`); class-conditional or text-to-image, weights as safetensors.
        output: path or URI (`s3://bucket/set`) of the image set; a folder under `output_dir` if not given.
        synthetic_ratio: images to draw over images in the real training set.
        num_images: images to draw, instead of by `synthetic_ratio`.
        labels: `balanced`, or `proportional` to the classes of the real training set.
        num_classes: classes of a set that stands alone (`generator` and `num_images` given, no training set needed);
            all of the generator's if not given.
        class_names: names of the classes of a set that stands alone; what a text-to-image generator is asked for.
        class_ids: the generator's own id of each class; 0, 1, ... if not given.
        prompt: of a text-to-image generator; `{class_name}` is put in.
        negative_prompt: of a text-to-image generator.
        image_size_px: pictures of a pipeline not ours are resized and centre-cropped to this square, and brought to the
            set's channels; the generator's own size if not given.
        base_seed: the seed of image i is a function of this and i alone.
        scheduler: name of the sampler; the one saved with the generator if not given.
        num_inference_steps: denoising steps.
        guidance_scale: of classifier-free guidance; 1 is none.
        guidance_interval: noise levels sigma (low, high] at which guidance acts (arXiv:2404.07724); all if not given.
        clip_denoised: hold the denoised picture of every step to the range of pixels.
        dtype: of the network's weights while sampling.
        compile: compile the network with `torch.compile`.
        sampler_batch_size: images per call of the sampler; part of what the bytes depend on.
        images_per_shard: rows of every shard but the last.
        curation: which images are kept.
        threads_per_actor: CPU threads of each actor, and the cores it asks Ray for; the bytes depend on it.
        accelerator_type: the one kind of GPU to draw on, by Ray's name (`H100`); any, and mixed, if not given.
        gpus_per_actor: GPUs (or a fraction of one) of each actor; 0 samples on CPUs.
        num_actors: actors at the most; 0 takes as many as the cluster fits, also while it grows and shrinks.
        max_failures_per_shard: after so many failures a shard is set aside and the run ends with an error.
        shard_timeout_s: an actor that needs longer for a shard is replaced, and that is a failure of the shard; one
            that needs longer, and half an hour at least, to load the generator is replaced too.
        max_shards_per_actor: then an actor is recycled: a new one takes its place; for samplers that leak. Never if not
            given.
        actor_memory_limit_gb: an actor whose process holds more memory (RSS, at the end of a shard) is recycled too.
        max_wait_s: how long to wait for a cluster that has no place for any actor.
    """

    generator: str | None = place(None)
    output: str | None = place(None)
    synthetic_ratio: float = Field(1.0, gt=0, json_schema_extra={"remedy": "give a ratio to the real set, such as 1.0"})
    num_images: int | None = Field(None, ge=1)
    labels: Literal["balanced", "proportional"] = "balanced"
    num_classes: int | None = Field(None, ge=1)
    class_names: tuple[str, ...] | None = Field(None, min_length=1)
    class_ids: tuple[int, ...] | None = Field(None, min_length=1)
    prompt: str = "a photo of a {class_name}"
    negative_prompt: str | None = None
    image_size_px: int | None = Field(None, ge=4, le=2048)
    base_seed: int = Field(0, ge=0)
    scheduler: SchedulerName | None = None
    num_inference_steps: int = Field(18, ge=2)
    guidance_scale: float = Field(1.0, ge=0)
    guidance_interval: tuple[float, float] | None = None
    clip_denoised: bool = True
    dtype: Precision = "float32"
    compile: bool = False
    sampler_batch_size: int = Field(64, ge=1)
    images_per_shard: int = Field(1024, ge=1)
    curation: CurationConfig = CurationConfig()
    threads_per_actor: int = Field(1, ge=1)
    accelerator_type: str | None = None
    gpus_per_actor: float = resource(0, ge=0, le=1)
    num_actors: int = resource(0, ge=0)
    max_failures_per_shard: int = resource(3, ge=1)
    shard_timeout_s: float = resource(3600, gt=0)
    max_shards_per_actor: int | None = resource(None, ge=1)
    actor_memory_limit_gb: float | None = resource(None, gt=0)
    max_wait_s: float = resource(1800, ge=0)

    @property
    def stands_alone(self) -> bool:
        """Whether the set needs no real training set."""
        return self.generator is not None and self.num_images is not None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.guidance_interval is not None and not 0 <= self.guidance_interval[0] < self.guidance_interval[1]:
            raise ConfigError(
                "generate.guidance_interval",
                "two noise levels, 0 <= low < high",
                self.guidance_interval,
                "give e.g. [0.3, 5]",
            )
        if "{class_name}" not in self.prompt:
            raise ConfigError(
                "generate.prompt", "a text with {class_name} in it", self.prompt, "say where the name of the class goes"
            )
        for field in ("class_names", "class_ids"):
            values = getattr(self, field)
            if values is not None and len(set(values)) != len(values):
                raise ConfigError(f"generate.{field}", "without repeats", values, "name each once")
        return self
