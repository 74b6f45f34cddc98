"""The sections of the config, one per stage: fields, defaults, bounds, and what each means."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from sio_ray.errors import ConfigError

#: Every stage, in the order data flows. Each has a section of the config of the same name, with `_` for `-`.
STAGES = ("prepare", "fit-generator", "generate", "train", "evaluate", "tune", "report")


Precision = Literal["float32", "bfloat16"]

#: Samplers by name; `edm_*` are for generators that fit-generator writes, `euler` for those from elsewhere.
SchedulerName = Literal["edm_euler", "edm_dpmsolver_multistep", "ddim", "dpmsolver_multistep", "unipc", "deis", "euler"]


def _resource(default: Any, **rules: Any) -> Any:
    """A field that says where work runs, never what comes out; it is left out of every fingerprint."""
    return Field(default, json_schema_extra={"resource": True}, **rules)


def _share(default: Any, **extra: Any) -> Any:
    """A share in [0, 1]."""
    return Field(default, ge=0, le=1, json_schema_extra={"remedy": "give a share, not a percentage", **extra})


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """What a field says of itself beyond its bounds: `resource`, `remedy`."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


class Section(BaseModel):
    """Base of all sections: frozen, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads `yes` and `on` as true, and pydantic would take that for 1.
        if isinstance(value, bool):
            annotation = cls.model_fields[str(info.field_name)].annotation
            kinds = {annotation, *get_args(annotation)}
            if kinds & {int, float}:
                raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value

    def identity(self) -> dict[str, Any]:
        """The fields that decide what comes out, as JSON values; what a fingerprint is made of."""
        return self.model_dump(
            mode="json",
            exclude={name for name, field in type(self).model_fields.items() if extra_of(field).get("resource")},
        )


class PrepareConfig(Section):
    """Where real images come from, and how they are split.

    Attributes:
        source: `digits` (scikit-learn's 8x8 digits) or `image_folder` (your own pictures, see the README).
        root: folder of an `image_folder` source.
        image_size_px: pictures of an `image_folder` are resized and centre-cropped to this square.
        channels: 1 (grey) or 3 (RGB), for an `image_folder`.
        id_classes: classes of the `digits` source that are in-distribution (ID); labels are renumbered from 0.
        near_ood_classes: classes of the `digits` source held out as near-OOD.
        val_fraction: share of the ID images (and of near-OOD) that tunes, never trains, never tests.
        test_fraction: share of the ID images that is read once, at the end.
        images_per_ood_set: pictures in each far-OOD set that is drawn or cut (letters, patches, noise).
        num_outliers: pictures in the outlier-exposure and in the mixing set.
        seed: of the split and of everything drawn.
    """

    source: Literal["digits", "image_folder"] = "digits"
    root: Path | None = None
    image_size_px: int = Field(32, ge=4, le=1024)
    channels: Literal[1, 3] = 3
    id_classes: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    near_ood_classes: tuple[int, ...] = (6, 7, 8, 9)
    val_fraction: float = Field(0.2, gt=0, lt=1, json_schema_extra={"remedy": "give a share, not a percentage"})
    test_fraction: float = Field(0.2, gt=0, lt=1, json_schema_extra={"remedy": "give a share, not a percentage"})
    images_per_ood_set: int = Field(400, ge=1)
    num_outliers: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source == "image_folder" and self.root is None:
            raise ConfigError(
                "prepare.root", "a folder for source image_folder", None, "set prepare.root=/your/pictures"
            )
        both = sorted(set(self.id_classes) & set(self.near_ood_classes))
        if both:
            raise ConfigError(
                "prepare.near_ood_classes", "disjoint from id_classes", both, "keep each class on one side"
            )
        if self.val_fraction + self.test_fraction >= 1:
            total = self.val_fraction + self.test_fraction
            raise ConfigError(
                "prepare.test_fraction", "less than 1 together with val_fraction", total, "leave images to train on"
            )
        return self


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
    label_dropout: float = _share(0.1)
    gradient_clip_norm: float = Field(1.0, gt=0)
    precision: Precision = "float32"
    compile: bool = False
    seed: int = Field(0, ge=0)
    report_every_steps: int = _resource(100, ge=1)
    preview_every_steps: int = _resource(0, ge=0)
    num_workers: int = _resource(1, ge=1)
    cpus_per_worker: int = _resource(1, ge=1)
    gpus_per_worker: int = _resource(0, ge=0, le=1)


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
    min_confidence: float = _share(0.0)
    max_confidence: float = _share(1.0)
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
        shard_timeout_s: an actor that needs longer for a shard is replaced, and that is a failure of the shard.
        max_wait_s: how long to wait for a cluster that has no place for any actor.
    """

    generator: str | None = None
    output: str | None = None
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
    gpus_per_actor: float = _resource(0, ge=0, le=1)
    num_actors: int = _resource(0, ge=0)
    max_failures_per_shard: int = _resource(3, ge=1)
    shard_timeout_s: float = _resource(3600, gt=0)
    max_wait_s: float = _resource(1800, ge=0)

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


class TrainConfig(Section):
    """The classifiers: the baseline on real images alone, and SIO on both.

    Both arms take the same number of optimiser steps of the same batch size, so the comparison is fair.

    Attributes:
        arms: which of `baseline` and `sio` to train.
        seeds: one run per arm and seed.
        network: name of the network.
        width: channels of its first stage.
        real_weight: alpha of the paper: loss = alpha * mean over real + (1 - alpha) * mean over synthetic.
        synthetic_ratio: synthetic images used over real ones; all that were drawn if not given.
        real_batch_share: the share of each batch that is real; `real_weight` if not given.
        synthetic_set: a finished image set to train on instead of what generate wrote.
        num_steps: optimiser steps of every run.
        global_batch_size: images per step over all workers.
        learning_rate: of SGD with Nesterov momentum at its peak; cosine decay to 1e-6.
        momentum: of SGD.
        weight_decay: of SGD.
        warmup_steps: linear warm-up.
        crop_padding_px: random crop after so much zero padding; 0 turns it off.
        horizontal_flip: flip half of the pictures.
        report_every_steps: steps between two points of the training curve, each with a checkpoint to resume from.
        num_workers: Ray Train workers of one run.
        cpus_per_worker: CPU cores, and threads, of each.
        gpus_per_worker: GPUs of each; 0 trains on CPUs.
        concurrent_runs: runs that train side by side.
    """

    arms: tuple[Literal["baseline", "sio"], ...] = Field(("baseline", "sio"), min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    network: Literal["small_cnn", "resnet18_32px"] = "resnet18_32px"
    width: int = Field(64, ge=4)
    real_weight: float = _share(0.8)
    synthetic_ratio: float | None = Field(
        None, ge=0, json_schema_extra={"remedy": "give a ratio to the real set, such as 1.0"}
    )
    real_batch_share: float | None = _share(None)
    synthetic_set: str | None = None
    num_steps: int = Field(1000, ge=1)
    global_batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    warmup_steps: int = Field(0, ge=0)
    crop_padding_px: int = Field(4, ge=0)
    horizontal_flip: bool = True
    report_every_steps: int = _resource(100, ge=1)
    num_workers: int = _resource(1, ge=1)
    cpus_per_worker: int = _resource(1, ge=1)
    gpus_per_worker: int = _resource(0, ge=0, le=1)
    concurrent_runs: int = _resource(1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("arms", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ConfigError(f"train.{field}", "without repeats", values, "name each once")
        return self

    @property
    def batch_share(self) -> float:
        """The share of each batch that is real, with its default resolved."""
        return self.real_weight if self.real_batch_share is None else self.real_batch_share


class EvaluateConfig(Section):
    """Which OOD scores are computed.

    Attributes:
        detectors: names of detectors, keys of `sio_ray.ood.detectors.DETECTORS`.
        batch_size: images per forward pass.
        cpus_per_task: CPU cores, and threads, of each task.
        gpus_per_task: GPUs (or a fraction of one) of each task; 0 runs on CPUs.
    """

    detectors: tuple[str, ...] = Field(("msp", "max_logit", "energy", "knn", "odin", "vim"), min_length=1)
    batch_size: int = _resource(256, ge=1)
    cpus_per_task: int = _resource(1, ge=1)
    gpus_per_task: float = _resource(0, ge=0, le=1)


class TuneConfig(Section):
    """The search over `train` fields against OOD AUROC on the validation sets.

    Attributes:
        space: path of a search space module, such as `tune_spaces/weight_and_ratio.py`.
        num_trials: trials besides the baseline.
        detectors: the objective is the mean near-OOD AUROC over these.
        seeds: every trial trains once per seed and is judged by the mean.
        num_steps: optimiser steps of each training run; those of `train` if not given.
        search_seed: of the search algorithm.
        concurrent_trials: trials that train side by side.
        cpus_per_trial: CPU cores, and threads, of each.
        gpus_per_trial: GPUs (or a fraction of one) of each.
    """

    space: Path = Path("tune_spaces/weight_and_ratio.py")
    num_trials: int = Field(16, ge=1)
    detectors: tuple[str, ...] = Field(("energy",), min_length=1)
    seeds: tuple[int, ...] = Field((100,), min_length=1)
    num_steps: int | None = Field(None, ge=1)
    search_seed: int = Field(0, ge=0)
    concurrent_trials: int = _resource(2, ge=1)
    cpus_per_trial: int = _resource(1, ge=1)
    gpus_per_trial: float = _resource(0, ge=0, le=1)


class ReportConfig(Section):
    """What the HTML page shows.

    Attributes:
        title: heading of the page; made from the config's name if not given.
        images_per_class: columns of the grid of real beside synthetic images.
        detector: whose ROC curves and score histograms are drawn.
    """

    title: str | None = None
    images_per_class: int = Field(10, ge=1, le=40)
    detector: str = "energy"


class ClusterConfig(Section):
    """Which Ray cluster does the work; nothing here changes any result.

    Attributes:
        address: of a running cluster (`auto`, `ray://...`); a local one is started if not given.
        num_cpus: logical CPU cores of a local one; all of the machine's if not given.
        num_gpus: logical GPUs of a local one; all of the machine's if not given.
        dashboard: start Ray's dashboard with a local one.
    """

    address: str | None = None
    num_cpus: int | None = Field(None, ge=1)
    num_gpus: int | None = Field(None, ge=0)
    dashboard: bool = False


class Config(Section):
    """The whole config: one section per stage.

    Attributes:
        name: of the experiment; outputs go to `output_dir/name`.
        output_dir: folder of all experiments; on a cluster, one that all nodes share.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    output_dir: Path = Path("runs")
    prepare: PrepareConfig = PrepareConfig()
    fit_generator: FitGeneratorConfig = FitGeneratorConfig()
    generate: GenerateConfig = GenerateConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    report: ReportConfig = ReportConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def run_dir(self) -> Path:
        """Absolute folder of this experiment; workers have another working directory."""
        return (self.output_dir / self.name).absolute()
