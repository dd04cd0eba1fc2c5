"""What the upload page tells its script."""

import json
import re
from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient

from core.config import Config
from core.fleet.models import FleetSnapshot
from core.jobs.store import JobStore
from tests.conftest import ConfigMaker
from tests.support.jobs import NOW
from web_tier.app import create_app
from web_tier.pages.upload import Plan, keeping_sentence


def told(client: FlaskClient, name: str) -> dict[str, Any]:
    """Return what the page's form says in `data-NAME`."""
    match = re.search(rf"data-{name}='([^']*)'", client.get("/").text)
    assert match is not None
    found: dict[str, Any] = json.loads(unescape(match[1]))
    return found


def test_the_browser_keeps_to_the_limits_of_the_server(make_config: ConfigMaker, store: JobStore) -> None:
    web = {"max_image_bytes": 4096, "max_image_pixels": 5000, "max_files_per_request": 7, "shrink_above_pixels": 0}
    client = create_app(make_config(web=web), store=store).test_client()
    assert told(client, "limits") == {
        "maxBytes": 4096,
        "maxPixels": 5000,
        "maxFiles": 7,
        "maxRequestBytes": 1073741824,
        "shrinkAbove": 0,
    }
    assert "shrunk" not in client.get("/").text


@pytest.mark.parametrize(
    ("unkept_days", "said"),
    [
        (7.0, "tried again or the job expires, and the job with its results expires after 7 days."),
        (1.0, "after 1 day."),
        (0.5, "after 0.5 days."),
        (0.0, "and one that failed once it has been tried again."),
    ],
)
def test_the_page_says_what_becomes_of_images_that_are_not_kept(unkept_days: float, said: str) -> None:
    sentence = keeping_sentence(unkept_days)
    assert sentence.endswith(said)
    assert ("expires" in sentence) is bool(unkept_days)


def test_name_and_consent_stand_before_the_files_and_consent_is_not_given_for_anyone(client: FlaskClient) -> None:
    fields = re.findall(r'<input [^>]*name="(\w+)"', client.get("/").text)
    assert fields == ["name", "keep", "images"]
    assert " checked" not in client.get("/").text


def test_workers_that_are_there_or_coming_need_not_be_started(config: Config) -> None:
    fleet = FleetSnapshot(
        at=NOW,
        running=2,
        pending=1,
        visible=0,
        in_flight=0,
        min_workers=0,
        max_workers=5,
        peak_workers=3,
        billed_seconds=0,
        reason="enough",
        problem="",
    )
    assert (Plan.of(config, fleet).running, Plan.of(config, fleet).most) == (3, 5)
    assert (Plan.of(config, None).running, Plan.of(config, None).most) == (0, config.fleet.max_workers)


def test_a_worker_costs_at_least_what_is_billed_at_least(make_config: ConfigMaker) -> None:
    prices = {"instance_hour": {"c7a.large": 0.6}, "spot_hour": {"c7a.large": 0.12}, "minimum_billed_seconds": 60}
    for market, cost in (("on_demand", 0.01), ("spot", 0.002)):
        config = make_config(prices=prices, fleet={"instance_types": ["c7a.large"], "market": market})
        assert Plan.of(config, None).worker_cost == pytest.approx(cost)
