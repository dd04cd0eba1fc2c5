"""Instances in words."""

from datetime import UTC, datetime, timedelta

import pytest

from core.fleet.models import FleetInstance
from core.messages import WorkerState
from web_tier.pages.instances import BOOT_SECONDS, SILENT_SECONDS, InstanceRow

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def row(
    state: str = "running",
    *,
    age: float = 72,
    worker: WorkerState | None = None,
    silence: float | None = None,
    images: int | None = None,
    rate: float | None = None,
) -> InstanceRow:
    instance = FleetInstance(
        instance_id="i-0f3a",
        state=state,
        instance_type="c7a.large",
        zone="us-east-1a",
        launched_at=NOW - timedelta(seconds=age),
        worker=worker,
        images=images,
        images_per_second=rate,
        heard_at=None if silence is None else NOW - timedelta(seconds=silence),
    )
    return InstanceRow.of(instance, NOW)


@pytest.mark.parametrize(
    ("shown", "state", "heard", "marked"),
    [
        (row("pending", age=5), "starts", "not yet", False),
        (row(age=40), "boots", "not yet", False),
        (row(age=BOOT_SECONDS + 60), "silent", "none for 3 min", True),
        (row(worker="ready", silence=0.4), "ready", "just now", False),
        (row(worker="busy", silence=9), "busy", "9 s ago", False),
        (row(worker="draining", silence=9), "draining", "9 s ago", False),
        (row(worker="busy", silence=SILENT_SECONDS + 10), "silent", "none for 40 s", True),
        (row(worker=None, silence=2, images=1), "busy", "2 s ago", False),
        (row(worker="ended", silence=1), "ended", "1 s ago", False),
        (row("stopping", worker="busy", silence=90), "stops", "90 s ago", False),
        (row("stopped", age=7200), "stopped", "not yet", False),
    ],
)
def test_a_worker_is_told_by_what_it_says_and_marked_when_it_says_nothing_for_long(
    shown: InstanceRow, state: str, heard: str, marked: bool
) -> None:
    assert (shown.state, shown.heard, shown.marked) == (state, heard, marked)


@pytest.mark.parametrize(
    ("shown", "images"),
    [
        (row(), "-"),
        (row(images=1_234, silence=1), "1,234"),
        (row(images=31, rate=2.444, silence=1), "31 (2.4/s)"),
        (row(images=31, rate=0.0, silence=1), "31"),
    ],
)
def test_how_many_images_it_has_answered_is_told_and_how_fast_it_does(shown: InstanceRow, images: str) -> None:
    assert shown.images == images


def test_a_spot_instance_is_told_beside_its_type() -> None:
    instance = FleetInstance(
        instance_id="i-0f3a",
        state="running",
        instance_type="c7a.large",
        zone="us-east-1a",
        launched_at=NOW,
        spot=True,
    )
    shown = InstanceRow.of(instance, NOW)
    assert (shown.instance_type, shown.market, row().market) == ("c7a.large", "Spot", "")


def test_ages_and_images_are_in_words() -> None:
    assert (row(age=72).age, row(images=1234).images, row().images) == ("72 s", "1,234", "-")
    assert row(age=-5).age == "1 s"
    assert [row(worker=state, silence=1).at_work for state in ("ready", "busy", "draining")] == [True, True, False]


def test_one_that_the_controller_has_marked_says_why_and_what_follows() -> None:
    words = "not heard of for 2 min: looked at again, then ended"
    marked = FleetInstance(
        instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a",
        launched_at=NOW - timedelta(seconds=30), marked=words,
    )  # fmt: skip
    shown = InstanceRow.of(marked, NOW)
    assert (shown.state, shown.heard, shown.marked, shown.at_work) == ("stuck", words, True, False)
