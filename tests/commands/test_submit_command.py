"""What `sio-ray submit` hands to Ray, and what it makes of an id that the cluster knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from sio_ray.cli import main
from sio_ray.commands import submit as module
from sio_ray.config import load_config
from sio_ray.jobs.parcel import pip_requirements

ADDRESS = "http://head:8265"


class Cluster:
    """Plays Ray's client: keeps what is submitted, and looks into the folder while it is there."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobDetails] = {}
        self.runtime_envs: list[dict[str, Any]] = []
        self.files: set[str] = set()
        self.config = ""

    def list_jobs(self) -> list[JobDetails]:
        return list(self.jobs.values())

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str:
        folder = Path(runtime_env["working_dir"])
        self.files = {path.name for path in folder.iterdir()}
        self.config = next(folder.glob("*.yaml")).read_text()
        self.runtime_envs.append(runtime_env)
        self.jobs[submission_id] = JobDetails(
            type=JobType.SUBMISSION,
            submission_id=submission_id,
            status=JobStatus.RUNNING,
            entrypoint=entrypoint,
            metadata=metadata,
            start_time=len(self.jobs),
        )
        return submission_id

    def end(self, job_id: str, status: str) -> None:
        self.jobs[job_id] = self.jobs[job_id].model_copy(update={"status": JobStatus(status)})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(module, "connect", lambda address: made)
    return made


@pytest.fixture
def submit(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["submit", *arguments, "output_dir=/shared/runs", "--no-wait", "--address", ADDRESS])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_package_the_config_and_variables_are_handed_over(
    cluster: Cluster, submit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hushhush")
    code, out, err = submit("train", "digits", "train.seeds=[4]", "--env", "HF_TOKEN", "--env", "NAME=a=b", "--pip")
    (job_id,) = cluster.jobs
    assert (code, out, err) == (0, f"{job_id}\n", f"submitted {job_id} to {ADDRESS}\n")
    (runtime_env,) = cluster.runtime_envs
    assert cluster.files == {"digits.yaml", "sio_ray"}
    assert not Path(runtime_env.pop("working_dir")).exists()
    assert runtime_env == {"env_vars": {"HF_TOKEN": "hushhush", "NAME": "a=b"}, "pip": pip_requirements()}
    assert cluster.jobs[job_id].entrypoint == "python -m sio_ray.cli train digits.yaml"
    assert "hushhush" not in str(cluster.jobs[job_id])
    (tmp_path / "there.yaml").write_text(cluster.config)
    there = load_config(str(tmp_path / "there.yaml"))
    assert (there.train.seeds, there.cluster.address) == ((4,), "auto")


def test_without_options_the_nodes_bring_all_but_the_package(
    cluster: Cluster, submit: Callable[..., tuple[int, str, str]]
) -> None:
    assert submit("report", "digits")[0] == 0
    (runtime_env,) = cluster.runtime_envs
    assert runtime_env.keys() == {"working_dir", "env_vars"}
    assert runtime_env["env_vars"] == {}


def test_an_id_is_followed_while_it_runs_and_goes_on_after_it_fell(
    cluster: Cluster, submit: Callable[..., tuple[int, str, str]]
) -> None:
    nightly = ("generate", "digits", "--id", "nightly")
    assert submit(*nightly) == (0, "nightly\n", f"submitted nightly to {ADDRESS}\n")
    assert submit(*nightly) == (0, "nightly\n", "job nightly runs already, and is not submitted again\n")
    code, out, err = submit(*nightly, "generate.base_seed=7")
    assert (code, out) == (2, "")
    assert err == (
        "error: job nightly runs with another stage, config or space; give another --id, or the same config.\n"
    )
    cluster.end("nightly", "FAILED")
    assert submit(*nightly, "generate.base_seed=7") == (0, "nightly-2\n", f"submitted nightly-2 to {ADDRESS}\n")
    cluster.end("nightly-2", "STOPPED")
    assert submit(*nightly)[1] == "nightly-3\n"
    cluster.end("nightly-3", "SUCCEEDED")
    assert submit(*nightly) == (0, "nightly-3\n", "job nightly-3 succeeded already, and is not submitted again\n")
    assert len(cluster.runtime_envs) == 3


def test_a_head_that_has_just_begun_is_asked_again(
    cluster: Cluster, submit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    hand_over, answers = cluster.submit_job, iter([True, True, False])

    def not_yet(**options: Any) -> str:
        if next(answers):
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, please try again."
            )
        return hand_over(**options)

    monkeypatch.setattr(cluster, "submit_job", not_yet)
    assert submit("report", "digits", "--id", "early") == (0, "early\n", f"submitted early to {ADDRESS}\n")
    monkeypatch.setattr(module, "_AGENT_S", -1.0)
    answers = iter([True, True])
    assert submit("report", "digits", "--id", "other") == (
        *(2, ""),
        f"error: the Ray cluster at {ADDRESS} refused: Request failed with status code 500: No available agent to "
        "submit job, please try again.\n",
    )
