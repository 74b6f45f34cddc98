"""How often a run whose workers are killed begins again: as long as it comes further, and a few times where not."""

from __future__ import annotations

import pytest
from ray.train import WorkerGroupError

from sio_ray.errors import CheckpointError, TrainingError
from sio_ray.training import ray_train
from sio_ray.training.ray_record import RECORD_NAME
from sio_ray.training.ray_train import _MAX_FAILURES, _fit_to_the_end


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Runs a trainer that ends as told each time: with a new checkpoint or not, by an error or well."""
    monkeypatch.setattr(ray_train, "_recover_sets", lambda loop_config: None)

    def fit_with(endings):
        left = list(endings)

        class Trainer:
            def fit(self):
                comes_further, error = left.pop(0)
                if comes_further:
                    (tmp_path / RECORD_NAME).write_text(f"{len(left)} left")
                if error is not None:
                    raise WorkerGroupError("", {0: error})
                return "the result"

        return _fit_to_the_end(Trainer, "mine", tmp_path, {}), left

    return fit_with


KILLED = RuntimeError("Traceback\n  frames\nthe worker died")


def test_a_run_that_comes_further_may_be_killed_any_number_of_times(fit, capfd):
    assert fit([(True, KILLED)] * 3 * _MAX_FAILURES + [(True, None)]) == ("the result", [])
    told = "run mine stopped (the worker died); continuing from its last checkpoint"
    assert capfd.readouterr().err.count(told) == 3 * _MAX_FAILURES


def test_failures_in_a_row_are_counted_from_the_last_checkpoint(fit):
    in_a_row = [(True, KILLED)] + [(False, KILLED)] * (_MAX_FAILURES - 2)
    assert fit([*in_a_row, *in_a_row, (False, None)]) == ("the result", [])


@pytest.mark.parametrize("before", [[], [(True, KILLED)]])
def test_a_run_that_comes_no_further_ends_with_what_its_workers_died_of(fit, before):
    num_left = _MAX_FAILURES - len(before)
    with pytest.raises(TrainingError) as error:
        fit([*before, *[(False, KILLED)] * num_left])
    assert str(error.value) == (
        f"run mine failed {_MAX_FAILURES} times without a new checkpoint, the last with: the worker died; run the same "
        "command again to continue from its last checkpoint, with --debug for the whole error."
    )


def test_an_error_of_ours_is_raised_at_once_as_it_would_come_again(fit):
    ours = CheckpointError("weights.safetensors is broken; fetch it again.")
    with pytest.raises(CheckpointError) as error:
        fit([(True, ours)])
    assert error.value is ours
