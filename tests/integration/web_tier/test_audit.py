"""The audit trail: one log line for each thing that a user does."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from core.fleet.models import FleetInstance, FleetInstances, FleetSpending
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.s3 import Bucket
from tests.conftest import ConfigMaker
from tests.support.autoscaler import fleet_snapshot
from tests.support.bundles import relabelled_bundle
from tests.support.fixtures import AuditLog
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.people import BROWSER, OIDC, SignInSite, sign_in_site
from web_tier.app import create_app
from web_tier.auth.permissions import Right
from web_tier.features import FEATURES
from web_tier.http.routes import all_routes

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BY_VIEWS = {"sign-in", "failed sign-in", "account deleted"}
"""Actions that no route declares: views record them, as the guard does a rejected token."""
INSTANCE = "i-0123456789abcdef0"


@pytest.fixture
def site(make_config: ConfigMaker, store: JobStore) -> SignInSite:
    return sign_in_site(make_config(auth=OIDC), store)


def form(browser: FlaskClient, site: SignInSite, path: str, **fields: str) -> int:
    token = site.token_for_forms(browser)
    return browser.post(
        path, data={**fields, "csrf_token": token}, headers=BROWSER, base_url="https://localhost"
    ).status_code


def a_capped_fleet(store: JobStore) -> None:
    """Let the controller have reported a spending cap."""
    now = datetime.now(UTC)
    spending = FleetSpending(day=now.date(), today=1.0, month=1.0, dollars_per_day=1.0)
    FleetStore(store.table).put_snapshot(fleet_snapshot(now, spending=spending))


def an_instance(store: JobStore) -> None:
    """Let the controller have recorded one running instance."""
    instance: dict[str, Any] = {
        "instance_id": INSTANCE,
        "state": "running",
        "instance_type": "c7a.large",
        "zone": "us-east-1a",
        "launched_at": datetime.now(UTC),
    }
    FleetStore(store.table).put_instances(
        FleetInstances(instances=(FleetInstance.model_validate(instance),), total=1)
    )


def change_a_border(api: FlaskClient, ann: dict[str, str], does: Callable[..., None]) -> None:
    job_id = api.post("/api/v1/jobs", headers=ann).get_json()["job_id"]
    border, page = "border of doubt changed", f"/jobs/{job_id}/min-scores"
    does(border, lambda: api.put(f"/api/v1{page}", headers=ann, json={"min_score": 0.9}).status_code, job_id=job_id)
    does(border, lambda: api.post(page, data={"below": "80"}, headers=ann).status_code, job_id=job_id)


def share_a_job(api: FlaskClient, signed_in: dict[str, str], does: Callable[..., None]) -> None:
    job_id, wanted = api.post("/api/v1/jobs", headers=signed_in).get_json()["job_id"], {"email": "bo@example.org"}
    path, shared = f"/api/v1/jobs/{job_id}/shares", {"job_id": job_id, "shared_with": "bo@example.org"}
    does("job shared", lambda: api.post(path, headers=signed_in, json=wanted).status_code, **shared, days="7")
    [share] = api.get(path, headers=signed_in).get_json()["shares"]
    ended = f"{path}/{share['share_id']}"
    does("share ended", lambda: api.delete(ended, headers=signed_in).status_code, **shared)


def redrive_a_letter(
    api: FlaskClient, site: SignInSite, ops: FlaskClient, operator: dict[str, str], does: Callable[..., None]
) -> None:
    ids = {"job_id": new_id(), "image_id": new_id()}
    letter = f"/dead-letters/{ids['job_id']}/{ids['image_id']}"
    does("dead letter redriven", lambda: form(ops, site, f"{letter}/redrive"), **ids, outcome="no_dead_letter")
    does(
        "dead letters redriven",
        lambda: api.post("/api/v1/dead-letters/redrive", headers=operator).status_code,
        sent="0",
    )
    does("dead letter discarded", lambda: api.delete(f"/api/v1{letter}", headers=operator).status_code, **ids)


def change_models(api: FlaskClient, operator: dict[str, str], bundle: Path, does: Callable[..., None]) -> None:
    models = "/api/v1/models"
    for action, method, path, body, details in (
        ("model added", "POST", models, {"place": str(bundle)}, {"model": "other", "place": str(bundle)}),
        ("default model chosen", "PUT", f"{models}/default", {"model": "other"}, {"default": "other"}),
        ("model rolled back", "POST", f"{models}/roll-back", {}, {"default": "demo"}),
        ("model removed", "DELETE", f"{models}/other", {}, {"name": "other"}),
    ):
        does(
            action,
            lambda: api.open(path, method=method, json=body, headers=operator).status_code,  # noqa: B023
            **details,
        )


def everything(site: SignInSite, store: JobStore, bundle: Path) -> list[tuple[str, dict[str, str]]]:
    """Do everything that is recorded, by pages and by the API; return the actions in their order, with details."""
    site.provider.add("ann")
    anonymous, api = site.anonymous(), site.anonymous()
    done: list[tuple[str, dict[str, str]]] = []

    def does(action: str, act: Callable[[], int], **details: str) -> None:
        assert act() < 400 or action == "failed sign-in"
        done.append((action, details))

    refused = "the provider has refused the sign-in"
    does("failed sign-in", lambda: anonymous.get("/sign-in/callback").status_code, reason=refused)
    does("sign-in", lambda: site.signs_in(anonymous, "ann").status_code)
    ann, ops = site.with_token("ann", "classify", "read"), site.operator()
    operator = site.with_token("ops", "operate")
    tokens = {"json": {"name": "ci", "scopes": ["read"], "days": 1}}
    signed_in = {"Authorization": f"Bearer {site.provider.tokens('ann').id_token}"}
    made = api.post("/api/v1/tokens", headers=signed_in, **tokens).get_json()
    done.append(("token created", {"name": "ci", "scopes": "read"}))
    does("token revoked", lambda: api.delete(f"/api/v1/tokens/{made['token_id']}", headers=signed_in).status_code)
    does(
        "token created",
        lambda: form(ops, site, "/account/tokens", name="x", scopes="read", days="1"),
        name="x",
    )
    if "sharing" in FEATURES:
        share_a_job(api, signed_in, does)
    change_a_border(api, ann, does)
    for path in ("page", "api"):
        job_id = api.post("/api/v1/jobs", headers=ann).get_json()["job_id"]
        cancelling = f"{'/api/v1' if path == 'api' else ''}/jobs/{job_id}/cancel"
        does("job cancelled", lambda: api.post(cancelling, headers=ann).status_code, job_id=job_id)  # noqa: B023
        if path == "api":
            does("job deleted", lambda: api.delete(f"/api/v1/jobs/{job_id}", headers=ann).status_code, job_id=job_id)  # noqa: B023
        else:
            does("job deleted", lambda: api.post(f"/jobs/{job_id}/delete", headers=ann).status_code, job_id=job_id)  # noqa: B023
    job_id = api.post("/api/v1/jobs", headers=ann).get_json()["job_id"]
    for action in ("cancel", "delete"):
        does(
            f"jobs {'cancelled' if action == 'cancel' else 'deleted'}",
            lambda: api.post(f"/jobs/{action}", data={"job": job_id}, headers=ann).status_code,  # noqa: B023
            jobs=job_id,
        )
    does("fleet paused", lambda: form(ops, site, "/fleet/pause", reason="<b>cost</b>"), reason="<b>cost</b>")
    does("fleet resumed", lambda: form(ops, site, "/fleet/resume"))
    limits = {"min_workers": "0", "max_workers": "5", "reason": "test"}
    does("limits set", lambda: form(ops, site, "/fleet/limits", **limits), **limits)
    a_capped_fleet(store)
    dollars = {"dollars": "2.50", "reason": "release"}
    does("dollars allowed", lambda: form(ops, site, "/fleet/allowance", **dollars), dollars="2.5", reason="release")
    an_instance(store)
    does("instance drained", lambda: form(ops, site, f"/fleet/instances/{INSTANCE}/drain"), instance_id=INSTANCE)
    if "dead_letters" in FEATURES:
        redrive_a_letter(api, site, ops, operator, does)
    if "models" in FEATURES:
        change_models(api, operator, bundle, does)
    for route in all_routes(site.app):  # other forms of operators, which take nothing
        is_form = route.right is Right.OPERATE and "POST" in (route.methods or ()) and not route.arguments
        if is_form and route.audit is not None and route.audit not in {action for action, _ in done}:
            does(route.audit, lambda: form(ops, site, route.rule))  # noqa: B023
    does("sign-out everywhere", lambda: form(site.operator(), site, "/account/sessions/end"))
    does("account deleted", lambda: form(site.operator(), site, "/account/delete"))
    does("sign-out", lambda: form(site.operator(), site, "/sign-out"))
    return done


def test_everything_that_users_and_operators_do_is_logged_once(
    site: SignInSite, store: JobStore, audit_log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = MemoryBucket()
    monkeypatch.setattr(Bucket, "named", lambda _clients, _name: outputs)
    relabelled_bundle(tmp_path / "other", "other", " (2)")
    done = everything(site, store, tmp_path / "other")
    found = audit_log()
    assert [each.action for each in found] == [action for action, _ in done]
    for each, (_, details) in zip(found, done, strict=True):
        assert details.items() <= each.details.items()
    by_routes = {route.audit for route in all_routes(site.app) if route.audit is not None}
    assert {each.action for each in found} == by_routes | BY_VIEWS
    assert {each.user for each in found} == {"", "ann@example.org", "ops@example.org"}
    assert {each.address for each in found} == {"127.0.0.1"}
    assert all(each.request_id for each in found)
    resume = FleetStore(store.table).commands().resume
    assert resume is not None
    assert resume.by == "ops@example.org", "the controller names the operator, too"


WRONG = {"Authorization": f"Bearer fst_{'x' * 43}"}


def test_each_refused_token_is_logged(site: SignInSite, audit_log: AuditLog) -> None:
    for address in ("203.0.113.1", "203.0.113.1", "203.0.113.2"):
        where = {"REMOTE_ADDR": address}
        assert site.anonymous().get("/api/v1/jobs", headers=WRONG, environ_base=where).status_code == 401
    found = audit_log()
    assert [each.address for each in found] == ["203.0.113.1", "203.0.113.1", "203.0.113.2"]
    assert {(each.action, each.user) for each in found} == {("rejected token", "")}
    assert found[0].details == {"reason": "there is no such personal token, or no longer"}


def test_each_refusal_has_the_address_of_its_client_in_the_log(
    make_config: ConfigMaker, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = {"requests_per_minute": 3}
    site = sign_in_site(make_config(auth=OIDC, web={"behind_proxy": True}, limits=limits), store)
    anonymous, ann, browser = site.anonymous(), site.with_token("ann", "read"), site.signed_in("bob")
    store.create(Job("01M8MS8STHRGP2D66XVERP824E", "of bob", NOON, owner="bob"))
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    statuses = [
        client.open(path, method=method, headers=forwarded | headers).status_code
        for client, method, path, headers in (
            (anonymous, "GET", "/api/v1/jobs", WRONG),
            (anonymous, "POST", "/api/v1/jobs", {}),
            (anonymous, "GET", "/healthz", {"Host": "evil.example"}),
            (anonymous, "DELETE", "/api/v1/fleet/limits", ann),
            (anonymous, "GET", "/api/v1/jobs/01M8MS8STHRGP2D66XVERP824E", ann),
            (anonymous, "GET", "/api/v1/limits", ann),
            (browser, "POST", "/jobs/01M8MS8STHRGP2D66XVERP824E/delete", BROWSER),
            (anonymous, "GET", "/api/v1/limits", ann),
        )
    ]
    assert statuses == [401, 401, 421, 403, 404, 200, 403, 429]
    lines = [record.__dict__ for record in caplog.records if record.name == "web_tier.http.middleware"]
    assert [line.get("address") for line in lines] == ["203.0.113.9"] * 5 + [None] + ["203.0.113.9"] * 2


def test_what_was_refused_or_only_read_is_no_event(site: SignInSite, audit_log: AuditLog) -> None:
    client, ann = site.anonymous(), site.with_token("ann", "read")
    client.get("/sign-in")
    assert client.delete("/api/v1/fleet/limits", headers=ann).status_code == 403
    assert client.delete("/api/v1/jobs/none", headers=ann).status_code == 403
    assert client.post("/sign-out", headers=BROWSER).status_code == 200
    assert audit_log() == []


def test_without_sign_in_there_is_no_trail(make_config: ConfigMaker, store: JobStore, audit_log: AuditLog) -> None:
    client = create_app(make_config(), store=store).test_client()
    assert client.post("/api/v1/fleet/pause").status_code == 200
    assert audit_log() == []
