"""The manifests of jobs name what there is, ask for what fits together, and give no node what it does not mount."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from sio_ray import __version__
from sio_ray.config import Config, load_config

JOBS = Path(__file__).parents[1] / "jobs"
MANIFESTS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((JOBS / "kuberay").glob("*.yaml"))}
CLAIM = MANIFESTS.pop("claim")
CLUSTER = yaml.safe_load((JOBS / "cluster.yaml").read_text())
SPOT_TAINTS = {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type", "kubernetes.azure.com/scalesetpriority"}

each = pytest.mark.parametrize("name", MANIFESTS)


def spec(name: str) -> dict[str, Any]:
    return MANIFESTS[name]["spec"]


def worker_groups(name: str) -> list[dict[str, Any]]:
    return spec(name)["rayClusterSpec"]["workerGroupSpecs"]


def pods(name: str) -> list[dict[str, Any]]:
    head = spec(name)["rayClusterSpec"]["headGroupSpec"]
    return [group["template"]["spec"] for group in (head, *worker_groups(name))]


def config_of(name: str) -> Config:
    _, _, preset, *overrides = shlex.split(spec(name)["entrypoint"])
    return load_config(preset, overrides)


def test_there_is_one_for_each_job_that_takes_a_cluster() -> None:
    assert set(MANIFESTS) == {"generate", "train", "tune", "run"}


@each
def test_it_is_a_job_that_goes_on_after_its_head_was_lost_and_leaves_no_cluster_behind(name: str) -> None:
    manifest = MANIFESTS[name]
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
    assert spec(name).keys() <= {
        *("entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "submissionMode"),
        "rayClusterSpec",
    }
    assert spec(name)["shutdownAfterJobFinishes"] is True
    assert spec(name)["ttlSecondsAfterFinished"] > 0
    assert spec(name)["backoffLimit"] >= 1
    assert spec(name)["rayClusterSpec"]["enableInTreeAutoscaling"] is True


@each
def test_its_entrypoint_is_a_job_with_a_config_that_loads(name: str) -> None:
    program, script, *_ = shlex.split(spec(name)["entrypoint"])
    assert program == "python"
    assert (JOBS.parent / script).is_file()
    assert Path(script).stem == name
    config = config_of(name)
    assert config.cluster.address == "auto"
    assert config.output_dir == Path("/runs")


@each
def test_its_image_has_this_package_on_a_ray_that_is_new_enough(name: str) -> None:
    versions = {spec(name)["rayClusterSpec"]["rayVersion"]}
    for pod in pods(name):
        for container in pod["containers"]:
            match = re.fullmatch(r"sio-ray:(\S+)-ray(\S+)", container["image"])
            assert match is not None
            assert match[1] == __version__
            versions.add(match[2])
    (version,) = versions
    assert Version(version) >= Version("2.60")
    assert CLUSTER["docker"]["image"] == f"sio-ray:{__version__}-ray{version}"


@each
def test_every_volume_that_is_mounted_is_there_and_all_nodes_share_the_runs(name: str) -> None:
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(name):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
        assert mounts["runs"] == "/runs"


@each
def test_requests_equal_limits_and_the_head_does_no_work(name: str) -> None:
    for pod in pods(name):
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
    head = spec(name)["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


@each
def test_groups_scale_within_bounds_and_spot_groups_tolerate_spot(name: str) -> None:
    for group in worker_groups(name):
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        tolerated = {toleration["key"] for toleration in group["template"]["spec"]["tolerations"]}
        assert ("spot" in group["groupName"]) == (tolerated >= SPOT_TAINTS)
        assert "nvidia.com/gpu" in tolerated


@pytest.mark.parametrize("name", ["generate", "run"])
def test_a_pod_is_asked_for_each_actor_and_holds_one(name: str) -> None:
    section = config_of(name).generate
    assert section.num_actors == sum(group["maxReplicas"] for group in worker_groups(name))
    assert section.gpus_per_actor == 1
    for group in worker_groups(name):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["cpu"]) >= section.threads_per_actor


@pytest.mark.parametrize("name", ["train", "tune", "run"])
def test_what_must_be_placed_at_once_has_a_place_from_the_start(name: str) -> None:
    config, groups = config_of(name), worker_groups(name)
    num_gpus = sum(group["minReplicas"] for group in groups)
    if name == "tune":
        assert config.tune.concurrent_trials * config.tune.workers_per_trial <= num_gpus
    else:
        assert config.train.concurrent_runs * config.train.num_workers <= num_gpus


def test_the_cluster_of_ray_up_names_its_own_types_and_keeps_the_dashboard_to_itself() -> None:
    types = CLUSTER["available_node_types"]
    assert CLUSTER["head_node_type"] in types
    assert types["head"]["resources"] == {"CPU": 0}
    workers = [kind for name, kind in types.items() if name != CLUSTER["head_node_type"]]
    assert all(0 <= kind["min_workers"] <= kind["max_workers"] <= CLUSTER["max_workers"] for kind in workers)
    assert any("--dashboard-host=127.0.0.1" in command for command in CLUSTER["head_start_ray_commands"])
