"""Read the result of a search: which trials compare, which fields matter, and how values are written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sio_ray.report.numbers import PLUS_MINUS, percent

#: One element of `trials` of the result.
Trial = Mapping[str, Any]

#: What a trial is judged by, and how to call it; a loss is in nats, all others are shares.
METRIC_NAMES = {
    "near_auroc": "near-OOD AUROC",
    "far_auroc": "far-OOD AUROC",
    "mean_auroc": "mean OOD AUROC",
    "val_accuracy": "ID accuracy",
    "val_loss": "ID loss",
}
ACCURACY, LOSS = "val_accuracy", "val_loss"
FAILED = ("failed", "diverged")
_RANGES = ("uniform", "loguniform", "integer")


@dataclass(frozen=True)
class Search:
    """The result of a finished search, with what its page asks of it.

    Attributes:
        result: `objectives`, `fields`, `trials`, `best` and the rest, as JSON values; shares are in [0, 1].
    """

    result: Mapping[str, Any]

    @property
    def objective(self) -> str:
        """The metric that decides which trial is the best."""
        return str(self.result["objectives"][0])

    @property
    def traded(self) -> tuple[str, str] | None:
        """What the front weighs against what: OOD detection against ID accuracy, or against the other objective.

        None where accuracy alone is the objective.
        """
        detection = [str(metric) for metric in self.result["objectives"] if metric != ACCURACY]
        return (detection[0], (*detection, ACCURACY)[1]) if detection else None

    @property
    def trials(self) -> list[Trial]:
        """All, those that confirm the best among them."""
        return list(self.result["trials"])

    @property
    def searched(self) -> list[Trial]:
        """Those of the search itself, the baseline first."""
        return [trial for trial in self.trials if trial["phase"] == "search"]

    @property
    def configurations(self) -> list[Trial]:
        """Those of the search but for the baseline."""
        return [trial for trial in self.searched if trial["index"] != 0]

    @property
    def baseline(self) -> Trial:
        """Real images alone."""
        return self.trial(0)

    @property
    def best(self) -> Trial | None:
        """None if no configuration beat the baseline."""
        return self.trial(self.result["best"]) if self.result["best"] else None

    @property
    def is_population(self) -> bool:
        """Whether trials are segments of runs whose values changed on the way."""
        return bool(self.result["algorithm"] == "pbt")

    @property
    def metrics(self) -> list[str]:
        """Those that some trial has, the objectives first."""
        keys = dict.fromkeys([*self.result["objectives"], *METRIC_NAMES])
        return [key for key in keys if any(trial.get(key) is not None for trial in self.trials)]

    @property
    def confirming(self) -> tuple[Trial, Trial] | None:
        """The baseline and the best with fresh seeds; None if that was not done or one of them gave no figure."""
        found = self.result["confirmation"]
        if not found:
            return None
        pair = self.trial(found["baseline"]), self.trial(found["best"])
        return None if any(trial.get(self.objective) is None for trial in pair) else pair

    @property
    def fields(self) -> list[str]:
        """Of the space: numbers first, then by importance where that is known; otherwise as in the space."""
        importance = self.result["importance"] or {}
        return sorted(self.result["fields"], key=lambda key: (not self.is_numeric(key), -importance.get(key, 0.0)))

    def trial(self, index: int) -> Trial:
        """The one of this index."""
        return next(trial for trial in self.trials if trial["index"] == index)

    def is_numeric(self, field: str) -> bool:
        """Whether all values of a field are numbers."""
        spec = self.result["fields"][field]
        return spec["kind"] in _RANGES or all(_is_number(value) for value in spec["values"])

    def short(self, field: str) -> str:
        """The last part of a field's name, or all of it where two fields share that."""
        lasts = Counter(key.rpartition(".")[2] for key in self.result["fields"])
        last = field.rpartition(".")[2]
        return last if lasts[last] == 1 else field

    def compares(self, trial: Trial) -> bool:
        """Whether a trial trained as long as the best, so that its figures compare with the best's."""
        if trial["status"] != "done" or trial.get(self.objective) is None:
            return False
        generations = [other["generation"] for other in self.searched if other.get("generation") is not None]
        return trial.get("generation") in (None, max(generations, default=None))

    def lineage(self, trial: Trial) -> list[Trial]:
        """The segments whose weights led to a trial, the first first, itself last."""
        found = [trial]
        while found[0].get("parent") is not None:
            found.insert(0, self.trial(found[0]["parent"]))
        return found

    def values_text(self, trial: Trial) -> str:
        """Such as `train.real_weight = 0.73 and train.synthetic_ratio = 0.5`."""
        *firsts, last = [f"{key} = {value_text(value)}" for key, value in trial["values"].items()] or [""]
        return f"{', '.join(firsts)} and {last}" if firsts else last

    def name(self, trial: Trial) -> str:
        """How to call a trial: `baseline` or `trial 7`."""
        return "baseline" if trial["index"] == 0 else f"trial {trial['index']}"


def metric_name(metric: str) -> str:
    """How to call a metric in a sentence."""
    return METRIC_NAMES.get(metric, metric)


def heading(metric: str) -> str:
    """How to call a metric at the start of a line."""
    name = metric_name(metric)
    return name[:1].upper() + name[1:]


def scale_of(metric: str) -> float:
    """What turns a figure of a metric into what is printed: percent, or nats as they are."""
    return 1.0 if metric == LOSS else 100.0


def unit_of(metric: str) -> str:
    """What is printed is in."""
    return "nats" if metric == LOSS else "%"


def figure_text(metric: str, value: float | None) -> str:
    """A figure as it is printed, without its unit; a dash for none."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3f}" if metric == LOSS else percent(value)


def spread_text(trial: Trial, metric: str) -> str:
    """The std over seeds behind a figure, such as ` ± 0.4`; nothing where it is of one seed or not known."""
    std = trial.get(f"{metric}_std")
    if len(trial["seeds"]) < 2 or std is None or trial.get(metric) is None:
        return ""
    return PLUS_MINUS + figure_text(metric, std)


def value_text(value: Any) -> str:
    """A value of a field, as YAML would have it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shortened(text: str, length: int = 16) -> str:
    """A text in one line of a plot."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def spec_text(spec: Mapping[str, Any]) -> str:
    """How a field was searched, in words."""
    if spec["kind"] not in _RANGES:
        return ("grid of " if spec["kind"] == "grid" else "one of ") + ", ".join(map(value_text, spec["values"]))
    ends = f"{value_text(spec['low'])} to {value_text(spec['high'])}"
    return {"uniform": ends, "loguniform": f"{ends}, logarithmic", "integer": f"{ends}, whole numbers"}[spec["kind"]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
