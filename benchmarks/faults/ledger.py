"""What was injected, and what came of it: kept as it happens, shown as a table."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(eq=False)
class Fault:
    """One fault.

    Attributes:
        kind: what was done.
        at_s: when, by the monotonic clock.
        recovery_s: until what it hit was at work again.
    """

    kind: str
    at_s: float = field(default_factory=time.monotonic)
    recovery_s: float | None = None


@dataclass(frozen=True)
class Work:
    """Work that was hurt, and what it ended with.

    Attributes:
        name: what it was.
        num_faults: that hit it.
        lost: results that were missing, or other ones, in the end.
        twice: results that were there already and were made once more.
        may_be_twice: as many may be: of those that died between writing a result and saying so.
        is_equal: whether all that it ended with is what undisturbed work ends with, and nothing beside it.
    """

    name: str
    num_faults: int
    lost: int
    twice: int
    may_be_twice: int
    is_equal: bool

    @property
    def is_good(self) -> bool:
        """Whether the faults cost no more than time."""
        return self.is_equal and not self.lost and self.twice <= self.may_be_twice


class Ledger:
    """All faults of a session; says how it goes on standard error.

    Args:
        num_wanted: faults that are to come.
    """

    def __init__(self, num_wanted: int) -> None:
        self.faults: list[Fault] = []
        self.works: list[Work] = []
        self.trouble: list[str] = []
        self._num_wanted, self._start_s = num_wanted, time.monotonic()

    def begin(self, kind: str) -> Fault:
        """A fault comes now."""
        fault = Fault(kind)
        self.faults.append(fault)
        return fault

    def recovered(self, fault: Fault) -> None:
        """What it hit is at work again."""
        fault.recovery_s = time.monotonic() - fault.at_s
        spent_s, count = time.monotonic() - self._start_s, len(self.faults)
        left_s = spent_s / count * max(0, self._num_wanted - count)
        self.say(
            f"[{count:3d}/{self._num_wanted}] {fault.kind}: {fault.recovery_s:.1f} s; "
            f"{spent_s / 60:.1f} min gone, about {left_s / 60:.0f} left"
        )

    def settle(self, work: Work) -> None:
        """Work that faults hit has ended, and was compared."""
        self.works.append(work)
        self.say(
            f"{work.name}, hurt {work.num_faults} times: equal={work.is_equal}, {work.lost} lost, {work.twice} twice"
        )

    def complain(self, what: str) -> None:
        """Something is not as it should be."""
        self.trouble.append(what)
        self.say(f"TROUBLE: {what}")

    def say(self, what: str) -> None:
        """Say something of the session on standard error."""
        print(what, file=sys.stderr, flush=True)

    @property
    def is_good(self) -> bool:
        """Whether every fault was survived at no cost but time."""
        is_compared = sum(work.num_faults for work in self.works) == len(self.faults) > 0
        return is_compared and not self.trouble and all(work.is_good for work in self.works)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each kind, and one for all."""
        kinds = list(dict.fromkeys(fault.kind for fault in self.faults))
        rows = [self._row(kind, [fault for fault in self.faults if fault.kind == kind]) for kind in kinds]
        return [*rows, self._row("all", self.faults)]

    def _row(self, name: str, faults: list[Fault]) -> dict[str, Any]:
        seconds = [fault.recovery_s for fault in faults if fault.recovery_s is not None]
        return {
            "fault": name,
            "count": len(faults),
            "recovery_s_median": round(statistics.median(seconds), 1) if seconds else None,
            "recovery_s_most": round(max(seconds), 1) if seconds else None,
        }

    def table(self) -> str:
        """Faults by kind, and the works that they hit, as Markdown."""
        lines = ["| fault | how many | recovery, median | longest |", "|---|---:|---:|---:|"]
        for row in self.rows():
            median, most = (
                "" if row[key] is None else f"{row[key]:.1f} s" for key in ("recovery_s_median", "recovery_s_most")
            )
            lines.append(f"| {row['fault']} | {row['count']} | {median} | {most} |")
        lines += ["", "| work | faults | lost | made twice | result equal |", "|---|---:|---:|---:|---:|"]
        for work in self.works:
            equal = "yes" if work.is_equal else "NO"
            lines.append(f"| {work.name} | {work.num_faults} | {work.lost} | {work.twice} | {equal} |")
        return "\n".join(lines)

    def details(self) -> list[dict[str, Any]]:
        """Every fault, for `--json`."""
        return [asdict(fault) for fault in self.faults]
