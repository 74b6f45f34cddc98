"""A set is drawn onto an object store that fails, by actors that die: each image is there once, none is different."""

import pytest
from drawn_set import PLAN, check_set, draw, drawn_alone
from faulty_s3 import no_fault, seeded
from leftovers import assert_no_actor_at_work

from sio_ray.errors import GenerationError, ImageSetError
from sio_ray.imageset import Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.pool.resources import Patience

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return drawn_alone(Folder(str(tmp_path_factory.mktemp("set"))), tmp_path_factory.mktemp("graves") / "grave")


def folder_of(store, name):
    # Ray's workers may be older than this test and its environment: the URI tells them all.
    return Folder(store.uri(f"me:secret@sets/{name}") + "&region=us-east-1")


def test_a_third_of_all_requests_fail_and_an_actor_dies(ray_cluster, store, expected, tmp_path):
    folder = folder_of(store, "third")
    store.rule = seeded(1, 0.3, "refuse", "lose_answer", "cut_upload", "cut_download", "delay")
    draw(folder, tmp_path / "grave")
    faults = [fault for _, fault in store.seen if fault is not None]
    assert (tmp_path / "grave").exists()
    assert len(faults) > 20
    store.rule = no_fault
    check_set(folder, expected)
    assert_no_actor_at_work("PoolActor")


def test_a_store_that_goes_away_and_comes_back(ray_cluster, store, expected, tmp_path):
    folder = folder_of(store, "away")
    (tmp_path / "grave").touch()  # nobody dies here
    store.rule = lambda request: "refuse" if request.method in ("PUT", "POST") and request.index > 40 else None
    with pytest.raises(
        GenerationError, match=r"nothing could be written, .*cannot write s3://me:\*\*\*@sets/away/.*part-"
    ):
        draw(folder, tmp_path / "grave", num_attempts=1, patience=Patience(max_trouble_in_a_row=3))
    there = set(folder.list())
    assert 0 < len(there) < PLAN.num_shards
    with pytest.raises(ImageSetError, match="is unfinished"):
        Manifest.read(folder)

    store.rule = no_fault
    drawn = draw(folder, tmp_path / "grave")
    assert {PLAN.shard_name(k) for k in drawn} == expected.keys() - there, "a finished shard was drawn again"
    check_set(folder, expected)
