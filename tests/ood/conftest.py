"""Fixtures of the OOD tests: a trained network, and the library that ours is held against."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest
from trained_digits import TrainedDigits, train_on_digits


@pytest.fixture(scope="session")
def digits() -> TrainedDigits:
    return train_on_digits()


@pytest.fixture(scope="session")
def pytorch_ood_detectors() -> ModuleType:
    with warnings.catch_warnings():
        # Its dependencies warn on import, and warnings are errors here.
        warnings.simplefilter("ignore")
        import pytorch_ood.detector
    return pytorch_ood.detector


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
