import pytest
from shop import slowly


@pytest.mark.parametrize("seconds", [2.0, 1.5, 1.1, 1.0, 0.6, 0.5, 0.4, 0.3])
def test_report_of_a_month(seconds):
    assert slowly(seconds) == seconds
