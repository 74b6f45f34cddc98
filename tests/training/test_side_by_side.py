"""Jobs in threads: results in order, never more at once than asked, and the first error ends the rest."""

from __future__ import annotations

import threading
import time

import pytest

from sio_ray.training.side_by_side import side_by_side


def test_results_are_in_the_order_of_the_jobs_whoever_ends_first():
    first_may_end = threading.Event()

    def first() -> str:
        assert first_may_end.wait(10)
        return "first"

    def second() -> str:
        first_may_end.set()
        return "second"

    assert side_by_side([first, second], limit=2) == ["first", "second"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_never_more_jobs_than_the_limit_run_at_once_and_the_limit_is_used(limit):
    lock, running, most = threading.Lock(), 0, 0
    all_in = threading.Barrier(limit)

    def job() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        all_in.wait(10)  # passes only if `limit` jobs are in at the same time
        time.sleep(0.01)
        with lock:
            running -= 1
        return threading.get_ident()

    idents = side_by_side([job] * (3 * limit), limit)
    assert most == limit
    assert threading.get_ident() not in idents, "the main thread stays free"


def test_a_limit_above_the_number_of_jobs_and_no_jobs_at_all_are_fine():
    assert side_by_side([lambda: 1], limit=50) == [1]
    assert side_by_side([], limit=3) == []


def test_the_first_error_is_raised_and_later_jobs_do_not_start():
    started: list[int] = []

    def job(number: int) -> int:
        started.append(number)
        if number == 1:
            raise ValueError(f"job {number} broke")
        return number

    with pytest.raises(ValueError, match=r"^job 1 broke$"):
        side_by_side([lambda n=n: job(n) for n in range(5)], limit=1)
    assert started == [0, 1]


def test_jobs_that_run_beside_the_one_that_fails_are_left_to_end():
    other_runs, ended = threading.Event(), threading.Event()

    def fails() -> None:
        assert other_runs.wait(10)
        raise KeyboardInterrupt

    def runs_on() -> None:
        other_runs.set()
        time.sleep(0.05)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        side_by_side([fails, runs_on, lambda: pytest.fail("must not start")], limit=2)
    assert ended.is_set()
