"""Finds the searches of an experiment, for the report to name."""

from __future__ import annotations

from sio_ray.config import Config
from sio_ray.report.data import SearchSummary
from sio_ray.report.search_result import metric_name
from sio_ray.stages.layout import SEARCH_PAGE_NAME
from sio_ray.stages.record import read_record


def searches_of(config: Config) -> list[SearchSummary]:
    """The finished searches of an experiment, the oldest first; each has a page of its own."""
    found = []
    for folder in config.run_dir.glob("tune-*"):
        record = read_record(folder)
        if record is None:
            continue
        result = record.result
        objective = result["objectives"][0]
        rows = {row["index"]: row for row in result["trials"]}
        again = result["confirmation"] or {}
        summary = SearchSummary(
            page=f"{folder.name}/{SEARCH_PAGE_NAME}",
            finished=record.finished,
            objective=metric_name(objective),
            num_trials=sum(row["phase"] == "search" for row in result["trials"]) - 1,
            values=dict(result["best_values"]) if result["best"] else {},
            gain=rows[result["best"]][objective] - rows[0][objective],
            confirmed_gain=again.get("gain"),
            confirmed_std=again.get("gain_std") if len(again.get("seeds", ())) > 1 else None,
        )
        found.append(summary)
    return sorted(found, key=lambda summary: (summary.finished, summary.page))
