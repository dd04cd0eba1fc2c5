"""What web pages send to the local cloud, over the wire: finding S1 of the security review."""

from typing import Any

import pytest
import requests

from benchmarks.signed import signed
from localcloud.access_keys import owner_key
from localcloud.launch import LocalCloud
from tests.integration.localcloud.conftest import Clients
from tests.integration.localcloud.test_instances import launch
from tests.integration.localcloud.test_metadata import metadata_port_of
from tests.integration.localcloud.test_post_objects import presigned

pytestmark = pytest.mark.processes

EVIL, SITE = "https://evil.example", "https://site.example"
PAGES = [{"Origin": EVIL}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "rebound.evil.example"}]


@pytest.mark.parametrize("page", PAGES, ids=["origin", "fetch metadata", "another host"])
@pytest.mark.parametrize("service", ["s3", "sqs", "ec2", "dynamodb", "iam", "cognito-idp", "cloudformation"])
def test_s1_no_service_answers_a_page(apis: Clients, service: str, page: dict[str, str]) -> None:
    url = f"{apis('s3').meta.endpoint_url}/"
    for method in ("GET", "POST"):
        answer = requests.request(method, url, headers={**signed(service, method, url), **page}, timeout=120)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


def test_s1_a_preflight_allows_nothing(apis: Clients) -> None:
    asked = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = requests.options(apis("s3").meta.endpoint_url, headers=asked, timeout=120)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("page", [{}, *PAGES], ids=["no page", "origin", "fetch metadata", "another host"])
def test_s1_the_stock_reset_is_off(apis: Clients, page: dict[str, str]) -> None:
    apis("s3").create_bucket(Bucket="stays")
    url = f"{apis('s3').meta.endpoint_url}/moto-api/reset"
    assert requests.post(url, data="x", headers=page, timeout=120).status_code == 403
    apis("s3").head_bucket(Bucket="stays")


@pytest.mark.parametrize("page", PAGES, ids=["origin", "fetch metadata", "another host"])
@pytest.mark.parametrize("path", ["health", "mail", "instances", "switches", "calls"])
def test_s1_the_control_endpoint_answers_no_page(apis: Clients, path: str, page: dict[str, str]) -> None:
    url = f"{apis('s3').meta.endpoint_url}/_embedded/{path}"
    token = {"Authorization": owner_key().control_authorization}
    assert requests.get(url, headers=token, timeout=120).status_code == 200
    assert requests.get(url, headers={**token, **page}, timeout=120).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guessed"}], ids=["no token", "wrong token"])
def test_s1_the_control_endpoint_wants_its_token(apis: Clients, headers: dict[str, str]) -> None:
    for path in ("health", "mail", "instances", "switches", "calls"):
        url = f"{apis('s3').meta.endpoint_url}/_embedded/{path}"
        assert requests.get(url, headers=headers, timeout=120).status_code == 401


@pytest.mark.parametrize("page", PAGES, ids=["origin", "fetch metadata", "another host"])
def test_s1_a_metadata_service_answers_no_page(cloud: LocalCloud, clients: Clients, page: dict[str, str]) -> None:
    (instance_id,) = launch(clients("ec2"))
    url, lifetime = (
        f"http://127.0.0.1:{metadata_port_of(cloud, instance_id)}/latest",
        {"X-aws-ec2-metadata-token-ttl-seconds": "60"},
    )
    assert requests.put(f"{url}/api/token", headers={**lifetime, **page}, timeout=120).status_code == 403
    token = requests.put(f"{url}/api/token", headers=lifetime, timeout=120).text
    whole: dict[str, Any] = {"X-aws-ec2-metadata-token": token}
    assert requests.get(f"{url}/meta-data/instance-id", headers=whole, timeout=120).text == instance_id
    assert requests.get(f"{url}/meta-data/instance-id", headers={**whole, **page}, timeout=120).status_code == 403
    clients("ec2").terminate_instances(InstanceIds=[instance_id])


def test_s1_a_signed_form_passes_from_a_page_that_the_bucket_allows_and_from_no_other(apis: Clients) -> None:
    s3, bucket = apis("s3"), "cors"
    s3.create_bucket(Bucket=bucket)
    rule = {"AllowedMethods": ["POST"], "AllowedOrigins": [SITE], "AllowedHeaders": ["*"]}
    form = presigned(apis, bucket)

    def sent_by_a_page_of(origin: str) -> requests.Response:
        files = {"file": ("mine.png", b"1234")}
        return requests.post(form["url"], data=form["fields"], files=files, headers={"Origin": origin}, timeout=120)

    assert sent_by_a_page_of(SITE).status_code == 403
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    assert sent_by_a_page_of(EVIL).status_code == 403
    answer = sent_by_a_page_of(SITE)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, SITE)
    assert s3.get_object(Bucket=bucket, Key=form["fields"]["key"])["Body"].read() == b"1234"
