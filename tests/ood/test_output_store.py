"""The store: what is read is what was written, bit by bit, in whatever order and however often it was interrupted."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from faulty_s3 import CREDENTIALS, faulty_store
from torch import Tensor

from sio_ray.errors import EvaluationError
from sio_ray.imageset import clients
from sio_ray.imageset.storage import Folder
from sio_ray.ood.outputs import NetworkOutputs
from sio_ray.ood.probe import Probe
from sio_ray.ood.store import OUTPUTS, OutputStore, group_of


@dataclass(frozen=True)
class Odd(Probe):
    """A probe of some setting; nobody reads it here."""

    setting: float
    name = "odd"

    def read(self, batch):
        raise AssertionError


@dataclass(frozen=True)
class Flat(Probe):
    """One number per image."""

    name = "flat"

    def read(self, batch):
        raise AssertionError


PROBES = (Odd(0.5), Flat())
SIZES = (5, 3, 4, 1)


def outputs_of(num_images: int, seed: int = 0) -> NetworkOutputs:
    generator = torch.Generator().manual_seed(seed)
    probes = {
        "odd": torch.randn(num_images, 2, 3, 2, generator=generator),
        "flat": torch.randn(num_images, generator=generator),
    }
    features = torch.randn(num_images, 7, generator=generator)
    features[0, :3] = torch.tensor([-0.0, 1e-42, 3e38])  # minus zero and a denormal keep their bits, too
    logits = torch.randn(num_images, 4, generator=generator)
    return NetworkOutputs(features, logits, torch.arange(num_images) % 5 - 1, 1000 - torch.arange(num_images), probes)


def rows(outputs: NetworkOutputs, part: slice) -> NetworkOutputs:
    of_probes = {name: values[part] for name, values in outputs.probes.items()}
    return NetworkOutputs(
        outputs.features[part], outputs.logits[part], outputs.labels[part], outputs.image_ids[part], of_probes
    )


WHOLE = outputs_of(sum(SIZES))
CONTENT = np.arange(sum(SIZES)) - 2**60


def write(store: OutputStore, shard_id: int, groups: frozenset[str], sizes: tuple[int, ...] = SIZES) -> None:
    ends = list(itertools.accumulate(sizes, initial=0))
    part = slice(ends[shard_id], ends[shard_id + 1])
    store.write(shard_id, len(sizes), rows(WHOLE, part), CONTENT[part], PROBES, groups)


def check_bits(first: Tensor, second: Tensor) -> None:
    assert first.dtype == second.dtype
    assert first.shape == second.shape
    assert first.contiguous().numpy().tobytes() == second.contiguous().numpy().tobytes()


def check_whole(store: OutputStore) -> None:
    read = store.read(probes=PROBES)
    for name in ("features", "logits", "labels", "image_ids"):
        check_bits(getattr(read, name), getattr(WHOLE, name))
    assert list(read.probes) == ["odd", "flat"]
    for name, values in WHOLE.probes.items():
        check_bits(read.probes[name], values)
    image_ids, content = store.content()
    np.testing.assert_array_equal(image_ids, WHOLE.image_ids)
    np.testing.assert_array_equal(content, CONTENT)


@pytest.fixture
def store(tmp_path) -> OutputStore:
    return OutputStore(str(tmp_path / "outputs"))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_what_is_read_is_what_was_written_in_any_order_of_shards(store, order):
    for shard_id in order:
        missing = store.missing(len(SIZES), PROBES)
        assert shard_id in missing
        write(store, shard_id, missing[shard_id])
        assert shard_id not in store.missing(len(SIZES), PROBES)
    assert store.missing(len(SIZES), PROBES) == {}
    check_whole(store)


def test_one_local_shard_is_read_without_copies(store):
    write(store, 0, frozenset({OUTPUTS, *map(group_of, PROBES)}), (sum(SIZES),))
    before = pa.total_allocated_bytes()
    read = store.read(probes=PROBES)
    assert pa.total_allocated_bytes() == before
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if store.folder.uri in line]
    ranges = [tuple(int(end, 16) for end in ends.split("-")) for ends in mapped]
    for tensor in (read.features, read.logits, read.labels, read.image_ids, *read.probes.values()):
        assert any(start <= tensor.data_ptr() < stop for start, stop in ranges)
    check_whole(store)
    store.folder.delete_folder()
    check_bits(read.features, WHOLE.features)


def test_what_nobody_needs_is_not_read(store):
    for shard_id in range(len(SIZES)):
        write(store, shard_id, frozenset({OUTPUTS}))
    read = store.read({"logits", "last_layer"})
    check_bits(read.logits, WHOLE.logits)
    check_bits(read.image_ids, WHOLE.image_ids)
    assert read.features.shape == WHOLE.features.shape
    assert read.features.isnan().all()
    assert read.features.untyped_storage().nbytes() == 4
    assert read.probes == {}


class Killed(BaseException):
    """What ends a process between two files."""


@pytest.mark.parametrize("num_files", range(9))
def test_a_writer_that_dies_between_files_loses_no_file_and_leaves_no_half(store, monkeypatch, num_files):
    left = [num_files]
    write_bytes = Folder.write_bytes

    def mortal(folder, name, data):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write_bytes(folder, name, data)

    monkeypatch.setattr(Folder, "write_bytes", mortal)
    try:
        for shard_id, groups in store.missing(len(SIZES), PROBES).items():
            write(store, shard_id, groups)
    except Killed:
        pass
    monkeypatch.undo()
    there = store.folder.list()
    assert len(there) == num_files
    missing = store.missing(len(SIZES), PROBES)
    assert sum(map(len, missing.values())) == 3 * len(SIZES) - num_files
    stamps = {name: store.folder.read_bytes(name) for name in there}
    with pytest.raises(EvaluationError, match="must hold all"):
        store.read(probes=PROBES)
    for shard_id, groups in missing.items():
        write(store, shard_id, groups)
    assert {name: store.folder.read_bytes(name) for name in there} == stamps
    check_whole(store)


def test_a_new_probe_or_setting_costs_its_own_files_alone(store):
    for shard_id in range(len(SIZES)):
        write(store, shard_id, frozenset({OUTPUTS, group_of(Flat())}))
    assert store.missing(len(SIZES), ()) == store.missing(len(SIZES), (Flat(),)) == {}
    other = Odd(0.25)
    assert group_of(other) != group_of(Odd(0.5)) == group_of(Odd(0.5))
    assert store.missing(len(SIZES), (other, Flat())) == {k: frozenset({group_of(other)}) for k in range(len(SIZES))}


def test_another_identity_is_refused_with_a_diff(store):
    identity = {"network": "a1b2", "image_set": "c3d4", "crop": [1, 2]}
    store.begin(identity)
    store.begin({**identity, "crop": (1, 2)})
    with pytest.raises(EvaluationError) as error:
        store.begin({"network": "e5f6", "image_set": "c3d4", "crop": [1, 2]})
    assert str(error.value) == (
        f"{store.folder.uri} holds the outputs of another network or image set:\n  network: 'a1b2' -> 'e5f6'\n"
        "Give another folder, or delete it to extract them anew."
    )
    store.begin(identity)


@pytest.mark.parametrize("num_there", [0, 3])
def test_missing_shards_are_named(store, num_there):
    for shard_id in range(num_there):
        write(store, shard_id, frozenset({OUTPUTS}))
    absent = "none of [3]" if num_there else "none of [0]"
    total = 4 if num_there else 1
    with pytest.raises(EvaluationError) as error:
        store.read()
    assert str(error.value) == (
        f"{store.folder.uri}/outputs-* must hold all {total} shards, got {absent}; run the same command again, it "
        "extracts what is missing."
    )


def test_missing_shards_of_a_probe_are_named(store):
    for shard_id in range(len(SIZES)):
        write(store, shard_id, frozenset({OUTPUTS, group_of(Flat())} if shard_id < 2 else {OUTPUTS}))
    with pytest.raises(EvaluationError, match=rf"{group_of(Flat())}-\* must hold all 4 shards, got none of \[2, 3\]"):
        store.read(probes=(Flat(),))


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: b"", lambda data: b"x" * len(data)])
@pytest.mark.parametrize("sizes", [(13,), SIZES])
def test_a_corrupt_file_is_named(store, damage, sizes):
    for shard_id in range(len(sizes)):
        write(store, shard_id, frozenset({OUTPUTS}), sizes)
    name = sorted(store.folder.list())[-1]
    store.folder.write_bytes(name, damage(store.folder.read_bytes(name)))
    where = re.escape(f"{store.folder.uri}/{name}")
    with pytest.raises(EvaluationError, match=rf"^{where} cannot be read \(.+\); delete it and run the same command"):
        store.read()


def test_rows_of_other_images_are_refused(store):
    write(store, 0, frozenset({OUTPUTS}), (4,))
    write(store, 0, frozenset({group_of(Flat())}), (3,))
    with pytest.raises(EvaluationError, match=rf"{group_of(Flat())}-\* must hold the images of outputs-\*, got others"):
        store.read(probes=(Flat(),))


def test_an_object_store_holds_the_same(monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with faulty_store("outputs") as s3:
        store = OutputStore(s3.uri("me:secret@outputs/run") + "&region=us-east-1")
        for sizes in ((sum(SIZES),), SIZES):
            assert len(store.missing(len(sizes), PROBES)) == len(sizes)
            for shard_id, groups in store.missing(len(sizes), PROBES).items():
                write(store, shard_id, groups, sizes)
            check_whole(store)
            store.folder.delete_folder()
        store.begin({"network": "a"})
        with pytest.raises(EvaluationError, match=r"^s3://me:\*\*\*@outputs/run.* holds the outputs of another"):
            store.begin({"network": "b"})
    clients.open_uri.cache_clear()
