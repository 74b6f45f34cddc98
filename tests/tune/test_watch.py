"""What people see of a search: the line of a trial, the live table, and what is said at the end."""

import io

import pytest
from rich.console import Console

from sio_ray.search.trial import TrialResult
from sio_ray.tune import outcome, watch
from sio_ray.tune.watch import Watch
from tests.search.search_samples import played, tuned


@pytest.fixture
def searched():
    config = tuned("num_trials=4", "seeds=[1,2]", "confirm_seeds=[7,8,9]")
    return config, *played(config)


def drawn(renderable, width=80):
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(renderable)
    return text.getvalue()


def told(monkeypatch, module):
    text = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=text, width=100, color_system=None))
    return text


def test_a_line_tells_values_figures_the_best_so_far_and_the_eta(searched, monkeypatch):
    config, search, results = searched
    text = told(monkeypatch, watch)
    shown = Watch(config.tune, search.num_trials)
    for index in (0, 1):
        shown.start(search.trials[index])
        shown.end(search.trials[index], results[index], search.num_trials)
    baseline, trial = text.getvalue().splitlines()
    near = {index: 100 * results[index].value("near_auroc") for index in (0, 1)}
    assert baseline.strip().startswith(f"baseline done: near-OOD AUROC {near[0]:.2f}, ID accuracy 99.00; 1 of 7 trials")
    values = search.trials[1].values
    assert f"trial 1 (real_weight {values['train.real_weight']}, synthetic_ratio" in trial
    assert (
        f"best near-OOD AUROC {max(near.values()):.2f} ({max(near.values()) - near[0]:+.2f} over the baseline), eta 0:"
        in trial
    )


def test_trials_that_were_there_already_are_counted_and_not_told_again(searched, monkeypatch):
    config, search, results = searched
    text = told(monkeypatch, watch)
    shown = Watch(config.tune, search.num_trials)
    shown.end(search.trials[0], results[0], search.num_trials)
    assert text.getvalue() == ""
    assert "1 of 7 trials" in drawn(shown.table())


def test_a_failed_trial_says_why(searched, monkeypatch):
    config, search, _ = searched
    text = told(monkeypatch, watch)
    shown = Watch(config.tune, search.num_trials)
    shown.start(search.trials[1])
    shown.end(search.trials[1], TrialResult("failed", error="out of memory"), search.num_trials)
    assert " failed: out of memory; 1 of 7 trials" in text.getvalue()


def test_the_table_has_running_trials_first_and_fits_a_terminal(searched):
    config, search, results = searched
    shown = Watch(config.tune, search.num_trials)
    shown.start(search.trials[3])
    shown.validated(3, {"step": 1200, "near_auroc": 0.5, "val_accuracy": 0.25})
    for index in (0, 1, 2):
        shown.end(search.trials[index], results[index], search.num_trials)
    lines = drawn(shown.table()).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].strip().startswith("3 of 7 trials, best near-OOD AUROC")
    assert lines[2].split()[0] == "3"
    assert "running, 1,200 steps" in lines[2]
    figures = [float(line.split()[-3]) for line in lines[3:]]
    assert figures == sorted(figures, reverse=True)


def rows_of(search, results):
    return [outcome._row(search, search.trials[index], results[index], results[0]) for index in sorted(results)]


def as_result(config, search, results):
    return {
        "objectives": list(config.tune.objectives),
        "fields": {"train.real_weight": {}, "train.synthetic_ratio": {}},
        "num_seeds": 2,
        "trials": rows_of(search, results),
        "best": search.best(results),
        "confirmation": outcome._confirmation(search, results, "near_auroc"),
        "failed": [index for index, result in results.items() if result.status == "failed"],
    }


def test_the_end_says_what_to_believe_and_what_to_do_next(searched, monkeypatch, tmp_path):
    config, search, results = searched
    text = told(monkeypatch, outcome)
    outcome.print_outcome(as_result(config, search, results), tmp_path)
    said = " ".join(text.getvalue().split())
    best = search.best(results)
    gain = 100 * (results[best].value("near_auroc") - results[0].value("near_auroc"))
    assert f"best: trial {best}, {gain:+.2f} points of near-OOD AUROC over the baseline" in said
    assert "mean over 3 seeds; this is the figure to believe" in said
    assert "next: sio-ray run" in said


def test_a_search_that_found_nothing_says_so(monkeypatch, tmp_path):
    config = tuned("num_trials=2")
    search, results = played(config, {"train.real_weight": ("grid", [0.1, 0.2])})
    text = told(monkeypatch, outcome)
    outcome.print_outcome(as_result(config, search, results), tmp_path)
    assert "no configuration beats the baseline's near-OOD AUROC of" in " ".join(text.getvalue().split())


def test_trials_that_cost_accuracy_are_marked(monkeypatch, tmp_path):
    config = tuned("num_trials=8", "max_accuracy_drop=0.006", "confirm_seeds=[]")
    search, results = played(config)
    text = told(monkeypatch, outcome)
    outcome.print_outcome(as_result(config, search, results), tmp_path)
    costly = [index for index in results if search.trials[index].values.get("train.synthetic_ratio", 0) > 0.25]
    assert text.getvalue().count("ID accuracy too low") == len(costly) > 0


def test_the_table_of_trials_has_a_column_per_field(searched):
    config, search, results = searched
    results[2] = TrialResult("failed", error="it fails")
    table = outcome.trials_table(as_result(config, search, results)).set_index("index")
    assert list(table["status"])[:3] == ["done", "done", "failed"]
    assert table.loc[1, "train.real_weight"] == search.trials[1].values["train.real_weight"]
    assert table.loc[2, "error"] == "it fails"
    assert table["near_auroc"].isna().sum() == 1
