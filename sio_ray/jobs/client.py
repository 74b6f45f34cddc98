"""The job API of a Ray cluster: where it is, whether it lets us in, and in one line why not."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from sio_ray.errors import ConfigError, JobError, did_you_mean
from sio_ray.jobs.parcel import minimum_ray
from sio_ray.progress import console
from sio_ray.reading import parse_json_object
from sio_ray.redaction import redact

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

#: What Ray's own client reads, in this order; it lets them win over an address that is given to it.
_API_ADDRESS, _ADDRESS = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"

#: How long a dashboard may take to answer at first; Ray's client would wait for ever.
_FIRST_ANSWER_S = 10.0
_MAX_ANSWER_BYTES = 2**16

#: Modules of Ray's client that say what they do.
_TALKATIVE = (
    *("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"),
    "ray._private.runtime_env.packaging",
)

#: An unknown id is told with so many of those that there are, the newest.
_IDS_SHOWN = 5


def find_address(given: str | None) -> str:
    """The address of the job API: what was given, else what Ray's own commands would take from the environment.

    Raises:
        ConfigError: there is none, or it is none of the dashboard.
    """
    address = given or os.environ.get(_API_ADDRESS) or os.environ.get(_ADDRESS)
    form = "http://HEAD:8265, or https://..., of the cluster's dashboard"
    if address is None:
        raise ConfigError("--address", form, None, f"give it, or set {_API_ADDRESS}")
    if not _is_web_address(address):
        where = "" if given else f" (from the environment, {_API_ADDRESS} or {_ADDRESS})"
        raise ConfigError("--address", form + where, address, "8265 is the port that Ray's dashboard takes by default")
    return address.rstrip("/")


def _is_web_address(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def connect(address: str) -> JobSubmissionClient:
    """Open the job API at an address.

    Raises:
        JobError: nothing answers, it is no Ray dashboard, it does not let us in, or its Ray is too old.
    """
    shown = redact(address)
    _knock(address, shown)
    from ray.job_submission import JobSubmissionClient

    for module in _TALKATIVE:
        logging.getLogger(module).setLevel(logging.WARNING)
    with one_line_errors(address), _only(address):
        client = JobSubmissionClient(address)
    _compare_versions(getattr(client, "_server_ray_version", None), shown)
    return client


def _knock(address: str, shown: str) -> None:
    """See that a Ray dashboard answers; no token is sent, as it may be anything else.

    Raises:
        JobError: it is anything else, or nothing.
    """
    parts = urllib.parse.urlsplit(address)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    not_ray = f"what answers at {shown} is no Ray dashboard"
    remedy = "give the address of the head's dashboard, such as http://HEAD:8265"
    try:
        with urllib.request.urlopen(f"{bare}/api/version", timeout=_FIRST_ANSWER_S) as answer:
            parse_json_object(answer.read(_MAX_ANSWER_BYTES))["ray_version"]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in (401, 403):  # that it wants a token is for those to say who have one
            raise JobError(f"{not_ray} (status {error.code}); {remedy}.") from error
    except urllib.error.URLError as error:
        # Certificates are checked by the client, before a token is sent, against those that it was told to trust.
        if not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise JobError(f"nothing answers at {shown} ({_reason(error.reason)}); {remedy}.") from error
    except OSError as error:
        raise JobError(f"nothing answers at {shown} ({_reason(error)}); {remedy}.") from error
    except (ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        raise JobError(f"{not_ray} (it speaks otherwise); {remedy}.") from error


def _reason(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


@contextlib.contextmanager
def _only(address: str) -> Iterator[None]:
    """Let an address win over the environment."""
    before = os.environ.get(_API_ADDRESS)
    os.environ[_API_ADDRESS] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_API_ADDRESS]
        else:
            os.environ[_API_ADDRESS] = before


@contextlib.contextmanager
def one_line_errors(address: str) -> Iterator[None]:
    """Say in one line what Ray's client says in many, or not.

    Raises:
        JobError: in place of any error of the client.
    """
    from ray.exceptions import AuthenticationError

    shown = redact(address)
    try:
        yield
    except AuthenticationError as error:
        raise JobError(_about_token(str(error), shown)) from error
    except OSError as error:  # those of `requests` are such too
        what = "its certificate is not trusted; set REQUESTS_CA_BUNDLE to the file of its authority"
        cause = error.__context__
        if not (cause is not None and "certificate" in str(cause).lower()):
            what = "the connection broke; check that it still runs, and run the same command again"
        raise JobError(f"cannot talk to the Ray dashboard at {shown}: {what}.") from error
    except (RuntimeError, ValueError) as error:
        last = [line for line in str(error).splitlines() if line.strip(" .")][-1:] or [type(error).__name__]
        raise JobError(f"the Ray cluster at {shown} refused: {last[0].strip().rstrip('.')}.") from error


def _about_token(message: str, shown: str) -> str:
    mode = os.environ.get("RAY_AUTH_MODE")
    how = "RAY_AUTH_TOKEN_PATH=/file/that/holds/it, or have it in ~/.ray/auth_token"
    if "Forbidden" in message:
        return f"the Ray cluster at {shown} refuses this token; set {how}: it must be the one that the head was given."
    if mode != "token":
        return (
            f"the Ray cluster at {shown} asks for a token and none was sent, as RAY_AUTH_MODE is {mode or 'not set'}; "
            f"set RAY_AUTH_MODE=token and {how}."
        )
    return f"RAY_AUTH_MODE=token, and there is no token to send to the Ray cluster at {shown}; set {how}."


def _compare_versions(theirs: str | None, shown: str) -> None:
    """Refuse a Ray that the package does not run on, and warn of one that differs from what its config was checked on.

    Raises:
        JobError: it is too old.
    """
    import ray

    least = minimum_ray()
    if theirs is None:
        return
    found, ours = Version(theirs), Version(ray.__version__)
    if least is not None and found < Version(least):
        raise JobError(
            f"the cluster at {shown} must run Ray {least} or newer, it runs {theirs}; update its image, here is {ours}."
        )
    if found.release[:2] != ours.release[:2]:
        console.print(f"warning: the cluster runs Ray {theirs}, here is {ours}", style="yellow", soft_wrap=True)


def find_job(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """A job by its id.

    Raises:
        JobError: there is none.
    """
    known = submitted_jobs(client)
    for details in known:
        if details.submission_id == job_id:
            return details
    ids = [details.submission_id for details in known]
    shown = ", ".join(ids[:_IDS_SHOWN]) + (", ..." if len(ids) > _IDS_SHOWN else "")
    remedy = did_you_mean(job_id, ids, "see `sio-ray jobs ls`")
    raise JobError(f"this cluster knows no job {job_id!r}, only {shown or 'none'}; {remedy}.")


def submitted_jobs(client: JobSubmissionClient) -> list[JobDetails]:
    """All jobs that were submitted, by us or by others, the newest first; not drivers that were begun by hand."""
    jobs = [details for details in client.list_jobs() if details.submission_id is not None]
    return sorted(jobs, key=lambda details: details.start_time or 0, reverse=True)
