"""Say in plain words what a search found: how much better than the baseline, and whether fresh seeds confirm it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as t_distribution

from sio_ray.report.numbers import PLUS_MINUS, percent, plural, points
from sio_ray.report.search_result import (
    ACCURACY,
    FAILED,
    LOSS,
    Search,
    Trial,
    figure_text,
    metric_name,
    spread_text,
    unit_of,
)

#: Values that a sentence can hold.
_MAX_VALUES = 3


@dataclass(frozen=True)
class Difference:
    """The best against the baseline in one metric, both with the same seeds.

    Attributes:
        metric: key.
        baseline: its trial.
        best: its trial.
        change: best minus baseline.
        spread: std over seeds of that where it was taken seed by seed, else sqrt(std_a^2 + std_b^2); None if unknown.
    """

    metric: str
    baseline: Trial
    best: Trial
    change: float
    spread: float | None

    @property
    def beyond_noise(self) -> bool:
        """The change is larger than its spread, and shows at one decimal of a percent."""
        shows = self.metric == LOSS or points(self.change) != "0.0"
        return self.spread is not None and shows and abs(self.change) > self.spread

    @property
    def text(self) -> str:
        """Such as `+0.6 ± 0.3`, in points of percent or in nats."""
        change = f"{self.change:+.3f}".replace("-", "\N{MINUS SIGN}") if self.metric == LOSS else points(self.change)
        return change + ("" if self.spread is None else PLUS_MINUS + figure_text(self.metric, self.spread))


def differences(search: Search) -> list[Difference]:
    """The best against the baseline in every metric, with fresh seeds if there are any, else as the search saw them."""
    if search.best is None:
        return []
    baseline, best = search.confirming or (search.baseline, search.best)
    found = []
    for metric in search.metrics:
        if baseline.get(metric) is None or best.get(metric) is None:
            continue
        change = best[metric] - baseline[metric]
        found.append(Difference(metric, baseline, best, change, _spread(search, metric, baseline, best)))
    return found


def _spread(search: Search, metric: str, baseline: Trial, best: Trial) -> float | None:
    if min(len(baseline["seeds"]), len(best["seeds"])) < 2:
        return None
    if search.confirming is not None and metric == search.objective:
        std = search.result["confirmation"]["gain_std"]
        return None if std is None else float(std)
    of_baseline, of_best = baseline.get(f"{metric}_std"), best.get(f"{metric}_std")
    return None if of_baseline is None or of_best is None else math.hypot(of_baseline, of_best)


def chance_of_confirmation(num_seeds: int) -> float | None:
    """How often a configuration as good as the baseline is confirmed by chance; None for one seed, where none is.

    With n normal differences, mean / (std / sqrt(n - 1)) is Student's t with n - 1 degrees of freedom (std with
    ddof 0); a gain above its std has t above sqrt(n - 1).
    """
    return None if num_seeds < 2 else float(t_distribution.sf(math.sqrt(num_seeds - 1), num_seeds - 1))


def search_verdict(search: Search) -> str:
    """One or two honest sentences, and one that counts the trials."""
    return f"{_outcome(search)} {_counts(search)}"


def _outcome(search: Search) -> str:
    objective = metric_name(search.objective)
    configurations = search.configurations
    if not configurations:
        return "Only the baseline was tried, so nothing is compared."
    if all(trial["status"] in FAILED for trial in configurations):
        return "Every configuration failed, so nothing is compared with the baseline."
    base = _figure(search.baseline, search.objective)
    if search.best is None:
        if search.baseline.get(search.objective) is None:
            return "Neither the baseline nor any configuration gave a figure, so nothing is compared."
        allowed = " and keeps the constraint" if search.result["constraint"] else ""
        return (
            f"No configuration beat the baseline: none that trained to the end{allowed} has a higher {objective} on "
            f"the validation sets than real images alone, {base}."
        )
    values = search.values_text(search.best)
    if search.is_population or len(search.best["values"]) > _MAX_VALUES:
        values = ("the schedule of " if search.is_population else "that of ") + search.name(search.best)
    of_search = differences(Search({**search.result, "confirmation": None}))
    if not of_search:
        return (
            f"The best configuration, {values}, has {objective} on the validation sets "
            f"{_figure(search.best, search.objective)}; the baseline gave no figure to compare with."
        )
    seen = of_search[0]
    found = (
        f"The best configuration, {values}, has {objective} on the validation sets "
        f"{_figure(search.best, search.objective)} against {base} for the baseline ({seen.text} points)"
    )
    return f"{found}{_confirmed(search)}.{_broken_constraint(search)}"


def _confirmed(search: Search) -> str:
    if search.confirming is None:
        return "; this was not confirmed with fresh seeds, and the best of several noisy figures is too high on average"
    first = differences(search)[0]
    seeds = plural(len(search.confirming[1]["seeds"]), "fresh seed")
    if first.spread is None:
        return f". With {seeds}, which gives no measure of noise, the gain is {first.text} points"
    if first.beyond_noise and first.change > 0:
        return f". With {seeds} the gain is {first.text} points, beyond noise: confirmed"
    what = "the difference" if first.change <= 0 else "the gain"
    where = "a loss beyond noise" if first.beyond_noise else "within noise"
    return f". With {seeds} {what} is {first.text} points, {where}: not confirmed"


def _broken_constraint(search: Search) -> str:
    """What to know where the constraint, which the search held the best to, does not hold with fresh seeds."""
    constraint, pair = search.result["constraint"], search.confirming
    if not constraint or pair is None or None in (pair[0].get(ACCURACY), pair[1].get(ACCURACY)):
        return ""
    drop, most = pair[0][ACCURACY] - pair[1][ACCURACY], constraint["max_accuracy_drop"]
    if drop <= most:
        return ""
    allowed = "none was allowed" if not most else f"more than the {percent(most)} allowed"
    return f" But ID accuracy with them is {percent(drop)} points below the baseline's, {allowed}."


def _counts(search: Search) -> str:
    what = "segment" if search.is_population else "configuration"
    configurations = search.configurations
    stopped = sum(trial["status"] == "stopped" for trial in configurations)
    failed = sum(trial["status"] in FAILED for trial in configurations)
    parts = [
        f"{stopped} stopped early" if stopped else "none stopped early",
        f"{failed} failed" if failed else "none failed",
    ]
    return f"{plural(len(configurations), what)} beside the baseline: {', '.join(parts)}." if configurations else ""


def _figure(trial: Trial, metric: str) -> str:
    unit = "\N{NO-BREAK SPACE}" + unit_of(metric)
    return figure_text(metric, trial.get(metric)) + spread_text(trial, metric) + unit


def seeds_text(seeds: Sequence[int]) -> str:
    """Such as `3 seeds (200, 201, 202)`."""
    return f"{plural(len(seeds), 'seed')} ({', '.join(map(str, seeds))})"
