"""What browsers are told, and what is refused for where it comes from."""

import pytest
from flask.testing import FlaskClient

from web_tier.middleware import is_cross_site


@pytest.mark.parametrize(
    ("site", "origin", "refused"),
    [
        (None, None, False),
        ("same-origin", "http://here:8000", False),
        ("none", None, False),
        ("cross-site", None, True),
        ("same-site", "http://here:8000", True),
        (None, "http://here:8000", False),
        (None, "http://here:9000", True),
        (None, "http://evil.example", True),
        (None, "null", True),
        (None, "ftp://here:8000", True),
        (None, "https://here:8000", True),
        ("same-origin", "https://site.example.org", False),
    ],
)
def test_where_a_request_comes_from_is_told_by_the_browser(
    site: str | None, origin: str | None, refused: bool
) -> None:
    assert is_cross_site(site, origin, "http://here:8000") is refused


@pytest.mark.parametrize("path", ["/", "/api/v1/jobs"])
def test_a_form_on_another_site_cannot_post_here(client: FlaskClient, path: str) -> None:
    answer = client.post(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert client.get(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/nowhere", "/api/v1/jobs", "/static/fleetsight.css"])
def test_every_answer_forbids_foreign_and_inline_scripts_frames_and_sniffing(client: FlaskClient, path: str) -> None:
    headers = client.get(path, buffered=True).headers
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "unsafe" not in headers["Content-Security-Policy"]


# https://owasp.org/www-project-secure-headers/ (headers_add.json). Left out: Clear-Site-Data,
# which is for signing out, X-DNS-Prefetch-Control, since nothing here leads to other names, and Cache-Control, which
# the next test is about. Referrer-Policy is same-origin: our own pages may know where somebody comes from.
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


def test_pages_are_not_kept_by_caches_and_static_files_are(client: FlaskClient) -> None:
    assert client.get("/").headers["Cache-Control"] == "no-store"
    for path in ("fleetsight.css", "bootstrap/css/bootstrap.min.css"):
        assert "max-age" in client.get(f"/static/{path}", buffered=True).headers["Cache-Control"]


@pytest.mark.parametrize("body", ['{"name": "a", "name": "b"}', '{"keep": false, "name": "a", "keep": true}'])
def test_json_with_a_name_twice_is_refused(client: FlaskClient, body: str) -> None:
    answer = client.post("/api/v1/jobs", data=body, content_type="application/json")
    assert answer.status_code == 422
    assert "is there 2 times" in answer.get_json()["detail"]
