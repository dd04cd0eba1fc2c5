"""Images of jobs with a `finish_by` are told from others, though SQS counts only messages."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from flask.testing import FlaskClient

from core.config import FleetSettings
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.clock import utc_now
from services.sqs import QueueCounts
from tests.support.api import AppMaker
from tests.support.autoscaler import fleet_snapshot
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.jobs import NOW, add_images, done, put_results
from web_tier.autoscaler.later import LaterJobs

HOUR = timedelta(hours=1)


def opened(store: JobStore, images: int, finish_by: datetime | None, created_at: datetime = NOW) -> Job:
    job = Job(new_id(), "a", created_at, owner="ada", finish_by=finish_by)
    store.create(job)
    add_images(store, job, *(f"{at}.jpg" for at in range(images)))
    return store.job(job.job_id)


def others(later: LaterJobs, requests: QueueCounts, answers: int = 0) -> int:
    """Return how many other images are waiting."""
    return later.others(requests, answers).waiting


def queue(waiting: int, in_flight: int = 0) -> QueueCounts:
    return QueueCounts(waiting, in_flight, 0)


def test_only_other_images_need_workers_at_once(store: JobStore) -> None:
    clock = ManualClock()
    later = LaterJobs(store, PlayedClock(clock, lambda: NOW))
    night, noon = opened(store, 30, NOW + 8 * HOUR), opened(store, 20, NOW + 2 * HOUR)
    assert others(later, queue(50)) == 0
    assert list(later.due) == [(7_200.0, 20), (28_800.0, 30)]
    opened(store, 4, None)
    assert (others(later, queue(54)), others(later, queue(44, 10))) == (4, 4)
    assert later.others(queue(54), 0).total == 54
    put_results(store, *(done(image) for image in store.images(noon.job_id)))
    assert others(later, queue(34), answers=20) == 4, "what was answered since is no image that waits"
    assert later.due[0] == (7_200.0, 20), "read again only after a while"
    clock.now += 2
    assert others(later, queue(34), answers=20) == 4
    assert later.due == ((28_800.0, 30),), "the reason never names the time of a job that is done"
    assert later.arrived == 50, "what has been answered is no arrival either"
    assert later.others(queue(0), 20).total == 0
    assert night.group != noon.group, "another job of the user does not wait behind it"


def test_many_jobs_for_later_are_five_groups_and_none_is_due_after_what_waits_behind_it(store: JobStore) -> None:
    jobs = [Job(new_id(), "a", NOW, owner="ada", finish_by=NOW + minutes * HOUR / 60) for minutes in range(1, 10_081)]
    assert len({job.group for job in jobs}) == 5
    assert jobs[0].group != jobs[-1].group != replace(jobs[-1], owner="ben").group
    assert replace(jobs[0], finish_by=None).group == "ada"
    assert len({replace(job, owner="").group for job in jobs[:9]}) == 9, "without users the jobs are not grouped"
    opened(store, 30, NOW + 15 * HOUR)
    opened(store, 20, NOW + 14 * HOUR)
    assert opened(store, 10, NOW + 15 * HOUR, NOW + HOUR).group == opened(store, 0, NOW + 14 * HOUR).group
    later = LaterJobs(store, ManualClock(0.0, NOW))
    others(later, queue(60))
    assert sorted(later.due) == [(50_400.0, 20), (50_400.0, 30), (54_000.0, 10)], "nor as early as what is before it"


def test_images_that_are_not_counted_yet_are_those_of_the_only_jobs(store: JobStore) -> None:
    opened(store, 2, NOW + HOUR)
    later = LaterJobs(store, ManualClock(0.0, NOW))
    assert (others(later, queue(12)), later.due) == (0, ((3_600.0, 12),))


def test_a_job_keeps_its_time_and_an_earlier_one_has_none(client: FlaskClient, store: JobStore) -> None:
    tomorrow = (utc_now() + timedelta(days=1)).astimezone(timezone(HOUR))
    made = client.post("/api/v1/jobs", json={"finish_by": tomorrow.isoformat()}).get_json()
    assert store.job(made["job_id"]).finish_by == tomorrow
    assert datetime.fromisoformat(made["finish_by"]) == tomorrow
    assert "Finish by" in client.get(f"/jobs/{made['job_id']}").text
    assert client.post("/api/v1/jobs", json={"finish_by": "2026-11-29T08:00:00"}).status_code == 422
    assert client.post("/api/v1/jobs", json={}).get_json()["finish_by"] is None


@pytest.mark.parametrize(("unkept_days", "most"), [(7.0, 7), (2.0, 2), (0.0, 7)])
def test_a_job_does_not_wait_until_its_images_have_expired(make_app: AppMaker, unkept_days: float, most: int) -> None:
    client = make_app(retention={"unkept_days": unkept_days}).test_client()
    late, soon = ((utc_now() + timedelta(days=most) + minutes).isoformat() for minutes in (HOUR, -HOUR))
    refused = client.post("/api/v1/jobs", json={"finish_by": late})
    assert refused.status_code == 422
    assert f"at most {most} days" in refused.text
    assert client.post("/api/v1/jobs", json={"finish_by": soon}).status_code == 201


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_time_that_no_clock_can_count_to_is_refused(client: FlaskClient, store: JobStore, time: str) -> None:
    refused = client.post("/api/v1/jobs", json={"finish_by": time})
    assert (refused.status_code, "finish_by" in refused.text) == (422, True)
    assert client.get("/api/v1/forecast", query_string={"finish_by": time}).status_code == 400


@pytest.mark.parametrize("policy", ["deadline", "backlog"])
def test_the_forecast_has_the_price_of_now_and_of_then(
    make_app: AppMaker, store: JobStore, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr(FleetSettings, "image_seconds", 1.5)
    app = make_app(fleet={"policy": policy, "max_workers": 19})
    client, now = app.test_client(), utc_now()
    FleetStore(store.table).put_snapshot(fleet_snapshot(now, policy=policy))
    soon = client.get("/api/v1/forecast?images=1000").get_json()
    by = (now + 8 * HOUR).isoformat().replace("+", "%2B")
    then = client.get(f"/api/v1/forecast?images=1000&finish_by={by}").get_json()
    assert then["last_result_seconds"] < 8 * 3_600
    assert (then["dollars"] < soon["dollars"], then["launches"] < soon["launches"]) == ((policy == "deadline"),) * 2
    assert ('id="finishBy"' in client.get("/").text) is (policy == "deadline")
