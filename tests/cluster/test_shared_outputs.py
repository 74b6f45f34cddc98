"""Outputs in the object store: as they are on disk, and without copies."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle

from sio_ray.errors import EvaluationError
from sio_ray.evaluation.shared_outputs import fetch_outputs, put_outputs, share_outputs
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import Probe
from sio_ray.ood.store import OUTPUTS, OutputStore, group_of

# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Cube(Probe):
    """Three numbers of two channels per image."""

    name = "cube"

    def read(self, batch):
        raise AssertionError


@pytest.fixture(params=[1, 3])
def store(request, tmp_path) -> OutputStore:
    """Thirty images in one shard, or in three."""
    store, num_shards = OutputStore(str(tmp_path / "outputs")), request.param
    torch.manual_seed(0)
    for shard_id in range(num_shards):
        count = 30 // num_shards
        ids = torch.arange(count) + shard_id * count
        probes = {"cube": torch.randn(count, 2, 3)}
        outputs = NetworkOutputs(torch.randn(count, 6), torch.randn(count, 4), ids % 4, ids, probes)
        store.write(shard_id, num_shards, outputs, np.arange(count), (Cube(),), {OUTPUTS, group_of(Cube())})
    return store


def check_same(first: NetworkOutputs, second: NetworkOutputs) -> None:
    for name in ("features", "logits", "labels", "image_ids"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert list(first.probes) == list(second.probes)
    assert all(torch.equal(values, second.probes[name]) for name, values in first.probes.items())


def test_what_is_fetched_is_what_is_read(store):
    read = store.read(probes=(Cube(),))
    check_same(fetch_outputs(share_outputs(store.folder.uri, probes=(Cube(),)), probes=(Cube.name,)), read)
    check_same(fetch_outputs(put_outputs(read), probes=(Cube.name,)), read)


def test_fetched_tensors_are_the_object_stores_own(store):
    # Larger than what Ray sends along with a reference.
    count = 20_000
    ids = torch.arange(count)
    outputs = NetworkOutputs(torch.randn(count, 16), torch.randn(count, 8), ids % 4, ids)
    large = OutputStore(f"{store.folder.uri}-large")
    large.write(0, 1, outputs, np.arange(count), (), {OUTPUTS})
    shared = share_outputs(large.folder.uri)

    first, second = fetch_outputs(shared), fetch_outputs(shared)
    check_same(first, outputs)
    for name in ("features", "logits", "labels", "image_ids"):
        assert getattr(first, name).data_ptr() == getattr(second, name).data_ptr()

    def total_in_task():
        fetched = fetch_outputs(shared, {"features"})
        assert fetched.logits.shape == (count, 8)
        assert fetched.logits.isnan().all()
        return fetched.features.double().sum().item()

    assert ray.get(ray.remote(total_in_task).remote()) == outputs.features.double().sum().item()


def test_only_what_is_needed_is_read(store):
    shared = share_outputs(store.folder.uri, {"logits", "last_layer"})
    assert list(shared.columns) == ["logits"]
    assert shared.probes == {}
    fetched = fetch_outputs(shared, {"logits", "last_layer"})
    assert torch.equal(fetched.logits, store.read().logits)
    assert fetched.features.shape == (30, 6)
    assert fetched.features.isnan().all()


def test_what_is_missing_is_named_by_whoever_fetches(store):
    store.folder.delete(next(name for name in store.folder.list() if name.startswith("cube")))
    shared = share_outputs(store.folder.uri, probes=(Cube(),))
    assert len(fetch_outputs(shared)) == 30
    with pytest.raises(EvaluationError) as error:
        fetch_outputs(shared, probes=(Cube.name,))
    assert type(error.value) is EvaluationError
    assert str(error.value).startswith(f"{store.folder.uri}/{group_of(Cube())}-* must hold all ")
