"""All tests of this folder share one Ray cluster."""

import pytest


@pytest.fixture(autouse=True)
def _on_the_cluster(ray_cluster):
    """Starts it before the first of them."""
