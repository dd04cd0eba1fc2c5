"""What holds for every request: server names, origins, the proxy, headers, problems and the log line; and probes."""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import Client

from core.config import Config
from core.ids import is_id
from core.logs import JsonFormatter
from core.tracing import is_sampled, parse_traceparent, span_id, trace_id
from services.clients import Clients
from services.sqs import Queue
from services.table import Table, TableBusyError
from tests.conftest import ConfigMaker
from tests.support.jobs import UNKNOWN_ID
from tests.support.people import PlayedProvider, access_of
from web_tier.app import create_app
from web_tier.auth.permissions import Right
from web_tier.http import backend
from web_tier.http.memory import BusyError
from web_tier.http.middleware import PROXY, SAFE_METHODS, BehindProxy, is_cross_site, is_own_name

NAMES = {"photos.example.org", "localhost"}
FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
HSTS = "Strict-Transport-Security"

ClientMaker = Callable[..., FlaskClient]


@pytest.fixture
def serve(provisioned: Clients, make_config: ConfigMaker) -> ClientMaker:
    """Make a client of a web tier with these values in its section `web`."""
    return lambda **web: create_app(make_config(web=web)).test_client()


@pytest.mark.parametrize(
    "authority",
    [
        "photos.example.org",
        "PHOTOS.example.ORG",
        "photos.example.org:8443",
        "localhost:8000",
        "127.0.0.1:8000",
        "203.0.113.9",
        "[::1]:8000",
        "[2001:db8::1]",
    ],
)
def test_configured_names_and_addresses_are_accepted(authority: str) -> None:
    assert is_own_name(authority, NAMES)


@pytest.mark.parametrize(
    "authority",
    [
        "",
        "evil.example",
        "photos.example.org.",
        "photos.example.org.evil.example",
        "evil.example#photos.example.org",
        "user@photos.example.org",
        "photos.example.org:80:80",
        "photos.example.org, evil.example",
        " photos.example.org",
        "127.0.0.1.evil.example",
        "2130706433",
        "[127.0.0.1]",
        "[::1%25eth0]",
        "\uff4cocalhost",
    ],
)
def test_a_name_that_is_only_similar_is_rejected(authority: str) -> None:
    assert not is_own_name(authority, NAMES)


def test_a_request_for_another_name_is_a_problem_on_every_path(serve: ClientMaker) -> None:
    named = serve(hosts=["photos.example.org"])
    for host in ("photos.example.org", "Photos.Example.Org:443", "localhost", "10.0.0.7:8000", "[::1]"):
        assert named.get("/api/v1/healthz", headers={"Host": host}).status_code == 200
    for path in ("/api/v1/jobs", "/healthz", "/api/v1/nowhere"):
        answer = named.get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 421
        assert json.loads(answer.data)["type"] == "urn:fleetsight:problem:misdirected-request"
        assert "web.hosts" in json.loads(answer.data)["detail"]
    page = named.post("/", headers={"Host": "<img onerror=x>"})
    assert (page.status_code, "<img onerror" in page.text) == (421, False)
    assert named.get("/static/fleetsight.css", headers={"Host": "evil.example"}).status_code == 421


def test_the_target_must_name_the_host_of_the_header_and_no_other_header_replaces_it(client: FlaskClient) -> None:
    def status(target: str = "/healthz", host: str = "localhost", **headers: str) -> int:
        sent = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return client.get("/healthz", headers=sent, environ_overrides={"RAW_URI": target}).status_code

    assert status("http://LOCALHOST/healthz") == status() == 200
    assert status("http://evil.example/healthz") == status("http://localhost@evil.example/") == 421
    for header in ("X_Forwarded_Host", "X_Host", "X_Original_Host"):
        assert status(host="evil.example", **{header: "localhost"}) == 421
    assert status(host="evil.example", Forwarded="host=localhost") == 421


@pytest.mark.parametrize(
    ("site", "origin", "refused"),
    [
        (None, None, False),
        ("same-origin", "http://here:8000", False),
        ("none", None, False),
        ("cross-site", None, True),
        (None, "http://here:8000", False),
        (None, "http://here:9000", True),
        (None, "http://evil.example", True),
        (None, "null", True),
        (None, "https://here:8000", True),
        ("same-origin", "https://site.example.org", False),
    ],
)
def test_the_browser_states_where_a_request_comes_from(site: str | None, origin: str | None, refused: bool) -> None:
    assert is_cross_site(site, origin, "http://here:8000") is refused


CONFIGURED, OTHER = "https://photos.example.org", "https://evil.example"
CROSS = {"Sec-Fetch-Site": "cross-site"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}


@pytest.fixture
def allowing(serve: ClientMaker) -> FlaskClient:
    """A web tier; pages of one other origin may call its API."""
    return serve(cors_origins=[CONFIGURED])


