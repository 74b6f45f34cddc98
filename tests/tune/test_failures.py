"""What a search says of trials that failed or diverged, and what to do then."""

import re
from types import SimpleNamespace

import pytest

from sio_ray.errors import TrainingError
from sio_ray.search.trial import TrialResult
from sio_ray.tune import stage


def tell(monkeypatch, tmp_path, *, learns):
    monkeypatch.setattr(stage, "print_outcome", lambda result, folder: None)
    rows = [{"index": index, "error": "out of memory" if index == 2 else None} for index in range(4)]
    stage._tell_what_failed({"failed": [2], "trials": rows}, tmp_path, learns=learns)


def test_a_search_that_does_not_learn_retries_only_what_failed(monkeypatch, tmp_path):
    message = "1 of 4 trials failed (2), the first with: out of memory. All others are kept, and best.yaml and "
    with pytest.raises(TrainingError, match=re.escape(message) + r".* again to retry only the failed ones\.$"):
        tell(monkeypatch, tmp_path, learns=False)


def test_a_search_that_learns_says_that_later_trials_may_be_others(monkeypatch, tmp_path):
    message = r"All others are kept.* retry the failed ones; later trials are decided by what comes of these, so some"
    with pytest.raises(TrainingError, match=message):
        tell(monkeypatch, tmp_path, learns=True)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("failed", "; mend what it says, and run the same command again."),
        ("diverged", "; change what it trains with, such as train.learning_rate, as the same config diverges again."),
    ],
)
def test_a_baseline_without_a_network_ends_the_search_with_what_helps(status, remedy):
    played = SimpleNamespace(results={0: TrialResult(status, error="it says why"), 1: TrialResult("done")})
    with pytest.raises(TrainingError, match=re.escape(f"the baseline {status}: it says why{remedy}")):
        stage._refuse_what_failed({}, played)
