"""A log is written once whatever becomes of the connection, and a job's end is an exit code."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from sio_ray.errors import JobError
from sio_ray.jobs import follow as module
from sio_ray.jobs.follow import ReaderGoneError, ResumedLog, exit_code, follow

LOG = "".join(f"line {number}\n" for number in range(40))


def details(status: str, code: int | None = None) -> JobDetails:
    return JobDetails(type=JobType.SUBMISSION, status=JobStatus(status), entrypoint="x", driver_exit_code=code)


class Cluster:
    """Plays Ray's client: a job whose log grows with each question, behind connections that break."""

    def __init__(self, steps: list[Callable[[], str]]) -> None:
        self.steps = iter(steps)
        self.log = ""

    def advance(self) -> None:
        self.log = next(self.steps)()

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.advance()
        for start in range(0, len(self.log), 7):
            yield self.log[start : start + 7]
        if self.log != LOG:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, job_id: str) -> JobDetails:
        return details("SUCCEEDED" if self.log == LOG else "RUNNING")

    def get_job_logs(self, job_id: str) -> str:
        return self.log


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)


def fails(error: Exception) -> Callable[[], str]:
    def raise_it() -> str:
        raise error

    return raise_it


@pytest.mark.parametrize("seed", range(20))
def test_every_character_is_written_once_however_the_log_is_cut(seed: int) -> None:
    draw, written = random.Random(seed), list[str]()
    log = ResumedLog(written.append)
    for upto in (*sorted(draw.choices(range(len(LOG) + 1), k=6)), len(LOG)):
        log.begin()
        cuts = [0, *sorted(draw.choices(range(upto + 1), k=3)), upto]
        for start, end in itertools.pairwise(cuts):
            log.take(LOG[start:end])
    assert "".join(written) == LOG


def test_following_goes_through_lost_connections() -> None:
    written = list[str]()
    steps = [
        lambda: LOG[:50],
        fails(aiohttp.ClientConnectionError("refused")),
        fails(ConnectionResetError()),
        lambda: LOG[:53],
        lambda: LOG,
    ]
    assert follow(Cluster(steps), "job", written.append).status == "SUCCEEDED"
    assert "".join(written) == LOG


def test_where_a_stream_gets_through_nowhere_the_log_is_asked_for() -> None:
    class Proxied(Cluster):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            self.advance()
            raise aiohttp.ClientConnectionError("no websockets here")
            yield ""

    written = list[str]()
    follow(Proxied([lambda: LOG[:50], lambda: LOG]), "job", written.append)
    assert "".join(written) == LOG


def test_a_cluster_that_stays_away_is_given_up() -> None:
    class Gone(Cluster):
        def get_job_info(self, job_id: str) -> Any:
            raise ConnectionError("nothing there")

    with pytest.raises(JobError, match=r"^the cluster has not answered for 0 s; job j may still run there, see"):
        follow(Gone([lambda: ""] * 9), "j", print, patience_s=0)


def test_a_cluster_that_forgot_the_job_is_not_asked_again() -> None:
    class Anew(Cluster):
        def get_job_info(self, job_id: str) -> Any:
            raise RuntimeError("Request failed with status code 404: Job j does not exist.")

    with pytest.raises(JobError, match=r"^the cluster knows job j no longer, as if it was started anew; submit again"):
        follow(Anew([lambda: ""]), "j", print)


def test_a_reader_that_goes_ends_it() -> None:
    def gone(text: str) -> None:
        raise ReaderGoneError

    with pytest.raises(ReaderGoneError):
        follow(Cluster([lambda: LOG]), "j", gone)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
        ("STOPPED", 0, 1),
    ],
)
def test_the_end_of_a_job_is_an_exit_code(status: str, driver: int | None, code: int) -> None:
    assert exit_code(details(status, driver)) == code
