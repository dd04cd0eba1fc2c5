"""What an intake writes to, in memory."""

import pytest

from tests.support.jobs import MemoryBucket, MemoryQueue


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()
