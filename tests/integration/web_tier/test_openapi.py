"""The API keeps the promises of its document: schemathesis makes requests of it and compares the answers."""

from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from core.config import Config
from core.fleet.models import FleetInstance, FleetInstances, FleetSnapshot
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.clients import Clients
from tests.support.dead_letters import give_up
from tests.support.jobs import NOW, add_images, done, failed, put_results
from web_tier.api.operations import api_document
from web_tier.api.schemas import ROOT
from web_tier.app import create_app

pytestmark = pytest.mark.processes

EXAMPLES = 30
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

FLEET = FleetSnapshot(
    at=NOW, running=2, pending=1, visible=3, in_flight=4, min_workers=0, max_workers=5,
    peak_workers=3, billed_seconds=60, reason="two workers, enough",
)  # fmt: skip

INSTANCE = FleetInstance(
    instance_id="i-0123456789abcdef0", state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=NOW
)

# Without the stream, which does not end as long as its job runs.
api = schemathesis.openapi.from_dict(api_document()).exclude(path_regex="/events$")


@dataclass(frozen=True)
class Site:
    """The application over the local cloud, and the ids of what is there: a job, an image, an instance."""

    app: Flask
    ids: dict[str, str]

    def new_job(self) -> str:
        """Make a job without images, and return its id."""
        return str(self.app.test_client().post(f"{ROOT}/jobs").get_json()["job_id"])


@pytest.fixture
def site(config: Config, provisioned: Clients, store: JobStore) -> Site:
    """One with a job that has an image of each state."""
    job = Job(new_id(), "holiday", NOW)
    store.create(job)
    good, bad, _ = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    put_results(store, job, done(good), failed(bad))
    give_up(store, bad)
    FleetStore(store.table).put_snapshot(FLEET)
    FleetStore(store.table).put_instances(FleetInstances(total=1, instances=(INSTANCE,)))
    app = create_app(config)
    files = [{"name": "d.jpg", "bytes": 100, "content_type": "image/jpeg"}]
    offer = app.test_client().post(f"{ROOT}/jobs/{job.job_id}/uploads", json={"files": files}).get_json()
    ids = {"job_id": job.job_id, "image_id": good.ref.image_id, "upload_id": offer["upload_id"]}
    # Without sign-in there are no personal tokens.
    return Site(app, {**ids, "instance_id": INSTANCE.instance_id, "token_id": new_id()})


@api.given(exists=st.booleans())
@api.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_every_answer_is_as_the_document_says(case: Any, exists: bool, site: Site) -> None:
    if exists:
        case.path_parameters = {name: site.ids[name] for name in case.path_parameters}
        if case.method == "POST" and case.path == f"{ROOT}/jobs/{{job_id}}/images":
            # Two examples may have the same Idempotency-Key and other files; a key counts within its job.
            case.path_parameters["job_id"] = site.new_job()
    if case.path == f"{ROOT}/classify" and str(case.query.get("wait", 30)).isdecimal():
        case.query = {**case.query, "wait": 0}  # there is no worker, so waiting for one would only take time
    case.call_and_validate(checks=CHECKS, app=site.app)
