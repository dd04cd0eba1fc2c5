"""The web tier with sign-in and small limits."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from services.clients import Clients
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.people import Clock, House, PlayedPool, access_of
from web_tier.app import create_app
from web_tier.limits import current
from web_tier.limits.quotas import Quotas

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


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no day end in the middle of a test."""
    noon = datetime.now(UTC).replace(hour=12)
    monkeypatch.setattr(current, "Quotas", partial(Quotas, clock=lambda: noon))
