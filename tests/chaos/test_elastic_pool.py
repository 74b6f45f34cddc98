"""A cluster that grows and shrinks while a set is drawn: actors join and leave, and nothing is lost or different."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import elastic_pool
import pytest

from sio_ray.imageset.storage import Folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_nodes_that_come_and_go(tmp_path):
    (tmp_path / "at once").touch()
    writer = elastic_pool.write(Folder(str(tmp_path / "one")), tmp_path / "at once")
    expected = {(entry := writer.do(k).entry).name: entry.sha256 for k in range(elastic_pool.PLAN.num_shards)}

    # A process of its own, as the tests' own cluster is in this one.
    command = [
        sys.executable,
        str(Path(__file__).with_name("elastic_pool.py")),
        str(tmp_path / "set"),
        str(tmp_path / "result"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result").read_text())

    assert result["set_aside"] == {}
    assert result["entries"] == expected
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "set").glob("part*")}
    assert files == expected
    actors = result["actors"]
    assert actors[0] == 1, "the first node has one place"
    assert max(actors) == 3, "two more came"
    assert actors[-1] < 3, "and left"
