"""A house with a door: the web tier with sign-in, over the local cloud."""

import pytest

from core.config import Config
from services.table import Table
from tests.support.people import Clock, House, PlayedPool, access_of
from web_tier.app import create_app


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool() -> PlayedPool:
    return PlayedPool()


@pytest.fixture
def house(config: Config, table: Table, pool: PlayedPool, clock: Clock) -> House:
    access = access_of(table, pool, clock)
    return House(create_app(config, access=access), access, pool, clock)
