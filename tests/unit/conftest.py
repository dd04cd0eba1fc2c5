"""What unit tests have in place of the wire's."""

import pytest

from services.table import Table
from tests.support.memory_aws.dynamodb import MemoryTable


@pytest.fixture
def table() -> Table:
    """A job table in memory, in place of the wire's; `tests/integration/services` holds both to one contract."""
    return MemoryTable()
