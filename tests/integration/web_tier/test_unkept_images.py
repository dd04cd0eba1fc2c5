"""Whatever way an image comes in, its object tells in the bucket whether its owner asked to keep it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.run.system import free_port
from services.clients import Clients
from services.s3 import Bucket
from tests.conftest import ConfigMaker, keys_in
from tests.integration.web_tier.conftest import WebTier, serving
from tests.support.pictures import picture
from web_tier.uploads.ingest import UNKEPT

pytestmark = pytest.mark.processes

PICTURE = picture()
FILE = {"file": ("a.jpg", PICTURE)}


@pytest.fixture
def web(provisioned: Clients, make_config: ConfigMaker, tmp_path: Path) -> Iterator[WebTier]:
    """A web tier with little patience for answers, since nobody classifies here."""
    config = make_config(web={"port": free_port(), "threads": 4}, classic={"wait_seconds": 0.1})
    with serving(config, tmp_path) as web:
        yield web


def new_job(web: WebTier, *, keep: bool) -> str:
    answer = requests.post(f"{web.url}/api/v1/jobs", json={"keep": keep}, timeout=120)
    return str(answer.json()["job_id"])


def offered(web: WebTier, *, keep: bool) -> dict[str, Any]:
    """Return a form for an image of a new job."""
    files = [{"name": "a.jpg", "bytes": len(PICTURE), "content_type": "image/jpeg"}]
    job = f"{web.url}/api/v1/jobs/{new_job(web, keep=keep)}/uploads"
    offer: dict[str, Any] = requests.post(job, json={"files": files}, timeout=120).json()
    return offer


def send(offer: dict[str, Any], fields: dict[str, str] | None = None) -> int:
    form = offer["uploads"][0]["upload"]
    sent = form["fields"] if fields is None else fields
    return requests.post(form["url"], data=sent, files=FILE, timeout=120).status_code


def by_api(web: WebTier, *, keep: bool) -> int:
    address = f"{web.url}/api/v1/jobs/{new_job(web, keep=keep)}/images"
    return requests.post(address, files=FILE, timeout=120).status_code


def by_api_with_a_key(web: WebTier, *, keep: bool) -> int:
    address = f"{web.url}/api/v1/jobs/{new_job(web, keep=keep)}/images"
    return requests.post(address, files=FILE, headers={"Idempotency-Key": "first"}, timeout=120).status_code


def by_page(web: WebTier, *, keep: bool) -> int:
    fields = {"keep": "on"} if keep else {}
    return requests.post(f"{web.url}/", data=fields, files=FILE, allow_redirects=False, timeout=120).status_code


def straight_to_the_bucket(web: WebTier, *, keep: bool) -> int:
    offer = offered(web, keep=keep)
    assert send(offer) == 204
    return requests.post(f"{web.url}{offer['links']['commit']}", timeout=120).status_code


def tags(web: WebTier, clients: Clients) -> list[dict[str, str]]:
    """Return the tags of each object in the input bucket."""
    name = web.config.names.input_bucket
    found = [clients.s3.get_object_tagging(Bucket=name, Key=key) for key in keys_in(Bucket.named(clients, name))]
    return [{tag["Key"]: tag["Value"] for tag in each["TagSet"]} for each in found]


@pytest.mark.parametrize(("keep", "wanted"), [(False, UNKEPT), (True, {})], ids=["unkept", "kept"])
def test_an_image_is_tagged_as_unkept_by_every_way_in_and_a_kept_one_by_none(
    web: WebTier, provisioned: Clients, keep: bool, wanted: dict[str, str]
) -> None:
    ways: list[Callable[..., int]] = [by_api, by_api_with_a_key, by_page, straight_to_the_bucket]
    assert [way(web, keep=keep) for way in ways] == [200, 200, 303, 200]
    assert tags(web, provisioned) == [wanted] * len(ways)


def test_a_single_image_is_kept_by_nobody(web: WebTier, provisioned: Clients) -> None:
    assert requests.post(f"{web.url}/api/v1/classify?wait=0", files=FILE, timeout=120).status_code == 202
    assert requests.post(f"{web.url}/classify-image", files={"myfile": FILE["file"]}, timeout=120).status_code == 504
    assert tags(web, provisioned) == [UNKEPT] * 2


def test_a_form_can_neither_leave_out_the_tag_nor_say_another_nor_add_one(web: WebTier, provisioned: Clients) -> None:
    for keep in (False, True):
        offer = offered(web, keep=keep)
        fields = offer["uploads"][0]["upload"]["fields"]
        assert send(offer, {name: value for name, value in fields.items() if name != "tagging"}) == 403
        assert send(offer, {**fields, "tagging": fields["tagging"].replace("no", "yes")}) == 403
    assert tags(web, provisioned) == []
