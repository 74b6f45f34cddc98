"""Both arms over seeds: means, spreads, and a paired test of the difference, as the arms share their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from sio_ray.report.comparison import Estimate


@dataclass(frozen=True)
class Paired:
    """One number of both arms, seed by seed.

    Attributes:
        baseline: mean and standard deviation (ddof 0) over the seeds that both arms have.
        sio: likewise.
        std: of the differences of the seeds, ddof 0.
        p: of a two-sided paired t-test; None with one seed, or where all differences are the same.
        higher_is_better: whether a larger number is.
    """

    baseline: Estimate
    sio: Estimate
    std: float
    p: float | None
    higher_is_better: bool = True

    @property
    def difference(self) -> float:
        """SIO minus baseline."""
        return self.sio.mean - self.baseline.mean

    @property
    def gain(self) -> float:
        """The difference, positive where SIO is better."""
        return self.difference if self.higher_is_better else -self.difference

    @property
    def is_worse_beyond_noise(self) -> bool:
        """Whether SIO loses more than the standard deviation of the difference; never with one seed."""
        return self.baseline.num_seeds > 1 and -self.gain > self.std


def paired(values: pd.DataFrame, column: str, *, higher_is_better: bool = True) -> Paired | None:
    """Compare the arms over the seeds that both have.

    Args:
        values: arm, seed and the column; several rows of an arm and seed are averaged.
        column: what is compared.
        higher_is_better: whether a larger number is.

    Returns:
        None where the arms share no seed.
    """
    table = values.groupby(["seed", "arm"])[column].mean().unstack("arm")
    if not {"baseline", "sio"} <= set(table.columns):
        return None
    table = table[["baseline", "sio"]].dropna()
    if table.empty:
        return None
    before, after = table["baseline"].to_numpy(), table["sio"].to_numpy()
    differences = after - before
    testable = len(differences) > 1 and not np.allclose(differences, differences[0], rtol=0, atol=1e-12)
    p = float(stats.ttest_rel(after, before).pvalue) if testable else None
    return Paired(_estimate(before), _estimate(after), float(differences.std()), p, higher_is_better)


def sign_test(gains: Sequence[float]) -> float | None:
    """How likely a split of gains and losses at least so uneven is, if each were a fair coin; None without any.

    Methods that share a network are not independent, so chance gives an uneven split more often than this says.
    """
    signs = [gain > 0 for gain in gains if gain]
    return float(stats.binomtest(sum(signs), len(signs)).pvalue) if signs else None


def _estimate(values: npt.NDArray[np.float64]) -> Estimate:
    return Estimate(float(values.mean()), float(values.std()), len(values))
