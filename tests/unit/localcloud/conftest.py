"""The same moto twice: through the direct calls, and as stock."""

import pytest

from localcloud.dispatch import CachedDispatcher, DirectCalls, stock_dispatcher
from localcloud.patches import apply_patches
from tests.support.wsgi_clients import ClientPair, CountingApplication, WsgiClient


@pytest.fixture(scope="session")
def moto() -> ClientPair:
    """Return clients of the patched moto of this process. It keeps its state: each test uses names of its own."""
    apply_patches("core")
    stock = CountingApplication(CachedDispatcher(stock_dispatcher()))
    return ClientPair(WsgiClient(DirectCalls(stock)), WsgiClient(stock), stock)
