"""Optuna behind our names: importance of fields, and what its proposals look like."""

from sio_ray.search.optuna_proposals import OptunaProposals, field_importance
from sio_ray.search.trial import Trial, TrialResult, Validation
from tests.search.search_samples import SPACE, played, result_of, tuned

WIDE = {
    "train.real_weight": ("uniform", 0.5, 0.95),
    "train.learning_rate": ("loguniform", 1e-4, 1e-1),
    "train.warmup_steps": ("integer", 0, 20),
    "train.step_milestones": ("choice", [[0.5], [0.3, 0.6]]),
    "train.network": ("choice", ["small_cnn", "resnet18_32px"]),
    "train.momentum": ("grid", [0.5, 0.9]),
}


def test_the_field_that_matters_is_the_most_important():
    search, results = played(tuned("num_trials=40", "confirm_seeds=[]"))
    shares = field_importance(SPACE, search.trials, results, "near_auroc")
    assert set(shares) == set(SPACE)
    assert abs(sum(shares.values()) - 1) < 1e-9
    assert shares["train.real_weight"] > 0.8, "the formula's curve over the weight is steep, over the ratio flat"
    assert shares == field_importance(SPACE, search.trials, results, "near_auroc")


def test_too_few_trials_or_no_difference_say_nothing():
    search, results = played(tuned("num_trials=3", "confirm_seeds=[]"))
    assert field_importance(SPACE, search.trials, results, "near_auroc") is None
    same = TrialResult("done", (Validation(1, {"near_auroc": (0.5,)}),))
    search, results = played(tuned("num_trials=9", "confirm_seeds=[]"))
    assert field_importance(SPACE, search.trials, dict.fromkeys(results, same), "near_auroc") is None


def test_proposals_of_every_kind_stay_in_the_space():
    config = tuned("algorithm=optuna", "num_trials=30")
    proposer = OptunaProposals(WIDE, config.tune)
    known = {0: result_of(Trial(0, "baseline", {}, (1,), 4), config.tune)}
    for index in range(1, 31):
        values = proposer.propose(index, known)
        assert list(values) == list(WIDE)
        assert 0.5 <= values["train.real_weight"] <= 0.95
        assert 1e-4 <= values["train.learning_rate"] <= 1e-1
        assert isinstance(values["train.warmup_steps"], int)
        assert 0 <= values["train.warmup_steps"] <= 20
        assert values["train.step_milestones"] in ([0.5], [0.3, 0.6])
        assert values["train.network"] in ("small_cnn", "resnet18_32px")
        assert values["train.momentum"] == (0.5, 0.9)[(index - 1) % 2]
        known[index] = result_of(Trial(index, "sio", values, (1,), 4), config.tune)
