"""The costs on the page about AWS follow from the prices of `config.yaml`, the template and the policy of a stack."""

from datetime import UTC, datetime
from typing import Any

import pytest

from core.config import Config
from core.cost import JOB, SECONDS_AN_HOUR, expected_counts, requests_of
from core.jobs.models import Counts, Job
from core.jobs.packs import PackSizes
from scripts.aws.deploy.idle_cost import BilledParts, monthly_cost
from scripts.aws.deploy.settings import load_template, validated_config
from services.cloudformation import parse_template
from services.sqs import QueueCounts
from tests.conftest import ROOT
from tests.support.stack_template import of_this_stack
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.policies import POLICIES

PAGE, FLEET_PAGE = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("aws", "fleet"))

IMAGES_A_SECOND = 90
"""Of a worker, as the page assumes: ResNet-18 and photos of 100 KB on two cores."""

SNAPSHOTS_GB = 16
"""Two images of 8 GB, at most."""


@pytest.fixture(scope="module")
def config() -> Config:
    """The configuration of a stack, with packs of 50."""
    return validated_config({"packs.max_images": "50"})


def figures(first_cell: str) -> list[float]:
    """Return the figures of the one row of a table that begins with a cell."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {first_cell} |")]
    return [float(cell) for cell in row.strip("|").split("|")[1:]]


@pytest.mark.parametrize(
    ("first_cell", "is_part"),
    [
        ("web instance, c7a.large", lambda name: name.startswith("web instance")),
        ("load balancer", lambda name: name == "load balancer"),
        ("public addresses", lambda name: name.startswith("public addresses")),
        (
            "alarms, metrics, dashboard, disk, snapshots, requests, logs",
            lambda name: not name.startswith(("web instance", "load balancer", "public addresses")),
        ),
        ("in all", lambda _: True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_cost_at_rest_is_that_of_the_template_without_and_with_a_load_balancer(
    config: Config, first_cell: str, is_part: Any
) -> None:
    resources: dict[str, Any] = parse_template(load_template().body)["Resources"]
    web_type = str(load_template().parameters["WebInstanceType"].default)
    expected = []
    for conditions in ({"HasNoLoadBalancer"}, {"HasLoadBalancer", "HasName"}):
        kinds = [each["Type"] for each in resources.values() if each.get("Condition") in {None, *conditions}]
        parts = BilledParts.from_resources(kinds, web_type, zones=2, images_gb=SNAPSHOTS_GB)
        expected.append(sum(dollars for name, dollars in monthly_cost(parts, config) if is_part(name)))
    assert figures(first_cell) == pytest.approx(expected, abs=0.005)


def batch_seconds(config: Config, images: int) -> float:
    """Return the instance-seconds that EC2 bills for a batch that starts from zero by the policy of the stack."""
    fleet = config.fleet
    seen = Observation(
        QueueCounts(images, 0, 0), dead_letters=0, instances=(),
        demand=Demand(waiting=((0.0, images),)), metrics=FleetMetrics(image_seconds=1 / IMAGES_A_SECOND),
    )  # fmt: skip
    workers = min(fleet.max_workers, POLICIES[fleet.policy](seen, fleet).minimum)
    busy = images / IMAGES_A_SECOND / workers
    return workers * max(config.prices.minimum_billed_seconds, fleet.boot_seconds + config.worker.idle_seconds + busy)


@pytest.mark.parametrize(
    ("first_cell", "images", "is_stream"),
    [
        ("100 at once, from zero", 100, False),
        ("1,000 at once, from zero", 1_000, False),
        ("10,000 at once, from zero", 10_000, False),
        ("a stream that keeps its workers busy", 10_000, True),
    ],
)
def test_1000_images_cost_their_instances_and_their_requests(
    config: Config, first_cell: str, images: int, is_stream: bool
) -> None:
    hours = (images / IMAGES_A_SECOND if is_stream else batch_seconds(config, images)) / SECONDS_AN_HOUR
    instance_type, prices = config.fleet.instance_types[0], config.prices
    requests = (requests_of(expected_counts(images, PackSizes.of(config, lambda: 0.01))) + JOB).dollars(prices)
    expected = [
        (hours * prices.worker_hour(instance_type, spot=spot) + requests) / images * 1_000 for spot in (False, True)
    ]
    assert figures(first_cell) == pytest.approx(expected, abs=0.00005)


@pytest.mark.parametrize(
    ("images", "is_single", "words"),
    [
        (1_000_000, False, "for 1,000 images of up to 1 MB"),
        (100, False, "for 1,000 images in jobs of 100"),
        (1_000_000, True, "for 1,000."),
    ],
)
def test_requests_cost_what_the_page_about_the_fleet_says(
    config: Config, images: int, is_single: bool, words: str
) -> None:
    counts, job = expected_counts(images, PackSizes.of(config, lambda: 0.01)), None
    if is_single:
        counts = Counts(done=images, acceptances=images, answered_packs=images, revision=images)
        job = Job("01", "single images", datetime.now(UTC), is_single=True)
    dollars = (requests_of(counts, job) + JOB).dollars(config.prices) / images * 1_000
    assert f"${dollars:.4f} {words}" in " ".join(FLEET_PAGE.split())


def test_the_settings_behind_the_costs_are_those_of_the_stack(config: Config) -> None:
    of_stack = of_this_stack()
    assert config.controller == of_stack.controller
    assert config.worker.idle_seconds == of_stack.worker.idle_seconds == 30
    assert (config.fleet.policy, config.fleet.target_seconds) == (
        of_stack.fleet.policy,
        of_stack.fleet.target_seconds,
    )
