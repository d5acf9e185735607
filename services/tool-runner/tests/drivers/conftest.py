"""Fixtures of the storage drivers' tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.aws_bench import AwsBench, aws_bench
from tests.aws_peer import ENVIRONMENT, moto_server


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    """Moto's server, one for all tests of a process; each makes tables and buckets of its own."""
    with moto_server() as url:
        yield url


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that moto takes, and nothing of the machine's own."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def aws(aws_url: str, aws_credentials: None) -> AsyncIterator[AwsBench]:
    """Table, bucket and event bus on moto."""
    async with aws_bench(aws_url) as bench:
        yield bench
