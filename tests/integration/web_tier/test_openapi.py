"""The OpenAPI document has every operation, and the API keeps its promises: schemathesis compares the answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from core.config import Config, parse_config
from core.fleet.models import FleetInstance, FleetInstances, FleetSnapshot
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from core.provision import provision
from localcloud.launch import LocalCloud
from services.clients import Clients
from tests.conftest import config_of, shipped_values
from tests.support.jobs import NOW, add_images, done, failed, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.api.schemas import ROOT
from web_tier.app import create_app
from web_tier.features import FEATURES
from web_tier.http.openapi import api_document, api_routes
from web_tier.http.problems import ProblemType

pytestmark = pytest.mark.processes

EXAMPLES = 10
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
APP = create_app(parse_config(shipped_values()))
DOCUMENT, ROUTES = api_document(APP), api_routes(APP)

api = schemathesis.openapi.from_dict(DOCUMENT).exclude(path_regex="/events$")


@dataclass(frozen=True)
class Site:
    """The application over the local cloud, and the ids of what is there: a job, an image, an instance."""

    app: Flask
    ids: dict[str, str]

    def new_job(self) -> str:
        """Make a job without images, and return its id."""
        return str(self.app.test_client().post(f"{ROOT}/jobs").get_json()["job_id"])


@pytest.fixture(scope="module")
def config(cloud: LocalCloud) -> Config:
    return config_of(cloud, new_id().lower())


@pytest.fixture(scope="module")
def provisioned(clients: Clients, config: Config) -> Clients:
    provision(clients, config)
    return clients


@pytest.fixture(scope="module")
def table() -> MemoryTable:
    return MemoryTable()


@pytest.fixture(scope="module")
def app(config: Config, provisioned: Clients, table: MemoryTable) -> Flask:
    """One for all operations: its clients of AWS take as long to make as half the examples of an operation."""
    return create_app(config, store=JobStore(table))


@pytest.fixture
def site(app: Flask, table: MemoryTable) -> Site:
    """One with a job that has an image of each state."""
    table.items, store = {}, JobStore(table)
    job = Job(new_id(), "holiday", NOW)
    store.create(job)
    good, bad, _ = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    put_results(store, done(good), failed(bad))
    if "dead_letters" in FEATURES:
        from tests.support.features.dead_letters.desk import give_up

        give_up(store, bad)
    FleetStore(store.table).put_snapshot(FLEET)
    FleetStore(store.table).put_instances(FleetInstances(total=1, instances=(INSTANCE,)))
    files = [{"name": "d.jpg", "bytes": 100, "content_type": "image/jpeg"}]
    offer = app.test_client().post(f"{ROOT}/jobs/{job.job_id}/uploads", json={"files": files}).get_json()
    ids = {"job_id": job.job_id, "image_id": good.ref.image_id, "upload_id": offer["upload_id"]}
    # Without sign-in there are no personal tokens and no shares.
    others = {"instance_id": INSTANCE.instance_id, "token_id": new_id(), "share_id": new_id(), "name": "demo"}
    return Site(app, ids | others)


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
    # Without a server in between, schemathesis does not unpack the compressed answers that it asks for.
    case.call_and_validate(checks=CHECKS, app=site.app, headers={"Accept-Encoding": "identity"})


def routes(app: Flask) -> set[tuple[str, str]]:
    """Return the routes under the API's root, with paths as in the document."""
    served = set()
    for rule in app.url_map.iter_rules():
        path = str(rule).replace("<", "{").replace(">", "}").rstrip("/")
        if path.startswith(ROOT):
            served |= {(method.lower(), path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return served


def references(value: Any) -> Iterator[str]:
    """Yield every reference in a document."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def test_the_document_has_exactly_the_served_operations(app: Flask) -> None:
    documented = {(route.method, route.path) for route in ROUTES}
    assert documented == routes(app) - {("get", f"{ROOT}/openapi.json")}


def test_every_operation_has_a_unique_name() -> None:
    assert len({route.operation.name for route in ROUTES}) == len(ROUTES)


def test_the_document_is_served_and_its_references_resolve(client: FlaskClient) -> None:
    served = client.get(f"{ROOT}/openapi.json").get_json()
    assert served == DOCUMENT
    assert served["openapi"].startswith("3.1.")
    names = {reference.removeprefix("#/components/schemas/") for reference in references(served)}
    assert names <= served["components"]["schemas"].keys()


def test_problems_are_enumerated() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["ProblemType"]["enum"]) == {kind.value for kind in ProblemType}


def test_every_operation_is_shown_on_the_page(client: FlaskClient) -> None:
    page = unescape(client.get("/api").text)
    for route in ROUTES:
        assert f'<code class="path">{route.path}</code>' in page
        assert route.operation.summary in page
        assert f'id="{route.operation.name}"' in page, "its address on the page"
    for tag in {route.operation.tag for route in ROUTES}:
        assert page.count(f"<h2>{tag}</h2>") == 1


def test_every_operation_but_the_index_and_health_documents_token_and_401() -> None:
    assert DOCUMENT["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    public = {ROOT, f"{ROOT}/healthz", f"{ROOT}/readyz"}
    for route in ROUTES:
        described = DOCUMENT["paths"][route.path][route.method]
        assert (described["security"] == []) is (route.path in public), route.path
        assert route.path in public or {"401", "403", "429"} <= described["responses"].keys()
        assert route.path in public or "WWW-Authenticate" in described["responses"]["401"]["headers"]
