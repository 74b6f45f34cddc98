"""Say the result in one honest sentence: better, worse, or within noise."""

from __future__ import annotations

from sio_ray.report.comparison import ARM_PHRASES, Comparison
from sio_ray.report.data import Evaluation
from sio_ray.report.numbers import PLUS_MINUS, percent, plural, points
from sio_ray.report.tables import arms_of, headline, seed_count, shared_detectors

# A line does not break before it.
_PERCENT = "\N{NO-BREAK SPACE}%"


def verdict(data: Evaluation) -> str:
    """One honest sentence: better, worse, or within noise."""
    arms = arms_of(data)
    shared = shared_detectors(data)
    if arms and not shared:
        return "No detector was evaluated in every run, so nothing is averaged or compared."
    numbers = headline(data)
    detectors = plural(len(shared), "method" if data.config and data.config.methods else "detector")
    numbers = [(f"mean {name} over {detectors}" if i == 0 else name, c) for i, (name, c) in enumerate(numbers)]
    if len(arms) < 2:
        values = "; ".join(f"{name} is {getattr(c, arms[0]) or 'unknown'}{_PERCENT}" for name, c in numbers)
        return f"Only {ARM_PHRASES[arms[0]]} was run, so nothing is compared: {values} ({seed_count(data)})."
    first, *others = numbers
    return "; ".join([_first_clause(*first, seed_count(data)), *(_clause(*number) for number in others)]) + "."


def _first_clause(name: str, comparison: Comparison, seeds: str) -> str:
    base, sio, change = _parts(comparison)
    if comparison.noise is None:
        side = "higher" if (comparison.difference or 0) > 0 else "lower" if comparison.difference else "same"
        return (
            f"With {seeds}, which gives no measure of noise, SIO has the {side} {name}, "
            f"{sio}{_PERCENT} against {base}{_PERCENT} ({change} points)"
        )
    if not comparison.beyond_noise:
        return (
            f"SIO leaves {name} unchanged within noise, "
            f"{base}{_PERCENT} for the baseline and {sio}{_PERCENT} with SIO ({change} points over {seeds})"
        )
    verb = "raises" if comparison.winner == "sio" else "lowers"
    return f"SIO {verb} {name} from {base} to {sio}{_PERCENT} ({change} points over {seeds})"


def _clause(name: str, comparison: Comparison) -> str:
    if comparison.difference is None:
        return f"{name} was not measured for both arms"
    base, sio, change = _parts(comparison)
    if comparison.noise is None:
        return f"{name} is {sio}{_PERCENT} against {base}{_PERCENT} ({change})"
    if not comparison.beyond_noise:
        return f"{name} stays within noise, from {base} to {sio}{_PERCENT} ({change})"
    return f"{name} {'rises' if comparison.winner == 'sio' else 'falls'} from {base} to {sio}{_PERCENT} ({change})"


def _parts(comparison: Comparison) -> tuple[str, str, str]:
    assert comparison.baseline is not None, "both arms are compared"
    assert comparison.sio is not None, "both arms are compared"
    assert comparison.difference is not None, "both arms are compared"
    change = points(comparison.difference)
    if comparison.noise is not None:
        change += PLUS_MINUS + percent(comparison.noise)
    return percent(comparison.baseline.mean), percent(comparison.sio.mean), change
