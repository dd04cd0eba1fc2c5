"""The web tier with sign-in and small limits."""

from collections.abc import Callable

import pytest

from services.clients import Clients
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.people import Clock, House, PlayedPool, access_of
from web_tier.app import create_app

HouseMaker = Callable[..., House]

SMALL = {"requests_per_minute": 3, "sign_in_attempts_per_minute": 4, "images_per_day": 3, "bytes_per_day": 0}


@pytest.fixture
def make_house(provisioned: Clients, make_config: ConfigMaker, table: Table) -> HouseMaker:
    """Make a web tier with sign-in, with `SMALL` limits but for those given: `make_house(images_per_day=9)`."""

    def make(**limits: object) -> House:
        pool, clock = PlayedPool(), Clock()
        access = access_of(table, pool, clock)
        config = make_config(auth={"mode": "cognito"}, limits=SMALL | limits)
        return House(create_app(config, access=access), access, pool, clock)

    return make
