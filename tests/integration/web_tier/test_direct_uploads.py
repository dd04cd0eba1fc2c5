"""Direct uploads before the real web tier: a form that is used for anything else is refused, or harmless (row 41)."""

from typing import Any

import pytest
import requests

from core.config import Config
from core.jobs import JobStore
from services.clients import Clients
from services.s3 import Bucket
from tests.conftest import keys_in
from tests.integration.web_tier.conftest import WebTier
from tests.support.pictures import picture

pytestmark = pytest.mark.processes

PICTURE = picture()


@pytest.fixture
def bucket(config: Config, provisioned: Clients) -> Bucket:
    return Bucket.named(provisioned, config.names.input_bucket)


def offer(web: WebTier, job_id: str, *names: str) -> dict[str, Any]:
    files = [{"name": name, "bytes": len(PICTURE), "content_type": "image/jpeg"} for name in names]
    answer = requests.post(f"{web.url}/api/v1/jobs/{job_id}/uploads", json={"files": files}, timeout=120)
    assert answer.status_code == 200, answer.text
    offered: dict[str, Any] = answer.json()
    return offered


def send(form: dict[str, Any], content: bytes = PICTURE, changes: dict[str, str] | None = None) -> requests.Response:
    return requests.post(
        form["url"], data={**form["fields"], **(changes or {})}, files={"file": content}, timeout=120
    )


def commit(web: WebTier, offered: dict[str, Any]) -> list[str]:
    """Commit; return the ids of the accepted images."""
    answer = requests.post(f"{web.url}{offered['links']['commit']}", timeout=120)
    assert answer.status_code in {200, 422}, answer.text
    return [image["image_id"] for image in answer.json()["accepted"]]


def test_a_form_used_for_another_key_or_type_or_a_larger_file_is_refused(web_tier: WebTier, bucket: Bucket) -> None:
    job_id, victim_job = web_tier.create_job(), web_tier.create_job()
    offered, victim = offer(web_tier, job_id, "a.jpg"), offer(web_tier, victim_job, "b.jpg")
    form, other = offered["uploads"][0]["upload"], victim["uploads"][0]["upload"]
    assert send(form, PICTURE, {"key": other["fields"]["key"]}).status_code == 403
    assert send(form, PICTURE, {"Content-Type": "text/html"}).status_code == 403
    assert send(form, PICTURE + b"x").status_code == 400
    assert send(form, PICTURE, {"policy": other["fields"]["policy"]}).status_code == 403
    assert keys_in(bucket) == []
    assert commit(web_tier, offered) == commit(web_tier, victim) == []


def test_a_form_used_twice_puts_over_its_own_image_only(web_tier: WebTier, bucket: Bucket, store: JobStore) -> None:
    offered = offer(web_tier, web_tier.create_job(), "a.jpg", "b.jpg")
    forms = [each["upload"] for each in offered["uploads"]]
    second = picture(shade=9)[: len(PICTURE)]
    assert [send(forms[0]).status_code, send(forms[1]).status_code] == [204, 204]
    first = commit(web_tier, offered)
    assert send(forms[0], second).status_code == 204
    assert commit(web_tier, offered) == first
    assert store.status(offered["job_id"]).accepted == store.count_images(offered["job_id"]) == 2
    assert bucket.get(forms[1]["fields"]["key"]) == PICTURE


def test_a_commit_through_any_process_finds_what_another_one_offered(web_tier: WebTier, store: JobStore) -> None:
    job_id = web_tier.create_job()
    offers = [offer(web_tier, job_id, f"{number}.jpg") for number in range(8)]
    for offered in offers:
        send(offered["uploads"][0]["upload"])
        assert [commit(web_tier, offered) for _ in range(3)] == [[offered["uploads"][0]["image_id"]]] * 3
    assert store.status(job_id).accepted == store.count_images(job_id) == 8
