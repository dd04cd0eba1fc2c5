"""Presigned POST forms over the wire: what S3 would refuse is refused, in its words, and changes nothing."""

import re
from itertools import count
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

from localcloud.launch import REGION
from tests.integration.localcloud.conftest import Clients

pytestmark = pytest.mark.processes

_names = count()


@pytest.fixture
def bucket(apis: Clients) -> str:
    name = f"posted-{next(_names)}"
    apis("s3").create_bucket(Bucket=name)
    return name


def presigned(
    apis: Clients,
    bucket: str,
    key: str = "a/b.png",
    *,
    seconds: int = 60,
    also: dict[str, str] | None = None,
    **keys: str,
) -> dict[str, Any]:
    """Return a form for a PNG of 2 to 5 bytes; `also` are more of its fields."""
    signer: Any = keys
    signing = boto3.client(
        "s3",
        endpoint_url=apis("s3").meta.endpoint_url,
        region_name=REGION,
        config=Config(signature_version="s3v4"),
        **signer,
    )
    fixed = {"Content-Type": "image/png", "Content-Disposition": "attachment", **(also or {})}
    conditions = [{name: value} for name, value in fixed.items()]
    form: dict[str, Any] = signing.generate_presigned_post(
        bucket,
        key,
        Fields=fixed,
        Conditions=[*conditions, ["content-length-range", 2, 5]],
        ExpiresIn=seconds,
    )
    return form


def send(form: dict[str, Any], content: bytes = b"1234", **changes: str | None) -> requests.Response:
    fields = {name: value for name, value in {**form["fields"], **changes}.items() if value is not None}
    return requests.post(form["url"], data=fields, files={"file": ("mine.png", content)}, timeout=120)


