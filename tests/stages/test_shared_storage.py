"""Which local paths a stage's workers use, and what is said of one that a node does not see."""

from __future__ import annotations

import shutil

import pytest

from sio_ray.config import load_config
from sio_ray.errors import ResourceError
from sio_ray.stages import shared_storage
from sio_ray.stages.shared_storage import UsedPath, check_shared_storage, used_paths


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text("{}")
    return tmp_path


def paths(folder, stage, *overrides):
    config = load_config("digits", [f"output_dir={folder / 'runs'}", *overrides])
    return {each.field: (each.path.removeprefix(str(folder)), each.is_written) for each in used_paths(config, stage)}


RUN = {"output_dir": ("/runs/digits", True)}


def test_what_is_written_and_what_is_read_by_each_stage(folder):
    given = str(folder / "set")
    read = ("/set", False)
    assert paths(folder, "fit-generator", f"generate.output={given}") == RUN
    assert paths(folder, "generate", f"generate.output={given}") == RUN | {"generate.output": ("/set", True)}
    assert paths(folder, "generate", f"generate.generator={given}") == RUN | {"generate.generator": read}
    assert paths(folder, "prepare", f"prepare.root={given}") == RUN | {"prepare.root": read}
    for stage in ("train", "tune"):
        assert paths(folder, stage, f"train.synthetic_set={given}") == RUN | {"train.synthetic_set": read}
        assert paths(folder, stage, f"generate.output=file://{given}") == RUN | {"generate.output": read}
    several = f"evaluate.checkpoints={{baseline: ['{given}+{given}', 'torchvision:resnet18', 'openood:{given}']}}"
    assert paths(folder, "evaluate", several) == RUN | {"evaluate.checkpoints.baseline": read}


@pytest.mark.parametrize("elsewhere", ["s3://bucket/set", "/nowhere/set"])
def test_a_uri_is_the_same_from_everywhere_and_what_is_missing_here_is_for_the_stage_to_refuse(folder, elsewhere):
    assert paths(folder, "train", f"train.synthetic_set={elsewhere}", "generate.output=s3://bucket/set") == RUN
    assert paths(folder, "generate", "generate.output=s3://bucket/set", f"generate.generator={elsewhere}") == RUN


def test_the_error_names_field_path_nodes_and_remedy():
    written = UsedPath("generate.output", "/data/set", is_written=True)
    assert str(written.error(["10.0.0.2", "gpu-7 (10.0.0.3)"], 3)) == (
        "generate.output must be a folder that all nodes of the Ray cluster share, got '/data/set', and what the "
        "driver's node has there is not seen on 2 of 3 other nodes (10.0.0.2, gpu-7 (10.0.0.3)); give one on a file "
        "system that all nodes mount at the same path, or a URI such as s3://bucket/set."
    )
    read = UsedPath("prepare.root", "/pictures", is_written=False)
    assert str(read.error([f"10.0.0.{k}" for k in range(1, 8)], 7)) == (
        "prepare.root must be on all nodes of the Ray cluster, got '/pictures', and what the driver's node has there "
        "is not seen on 7 of 7 other nodes (10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5, ...); give one on a file "
        "system that all nodes mount at the same path, or copy it there on every node."
    )
    assert str(UsedPath("output_dir", "/runs/x", is_written=True).error(["a"], 1)).endswith("mount at the same path.")


def check(folder, monkeypatch, sees, *overrides):
    """Ask two nodes, `near`, which sees all, and `far`, which sees what `sees` says of the evidence."""
    monkeypatch.setattr(shared_storage, "_other_nodes", lambda: {"near": "10.0.0.1", "far": "10.0.0.2"})
    monkeypatch.setattr(shared_storage, "_SHOWN_LATE_S", 0)
    monkeypatch.setattr(
        shared_storage, "_ask", lambda nodes, evidence: {"near": shared_storage._sees(evidence)} | sees(evidence)
    )
    config = load_config("digits", [f"output_dir={folder / 'runs'}", *overrides])
    check_shared_storage(config, "generate")


def test_a_cluster_that_shares_passes_and_nothing_is_left_behind(folder, monkeypatch):
    check(folder, monkeypatch, lambda evidence: {"far": shared_storage._sees(evidence)})
    assert [path for path in (folder / "runs").rglob("*") if path.is_file()] == []


def test_the_node_that_does_not_see_a_folder_is_named_and_nothing_is_left_behind(folder, monkeypatch):
    output, generator = f"generate.output={folder / 'out'}", f"generate.generator={folder / 'set'}"
    for field, place, unseen in (("output_dir", "runs/digits", 0), ("generate.output", "out", 1)):
        sees = [number != unseen for number in range(3)]
        message = rf"^{field} must be a folder that .*, got '{folder / place}', .* 1 of 2 other nodes \(10\.0\.0\.2\);"
        with pytest.raises(ResourceError, match=message):
            check(folder, monkeypatch, lambda evidence, sees=sees: {"far": sees}, output, generator)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["manifest.json"]


def test_a_node_that_is_silent_is_named_and_work_begins(folder, monkeypatch, capsys):
    check(folder, monkeypatch, lambda evidence: {})
    assert "1 of 2 nodes did not say in 120 s whether they see the folders of this run (10.0.0.2)" in " ".join(
        capsys.readouterr().err.split()
    )


def test_what_is_read_may_be_a_copy_but_not_another_or_half_of_it(folder):
    look = shared_storage._look(str(folder / "set"))
    assert look
    shutil.copytree(folder / "set", folder / "copy")
    assert shared_storage._look(str(folder / "copy")) == look
    (folder / "copy" / "manifest.json").write_text('{"another": 1}')
    assert shared_storage._look(str(folder / "copy")) != look
    assert shared_storage._look(str(folder / "nowhere")) == ""
    files = [folder / name for name in ("a", "b", "c")]
    for path, text in zip(files, ("one", "one", "two"), strict=True):
        path.write_text(text)
    first, second, third = (shared_storage._look(str(path)) for path in files)
    assert first == second != third


def test_one_node_is_asked_nothing(folder, monkeypatch):
    monkeypatch.setattr(shared_storage, "_other_nodes", dict)
    monkeypatch.setattr(shared_storage, "_ask", lambda *_: pytest.fail("asked"))
    check_shared_storage(load_config("digits", [f"output_dir={folder / 'runs'}"]), "generate")
    assert not (folder / "runs").exists()
