"""Extraction by a pool: each shard once, the same bytes for any number of actors, whatever dies on the way."""

from __future__ import annotations

import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ray import cloudpickle

from sio_ray.classifier.checkpoint import save_classifier
from sio_ray.classifier.model import Architecture, Classifier
from sio_ray.config import ClusterConfig, EvaluateConfig
from sio_ray.errors import CheckpointError, ConfigError, EvaluationError, ResourceError
from sio_ray.evaluation import extraction as module
from sio_ray.evaluation.extraction import Extraction, ExtractionCost, extract_all
from sio_ray.evaluation.networks import load_network
from sio_ray.imageset import ImageSet, ImageSetInfo, write_image_set
from sio_ray.imageset.content_hash import content_hashes
from sio_ray.ood.extract import extract
from sio_ray.ood.probe import Probe, no_graph
from sio_ray.ood.store import OUTPUTS, OutputStore, group_of

# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

INFO = ImageSetInfo(class_names=("a", "b", "c"), height_px=8, width_px=8, channels=3)
CLUSTER = ClusterConfig(num_cpus=4, num_gpus=4)
SECTION = EvaluateConfig(num_actors=1, batch_size=8)


@dataclass(frozen=True)
class Brightness(Probe):
    """Mean of each channel; at pictures that begin with certain pixels it dies, fails or hangs, once or always.

    Attributes:
        notes: folder where it writes how many pictures it saw, by process.
        die_on: first pixels at which its process dies the first time.
        hang_on: first pixels at which it hangs the first time.
        fail_on: first pixels at which it raises every time.
        raises: what it raises.
    """

    notes: str
    die_on: tuple[int, ...] = ()
    hang_on: tuple[int, ...] = ()
    fail_on: tuple[int, ...] = ()
    raises: type[Exception] = RuntimeError
    name = "brightness"

    def read(self, batch):
        with open(f"{self.notes}/{os.getpid()}", "a") as stream:  # noqa: PTH123
            stream.write(f"{len(batch.images)}\n")
        for first in (batch.images[:, 0, 0, 0] * 255).round().int().tolist():
            if first in self.die_on and self._first_time(first):
                os._exit(1)
            if first in self.hang_on and self._first_time(first):
                time.sleep(600)
            if first in self.fail_on:
                raise self.raises("this picture cannot be read")
        return no_graph(batch.images.mean((2, 3)))

    def _first_time(self, first):
        try:
            os.close(os.open(f"{self.notes}/first-{first}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def identity(self):
        return {"probe": self.name}


@dataclass(frozen=True)
class Darkness(Probe):
    """Another one."""

    name = "darkness"

    def read(self, batch):
        return no_graph(1 - batch.images.mean((2, 3)))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets in shards of 16; the pictures of shard k begin with the pixel k."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for name, count in (("test", 70), ("near", 40)):
        images = rng.integers(0, 256, (count, *INFO.image_shape), dtype=np.uint8)
        images[:, 0, 0, 0] = np.arange(count) // 16 + (100 if name == "near" else 0)
        info = INFO if name == "test" else INFO.model_copy(update={"class_names": ()})
        labels = np.arange(count) % 3 if name == "test" else np.full(count, -1)
        write_image_set(folder / name, info, images, labels, images_per_shard=16)
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two checkpoints."""
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        architecture = Architecture(
            network="small_cnn",
            width=4,
            class_names=INFO.class_names,
            image_shape=INFO.image_shape,
            mean=(0.4, 0.5, 0.6),
            std=(0.1, 0.2, 0.3),
        )
        folders.append(tmp_path_factory.mktemp("network"))
        save_classifier(folders[-1], architecture, Classifier(architecture).state_dict())
    return [str(folder) for folder in folders]


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def num_seen(notes):
    return sum(int(line) for path in notes.glob("[0-9]*") for line in path.read_text().split())


def plan(root, networks, sets, *probes):
    """Both networks, and an ensemble of them, over both sets."""
    references = {"first": (networks[0],), "second": (networks[1],), "both": tuple(networks)}
    return [
        Extraction(name, network, str(sets / of), str(root / f"{name}-{of}"), probes, {"network": name})
        for of in ("test", "near")
        for name, network in references.items()
    ]


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("*/*"))}


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, tmp_path_factory, networks, sets):
    """What one actor writes."""
    root, notes = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("notes")
    cost = extract_all(plan(root, networks, sets, Brightness(str(notes))), INFO, SECTION, CLUSTER)
    assert cost.num_images == num_seen(notes) == 3 * (70 + 40)
    assert min(cost.read_s, cost.network_s, cost.write_s) > 0
    assert cost.wall_s > cost.network_s
    return files(root)


def test_what_is_stored_is_what_the_network_says(undisturbed, tmp_path, networks, sets, notes):
    for name, data in undisturbed.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    probe = Brightness(str(notes))
    for each in plan(tmp_path, networks, sets, probe):
        stored, arrays = OutputStore(each.folder).read(probes=(probe,)), ImageSet(each.image_set).read()
        # By shards of 16, two batches of 8 each, in one thread as the actors are.
        direct = extract(load_network(each.network, INFO), arrays, batch_size=8, probes=(probe,), where="set")
        for field in ("labels", "image_ids"):
            assert torch.equal(getattr(stored, field), getattr(direct, field))
        torch.testing.assert_close(stored.features, direct.features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stored.logits, direct.logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stored.probes["brightness"], direct.probes["brightness"])
        image_ids, content = OutputStore(each.folder).content()
        np.testing.assert_array_equal(image_ids, arrays.image_ids)
        np.testing.assert_array_equal(content, content_hashes(arrays.images))


def test_three_actors_write_the_bytes_of_one_though_two_die_and_one_hangs(undisturbed, tmp_path, networks, sets, notes):
    root = tmp_path / "outputs"
    section = SECTION.model_copy(update={"num_actors": 3})
    probe = Brightness(str(notes), die_on=(2, 101), hang_on=(4,))
    start_s = time.monotonic()
    extract_all(plan(root, networks, sets, probe), INFO, section, CLUSTER)
    assert time.monotonic() - start_s < 200, "it waited for the one that hangs"
    assert len(list(notes.glob("first-*"))) == 3
    assert files(root) == undisturbed


def test_only_what_is_missing_is_extracted(undisturbed, tmp_path, networks, sets, notes, capfd):
    root = tmp_path / "outputs"
    for name, data in undisturbed.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    brightness = Brightness(str(notes))
    extractions = plan(root, networks, sets, brightness)
    assert extract_all(extractions, INFO, SECTION, ClusterConfig(address="nobody:1")) == ExtractionCost()
    lost = [f"first-test/{OUTPUTS}-00004-of-00005.arrow", f"both-near/{group_of(brightness)}-00001-of-00003.arrow"]
    stamps = {path: path.stat().st_mtime_ns for path in root.glob("*/*")}
    for name in lost:
        (root / name).unlink()
    (root / "first-test" / "x.arrow.1234.partial").touch()
    cost = extract_all(extractions, INFO, SECTION, CLUSTER)
    assert cost.num_images == 6 + 16
    assert num_seen(notes) == 16, "the probe of the first one is there already"
    assert files(root) == undisturbed
    changed = {str(path.relative_to(root)) for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert changed == set(lost)
    assert "308 images have been extracted already" in capfd.readouterr().err

    # A probe that comes later costs one pass and its own files; what it does not concern stays as it is.
    extract_all(plan(root, networks, sets, brightness, Darkness()), INFO, SECTION, CLUSTER)
    assert num_seen(notes) == 16
    assert {name: data for name, data in files(root).items() if "darkness" not in name} == undisturbed
    read = OutputStore(extractions[0].folder).read((), (brightness, Darkness()))
    torch.testing.assert_close(read.probes["brightness"] + read.probes["darkness"], torch.ones(70, 3))


def test_an_actor_keeps_its_network(networks, sets, tmp_path, monkeypatch):
    units, _ = module._missing(plan(tmp_path, networks, sets))
    loaded = []
    monkeypatch.setattr(module, "load_network", lambda *a, **k: loaded.append(a[0]) or load_network(*a, **k))
    extractor = module._Extractor(units, INFO, SECTION)
    for unit_id in range(len(units)):
        extractor.do(unit_id)
    assert loaded == [(networks[0],), (networks[1],), tuple(networks)]
    assert module._missing(plan(tmp_path, networks, sets)) == ([], 3 * 110)


def test_two_threads_extract_two_shards_and_are_never_at_the_network_together(
    undisturbed, networks, sets, tmp_path, monkeypatch
):
    inside = []

    def guarded(*args, **kwargs):
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.05)
        outputs = extract(*args, **kwargs)
        inside.pop()
        return outputs

    monkeypatch.setattr(module, "extract", guarded)
    units, _ = module._missing(plan(tmp_path, networks, sets))
    extractor = module._Extractor(units, INFO, SECTION)
    with ThreadPoolExecutor(2) as threads:
        assert sum(done.num_images for done in threads.map(extractor.do, range(len(units)))) == 330
    assert {name: data for name, data in undisturbed.items() if "brightness" not in name} == files(tmp_path)


def test_shards_that_keep_failing_are_named_and_all_others_kept(undisturbed, networks, sets, tmp_path, notes):
    root = tmp_path / "outputs"
    section = SECTION.model_copy(update={"max_failures_per_shard": 2})
    with pytest.raises(EvaluationError) as error:
        extract_all(plan(root, networks, sets, Brightness(str(notes), fail_on=(3,))), INFO, section, CLUSTER)
    assert str(error.value) == (
        f"3 of 24 shards failed 2 times each; the first (shard 3 of {sets / 'test'} by first): "
        "this picture cannot be read. All others are kept; run the same command to retry only these."
    )
    there = files(root)
    assert there.items() <= undisturbed.items()
    assert {name for name in undisturbed if name not in there} == {
        f"{name}-test/{group}-00003-of-00005.arrow"
        for name in ("first", "second", "both")
        for group in (OUTPUTS, group_of(Brightness("")))
    }
    extract_all(plan(root, networks, sets, Brightness(str(notes))), INFO, section, CLUSTER)
    assert files(root) == undisturbed


def test_a_batch_that_does_not_fit_the_gpu_is_an_error_of_the_config(networks, sets, tmp_path, notes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a small GPU")
    probe = Brightness(str(notes), fail_on=(0,), raises=torch.OutOfMemoryError)
    units, _ = module._missing(plan(tmp_path, networks, sets, probe))
    with pytest.raises(ConfigError) as error:
        module._Extractor(units, INFO, SECTION).do(0)
    assert str(error.value) == (
        "evaluate.batch_size must be small enough for a small GPU, got 8; halve it, or leave out detectors."
    )


def test_what_would_come_again_on_every_actor_ends_it_at_once(networks, sets, tmp_path):
    start_s = time.monotonic()
    with pytest.raises(EvaluationError) as error:
        extract_all(plan(tmp_path / "b", networks, sets, Nan()), INFO, SECTION, CLUSTER)
    assert type(error.value) is EvaluationError
    assert re.fullmatch(
        rf"what probe nan reads of image_id \d+ of {re.escape(str(sets))}/\w+ by first must be finite, got NaN or "
        r"infinity; train the checkpoint again, or leave it out\.",
        str(error.value),
    )
    gone = [replace(each, network=(str(tmp_path / "gone"),)) for each in plan(tmp_path / "c", networks, sets)]
    with pytest.raises(CheckpointError, match=r"gone is no checkpoint"):
        extract_all(gone, INFO, SECTION, CLUSTER)
    assert time.monotonic() - start_s < 60


@dataclass(frozen=True)
class Nan(Probe):
    """Never finite."""

    name = "nan"

    def read(self, batch):
        return torch.full((len(batch.images),), float("nan"))


def test_a_folder_of_another_network_or_set_is_refused_before_any_work(networks, sets, tmp_path):
    (extraction, *_) = plan(tmp_path, networks, sets)
    OutputStore(extraction.folder).begin({"network": "first", "image_set": "abc"})
    with pytest.raises(EvaluationError, match=r"another network or image set:\n  image_set: 'abc' -> '[0-9a-f]{64}'"):
        extract_all([extraction], INFO, SECTION, ClusterConfig(address="nobody:1"))


def test_a_cluster_too_small_names_evaluates_own_fields(networks, sets, tmp_path):
    section = SECTION.model_copy(update={"cpus_per_task": 64})
    with pytest.raises(ResourceError) as error:
        extract_all(plan(tmp_path, networks, sets), INFO, section, CLUSTER)
    assert str(error.value).startswith("evaluate needs 64 CPUs for one actor, no node of this Ray cluster has that")
    assert "lower evaluate.cpus_per_task or evaluate.gpus_per_task, or connect" in str(error.value)
