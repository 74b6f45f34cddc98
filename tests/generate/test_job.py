"""A job: what a config asks for, all that its bytes depend on, and a resume that refuses another job."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.config import GenerateConfig, build_config
from sio_ray.errors import ConfigError, ImageSetError, StageError
from sio_ray.generate import job as job_module
from sio_ray.generate.actors import DRAWING
from sio_ray.generate.curation import Curator
from sio_ray.generate.generator import find_generator
from sio_ray.generate.job import PLAN_NAME, Job, check_sources, plan_of
from sio_ray.imageset import ImageSetInfo, Manifest, ShardEntry
from sio_ray.imageset.storage import Folder

TRAIN = Manifest(
    info=ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=1, provenance={"source": "x"}),
    num_images=80,
    class_counts=(40, 20, 20),
    shards=(ShardEntry.of("part-00000-of-00001.parquet", 80, b""),),
)


def section(**fields):
    return build_config({"name": "x", "generate": fields}).generate


@pytest.fixture
def generator(generator_folder):
    return find_generator(str(generator_folder))


def test_a_set_follows_the_training_set(generator):
    plan, info = plan_of(section(synthetic_ratio=1.5), generator, TRAIN)
    assert (plan.num_images, plan.class_weights) == (120, (1, 1, 1))
    assert info == TRAIN.info.model_copy(update={"provenance": {}})
    plan, _ = plan_of(section(num_images=7, labels="proportional"), generator, TRAIN)
    assert (plan.num_images, plan.class_weights) == (7, (2, 1, 1))


def test_a_set_that_stands_alone_follows_the_generator_or_what_the_config_says(generator):
    plan, info = plan_of(section(generator="x", num_images=10), generator, None)
    assert (plan.num_images, plan.num_classes, info.image_shape) == (10, 3, (1, 8, 8))
    _, named = plan_of(section(generator="x", num_images=10, class_names=["x", "y", "z"]), generator, None)
    assert named.class_names == ("x", "y", "z")
    plan, unseen = plan_of(section(generator="x", num_images=10, num_classes=1000, image_size_px=256), None, None)
    assert (plan.num_classes, unseen.image_shape) == (1000, (3, 256, 256))


@pytest.mark.parametrize(
    ("fields", "seen", "message"),
    [
        (
            {"num_classes": 4, "class_names": ["a", "b", "c"]},
            True,
            "generate.num_classes must be for 3 classes, as many as the set has, got 4; "
            "name each class once, in the order of the labels.",
        ),
        (
            {"class_ids": [5, 6], "class_names": ["a", "b", "c"]},
            True,
            "generate.class_ids must be for 3 classes, as many as the set has, got (5, 6); "
            "name each class once, in the order of the labels.",
        ),
        (
            {"labels": "proportional"},
            True,
            "generate.labels must be balanced for a set that stands alone, got 'proportional'; "
            "leave out generate.num_images to follow the training set.",
        ),
        (
            {"image_size_px": 8},
            False,
            "generate.num_classes must be given, as the generator does not tell, got None; say how many.",
        ),
        (
            {"num_classes": 3},
            False,
            "generate.image_size_px must be given, as the generator does not tell, got None; say which size.",
        ),
    ],
)
def test_what_contradicts_the_set_is_refused(generator, fields, seen, message):
    with pytest.raises(ConfigError) as error:
        plan_of(section(generator="x", num_images=10, **fields), generator if seen else None, None)
    assert str(error.value) == message


def job_of(generator, folder, **fields):
    config = section(generator="x", num_images=10, **fields)
    plan, info = plan_of(config, generator, None)
    return Job(config, plan, info, generator, Folder(str(folder)))


def test_the_same_job_goes_on_and_resources_do_not_matter(generator, tmp_path):
    job_of(generator, tmp_path / "set").begin()
    written = (tmp_path / "set" / PLAN_NAME).read_text()
    job_of(generator, tmp_path / "set", num_actors=7, max_failures_per_shard=1, shard_timeout_s=9).begin()
    assert (tmp_path / "set" / PLAN_NAME).read_text() == written
    assert json.loads(written) == json.loads(json.dumps(job_of(generator, tmp_path / "set").drawn_with))


#: Fields that decide bytes, and another value for each.
DECISIVE = {
    "base_seed": 1,
    "class_ids": [2, 1, 0],
    "class_names": ["x", "y", "z"],
    "clip_denoised": False,
    "compile": True,
    "dtype": "bfloat16",
    "guidance_interval": [0.5, 5.0],
    "guidance_scale": 2.0,
    "image_size_px": 16,
    "images_per_shard": 5,
    "negative_prompt": "blurry",
    "num_inference_steps": 5,
    "prompt": "{class_name}",
    "sampler_batch_size": 5,
    "scheduler": "edm_euler",
    "threads_per_actor": 2,
    "gpus_per_actor": 1,  # another kind of device
    "accelerator_type": "H100",
}


@pytest.mark.parametrize("field", DECISIVE)
def test_another_value_of_what_decides_the_bytes_is_refused_with_what_changed(generator, tmp_path, field):
    job_of(generator, tmp_path).begin()
    with pytest.raises(StageError) as error:
        job_of(generator, tmp_path, **{field: DECISIVE[field]}).begin()
    first, change, *_, last = str(error.value).splitlines()
    assert first == f"{tmp_path} was begun with other settings, so its bytes would not match:"
    name = {"gpus_per_actor": "device", "image_size_px": "image_size_px"}.get(field, field)
    assert name in change
    assert " -> " in change
    assert last == "Go back to those, give another generate.output, or delete it to draw it anew."


def test_the_fields_that_decide_nothing_by_themselves_are_the_others(generator, tmp_path):
    """Every field is in `DECISIVE`, acts through the plan, the generator or the classifier, or is a resource."""
    elsewhere = {*job_module._SAID_OTHERWISE}
    resources = {*GenerateConfig.model_fields} - {*section().identity()}
    assert {*DECISIVE} - {"class_names", "gpus_per_actor"} == {*GenerateConfig.model_fields} - elsewhere - resources


def test_another_version_generator_or_number_of_images_is_refused(generator, tmp_path, monkeypatch):
    job_of(generator, tmp_path).begin()
    monkeypatch.setattr(job_module, "versions", lambda: {**dict.fromkeys(job_module._DECISIVE_PACKAGES, "0")})
    with pytest.raises(StageError, match=r"\n  versions.torch: '[0-9.]+.*' -> '0'\n"):
        job_of(generator, tmp_path).begin()
    monkeypatch.undo()
    (tmp_path / PLAN_NAME).write_text((tmp_path / PLAN_NAME).read_text().replace('"num_images": 10', '"num_images": 9'))
    with pytest.raises(StageError, match=r"\n  num_images: 9 -> 10\n"):
        job_of(generator, tmp_path).begin()


def test_an_actor_with_other_versions_than_the_driver_draws_nothing(generator, tmp_path, monkeypatch):
    ours = {**job_module.versions(), "torch": "2.1", "pillow": "12.0", "transformers": "not installed"}
    monkeypatch.setattr(job_module, "versions", lambda: ours)
    job = job_of(generator, tmp_path)
    job.begin()
    copy.deepcopy(job).make_writer()  # which is made of the same parts as what is sent
    monkeypatch.setattr(job_module, "versions", lambda: {**ours, "torch": "2.2", "pillow": "12.1", "transformers": "5"})
    with pytest.raises(ConfigError) as error:
        copy.deepcopy(job).make_writer()
    assert str(error.value) == (
        "cluster.address must be of a cluster with the driver's versions (torch 2.1, pillow 12.0), got "
        "'torch 2.2, pillow 12.1'; install the same on all nodes, as pictures depend on it."
    )
    assert isinstance(error.value, DRAWING.fatal), "it would come again on every such actor"


def test_a_folder_with_other_things_in_it_is_refused(generator, tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(StageError) as error:
        job_of(generator, tmp_path).begin()
    assert str(error.value) == (
        f"{tmp_path} holds files that generate did not write (there is no plan.json); "
        "give an empty folder as generate.output."
    )


def test_a_set_that_another_driver_begins_at_the_same_moment_is_compared_with(generator, tmp_path, monkeypatch):
    for place, options in (("same", {}), ("other", {"base_seed": 1})):
        mine, theirs = job_of(generator, tmp_path / place), job_of(generator, tmp_path / place, **options)
        exists = Folder.exists

        def look(folder, name="", theirs=theirs, exists=exists):
            found = exists(folder, name)
            monkeypatch.setattr(Folder, "exists", exists)
            theirs.begin()
            return found

        monkeypatch.setattr(Folder, "exists", look)
        if not options:
            mine.begin()
        else:
            with pytest.raises(StageError, match=r"\n  generate.base_seed: 1 -> 0\n"):
                mine.begin()


# The curation rule, with a classifier.


@pytest.fixture
def classifier_folder(tmp_path):
    """A classifier whose logits are linear in the mean grey level: dark, middle and bright."""
    import torch

    architecture = Architecture(
        network="small_cnn", width=4, class_names=("a", "b", "c"), image_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)
    )
    torch.manual_seed(0)
    save_classifier(tmp_path / "classifier", architecture, Classifier(architecture).state_dict())
    return tmp_path / "classifier"


def rule(classifier_folder, **fields):
    return section(curation={"classifier": str(classifier_folder), **fields}).curation


def test_the_rule_keeps_what_the_classifier_says_of_each_picture(classifier_folder, info):
    import torch

    from sio_ray.classifier.checkpoint import load_classifier

    pictures = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(60, dtype=np.int64) % 3
    with torch.no_grad():
        probabilities = load_classifier(classifier_folder)(torch.from_numpy(pictures).float() / 255).softmax(1).numpy()
    confidence = probabilities[np.arange(60), labels]
    low, high = np.quantile(confidence[probabilities.argmax(1) == labels], [0.25, 0.75])
    expected = (probabilities.argmax(1) == labels) & (confidence >= low) & (confidence <= high)
    assert 0 < expected.sum() < 60
    kept = Curator(rule(classifier_folder, min_confidence=low, max_confidence=high), info).keeps(pictures, labels)
    np.testing.assert_array_equal(kept, expected)


def test_a_classifier_of_other_classes_is_refused(classifier_folder, info):
    other = info.model_copy(update={"class_names": ("x", "y", "z")})
    with pytest.raises(ImageSetError) as error:
        Curator(rule(classifier_folder), other)
    assert str(error.value) == (
        f"the classifier {classifier_folder} knows 3 classes (a, b, c) of 1x8x8, the set has 3 classes (x, y, z) of "
        "1x8x8; give generate.curation.classifier one that was trained on the same classes and pictures."
    )


def test_a_resume_with_another_classifier_is_refused(generator, classifier_folder, tmp_path):
    curation = {"classifier": str(classifier_folder), "min_confidence": 0.2}
    job_of(generator, tmp_path / "set", curation=curation).begin()
    with pytest.raises(StageError, match=r"\n  generate.curation.min_confidence: 0.2 -> 0.3\n"):
        job_of(generator, tmp_path / "set", curation={**curation, "min_confidence": 0.3}).begin()
    weights = classifier_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(StageError, match=r"\n  generate.curation.classifier: '\w+' -> '\w+'\n"):
        job_of(generator, tmp_path / "set", curation=curation).begin()


def test_another_classifier_at_the_path_by_which_a_set_was_curated_is_noticed(generator, classifier_folder, tmp_path):
    job = job_of(generator, tmp_path / "set", curation={"classifier": str(classifier_folder)})
    job.begin()
    check_sources(job.section, job.folder)
    weights = classifier_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(StageError, match=r"match:\n  generate.curation.classifier: '\w+' -> '\w+'\nGo back"):
        check_sources(job.section, job.folder)
