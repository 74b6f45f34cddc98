"""Ids say what a job is; one that was given goes on where it fell, and is the answer where it did not."""

from __future__ import annotations

import re

import pytest

from sio_ray.errors import ConfigError
from sio_ray.jobs.ids import check_id, new_id, next_attempt


def test_a_new_id_says_what_it_is_and_is_new() -> None:
    made = {new_id("fit-generator", "my.config_1") for _ in range(50)}
    assert len(made) > 40
    for each in made:
        assert re.fullmatch(r"sio-ray-fit-generator-my\.config_1-[0-9a-f]{6}", check_id(each))


@pytest.mark.parametrize("given", ["", "a b", "a/b", "../x", "-x", "a?b", "a\n"])
def test_what_could_not_stand_in_a_url_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^--id must be letters, digits, .* beginning with a letter or a digit, got"):
        check_id(given)


@pytest.mark.parametrize(
    ("states", "attempt"),
    [
        ({}, "nightly"),
        ({"nightly": "RUNNING"}, "nightly"),
        ({"nightly": "PENDING"}, "nightly"),
        ({"nightly": "SUCCEEDED"}, "nightly"),
        ({"nightly": "FAILED"}, "nightly-2"),
        ({"nightly": "STOPPED", "nightly-2": "FAILED"}, "nightly-3"),
        ({"nightly": "FAILED", "nightly-2": "RUNNING", "nightly-3": "FAILED"}, "nightly-2"),
        ({"other": "FAILED"}, "nightly"),
    ],
)
def test_an_id_goes_on_after_what_fell_and_only_then(states: dict[str, str], attempt: str) -> None:
    assert next_attempt("nightly", states) == attempt
