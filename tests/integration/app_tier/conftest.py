from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.provision import provision
from localcloud.launch import LocalCloud
from services.clients import Clients
from tests.conftest import ConfigMaker
from tests.integration.app_tier.site import Site

SiteMaker = Callable[..., Site]


@pytest.fixture
def make_site(cloud: LocalCloud, clients: Clients, make_config: ConfigMaker, tmp_path: Path) -> Iterator[SiteMaker]:
    """Make this test's site, with changes of its configuration; its workers end with the test."""
    made: list[Site] = []

    def make(**changes: dict[str, Any]) -> Site:
        config = make_config(**{**changes, "worker": {"idle_seconds": 1, **changes.get("worker", {})}})
        provision(clients, config)
        made.append(Site(cloud, clients, config, tmp_path))
        return made[-1]

    yield make
    for site in made:
        site.end()
