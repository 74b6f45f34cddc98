"""Fingerprints, versions and the commit that a result was made with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sio_ray import provenance

VALUES = {
    "stage": "train",
    "seed": 0,
    "rate": 0.1,
    "flip": True,
    "ratio": None,
    "widths": [1, 2],
    "sio": {"a": 1, "b": 2},
}


def test_the_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    reordered = {key: VALUES[key] for key in reversed(VALUES)} | {"sio": {"b": 2, "a": 1}}
    assert list(reordered) != list(VALUES)
    assert provenance.fingerprint(reordered) == provenance.fingerprint(VALUES)


def test_the_fingerprint_survives_a_round_trip_through_json() -> None:
    assert provenance.fingerprint(json.loads(json.dumps(VALUES))) == provenance.fingerprint(VALUES)


def test_a_fingerprint_never_changes() -> None:
    # Golden: were it to change, every finished output would be made again.
    assert provenance.fingerprint({"stage": "prepare", "seed": 0}) == "ba3232c2ddb4"


def test_any_changed_value_key_or_order_of_a_list_changes_the_fingerprint() -> None:
    variants = [
        VALUES,
        VALUES | {"seed": 1},
        VALUES | {"seed": "0"},
        VALUES | {"seed": False},
        VALUES | {"rate": 0.1 + 1e-16},
        VALUES | {"rate": 0.1000000001},
        VALUES | {"ratio": 0},
        VALUES | {"widths": [2, 1]},
        VALUES | {"widths": [1, 2, 3]},
        VALUES | {"sio": {"a": 2, "b": 1}},
        VALUES | {"more": None},
        {key: value for key, value in VALUES.items() if key != "flip"},
    ]
    assert len({provenance.fingerprint(variant) for variant in variants}) == len(variants)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_json_cannot_say_has_no_fingerprint(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        provenance.fingerprint({"rate": value})


def test_versions_name_what_is_there_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.versions()["numpy"] == np.__version__
    monkeypatch.setattr(provenance, "_PACKAGES", ("numpy", "no-such-package"))
    found = provenance.versions.__wrapped__()
    assert (found["numpy"], found["no-such-package"]) == (np.__version__, "not installed")


def git(folder: Path, *arguments: str) -> str:
    # Without the user's settings, a signing key or a hook could stop the commit.
    command = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@test", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose package folder is where `provenance.py` believes to be."""
    package = tmp_path / "checkout" / "sio_ray"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(package.parent, "init", "--quiet")
    return package


def test_the_commit_is_marked_once_the_package_has_changes(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "first")
    commit = git(checkout, "rev-parse", "--short", "HEAD")
    assert provenance.git_commit() == commit
    (checkout.parent / "notes.txt").write_text("beside the package, so it decides no result")
    assert provenance.git_commit() == commit
    (checkout / "provenance.py").write_text("changed")
    assert provenance.git_commit() == commit + "+"
    git(checkout, "commit", "--quiet", "--all", "--message", "second")
    assert provenance.git_commit() == git(checkout, "rev-parse", "--short", "HEAD") != commit
    (checkout / "new.py").write_text("")
    assert provenance.git_commit() == git(checkout, "rev-parse", "--short", "HEAD") + "+"


def test_a_package_installed_inside_some_other_checkout_has_no_commit(checkout: Path) -> None:
    (checkout.parent / "other.txt").write_text("")
    git(checkout, "add", "../other.txt")
    git(checkout, "commit", "--quiet", "--message", "of another project")
    assert provenance.git_commit() is None


def test_outside_of_a_checkout_or_without_git_there_is_no_commit(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "first")
    assert provenance.git_commit() is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_commit() is None
    monkeypatch.undo()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git_commit() is None