def refusal(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/xml"
    code = re.search("<Code>(.*)</Code>", answer.text)
    return answer.status_code, code[1] if code else ""


def test_a_form_puts_its_file_with_its_type_and_everybody_sees_it(apis: Clients, bucket: str) -> None:
    answer = send(presigned(apis, bucket))
    assert (answer.status_code, answer.content) == (204, b"")
    stored = apis("s3").get_object(Bucket=bucket, Key="a/b.png")
    assert (stored["Body"].read(), stored["ContentType"], stored["ETag"]) == (
        b"1234", "image/png", answer.headers["ETag"],
    )  # fmt: skip
    assert stored["ContentDisposition"] == "attachment"


def test_a_form_that_is_sent_twice_puts_the_last_file(apis: Clients, bucket: str) -> None:
    form = presigned(apis, bucket)
    assert [send(form, content).status_code for content in (b"first", b"last")] == [204, 204]
    assert apis("s3").get_object(Bucket=bucket, Key="a/b.png")["Body"].read() == b"last"


TAGGING = "<Tagging><TagSet><Tag><Key>{}</Key><Value>{}</Value></Tag></TagSet></Tagging>"


def tags_in(apis: Clients, bucket: str) -> dict[str, str]:
    found = apis("s3").get_object_tagging(Bucket=bucket, Key="a/b.png")["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def test_a_form_gives_its_file_the_tags_of_its_policy_and_no_others(apis: Clients, bucket: str) -> None:
    form = presigned(apis, bucket, also={"tagging": TAGGING.format("kept", "no")})
    assert refusal(send(form, tagging=None)) == (403, "AccessDenied")
    assert refusal(send(form, tagging=TAGGING.format("kept", "yes"))) == (403, "AccessDenied")
    assert "Contents" not in apis("s3").list_objects_v2(Bucket=bucket)
    assert send(form).status_code == 204
    assert tags_in(apis, bucket) == {"kept": "no"}
    untagged = presigned(apis, bucket)
    assert refusal(send(untagged, tagging=TAGGING.format("kept", "no"))) == (403, "AccessDenied")
    assert send(untagged).status_code == 204
    assert tags_in(apis, bucket) == {}


def test_a_form_whose_tags_cannot_be_puts_nothing(apis: Clients, bucket: str) -> None:
    assert refusal(send(presigned(apis, bucket, also={"tagging": "kept=no"}))) == (400, "MalformedXML")
    assert "Contents" not in apis("s3").list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize(
    ("content", "changes", "refused"),
    [
        (b"1234", {"key": "a/c.png"}, (403, "AccessDenied")),
        (b"1234", {"key": None}, (400, "InvalidArgument")),
        (b"1234", {"Content-Type": "text/html"}, (403, "AccessDenied")),
        (b"1234", {"Content-Type": None}, (403, "AccessDenied")),
        (b"1234", {"Content-Disposition": "inline"}, (403, "AccessDenied")),
        (b"123456", {}, (400, "EntityTooLarge")),
        (b"1", {}, (400, "EntityTooSmall")),
        (b"1234", {"acl": "public-read"}, (403, "AccessDenied")),
        (b"1234", {"policy": None}, (403, "AccessDenied")),
        (b"1234", {"x-amz-signature": "0" * 64}, (403, "SignatureDoesNotMatch")),
    ],
)
def test_a_form_that_was_changed_is_refused_and_puts_nothing(
    apis: Clients, bucket: str, content: bytes, changes: dict[str, str | None], refused: tuple[int, str]
) -> None:
    assert refusal(send(presigned(apis, bucket), content, **changes)) == refused
    assert "Contents" not in apis("s3").list_objects_v2(Bucket=bucket)


def test_a_form_that_has_expired_is_refused(apis: Clients, bucket: str) -> None:
    assert refusal(send(presigned(apis, bucket, seconds=-1))) == (403, "AccessDenied")


def test_a_form_does_not_hold_for_another_bucket(apis: Clients, bucket: str) -> None:
    apis("s3").create_bucket(Bucket=f"{bucket}-other")
    form = presigned(apis, bucket)
    assert refusal(send({**form, "url": f"{form['url']}-other"})) == (403, "AccessDenied")


def test_a_bucket_that_is_not_there_is_said(apis: Clients) -> None:
    assert refusal(send(presigned(apis, "never-made"))) == (404, "NoSuchBucket")


def test_fields_behind_the_file_do_not_count(apis: Clients, bucket: str) -> None:
    form = presigned(apis, bucket)
    fields = [(name, (None, value)) for name, value in form["fields"].items()]
    parts: Any = [("file", ("mine.png", b"1234")), *fields]
    assert refusal(requests.post(form["url"], files=parts, timeout=120)) == (400, "InvalidArgument")
    assert requests.post(form["url"], files=[*parts[1:], parts[0]], timeout=120).status_code == 204


def test_a_form_without_a_file_is_refused(apis: Clients, bucket: str) -> None:
    form = presigned(apis, bucket)
    fields = {name: (None, value) for name, value in form["fields"].items()}
    assert refusal(requests.post(form["url"], files=fields, timeout=120)) == (400, "InvalidArgument")


def test_a_form_is_signed_by_a_user_or_a_role_that_the_cloud_knows_and_by_nobody_else(
    apis: Clients, bucket: str
) -> None:
    role = apis("sts").assume_role(RoleArn="arn:aws:iam::123456789012:role/web", RoleSessionName="web")["Credentials"]
    keys = {
        "aws_access_key_id": role["AccessKeyId"],
        "aws_secret_access_key": role["SecretAccessKey"],
        "aws_session_token": role["SessionToken"],
    }
    assert send(presigned(apis, bucket, **keys)).status_code == 204
    assert refusal(send(presigned(apis, bucket, **keys | {"aws_secret_access_key": "guessed"})))[0] == 403
    assert refusal(send(presigned(apis, bucket, aws_access_key_id="AKIAOTHER", aws_secret_access_key="guessed"))) == (
        403,
        "InvalidAccessKeyId",
    )


@pytest.mark.parametrize(("asked", "status"), [("200", 200), ("201", 201), ("204", 204), ("302", 204)])
def test_the_status_of_success_is_as_asked_for(apis: Clients, bucket: str, asked: str, status: int) -> None:
    form = presigned(apis, bucket, "k", also={"success_action_status": asked})
    answer = send(form)
    assert answer.status_code == status
    assert ("<Key>k</Key>" in answer.text) == (status == 201)


def test_what_is_not_implemented_is_said(apis: Clients, bucket: str) -> None:
    form = presigned(apis, bucket, "${filename}")
    assert refusal(send(form)) == (501, "NotImplemented")


def test_a_batch_delete_and_a_get_of_the_bucket_are_still_answered(apis: Clients, bucket: str) -> None:
    send(presigned(apis, bucket))
    apis("s3").delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/b.png"}]})
    with pytest.raises(ClientError, match="NoSuchKey"):
        apis("s3").get_object(Bucket=bucket, Key="a/b.png")
