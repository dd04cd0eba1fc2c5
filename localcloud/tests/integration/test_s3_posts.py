"""Presigned POST forms over the wire: S3 rejects invalid forms, and the cloud rejects all other requests of pages
(S1)."""

import re
from itertools import count
from typing import Any

import pytest
import requests

from localcloud.access_keys import owner_key
from localcloud.launch import LocalCloud
from localcloud.tests.support.cloud_clients import CloudClients, launch_instances, metadata_port_of, presigned_form
from localcloud.tests.support.signed_requests import signed

pytestmark = pytest.mark.processes


_names = count()


@pytest.fixture
def bucket(apis: CloudClients) -> str:
    name = f"posted-{next(_names)}"
    apis("s3").create_bucket(Bucket=name)
    return name


def send(form: dict[str, Any], content: bytes = b"1234", **changes: str | None) -> requests.Response:
    fields = {name: value for name, value in {**form["fields"], **changes}.items() if value is not None}
    return requests.post(form["url"], data=fields, files={"file": ("mine.png", content)}, timeout=120)


def refusal(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/xml"
    code = re.search("<Code>(.*)</Code>", answer.text)
    return answer.status_code, code[1] if code else ""


def test_form_puts_its_file_with_its_type_each_time_it_is_sent(apis: CloudClients, bucket: str) -> None:
    form = presigned_form(apis, bucket)
    assert send(form, b"first").status_code == 204
    answer = send(form)
    assert (answer.status_code, answer.content) == (204, b"")
    stored = apis("s3").get_object(Bucket=bucket, Key="a/b.png")
    assert (stored["Body"].read(), stored["ContentType"], stored["ETag"]) == (
        b"1234", "image/png", answer.headers["ETag"],
    )  # fmt: skip
    assert stored["ContentDisposition"] == "attachment"


TAGGING = "<Tagging><TagSet><Tag><Key>{}</Key><Value>{}</Value></Tag></TagSet></Tagging>"


def tags_in(apis: CloudClients, bucket: str) -> dict[str, str]:
    found = apis("s3").get_object_tagging(Bucket=bucket, Key="a/b.png")["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def test_a_form_gives_its_file_the_tags_of_its_policy_and_no_others(apis: CloudClients, bucket: str) -> None:
    form = presigned_form(apis, bucket, also={"tagging": TAGGING.format("kept", "no")})
    assert refusal(send(form, tagging=None)) == (403, "AccessDenied")
    assert refusal(send(form, tagging=TAGGING.format("kept", "yes"))) == (403, "AccessDenied")
    assert "Contents" not in apis("s3").list_objects_v2(Bucket=bucket)
    assert send(form).status_code == 204
    assert tags_in(apis, bucket) == {"kept": "no"}
    untagged = presigned_form(apis, bucket)
    assert refusal(send(untagged, tagging=TAGGING.format("kept", "no"))) == (403, "AccessDenied")
    assert send(untagged).status_code == 204
    assert tags_in(apis, bucket) == {}


def test_missing_bucket_is_rejected_with_its_error(apis: CloudClients) -> None:
    assert refusal(send(presigned_form(apis, "never-made"))) == (404, "NoSuchBucket")


def test_form_needs_the_signature_of_a_known_user_or_role(apis: CloudClients, bucket: str) -> None:
    role = apis("sts").assume_role(RoleArn="arn:aws:iam::123456789012:role/web", RoleSessionName="web")["Credentials"]
    keys = {
        "aws_access_key_id": role["AccessKeyId"],
        "aws_secret_access_key": role["SecretAccessKey"],
        "aws_session_token": role["SessionToken"],
    }
    assert send(presigned_form(apis, bucket, **keys)).status_code == 204
    assert refusal(send(presigned_form(apis, bucket, **keys | {"aws_secret_access_key": "guessed"})))[0] == 403
    assert refusal(
        send(presigned_form(apis, bucket, aws_access_key_id="AKIAOTHER", aws_secret_access_key="guessed"))
    ) == (
        403,
        "InvalidAccessKeyId",
    )


def test_unimplemented_field_is_answered_with_501(apis: CloudClients, bucket: str) -> None:
    form = presigned_form(apis, bucket, also={"acl": "private"})
    assert refusal(send(form)) == (501, "NotImplemented")


EVIL, SITE = "https://evil.example", "https://site.example"
PAGES = [{"Origin": EVIL}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "rebound.evil.example"}]


@pytest.mark.parametrize("page", PAGES, ids=["origin", "fetch metadata", "another host"])
@pytest.mark.parametrize("service", ["s3", "sqs", "ec2", "dynamodb", "iam", "cognito-idp", "cloudformation"])
def test_s1_no_service_answers_a_page(apis: CloudClients, service: str, page: dict[str, str]) -> None:
    url = f"{apis('s3').meta.endpoint_url}/"
    for method in ("GET", "POST"):
        answer = requests.request(method, url, headers={**signed(service, method, url), **page}, timeout=120)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("page", PAGES, ids=["origin", "fetch metadata", "another host"])
@pytest.mark.parametrize("path", ["health", "instances", "switches", "calls"])
def test_s1_the_control_endpoint_answers_no_page(apis: CloudClients, path: str, page: dict[str, str]) -> None:
    url = f"{apis('s3').meta.endpoint_url}/_embedded/{path}"
    token = {"Authorization": owner_key().control_authorization}
    assert requests.get(url, headers=token, timeout=120).status_code == 200
    assert requests.get(url, headers={**token, **page}, timeout=120).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guessed"}], ids=["no token", "wrong token"])
def test_s1_the_control_endpoint_wants_its_token(apis: CloudClients, headers: dict[str, str]) -> None:
    for path in ("health", "instances", "switches", "calls"):
        url = f"{apis('s3').meta.endpoint_url}/_embedded/{path}"
        assert requests.get(url, headers=headers, timeout=120).status_code == 401


@pytest.mark.parametrize("page", PAGES, ids=["origin", "fetch metadata", "another host"])
def test_s1_a_metadata_service_answers_no_page(
    cloud: LocalCloud, clients: CloudClients, page: dict[str, str]
) -> None:
    (instance_id,) = launch_instances(clients("ec2"))
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


def test_s1_a_signed_form_is_accepted_only_from_an_origin_that_the_bucket_allows(apis: CloudClients) -> None:
    s3, bucket = apis("s3"), "cors"
    s3.create_bucket(Bucket=bucket)
    rule = {"AllowedMethods": ["POST"], "AllowedOrigins": [SITE], "AllowedHeaders": ["*"]}
    form = presigned_form(apis, bucket)

    def sent_by_a_page_of(origin: str) -> requests.Response:
        files = {"file": ("mine.png", b"1234")}
        return requests.post(form["url"], data=form["fields"], files=files, headers={"Origin": origin}, timeout=120)

    assert sent_by_a_page_of(SITE).status_code == 403
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    assert sent_by_a_page_of(EVIL).status_code == 403
    answer = sent_by_a_page_of(SITE)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, SITE)
    assert s3.get_object(Bucket=bucket, Key=form["fields"]["key"])["Body"].read() == b"1234"
