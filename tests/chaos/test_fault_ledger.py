"""The ledger of `benchmarks/chaos.py` calls a session good only if no fault cost anything but time."""

import pytest
from benchmark_module import load_benchmark


@pytest.fixture
def faults():
    return load_benchmark("faults.ledger")


def work(faults, **outcome):
    return faults.Work(**{"name": "a set", "num_faults": 1, "lost": 0, "twice": 0, "may_be_twice": 0} | outcome)


@pytest.mark.parametrize(
    ("outcome", "is_good"),
    [
        ({"is_equal": True}, True),
        ({"is_equal": True, "lost": 1}, False),
        ({"is_equal": True, "twice": 1}, False),
        ({"is_equal": True, "twice": 2, "may_be_twice": 2}, True),
        ({"is_equal": True, "twice": 3, "may_be_twice": 2}, False),
        ({"is_equal": False}, False),
        (None, False),
    ],
)
def test_a_session_is_good_if_nothing_was_lost_made_twice_or_different(faults, outcome, is_good):
    ledger = faults.Ledger(num_wanted=2)
    assert not ledger.is_good, "nothing has happened"
    ledger.begin("killed")
    ledger.settle(work(faults, is_equal=True))
    assert ledger.is_good
    ledger.begin("full")
    if outcome is not None:  # else its work was never compared
        ledger.settle(work(faults, **outcome))
    assert ledger.is_good is is_good
    ledger.complain("an orphan")
    assert not ledger.is_good


def test_the_tables_have_a_row_for_each_kind_one_for_all_and_one_for_each_work(faults, capsys):
    ledger = faults.Ledger(num_wanted=2)
    for kind, seconds in (("killed", 2), ("full", 30), ("killed", 4)):
        fault = ledger.begin(kind)
        fault.at_s -= seconds
        ledger.recovered(fault)
    ledger.settle(work(faults, num_faults=3, twice=1, is_equal=True))
    assert ledger.table().splitlines()[2:] == [
        "| killed | 2 | 3.0 s | 4.0 s |",
        "| full | 1 | 30.0 s | 30.0 s |",
        "| all | 3 | 4.0 s | 30.0 s |",
        "",
        "| work | faults | lost | made twice | result equal |",
        "|---|---:|---:|---:|---:|",
        "| a set | 3 | 0 | 1 | yes |",
    ]
    assert "[  1/2] killed: 2.0 s" in capsys.readouterr().err
