"""What cannot work is said before any worker starts: the field, the rule, the value, and what to do."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sio_ray.config import GenerateConfig
from sio_ray.errors import ConfigError, ImageSetError
from sio_ray.generate.generator import Generator, check_generator
from sio_ray.imageset import ImageSetInfo

EDM = Generator(
    location="/models/ours",
    revision=None,
    kind="edm",
    pipeline_class="ClassConditionalEDMPipeline",
    class_names=("a", "b", "c"),
    num_classes=3,
    image_shape=(1, 8, 8),
    scheduler=json.dumps({"_class_name": "EDMEulerScheduler"}),
    content_id="0",
)
DIT = dataclasses.replace(
    EDM,
    location="some/dit",
    kind="dit",
    pipeline_class="DiTPipeline",
    class_names=None,
    num_classes=1000,
    image_shape=(3, 8, 8),
    scheduler=json.dumps({"_class_name": "DDIMScheduler"}),
)
TEXT = dataclasses.replace(
    DIT, location="some/text", kind="text_to_image", pipeline_class="StableDiffusionPipeline", num_classes=None
)
GREY = ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=1)
RGB = GREY.model_copy(update={"channels": 3})
IDS = {"class_ids": (5, 6, 7)}


@pytest.mark.parametrize(
    ("generator", "info", "options"),
    [
        (EDM, GREY, {}),
        (EDM, GREY, {"scheduler": "unipc", "guidance_scale": 0.5, "guidance_interval": (0.1, 2.0)}),
        (EDM, GREY.model_copy(update={"class_names": ("c", "x")}), {"class_ids": (2, 0)}),
        (EDM, GREY.model_copy(update={"class_names": ("a", "b")}), {"generator": "x", "num_images": 9}),
        (DIT, RGB, {**IDS, "scheduler": "ddim", "guidance_scale": 4.0}),
        (DIT, GREY, {**IDS, "image_size_px": 8}),
        (DIT, RGB, {"generator": "x", "num_images": 9, "num_classes": 3}),
        (dataclasses.replace(DIT, num_classes=3), RGB, {}),
        (dataclasses.replace(DIT, image_shape=None), RGB, {**IDS, "image_size_px": 8}),
        (TEXT, RGB, {"negative_prompt": "dull", "scheduler": "euler"}),
        (TEXT, RGB, {"generator": "x", "num_images": 9, "class_names": ("a", "b", "c")}),
    ],
)
def test_what_fits_passes(generator, info, options):
    check_generator(generator, GenerateConfig(**options), info)


FOREIGN = "ddim, dpmsolver_multistep, unipc, deis"


@pytest.mark.parametrize(
    ("generator", "options", "message"),
    [
        (
            EDM,
            {"scheduler": "euler"},
            f"generate.scheduler must be one of edm_euler, edm_dpmsolver_multistep, {FOREIGN}, got 'euler'; "
            "euler is for pipelines not ours; edm_euler is the same rule for this one.",
        ),
        (
            TEXT,
            {"scheduler": "edm_euler"},
            f"generate.scheduler must be one of {FOREIGN}, euler, got 'edm_euler'; edm_* is for generators that "
            "fit-generator writes; leave it out for the one saved with the generator.",
        ),
        (
            DIT,
            {**IDS, "scheduler": "euler"},
            f"generate.scheduler must be one of {FOREIGN}, got 'euler'; DiTPipeline does not scale its first noise as "
            "euler needs; ddim is the same rule.",
        ),
        (
            dataclasses.replace(TEXT, scheduler=json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"})),
            {"scheduler": "ddim"},
            "generate.scheduler must be left out for some/text, got 'ddim'; it cannot take the noise levels of the "
            "FlowMatchEulerDiscreteScheduler saved with it.",
        ),
        (
            DIT,
            {**IDS, "guidance_interval": (0.1, 2.0)},
            "generate.guidance_interval must be left out for a DiTPipeline, got (0.1, 2.0); diffusers' own pipelines "
            "guide at every noise level.",
        ),
        (
            TEXT,
            {"guidance_scale": 0.0},
            "generate.guidance_scale must be at least 1 for a StableDiffusionPipeline, got 0.0; diffusers' own "
            "pipelines take anything less for no guidance.",
        ),
        (
            dataclasses.replace(DIT, num_classes=3),
            {"guidance_scale": 2.0},
            "generate.guidance_scale must be 1 for a DiTPipeline of 3 classes, got 2.0; diffusers takes class 1000 for "
            "the null class, so it can guide ImageNet's 1000 only.",
        ),
        (
            DIT,
            {"class_ids": (5, 6)},
            "generate.class_ids must be as many as the set has classes (3), got (5, 6); give the generator's id of "
            "each class of the set, in its order.",
        ),
        (
            DIT,
            {"class_ids": (5, 1000, 1001)},
            "generate.class_ids must be in [0, 1000), the classes of some/dit, got [1000, 1001]; look them up in its "
            "model_index.json.",
        ),
        (
            TEXT,
            IDS,
            "generate.class_ids must be left out for a StableDiffusionPipeline, got (5, 6, 7); it draws by name: give "
            "generate.class_names and generate.prompt.",
        ),
        (
            TEXT,
            {"generator": "x", "num_images": 9},
            "generate.class_names must be given for a StableDiffusionPipeline, got None; it draws by name: say what "
            "each class is called.",
        ),
        (
            TEXT,
            {"prompt": "{class_name} in {style}"},
            "generate.prompt must be a text whose only field is {class_name}, got '{class_name} in {style}'; write "
            "other braces twice, as {{ and }}.",
        ),
        (
            dataclasses.replace(TEXT, pipeline_class="LatentConsistencyModelPipeline"),
            {"negative_prompt": "dull"},
            "generate.negative_prompt must be left out for a LatentConsistencyModelPipeline, got 'dull'; it takes "
            "none.",
        ),
        (
            EDM,
            {"image_size_px": 8},
            "generate.image_size_px must be left out for a generator that fit-generator wrote, got 8; it draws 1x8x8 "
            "and its pictures are never resized.",
        ),
        (
            dataclasses.replace(TEXT, image_shape=None),
            {},
            "generate.image_size_px must be given for some/text, got None; its configs do not tell the size that it "
            "draws.",
        ),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_its_rule_and_a_remedy(generator, options, message):
    with pytest.raises(ConfigError) as error:
        check_generator(generator, GenerateConfig(**options), GREY if generator.kind == "edm" else RGB)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("generator", "info", "options", "message"),
    [
        (
            DIT,
            RGB,
            {},
            "the generator some/dit draws 1000 classes, the set has 3; give one fitted to that set, or say with "
            "generate.class_ids which of its classes are meant.",
        ),
        (
            EDM,
            GREY.model_copy(update={"class_names": ("a", "b", "c", "d")}),
            {"generator": "x", "num_images": 9},
            "the generator /models/ours draws 3 classes, the set has 4; give one fitted to that set, or say with "
            "generate.class_ids which of its classes are meant.",
        ),
        (
            EDM,
            GREY.model_copy(update={"class_names": ("b", "a", "c")}),
            {},
            "the classes of the generator /models/ours are a, b, c, those of the set b, a, c; say with "
            "generate.class_ids which is which.",
        ),
        (
            EDM,
            RGB,
            {},
            "the generator /models/ours draws pictures of 1x8x8, the set has 3x8x8 (channels x height x width); give "
            "one fitted to that set.",
        ),
        (
            DIT,
            GREY,
            IDS,
            "the generator some/dit draws pictures of 3x8x8, the set has 1x8x8 (channels x height x width); "
            "generate.image_size_px=8 brings them to 1x8x8.",
        ),
        (
            TEXT,
            RGB,
            {"image_size_px": 16},
            "the generator some/text draws pictures of 3x16x16, the set has 3x8x8 (channels x height x width); "
            "generate.image_size_px=8 brings them to 3x8x8.",
        ),
    ],
)
def test_a_generator_that_does_not_fit_the_set_is_refused(generator, info, options, message):
    with pytest.raises(ImageSetError) as error:
        check_generator(generator, GenerateConfig(**options), info)
    assert str(error.value) == message


def with_scheduler(generator, **saved):
    return dataclasses.replace(generator, scheduler=json.dumps(saved))


SDE = {"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}


@pytest.mark.parametrize(
    ("generator", "info", "options", "message"),
    [
        (
            with_scheduler(EDM, **SDE),
            GREY,
            {},
            "generate.scheduler must be another one than the sde-dpmsolver++ saved with /models/ours, got None; that "
            "adds noise which follows from no seed: name one that does not, such as edm_euler.",
        ),
        (
            with_scheduler(EDM, **SDE),
            GREY,
            {"scheduler": "edm_dpmsolver_multistep"},
            "generate.scheduler must be another one than the sde-dpmsolver++ saved with /models/ours, got "
            "'edm_dpmsolver_multistep'; that adds noise which follows from no seed: name one that does not, such as "
            "edm_euler.",
        ),
        (
            with_scheduler(TEXT, _class_name="DPMSolverSDEScheduler"),
            RGB,
            {},
            "generate.scheduler must be another one than the DPMSolverSDEScheduler saved with some/text, got None; "
            "that adds noise which follows from no seed: name one that does not, such as dpmsolver_multistep.",
        ),
    ],
)
def test_noise_that_follows_from_no_seed_is_refused(generator, info, options, message):
    with pytest.raises(ConfigError) as error:
        check_generator(generator, GenerateConfig(**options), info)
    assert str(error.value) == message


@pytest.mark.parametrize("scheduler", ["edm_euler", "ddim", "dpmsolver_multistep"])
def test_a_scheduler_of_ours_that_takes_over_no_noise_passes(scheduler):
    check_generator(with_scheduler(EDM, **SDE), GenerateConfig(scheduler=scheduler), GREY)
