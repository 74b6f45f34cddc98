"""Laws of the numbers: group means by hand, the noise rule, and a verdict that is honest in every direction."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from report_study import DETECTORS, OOD_SETS, TITLES, make_data
from rich.console import Console

from sio_ray.errors import EvaluationError
from sio_ray.report.comparison import ARMS, AUROC, FPR, METRICS, Comparison, Estimate
from sio_ray.report.comparison import false_alarms as chance
from sio_ray.report.numbers import percent, points
from sio_ray.report.tables import (
    cost_rows,
    detector_set_rows,
    heat_map,
    id_accuracy,
    metric_table,
    metrics_of,
    ood_set_rows,
    seed_counts,
    setting_rows,
    shared_detectors,
)
from sio_ray.report.text_table import print_table
from sio_ray.report.verdict import verdict


def false_alarms(data):
    return chance(seed_counts(data).values())


def by_hand(data, key, arm, group, detectors, sets=None):
    """Mean and std over seeds of the plain mean over detectors and OOD sets, in numpy and loops."""
    chosen = sets or [name for of_group, name in OOD_SETS if of_group == group]
    rows = data.metrics.to_dict("records")
    per_seed = []
    for seed in data.config.train.seeds:
        values = [
            r[key]
            for r in rows
            if r["arm"] == arm and r["seed"] == seed and r["detector"] in detectors and r["ood_set"] in chosen
        ]
        per_seed.append(sum(values) / len(values))
    return np.mean(per_seed), np.std(per_seed)


def compare(base, sio, *, seeds=2, higher=True):
    return Comparison(Estimate(*base, seeds), Estimate(*sio, seeds), higher)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_group_means_are_those_computed_by_hand(data, metric):
    table = metric_table(data, metric)
    assert [row.names[0] for row in table.rows] == list(TITLES.values())
    assert list(table.columns) == ["near", "far"]
    for row, name in zip((*table.rows, table.mean), (*DETECTORS, None), strict=True):
        detectors = [name] if name else DETECTORS
        for group, cell in row.cells.items():
            for arm in ("baseline", "sio"):
                estimate = getattr(cell, arm)
                mean, std = by_hand(data, metric.key, arm, group, detectors)
                assert estimate.mean == pytest.approx(mean)
                assert estimate.std == pytest.approx(std)
                assert estimate.num_seeds == 2


def test_per_set_tables_are_those_computed_by_hand(data):
    assert [row.names for row in ood_set_rows(data)] == [
        (name, {"near": "Near-OOD", "far": "Far-OOD"}[group]) for group, name in OOD_SETS
    ]
    for row in ood_set_rows(data):
        for metric in (AUROC, FPR):
            mean, std = by_hand(data, metric.key, "sio", None, DETECTORS, [row.names[0]])
            assert row.cells[metric.key].sio.mean == pytest.approx(mean)
            assert row.cells[metric.key].sio.std == pytest.approx(std)
    rows = detector_set_rows(data)
    assert len(rows) == len(OOD_SETS) * len(DETECTORS)
    for row in rows:
        (detector,) = [name for name, title in TITLES.items() if title == row.names[1]]
        mean, _ = by_hand(data, "auroc", "baseline", None, [detector], [row.names[0]])
        assert row.cells["auroc"].baseline.mean == pytest.approx(mean)


def test_two_groups_may_have_a_set_of_one_name(data):
    metrics = data.metrics.replace({"ood_set": {"digits_6_9": "noise"}})
    rows = ood_set_rows(make_data(metrics=metrics))
    assert [row.names for row in rows if row.names[0] == "noise"] == [("noise", "Near-OOD"), ("noise", "Far-OOD")]


def test_id_accuracy_is_mean_and_std_over_seeds(data):
    accuracy = id_accuracy(data)
    assert accuracy.baseline.mean == pytest.approx(0.973)
    assert accuracy.baseline.std == pytest.approx(0.001)
    assert accuracy.difference == pytest.approx(0.008)


def test_noise_adds_in_squares_and_the_rule_is_strict():
    beyond = compare((0.80, 0.03), (0.86, 0.04))
    assert beyond.noise == pytest.approx(0.05)
    assert beyond.beyond_noise
    assert beyond.winner == "sio"
    within = compare((0.80, 0.03), (0.845, 0.04))
    assert not within.beyond_noise
    assert within.winner is None


def test_winner_respects_which_way_is_better():
    assert compare((0.5, 0.01), (0.3, 0.01), higher=False).winner == "sio"
    assert compare((0.3, 0.01), (0.5, 0.01), higher=False).winner == "baseline"
    assert compare((0.5, 0.01), (0.3, 0.01)).winner == "baseline"


def test_one_seed_marks_nothing():
    comparison = compare((0.5, 0.0), (0.9, 0.0), seeds=1)
    assert comparison.noise is None
    assert not comparison.beyond_noise
    assert str(comparison.sio) == "90.0"


def test_a_difference_that_prints_as_zero_is_never_marked():
    assert not compare((0.9, 0.0), (0.9004, 0.0)).beyond_noise


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_false_alarms_match_a_simulation(num_seeds):
    data = make_data(seeds=tuple(range(num_seeds)))
    draws = np.random.default_rng(0).normal(size=(200_000, 2, num_seeds))
    noise = np.hypot(*draws.std(axis=2).T)
    marked = np.abs(np.diff(draws.mean(axis=2), axis=1)[:, 0]) > noise
    assert false_alarms(data) == pytest.approx(marked.mean(), abs=0.005)


def test_false_alarms_are_unknown_without_spread_or_comparison():
    assert false_alarms(make_data(seeds=(0,))) is None
    assert false_alarms(make_data(arms=("sio",))) is None


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def exact(base, sio, seeds=(0, 1)):
    """A study with chosen AUROC per seed, the same for all detectors and sets, and equal ID accuracy."""
    data = make_data(seeds=seeds)
    values = {
        (arm, seed): v for arm, vs in (("baseline", base), ("sio", sio)) for seed, v in zip(seeds, vs, strict=True)
    }
    auroc = [values[pair] for pair in zip(data.metrics["arm"], data.metrics["seed"], strict=True)]
    return make_data(
        seeds=seeds, metrics=data.metrics.assign(auroc=auroc), id_accuracy=data.id_accuracy.assign(accuracy=0.98)
    )


def test_verdict_better():
    assert plain(verdict(exact((0.780, 0.786), (0.797, 0.805)))) == (
        "SIO raises mean near-OOD AUROC over 6 detectors from 78.3 to 80.1 % (+1.8 ± 0.5 points over 2 seeds); "
        "far-OOD AUROC rises from 78.3 to 80.1 % (+1.8 ± 0.5); "
        "ID accuracy stays within noise, from 98.0 to 98.0 % (0.0 ± 0.0)."
    )


def test_verdict_worse():
    assert plain(verdict(exact((0.797, 0.805), (0.780, 0.786)))).startswith(
        "SIO lowers mean near-OOD AUROC over 6 detectors from 80.1 to 78.3 % "
        "(\N{MINUS SIGN}1.8 ± 0.5 points over 2 seeds); far-OOD AUROC falls from 80.1 to 78.3 %"
    )


def test_verdict_within_noise():
    assert plain(verdict(exact((0.77, 0.79), (0.775, 0.797)))).startswith(
        "SIO leaves mean near-OOD AUROC over 6 detectors unchanged within noise, 78.0 % for the baseline and 78.6 % "
        "with SIO (+0.6 ± 1.5 points over 2 seeds); far-OOD AUROC stays within noise, from 78.0 to 78.6 % (+0.6 ± 1.5)"
    )


@pytest.mark.parametrize(("sio", "side"), [(0.80, "higher"), (0.76, "lower"), (0.78, "same")])
def test_verdict_of_one_seed_claims_no_more_than_it_knows(sio, side):
    assert plain(verdict(exact((0.78,), (sio,), seeds=(0,)))).startswith(
        f"With 1 seed, which gives no measure of noise, SIO has the {side} mean near-OOD AUROC over 6 detectors, "
        f"{100 * sio:.1f} % against 78.0 % ("
    )


def test_verdict_of_one_arm():
    text = plain(verdict(make_data(arms=("baseline",))))
    assert text.startswith(
        "Only the baseline was run, so nothing is compared: mean near-OOD AUROC over 6 detectors is "
    )
    assert text.endswith(" % (2 seeds).")


def test_verdict_names_unequal_numbers_of_seeds(data):
    keep = (data.metrics["arm"] == "sio") | (data.metrics["seed"] == 0)
    uneven = make_data(metrics=data.metrics[keep])
    assert "With 1 seed of the baseline and 2 seeds of SIO," in verdict(uneven)


def test_no_metrics_is_an_error(data):
    empty = make_data(metrics=pd.DataFrame(columns=data.metrics.columns))
    with pytest.raises(EvaluationError, match="evaluate a checkpoint first"):
        verdict(empty)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.018, "+1.8"), (-0.018, "\N{MINUS SIGN}1.8"), (0.0, "0.0"), (0.0004, "0.0"), (-0.0004, "0.0")],
)
def test_points_have_a_sign_unless_zero(value, text):
    assert points(value) == text


def printed(data, width=80):
    console = Console(file=io.StringIO(), width=width)
    print_table(data, console)
    return console.file.getvalue()


def test_terminal_table_has_the_numbers_of_the_page(data):
    text = printed(data)
    assert max(map(len, text.splitlines())) <= 80
    for row in metric_table(data, AUROC).rows:
        (line,) = [line for line in text.splitlines() if line.strip().startswith(row.names[0] + "  ")]
        expected = []
        for cell in row.cells.values():
            expected += [f"{percent(e.mean)}±{percent(e.std)}" for e in (cell.baseline, cell.sio)]
            expected.append(points(cell.difference) + "*" * cell.beyond_noise)
        assert line.strip().removeprefix(row.names[0]).split() == expected
    assert "ID accuracy" in text
    assert "42 % of equal pairs" in " ".join(text.split())


def test_terminal_table_of_one_arm_has_no_difference():
    text = printed(make_data(arms=("sio",)))
    assert "diff" not in text
    assert "Baseline" not in text


def test_terminal_table_takes_names_as_text(data):
    assert "[red]msp" in printed(make_data(metrics=data.metrics.replace({"detector": {"msp": "[red]msp"}})), width=100)


def without(data, arm, detector):
    """The same study where one arm lacks a detector."""
    metrics = data.metrics
    return make_data(metrics=metrics[(metrics["arm"] != arm) | (metrics["detector"] != detector)])


def test_means_are_over_the_detectors_that_both_arms_have(data):
    uneven = without(data, "sio", "vim")
    assert shared_detectors(uneven) == list(DETECTORS[:-1])
    table = metric_table(uneven, AUROC)
    for arm in ("baseline", "sio"):
        mean, std = by_hand(data, "auroc", arm, "near", DETECTORS[:-1])
        assert getattr(table.mean.cells["near"], arm).mean == pytest.approx(mean)
        assert getattr(table.mean.cells["near"], arm).std == pytest.approx(std)
    assert table.rows[-1].cells["near"].sio is None
    assert table.rows[-1].cells["near"].difference is None
    assert "over 5 detectors" in verdict(uneven)
    assert "ViM" in printed(uneven)


def test_arms_without_a_common_detector_are_not_averaged(data):
    metrics = data.metrics
    apart = (metrics["arm"] == "sio") == metrics["detector"].isin(["msp", "knn", "odin"])
    disjoint = make_data(metrics=metrics[apart])
    assert shared_detectors(disjoint) == []
    assert metric_table(disjoint, AUROC).mean is None
    assert verdict(disjoint) == "No detector was evaluated in every run, so nothing is averaged or compared."
    assert "Mean" not in printed(disjoint).split("Mean and std")[0]


def test_heat_map_spans_all_values_and_its_colours_their_range(data):
    heat = heat_map(data)
    assert heat.sets == OOD_SETS
    means = data.metrics.groupby(["arm", "detector", "group", "ood_set"])["auroc"].mean()
    assert heat.low == pytest.approx(means.min())
    assert heat.high == pytest.approx(means.max())
    gains = means["sio"] - means["baseline"]
    assert heat.reach == pytest.approx(gains.abs().max())
    shades = [heat.shade(getattr(cell, arm)) for row in heat.rows for cell in row.cells.values() for arm in ARMS]
    assert min(shades) == 0.0
    assert max(shades) == 1.0
    assert max(heat.tint(cell.difference) for row in heat.rows for cell in row.cells.values()) == 1.0
    value = heat.rows[3].cells["far/letters"].sio.mean
    assert value == pytest.approx(means["sio", "knn", "far", "letters"])
    assert heat.tint(None) == heat.shade(None) == 0.0


def test_costs_are_means_over_runs(data):
    rows = dict(cost_rows(data))
    assert list(rows) == list(TITLES.values())
    assert rows["KNN"] == pytest.approx({"fit_s": 0.3, "sweep_s": 0.0, "score_s": 0.23, "metrics_s": 0.05})
    doubled = [row | {"fit_s": row["fit_s"] + 1.0} if row["arm"] == "sio" else row for row in data.costs]
    assert dict(cost_rows(make_data(costs=doubled)))["KNN"]["fit_s"] == pytest.approx(0.8)
    assert cost_rows(make_data(costs=[])) == []


def test_chosen_settings_say_how_many_seeds_chose_them():
    rows = {row.title: row for row in setting_rows(make_data(seeds=(0, 1, 2)))}
    assert rows["KNN"].chosen == dict.fromkeys(ARMS, "k = 50 (2 of 3 seeds); k = 100 (1)")
    assert rows["KNN"].num_tried == 3
    assert rows["MSP"].chosen == {"baseline": "", "sio": ""}
    assert rows["MSP"].num_tried == 0
    assert rows["MSP"].paper == "Somebody et al., arXiv:2000.00000"
    one = make_data(seeds=(0,), settings=[{"arm": "sio", "detector": "msp", "setting": {"eps": 0.0014, "T": 10}}])
    assert setting_rows(one)[0].chosen == {"baseline": "", "sio": "eps = 0.0014, T = 10"}


def test_an_older_evaluation_without_the_authors_variant_has_the_other_metrics(data):
    older = make_data(metrics=data.metrics.drop(columns="fpr_at_95_id_tpr"))
    assert [metric.key for metric in metrics_of(older)] == [metric.key for metric in METRICS[:-1]]
    assert metric_table(older, AUROC) == metric_table(data, AUROC)
