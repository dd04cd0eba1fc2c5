"""The front end as files: complete, and rendered without asking any service."""

import re
from pathlib import Path

import pytest
from werkzeug.routing import Map, Rule

from core.config import parse_config
from scripts.aws.site import SiteFile, SiteLinkError, addresses_in, check_links, export_site
from tests.conftest import shipped_values
from tests.support.stack_template import RESOURCES
from web_tier.security import HEADERS

ADDRESS = "https://images.example.org"


def export(folder: Path, **web: object) -> dict[str, SiteFile]:
    """Export the site of the shipped configuration with some settings changed; return its files by address."""
    values = shipped_values()
    values["aws"]["endpoint_url"] = "http://127.0.0.1:9"  # where nobody answers
    values["web"] |= web
    return {file.address: file for file in export_site(folder, parse_config(values), ADDRESS)}


def test_the_site_is_the_two_pages_and_every_static_file_that_any_page_asks_for(tmp_path: Path) -> None:
    files = export(tmp_path)
    own = {f"/static/{path.relative_to('web_tier/static')}" for path in Path("web_tier/static").rglob("*.*")}
    assert files.keys() == {"/", "/api", "/static/bootstrap/css/bootstrap.min.css"} | own
    assert all((tmp_path / file.name).stat().st_size for file in files.values())


def test_files_are_served_as_what_they_are_and_pages_are_asked_for_each_time(tmp_path: Path) -> None:
    files = export(tmp_path)
    assert files["/"].content_type == files["/api"].content_type == "text/html; charset=utf-8"
    assert files["/static/upload/main.js"].content_type.startswith("text/javascript")
    assert files["/static/mark.svg"].content_type.startswith("image/svg+xml")
    assert files["/"].cache_control == "public, max-age=0, s-maxage=86400"
    assert files["/static/fleetsight.css"].cache_control == "public, max-age=3600"


def test_the_page_has_the_settings_of_the_deployment_and_asks_for_what_changes(tmp_path: Path) -> None:
    export(tmp_path, max_image_bytes=4096)
    page = (tmp_path / "index.html").read_text()
    assert "up to 4 KB each" in page
    assert re.search(r'<p id="fleetNow" data-ask>', page)
    assert "has not looked at the fleet yet" not in page


def test_where_people_sign_in_the_pages_ask_who_looks_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLEETSIGHT_SESSION_KEYS_FILE", raising=False)  # the machine that publishes has none
    auth = {"mode": "cognito", "user_pool_id": "us-east-1_Example1", "client_id": "example"}
    values = shipped_values()
    values["auth"] |= auth
    files = {file.address for file in export_site(tmp_path, parse_config(values), ADDRESS)}
    assert {"/", "/api", "/static/visitor.js"} <= files
    for name in ("index.html", "api"):
        page = (tmp_path / name).read_text()
        assert "/static/visitor.js" in page
        assert re.search(r'<a id="account"[^>]* hidden>', page)
        assert re.search(r'<a id="headerSignIn"[^>]*href="/sign-in">', page)
        assert re.search(r'href="/fleet" id="fleetLink" hidden', page)
        assert "There is no sign-in here" not in page
    page = (tmp_path / "index.html").read_text()
    assert 'href="/upload"' in page
    assert "data-ask" not in page
    assert "Bearer $TOKEN" in (tmp_path / "api").read_text()


def test_without_sign_in_no_page_asks_who_looks_at_it(tmp_path: Path) -> None:
    export(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "visitor.js" not in page
    assert "There is no sign-in here" in page


def test_the_page_of_the_api_names_the_sites_own_address(tmp_path: Path) -> None:
    export(tmp_path)
    page = (tmp_path / "api").read_text()
    assert f"curl -s -X POST {ADDRESS}/api/v1/jobs" in page
    assert "localhost" not in page


ROUTES = Map([Rule("/jobs/<job_id>"), Rule("/jobs/<job_id>/rows", methods=["POST"]), Rule("/static/<path:name>")])


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("text/html", '<a href="/jobs/x">'),
        ("text/html", '<a href="#main"><form action="/jobs/x/rows" data-path="/jobs/{job_id}/rows">'),
        ("text/javascript", 'import { a } from "./there.js"; fetch(`/jobs/${id}/rows?limit=${most}`)'),
        ("text/javascript", "new URL('../up.svg', import.meta.url); const a = `/jobs${base}`;"),
        ("text/css", "a { background: url(data:image/svg+xml,x) }"),
    ],
)
def test_an_address_leads_to_a_file_or_to_the_web_tier(content_type: str, text: str) -> None:
    files = {"/static/a/it": (content_type, text), "/static/a/there.js": ("", ""), "/static/up.svg": ("", "")}
    check_links(files, ROUTES, ["/static/"])


@pytest.mark.parametrize(
    ("content_type", "text", "dead"),
    [
        ("text/html", '<script src="/static/gone.js">', "/static/gone.js"),
        ("text/html", '<img src="https://elsewhere.example/a.png">', "https://elsewhere.example/a.png"),
        ("text/html", '<a href="/job/x">', "/job/x"),
        ("text/javascript", 'import "./gone.js"', "./gone.js"),
        ("text/javascript", 'new URL("gone.svg", import.meta.url)', "gone.svg"),
        ("text/javascript", "fetch(`/job/${id}`)", "/job/${id}"),
        ("text/css", "@import 'gone.css';", "gone.css"),
        ("text/css", 'a { background: url("gone.png") }', "gone.png"),
    ],
)
def test_an_address_that_nothing_is_at_is_told_with_the_file_that_names_it(
    content_type: str, text: str, dead: str
) -> None:
    assert dead in set(addresses_in(content_type, text))
    with pytest.raises(SiteLinkError, match=re.escape(f"/static/it names {dead}")):
        check_links({"/static/it": (content_type, text)}, ROUTES, ["/static/"])


def test_cloudfront_tells_browsers_what_the_web_tier_does() -> None:
    told = RESOURCES["SiteHeaders"]["Properties"]["ResponseHeadersPolicyConfig"]
    security, own = told["SecurityHeadersConfig"], told["CustomHeadersConfig"]["Items"]
    assert {each["Header"]: each["Value"] for each in own} | {
        "Content-Security-Policy": security["ContentSecurityPolicy"]["ContentSecurityPolicy"],
        "X-Content-Type-Options": "nosniff" if "ContentTypeOptions" in security else "",
        "X-Frame-Options": security["FrameOptions"]["FrameOption"],
        "Referrer-Policy": security["ReferrerPolicy"]["ReferrerPolicy"],
    } == dict(HEADERS)
