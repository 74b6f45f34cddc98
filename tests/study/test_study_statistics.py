"""The paired comparison of both arms, against what scipy and arithmetic say."""

import pandas as pd
import pytest
from scipy import stats

from sio_ray.study.statistics import paired, sign_test

BEFORE, AFTER = [0.70, 0.80, 0.75], [0.73, 0.82, 0.79]


def table(before, after):
    rows = [{"arm": "baseline", "seed": seed, "x": value} for seed, value in enumerate(before)]
    return pd.DataFrame(rows + [{"arm": "sio", "seed": seed, "x": value} for seed, value in enumerate(after)])


def test_seeds_are_paired():
    found = paired(table(BEFORE, AFTER), "x")
    assert found.difference == pytest.approx(0.03)
    assert found.p == pytest.approx(stats.ttest_1samp([0.03, 0.02, 0.04], 0).pvalue)
    # Far below that of the arms, which share the spread of the seeds.
    assert found.std == pytest.approx((2 / 3) ** 0.5 * 0.01)
    assert found.baseline.std == pytest.approx(pd.Series(BEFORE).std(ddof=0))
    assert not found.is_worse_beyond_noise


def test_seeds_that_one_arm_lacks_are_left_out_of_both():
    assert paired(table(BEFORE, AFTER[:2]), "x").baseline.mean == pytest.approx(0.75)
    assert paired(table(BEFORE, []), "x") is None
    assert paired(table([], []).reindex(columns=["arm", "seed", "x"]), "x") is None


def test_a_lower_number_may_be_the_better_one():
    found = paired(table(BEFORE, AFTER), "x", higher_is_better=False)
    assert found.gain == pytest.approx(-0.03)
    assert found.is_worse_beyond_noise


@pytest.mark.parametrize(("before", "after"), [([0.7], [0.8]), ([0.7, 0.8], [0.8, 0.9])])
def test_without_any_spread_there_is_no_p(before, after):
    assert paired(table(before, after), "x").p is None


def test_several_rows_of_a_seed_are_averaged_first():
    rows = pd.concat([table(BEFORE, AFTER), table([0.1] * 3, [0.3] * 3)])
    assert paired(rows, "x").difference == pytest.approx((0.03 + 0.2) / 2)


def test_the_sign_test_leaves_ties_out():
    assert sign_test([1, 2, 0, 3, 4, -1]) == pytest.approx(stats.binomtest(4, 5).pvalue)
    assert sign_test([0, 0]) is None