def test_a_page_of_a_configured_origin_may_call_the_api_and_read_its_answers(allowing: FlaskClient) -> None:
    headers = {"Origin": CONFIGURED, **CROSS}
    preflight = allowing.options("/api/v1/jobs", headers={**headers, **PREFLIGHT})
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    for header in ("Authorization", "Idempotency-Key"):
        assert header in preflight.headers["Access-Control-Allow-Headers"]
    answer = allowing.post("/api/v1/jobs", headers=headers)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (201, CONFIGURED)
    assert "Location" in answer.headers["Access-Control-Expose-Headers"]
    for path in ("/api/v1/jobs/x", "/api/v1/nothing", "/api/v1/jobs?limit=0"):
        error = allowing.get(path, headers=headers)
        assert (error.status_code >= 400, error.headers["Access-Control-Allow-Origin"]) == (True, CONFIGURED)
    form = allowing.post("/", headers=headers)
    assert (form.status_code, "Access-Control-Allow-Origin" in form.headers) == (403, False)


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "https://photos.example.org.evil.example", "http://photos.example.org"]
)
def test_pages_of_other_origins_may_not_call_the_api(allowing: FlaskClient, origin: str) -> None:
    headers = {"Origin": origin, **CROSS}
    answers = [
        allowing.post("/api/v1/jobs", headers=headers),
        allowing.options("/api/v1/jobs", headers=headers | PREFLIGHT),
        allowing.get("/api/v1/jobs", headers=headers),
    ]
    assert answers[0].status_code == 403
    for answer in answers:
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]


def test_no_page_of_another_site_can_change_anything_by_default(app: Flask, client: FlaskClient) -> None:
    for rule in app.url_map.iter_rules():
        _, path = rule.build(dict.fromkeys(rule.arguments, UNKNOWN_ID)) or ("", "")
        for method in sorted((rule.methods or set()) - SAFE_METHODS):
            for headers in (CROSS, {"Origin": CONFIGURED, **CROSS}):
                assert client.open(path, method=method, headers=headers).status_code == 403, (method, path)
    for path in ("/", "/api/v1/jobs"):
        assert client.get(path, headers=CROSS).status_code == 200


@pytest.mark.parametrize(
    ("peer", "headers", "address", "scheme"),
    [
        (PROXY, FORWARDED, "203.0.113.9", "https"),
        # A client may have sent the first value of each header; nginx appends its own.
        (
            PROXY,
            {"X-Forwarded-For": "10.0.0.1, 203.0.113.9", "X-Forwarded-Proto": "http, https"},
            "203.0.113.9",
            "https",
        ),
        ("203.0.113.7", FORWARDED, "203.0.113.7", "http"),
        ("10.0.0.1", FORWARDED, "10.0.0.1", "http"),
        ("::1", FORWARDED, "::1", "http"),
        ("127.0.0.2", FORWARDED, "127.0.0.2", "http"),
    ],
)
def test_only_nginx_on_this_machine_reports_addresses_and_never_host_port_or_prefix(
    peer: str, headers: dict[str, str], address: str, scheme: str
) -> None:
    found: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        found.update(environ)
        start_response("200 OK", [])
        return [b""]

    others = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "1", "X-Forwarded-Prefix": "/x"}
    Client(BehindProxy(app)).get("/", headers=headers | others, environ_base={"REMOTE_ADDR": peer})
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == (address, scheme)
    assert (found["HTTP_HOST"], found["SERVER_PORT"], found["SCRIPT_NAME"]) == ("localhost", "80", "")


@pytest.mark.parametrize("behind", [True, False])
def test_the_proxy_is_trusted_only_if_the_configuration_names_one(serve: ClientMaker, behind: bool) -> None:
    answer = serve(behind_proxy=behind).get("/healthz", headers=FORWARDED, environ_base={"REMOTE_ADDR": PROXY})
    assert (HSTS in answer.headers) is behind


def test_tls_is_required_from_then_on_by_tls_alone(client: FlaskClient) -> None:
    for path in ("/healthz", "/nowhere"):
        assert client.get(path, base_url="https://localhost").headers[HSTS] == "max-age=31536000"
    assert HSTS not in client.get("/healthz").headers


