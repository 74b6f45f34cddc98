"""The ledger of `benchmarks/chaos.py` calls a session good only if no fault cost anything but time."""

from pathlib import Path

import pytest


@pytest.fixture
def ledger(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from faults.ledger import Ledger

    return Ledger(num_wanted=2)


@pytest.mark.parametrize(
    ("outcome", "is_good"),
    [
        ({"lost": 0, "twice": 0, "is_equal": True}, True),
        ({"lost": 1, "twice": 0, "is_equal": True}, False),
        ({"lost": 0, "twice": 1, "is_equal": True}, False),
        ({"lost": 0, "twice": 0, "is_equal": False}, False),
        (None, False),
    ],
)
def test_a_session_is_good_if_nothing_was_lost_made_twice_or_different(ledger, outcome, is_good):
    good, fault = ledger.begin("killed"), ledger.begin("full")
    ledger.settle([good], lost=0, twice=0, is_equal=True)
    if outcome is not None:  # else its work was never compared
        ledger.settle([fault], **outcome)
    assert ledger.is_good is is_good
    ledger.complain("an orphan")
    assert not ledger.is_good


def test_the_table_has_a_row_for_each_kind_and_one_for_all(ledger, capsys):
    assert not ledger.is_good, "nothing has happened"
    faults = [ledger.begin("killed"), ledger.begin("full"), ledger.begin("killed")]
    for fault, seconds in zip(faults, (2, 30, 4), strict=True):
        fault.at_s -= seconds
        ledger.recovered(fault)
    ledger.settle(faults, lost=0, twice=0, is_equal=True)
    assert ledger.table().splitlines()[2:] == [
        "| killed | 2 | 0 | 0 | 2 of 2 | 3.0 s | 4.0 s |",
        "| full | 1 | 0 | 0 | 1 of 1 | 30.0 s | 30.0 s |",
        "| all | 3 | 0 | 0 | 3 of 3 | 4.0 s | 30.0 s |",
    ]
    assert "[  3/2] killed: 2.0 s" in capsys.readouterr().err
