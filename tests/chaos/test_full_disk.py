"""The disk is full while a set is drawn: an error says so, what is there is whole, and the rest is drawn later."""

import hashlib
import os
import shutil
import subprocess

import pytest
from drawn_set import PLAN, check_set, draw, drawn_alone
from leftovers import assert_no_actor_at_work, temporary_files

from sio_ray.errors import GenerationError, ImageSetError
from sio_ray.imageset import Manifest
from sio_ray.imageset.storage import Folder
from sio_ray.pool.resources import Patience

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_with_an_error_and_a_rerun_draws_only_what_is_missing(ray_cluster, small_disk, tmp_path):
    expected = drawn_alone(Folder(str(tmp_path / "alone")), tmp_path / "grave")
    folder = Folder(str(small_disk / "set"))
    shard_bytes = max(len(data) for _, data in expected.values())
    room_bytes = 4 * (shard_bytes + 2 * os.statvfs(small_disk).f_bsize)  # shards, and a note for each
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - room_bytes))

    with pytest.raises(GenerationError, match=r"nothing could be written, .*cannot write .*No space left on device"):
        draw(folder, tmp_path / "grave", patience=Patience(max_trouble_in_a_row=4))
    assert_no_actor_at_work("PoolActor")
    there = {path.name: path.read_bytes() for path in (small_disk / "set").glob("part-*")}
    assert 0 < len(there) < PLAN.num_shards
    assert {name: hashlib.sha256(data).hexdigest() for name, data in there.items()} == {
        name: expected[name][0] for name in there
    }, "a shard is there, but not whole"
    assert temporary_files(small_disk) == []
    with pytest.raises(ImageSetError, match="is unfinished"):
        Manifest.read(folder)

    (small_disk / "ballast").unlink()
    drawn = draw(folder, tmp_path / "grave")
    assert {PLAN.shard_name(k) for k in drawn} == expected.keys() - there.keys(), "a finished shard was drawn again"
    check_set(folder, expected)