# https://owasp.org/www-project-secure-headers/ (headers_add.json). Left out: Clear-Site-Data,
# which is for signing out, X-DNS-Prefetch-Control, since nothing here leads to other names, and Cache-Control, which
# the next test is about. Referrer-Policy is same-origin: our own pages may read which page linked to them.
OWASP = {
    "X-Frame-Options": "deny",
    "X-Content-Type-Options": "nosniff",
    "X-Permitted-Cross-Domain-Policies": "none",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.mark.parametrize("path", ["/", "/nowhere", "/api/v1/jobs", "/static/fleetsight.css"])
def test_every_answer_has_the_headers_that_owasp_lists(client: FlaskClient, path: str) -> None:
    headers = client.get(path, buffered=True).headers
    assert {name: headers[name].lower() for name in OWASP} == OWASP
    allowed = [each for each in headers["Permissions-Policy"].split(", ") if not each.endswith("=()")]
    assert allowed == ["clipboard-write=(self)"]
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["font-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert "unsafe" not in headers["Content-Security-Policy"]


@pytest.mark.parametrize("body", ['{"name": "a", "name": "b"}', '{"keep": false, "name": "a", "keep": true}'])
def test_json_with_a_name_twice_is_refused(client: FlaskClient, body: str) -> None:
    answer = client.post("/api/v1/jobs", data=body, content_type="application/json")
    assert answer.status_code == 422
    assert "is there 2 times" in answer.get_json()["detail"]


def test_a_program_gets_problem_json_and_a_person_a_page(client: FlaskClient) -> None:
    for_programs = client.get("/api/v1/nowhere")
    assert for_programs.content_type == "application/problem+json"
    body = json.loads(for_programs.data)
    assert (body["type"], body["status"]) == ("urn:fleetsight:problem:not-found", 404)
    assert body["request_id"] == for_programs.headers["X-Request-Id"]
    assert body["trace_id"] == trace_id(for_programs.headers["traceresponse"])
    for_people = client.get("/nowhere")
    assert (for_people.status_code, for_people.mimetype) == (404, "text/html")
    assert "<h1>Page not found</h1>" in for_people.text
    assert ("Back to the start" in for_people.text, "Trace ID" in for_people.text) == (True, False)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (EndpointConnectionError(endpoint_url="http://inside"), 503, "a service failed"),
        (TableBusyError("inside"), 503, "a service failed"),
        (BusyError("inside"), 503, "a service failed"),
        (RuntimeError("inside"), 500, "a request failed"),
    ],
)
def test_an_error_is_shown_without_its_text_and_logged_with_its_trace(
    app: Flask, caplog: pytest.LogCaptureFixture, error: Exception, status: int, message: str
) -> None:
    def fail() -> str:
        raise error

    paths = ("/api/fails", "/fails")
    for path in paths:
        app.add_url_rule(path, path, fail, right=Right.PUBLIC)
    for path in paths:
        caplog.clear()
        answer = app.test_client().get(path)
        assert (answer.status_code, answer.headers.get("Retry-After")) == (status, "5" if status == 503 else None)
        assert "inside" not in answer.text
        [record] = [record for record in caplog.records if record.exc_info]
        assert (record.message, vars(record)["request_id"]) == (message, answer.headers["X-Request-Id"])


def test_each_request_has_a_line_of_the_log_that_its_address_cannot_forge(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = client.get('/x%0a{"level":"forged"}')
    [record] = [record for record in caplog.records if record.name == "web_tier.http.middleware"]
    line = JsonFormatter("web").format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["request_id"]) == ("GET 404", answer.headers["X-Request-Id"])
    assert found["trace"] == trace_id(answer.headers["traceresponse"])
    assert found["path"] == '/x\n{"level":"forged"}'
    assert is_id(found["request_id"])


def test_a_request_continues_the_trace_of_its_client_as_a_span_of_its_own(client: FlaskClient) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    found = client.get("/healthz", headers={"traceparent": parent}).headers["traceresponse"]
    assert (parse_traceparent(found), trace_id(found)) == (found, trace_id(parent))
    assert span_id(found) != span_id(parent)
    assert is_sampled(parent)
    assert not is_sampled(found), "a client cannot cause the export of spans"


def test_the_application_starts_without_any_service(config: Config) -> None:
    unreachable = config.model_copy(
        update={"aws": config.aws.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})}
    )
    assert create_app(unreachable).test_client().get("/healthz").status_code == 200


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_the_process_is_ready_if_bucket_table_and_queue_respond(client: FlaskClient, prefix: str) -> None:
    assert client.get(f"{prefix}/healthz").get_json() == {"status": "alive"}
    assert client.get(f"{prefix}/readyz").get_json() == {"ready": True, "missing": {}}


def test_an_unready_process_names_the_missing_service_and_the_kind_of_its_error(
    client: FlaskClient, provisioned: Clients, requests_queue: Queue
) -> None:
    provisioned.sqs.delete_queue(QueueUrl=requests_queue.url)
    answer = client.get("/readyz")
    assert (answer.status_code, list(answer.get_json()["missing"])) == (503, ["request queue"])
    assert requests_queue.url not in answer.text
    [why] = answer.get_json()["missing"].values()
    assert "NonExistentQueue" in why


def test_with_sign_in_readiness_hides_the_kind_of_the_error(
    config: Config, table: Table, provisioned: Clients, requests_queue: Queue
) -> None:
    provisioned.sqs.delete_queue(QueueUrl=requests_queue.url)
    access = access_of(table, PlayedProvider())
    answer = create_app(config, auth=access).test_client().get("/readyz")
    assert (answer.status_code, answer.get_json()["missing"]) == (503, {"request queue": "does not answer"})


def test_frequent_readiness_requests_share_one_check(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    now, checks = 100.0, 0

    def check(_: object) -> dict[str, str]:
        nonlocal checks
        checks += 1
        return {}

    monkeypatch.setattr(backend.Backend, "_found_faults", check)
    monkeypatch.setattr("web_tier.http.backend.time.monotonic", lambda: now)
    client = app.test_client()
    assert [client.get("/readyz").status_code for _ in range(9)] == [200] * 9
    assert checks == 1
    now += backend.CHECKED_SECONDS + 0.1
    client.get("/readyz")
    assert checks == 2
