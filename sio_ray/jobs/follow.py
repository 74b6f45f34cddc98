"""Follows a job to its end: its log as it grows, through lost connections, and what its end means to a shell."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sio_ray.errors import JobError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

#: Exit code where a job ended without one of its own: it was stopped, or never began.
EXIT_WITHOUT_CODE = 1

#: Between two questions for a job, and how long a cluster may not answer any before it is given up.
_PAUSE_S = 1.0
PATIENCE_S = 300.0

_SIGNALLED = 128


class ReaderGoneError(Exception):
    """Nobody takes the log any longer."""


class ResumedLog:
    """Writes a log that is sent from its beginning after each lost connection, every character once."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._sent = self._written = 0

    def begin(self) -> None:
        """The log is about to come from its beginning."""
        self._sent = 0

    def take(self, text: str) -> None:
        """The next piece of it came."""
        new = text[max(0, self._written - self._sent) :]
        self._sent += len(text)
        if new:
            self._written = self._sent
            self._write(new)


def follow(
    client: JobSubmissionClient, job_id: str, write: Callable[[str], None], *, patience_s: float = PATIENCE_S
) -> JobDetails:
    """Hand on the log of a job until it is over.

    Args:
        client: of its cluster.
        job_id: of the job.
        write: takes pieces of the log; raises ReaderGoneError to end this.
        patience_s: how long the cluster may be out of reach.

    Returns:
        The job as it ended.

    Raises:
        JobError: the cluster stayed out of reach, or has forgotten the job.
        AuthenticationError: it no longer takes our token.
        ReaderGoneError: as `write` does.
    """
    import aiohttp

    lost = (aiohttp.ClientError, OSError, RuntimeError)
    log, heard_s = ResumedLog(write), time.monotonic()
    while True:
        # A stream that breaks, or that a proxy does not let through, is no loss: the log is asked for as a whole too.
        with contextlib.suppress(*lost):
            asyncio.run(_stream(client, job_id, log))
        try:
            details = client.get_job_info(job_id)
            log.begin()
            log.take(client.get_job_logs(job_id) or "")
        except lost as error:
            if "does not exist" in str(error):
                raise JobError(
                    f"the cluster knows job {job_id} no longer, as if it was started anew; submit again."
                ) from error
            if time.monotonic() - heard_s > patience_s:
                raise JobError(
                    f"the cluster has not answered for {patience_s:g} s; job {job_id} may still run there, see "
                    "`sio-ray jobs ls` once it does."
                ) from error
        else:
            if details.status.is_terminal():
                return details
            heard_s = time.monotonic()
        time.sleep(_PAUSE_S)


async def _stream(client: JobSubmissionClient, job_id: str, log: ResumedLog) -> None:
    log.begin()
    async with contextlib.aclosing(client.tail_job_logs(job_id)) as pieces:
        async for text in pieces:
            log.take(text)


def exit_code(details: JobDetails) -> int:
    """The exit code of a job that is over: 0 if it succeeded, its driver's own if that failed, else 1."""
    if details.status == "SUCCEEDED":
        return 0
    code = int(details.driver_exit_code or EXIT_WITHOUT_CODE)
    return code if code > 0 else _SIGNALLED - code
