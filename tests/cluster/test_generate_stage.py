"""The generate stage from the command line: sets that stand alone, a rule, other places, and measured plans."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.cli import run_stages
from sio_ray.commands import plan
from sio_ray.config import load_config, with_overrides
from sio_ray.errors import GenerationError, StageError
from sio_ray.generate.job import PLAN_NAME
from sio_ray.imageset import ImageSet
from sio_ray.imageset.shard import rejected_ids
from sio_ray.imageset.verify import verify_image_set
from sio_ray.stages.layout import generate_place


def config_in(folder, generator):
    """A set of 100 images that needs no training set."""
    overrides = {
        "output_dir": str(folder / "runs"),
        "generate.generator": str(generator),
        "generate.num_images": 100,
        "generate.images_per_shard": 30,
        "generate.sampler_batch_size": 8,
        "generate.num_inference_steps": 3,
        "generate.num_actors": 1,
    }
    return with_overrides(load_config("digits"), overrides)


@pytest.fixture
def config(gaussian_generator, tmp_path):
    """Of a set that is not drawn yet."""
    return config_in(tmp_path, gaussian_generator)


@pytest.fixture(scope="module")
def drawn(ray_cluster, gaussian_generator, tmp_path_factory):
    """Config of a set that is drawn, at a place of its own, and what came out; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("drawn")
    config = with_overrides(config_in(folder, gaussian_generator), {"generate.output": str(folder / "set")})
    return config, run_stages(config, ["generate"])["generate"]


def test_a_set_that_stands_alone_goes_where_it_is_told_and_is_not_drawn_again(drawn):
    config, outcome = drawn
    folder = Path(config.generate.output)
    images = ImageSet(folder)
    assert images.info.class_names == ("dark", "middle", "bright")
    assert images.manifest.class_counts == (34, 33, 33)
    means = [images.read().images[images.read().labels == label].mean() for label in range(3)]
    assert means == sorted(means)
    assert outcome["result"]["content_id"] == images.manifest.content_id
    assert outcome["result"]["seconds"]["sample_s"] > 0
    assert {entry.device for entry in images.manifest.shards} == {f"cpu {torch.backends.cpu.get_cpu_capability()}"}
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(["manifest.json", PLAN_NAME, *(entry.name for entry in images.manifest.shards)])

    assert run_stages(config, ["generate"])["generate"]["reused"] is True
    (folder / "manifest.json").unlink()
    again = run_stages(config, ["generate"])["generate"]
    assert again["reused"] is False
    assert again["result"]["content_id"] == images.manifest.content_id


def test_another_config_for_the_same_place_is_refused_and_loses_nothing(drawn):
    config, _ = drawn
    folder = Path(config.generate.output)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(StageError, match=r"\n  generate\.guidance_scale: 1\.5 -> 3\.0\n"):
        run_stages(with_overrides(config, {"generate.guidance_scale": 3.0}), ["generate"])
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_a_curated_set_is_complete_balanced_and_the_same_every_time(config, drawn, tmp_path):
    images = ImageSet(drawn[1]["result"]["images"])
    classifier, threshold = _train_a_little(images)
    save_classifier(tmp_path / "classifier", classifier.architecture, classifier.state_dict())
    curated = with_overrides(
        config,
        {
            "generate.curation.classifier": str(tmp_path / "classifier"),
            "generate.curation.min_confidence": threshold,
        },
    )
    results = []
    for num_actors in (1, 2):
        results.append(
            run_stages(with_overrides(curated, {"generate.num_actors": num_actors}), ["generate"])["generate"]
        )
        kept = ImageSet(results[-1]["result"]["images"])
        rejected = [i for shard in kept.manifest.shards for i in rejected_ids(kept.folder.read_bytes(shard.name))]
        if num_actors == 1:
            shutil.rmtree(generate_place(curated).folder)
    assert results[0]["result"]["content_id"] == results[1]["result"]["content_id"]
    assert results[0]["result"]["num_rejected"] == len(rejected) > 0
    arrays = kept.read()
    assert len(arrays) == 100
    np.testing.assert_array_equal(arrays.labels, np.arange(100) % 3)
    assert not set(arrays.image_ids.tolist()) & set(rejected)
    assert len({*arrays.image_ids.tolist(), *rejected}) == 100 + len(rejected)
    assert verify_image_set(kept.uri).ok
    confidence = _confidence(classifier, arrays)
    assert confidence.min() >= threshold - 1e-6
    assert (_confidence(classifier, images.read()) < threshold).any()


def _train_a_little(images):
    """A classifier, and a confidence that about half of the pictures of its least certain class have."""
    torch.manual_seed(1)
    info, arrays = images.info, images.read()
    classifier = Classifier(
        Architecture(
            network="small_cnn",
            width=4,
            class_names=info.class_names,
            image_shape=info.image_shape,
            mean=(0.5,),
            std=(0.3,),
        )
    )
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
    pictures, labels = torch.from_numpy(arrays.images).float() / 255, torch.from_numpy(arrays.labels)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(pictures), labels).backward()
        optimizer.step()
    confidence = _confidence(classifier.eval(), arrays)
    return classifier, round(min(float(np.median(confidence[arrays.labels == label])) for label in range(3)), 3)


def _confidence(classifier, arrays):
    """Softmax of each picture's label; 0 where another class is likelier."""
    with torch.no_grad():
        probabilities = classifier(torch.from_numpy(arrays.images).float() / 255).softmax(1).numpy()
    of_label = probabilities[np.arange(len(arrays)), arrays.labels]
    return np.where(of_label == probabilities.max(1), of_label, 0)


def test_shards_that_cannot_be_drawn_are_listed_and_no_set_is_committed(config):
    burnt = with_overrides(config, {"generate.guidance_scale": 500.0, "generate.max_failures_per_shard": 2})
    message = (
        r"^4 of 4 shards failed 2 times each: shards \[0, 1, 2, 3\], labels \[0, 1, 2\]; the first error "
        r"\(shard 0\): the picture of label 0, seed \d+ is blown out .*\. All other shards are kept; "
    )
    with pytest.raises(GenerationError, match=message):
        run_stages(burnt, ["generate"])
    images = generate_place(burnt).folder / "images"
    assert [path.name for path in images.iterdir()] == [PLAN_NAME]


def test_a_measured_plan_says_how_long_it_takes(config, monkeypatch):
    monkeypatch.setattr(plan, "_SIZES", [4])
    told = plan.make_plan(with_overrides(config, {"generate.num_actors": 2}), calibrate=True)
    assert [row.sampler_batch_size for row in told.calibrations] == [4, 8]
    own = told.calibrations[1]
    device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    assert (told.device, told.num_actors, told.gpu_hours) == (device, 2, 0)
    assert told.images_per_s == pytest.approx(2 * own.images_per_s * 100 / 112)
    assert told.wall_s == pytest.approx(100 / told.images_per_s)
    assert told.num_bytes == pytest.approx(100 * own.bytes_per_image, abs=1)
