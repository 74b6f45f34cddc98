"""The study that most tests of the report share."""

import pytest
from report_study import make_data

from sio_ray.report.data import ReportData


@pytest.fixture(scope="session")
def data() -> ReportData:
    """Two arms, two seeds, SIO better."""
    return make_data()
