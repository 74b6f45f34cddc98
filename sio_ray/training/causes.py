"""Finds the error of ours that a failure of Ray goes back to."""

from __future__ import annotations

from ray.exceptions import RayTaskError

from sio_ray.errors import SioRayError


def our_cause(error: BaseException | None) -> SioRayError | None:
    """The error as it was raised in a task or an actor, if it was one of ours.

    Ray's own form of it is of our class as well, but has the worker's whole traceback for a message.
    """
    while error is not None and (isinstance(error, RayTaskError) or not isinstance(error, SioRayError)):
        # Ray Train keeps what a worker raised under a name of its own.
        error = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error.__cause__
    return error
