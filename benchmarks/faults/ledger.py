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
        lost: results that it hit and that were missing, or other ones, in the end.
        twice: results that were there already and were made once more.
        is_equal: whether all that its work ended with is what undisturbed work ends with, and nothing beside it.
    """

    kind: str
    at_s: float = field(default_factory=time.monotonic)
    recovery_s: float | None = None
    lost: int | None = None
    twice: int | None = None
    is_equal: bool | None = None


class Ledger:
    """All faults of a session; says how it goes on standard error.

    Args:
        num_wanted: faults that are to come.
    """

    def __init__(self, num_wanted: int) -> None:
        self.faults: list[Fault] = []
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

    def settle(self, faults: list[Fault], *, lost: int, twice: int, is_equal: bool) -> None:
        """The work that these faults hit has ended; what was lost, or made twice, is on the account of each."""
        for fault in faults:
            fault.lost, fault.twice, fault.is_equal = lost, twice, is_equal

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
        settled = [(fault.lost, fault.twice, fault.is_equal) for fault in self.faults]
        return bool(settled) and not self.trouble and all(state == (0, 0, True) for state in settled)

    def rows(self) -> list[dict[str, Any]]:
        """The table: one row for each kind, and one for all."""
        kinds = list(dict.fromkeys(fault.kind for fault in self.faults))
        rows = [self._row(kind, [fault for fault in self.faults if fault.kind == kind]) for kind in kinds]
        return [*rows, self._row("all", self.faults)]

    def _row(self, name: str, faults: list[Fault]) -> dict[str, Any]:
        seconds = [fault.recovery_s for fault in faults if fault.recovery_s is not None]
        return {
            "fault": name,
            "count": len(faults),
            "lost": sum(fault.lost or 0 for fault in faults),
            "twice": sum(fault.twice or 0 for fault in faults),
            "equal": sum(fault.is_equal is True for fault in faults),
            "recovery_s_median": round(statistics.median(seconds), 1) if seconds else None,
            "recovery_s_most": round(max(seconds), 1) if seconds else None,
        }

    def table(self) -> str:
        """The rows as Markdown."""
        lines = [
            "| fault | how many | lost | made twice | result equal | recovery, median | longest |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in self.rows():
            median, most = (
                "" if row[key] is None else f"{row[key]:.1f} s" for key in ("recovery_s_median", "recovery_s_most")
            )
            equal = f"{row['equal']} of {row['count']}"
            lines.append(
                f"| {row['fault']} | {row['count']} | {row['lost']} | {row['twice']} | {equal} | {median} | {most} |"
            )
        return "\n".join(lines)

    def details(self) -> list[dict[str, Any]]:
        """Every fault, for `--json`."""
        return [asdict(fault) for fault in self.faults]
