"""Says in one sentence what the measures show, and no more."""

from __future__ import annotations

import math

from sio_ray.quality.measure import Quality

#: A share counts as lower than that of real pictures if it is lower by more than this and by more than two standard
#: errors. Classifiers agree on labels within a point or two; precision and recall of real halves vary far more.
_LABEL_MARGIN, _MANIFOLD_MARGIN = 0.05, 0.1
#: A density, distance or diversity counts as smaller than that of real pictures if it is below this times it.
_SMALLER = 0.8
#: Below this share of real pictures that it knows, a classifier is no judge.
_POOR_CLASSIFIER = 0.5
#: Copies count as more than chance if chance gives as many in fewer than one set of a hundred.
_CHANCE = 0.01


def verdict(quality: Quality) -> str:
    """One sentence: the numbers, then what they show by these rules.

    - labels: agreement is lower than that of the reference by more than 5 points. If the latter is below a half, the
      classifier is no judge, and of the rest only copies are told.
    - fidelity: precision is lower than that between two halves of the reference by more than 0.1, or density is below
      0.8 of theirs.
    - variety: recall is lower by more than 0.1, or the diversity within classes is below 0.8.
    - copies: more synthetic pictures are nearer to a training picture than any held-out one than chance gives (see
      `chance_of_copies`), or their median distance to it is below 0.8 of that of held-out pictures.

    A difference of shares must also exceed two standard errors, so a small reference finds less. That no rule speaks
    does not make a set good: only training on it shows what it is worth.
    """
    numbers, findings = [], []
    real = quality.real.labels
    trusted = real is None or real.agreement >= _POOR_CLASSIFIER
    for found in (_labels(quality), *[_manifolds(quality)] * trusted, _copies(quality)):
        numbers += found[0]
        findings += found[1]
    return f"{', '.join(numbers)}: {' and '.join(findings) or 'these measures find no fault'}."


def chance_of_copies(num_copies: int, num_synthetic: int, num_held_out: int) -> float:
    """Probability that at least so many synthetic pictures are nearer to the training set than all held-out ones.

    By chance: if both were drawn from one distribution, every order of their distances would be equally likely.

    Args:
        num_copies: c.
        num_synthetic: N.
        num_held_out: K.

    Returns:
        The product of (N - i) / (N + K - i) over i < c.
    """
    return math.prod((num_synthetic - i) / (num_synthetic + num_held_out - i) for i in range(num_copies))


def _labels(quality: Quality) -> tuple[list[str], list[str]]:
    labels, real = quality.overall.labels, quality.real.labels
    if labels is None or real is None:
        return [], []
    numbers = [f"{_percent(labels.agreement)} of the labels agree (of real pictures {_percent(real.agreement)})"]
    lower = _lower(
        labels.agreement, quality.overall.num_synthetic, real.agreement, quality.overall.num_reference, _LABEL_MARGIN
    )
    if real.agreement < _POOR_CLASSIFIER:
        return numbers, ["the classifier is wrong on most real pictures, so what it sees says little"]
    return numbers, ["too many labels are wrong"] * lower


def _manifolds(quality: Quality) -> tuple[list[str], list[str]]:
    overall, real = quality.overall, quality.real
    if overall.neighbourhood is None or real.neighbourhood is None:
        few = overall.labels is not None
        return ["too few pictures for precision and recall"] * few, []
    of_set, of_real = overall.neighbourhood, real.neighbourhood
    numbers = [
        f"precision is {of_set.precision:.2f} (real {of_real.precision:.2f})",
        f"recall {of_set.recall:.2f} (real {of_real.recall:.2f})",
    ]
    unlike = _lower(of_set.precision, overall.num_synthetic, of_real.precision, real.num_synthetic, _MANIFOLD_MARGIN)
    narrow = _lower(of_set.recall, overall.num_reference, of_real.recall, real.num_reference, _MANIFOLD_MARGIN)
    if of_set.density < _SMALLER * of_real.density:
        numbers.append(f"density {of_set.density:.2f} (real {of_real.density:.2f})")
        unlike = True
    if overall.diversity is not None and overall.diversity < _SMALLER:
        numbers.append(f"diversity within classes is {overall.diversity:.2f} of real pictures")
        narrow = True
    return numbers, ["many pictures lie where real ones are rare"] * unlike + ["the set lacks variety"] * narrow


def _copies(quality: Quality) -> tuple[list[str], list[str]]:
    overall, found = quality.overall, quality.overall.memorisation
    if found is None:
        return [], []
    count = f"{found.num_copies:,} of {overall.num_compared:,} pictures"
    findings = []
    if found.copy_distance == 0:
        numbers = [f"{count} equal a training picture, as some held-out ones do"]
    else:
        numbers = [f"{count} are nearer to a training picture than any held-out one"]
        if chance_of_copies(found.num_copies, overall.num_compared, quality.num_held_out_compared) < _CHANCE:
            findings.append("there are more copies than chance gives")
    if found.relative_distance is not None and found.relative_distance < _SMALLER:
        numbers.append(f"their median distance is {found.relative_distance:.2f} of that of held-out ones")
        findings.append("pictures keep close to the training set")
    return numbers, findings


def _lower(share: float, count: int, of_real: float, num_real: int, margin: float) -> bool:
    """Whether a share of `count` is lower than one of `num_real` beyond the margin and two standard errors."""
    variance = share * (1 - share) / count + of_real * (1 - of_real) / num_real
    return of_real - share > max(margin, 2 * math.sqrt(variance))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
