"""Which run, stage, arm, seed or trial the code at hand works for: what events and metrics are labelled by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Context:
    """What is bound.

    Attributes:
        labels: such as `run` and `stage`.
        folder: of the run, where its events go; None where there is none.
        on_stderr: whether they go to standard error, too.
    """

    labels: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    on_stderr: bool = False


_NOTHING = Context()
_context: ContextVar[Context] = ContextVar("sio_ray_context", default=_NOTHING)


def current() -> Context:
    """What is bound here; a thread knows it if it was started in a copy of the context of the one that binds."""
    return _context.get()


@contextmanager
def bound(**labels: Any) -> Iterator[None]:
    """Label all events and metrics of a block by these, beside those that are bound already."""
    before = current()
    token = _context.set(replace(before, labels={**before.labels, **labels}))
    try:
        yield
    finally:
        _context.reset(token)


@contextmanager
def bound_to_run(folder: Path, *, on_stderr: bool, **labels: Any) -> Iterator[None]:
    """Keep the events of a block in the folder of a run, labelled by these, beside those that are bound already."""
    token = _context.set(Context({**current().labels, **labels}, folder, on_stderr))
    try:
        yield
    finally:
        _context.reset(token)
