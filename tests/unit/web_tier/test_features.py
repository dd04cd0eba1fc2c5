"""Features: pages, templates, scripts and the controller name those that are there, and no other one."""

import re
from html import unescape
from pathlib import Path

from flask.testing import FlaskClient

from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from tests.conftest import ROOT
from tests.support.jobs import NOW, add_images, done, put_results
from web_tier.http.assets import imported_modules, static_files


def test_each_address_on_a_page_has_a_route(client: FlaskClient, store: JobStore) -> None:
    job = Job(new_id(), "holiday", NOW, keep=True)
    store.create(job)
    [image] = add_images(store, job, "a.jpg")
    put_results(store, done(image))
    routes, page = client.application.url_map.bind("localhost"), f"/jobs/{job.job_id}"
    for path in ("/", "/jobs", page, f"{page}/images/{image.ref.image_id}", "/fleet", "/api"):
        answer = client.get(path)
        assert answer.status_code == 200
        for address in map(unescape, re.findall(r'(?:href|src|action)="(/[^"?#]*)', answer.text)):
            assert routes.allowed_methods(address), f"{path} names {address}"


def test_sources_name_only_routes_and_files_that_exist(client: FlaskClient) -> None:
    for path in sorted(path for ending in ("py", "html") for path in (ROOT / "web_tier").rglob(f"*.{ending}")):
        source = path.read_text(encoding="utf-8")
        routes = set(re.findall(r"url_for\(\s*['\"](\w+\.\w+)['\"]", source))
        files = set(re.findall(r"url_for\(['\"]static['\"], filename=['\"]([^'\"]+)['\"]", source))
        assert routes <= client.application.view_functions.keys(), path
        assert files <= static_files().keys(), path
    for script in (name for name in static_files() if Path(name).suffix == ".js"):
        assert set(imported_modules(script)) <= static_files().keys()
