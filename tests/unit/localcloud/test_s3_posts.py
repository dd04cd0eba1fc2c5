"""POST Object: forms, signatures, policies and tags are checked as S3 checks them."""

import base64
import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.access_keys import owner_key
from localcloud.s3.posts import (
    MAX_FIELD_BYTES,
    MAX_FORM_BYTES,
    MAX_TAGS,
    Form,
    PostObjects,
    RefusedError,
    check_policy,
    plain_tag,
    signer_of,
    tags_of_form,
)
from services.clients import Clients
from services.endpoint import Endpoint
from services.s3 import Forms

FORM = "multipart/form-data; boundary=b"


def part(name: str, content: str) -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{content}\r\n'


KEY, FILE, END = part("key", "k"), part("file", "x"), "--b--\r\n"


def post_form(body: str, path: str = "/photos", **environ: str | None) -> tuple[str, str]:
    """Return the status of the answer, and S3's code in it; `passed on` where another one answered."""
    begun: list[str] = []
    request: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "CONTENT_TYPE": FORM,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body.encode()),
        **environ,
    }
    given = {name: value for name, value in request.items() if value is not None}
    application = PostObjects(lambda environ, start_response: [b"<Code>passed on</Code>"])
    answer = b"".join(application(given, lambda status, headers: begun.append(status))).decode()
    code = re.search("<Code>(.*)</Code>", answer)
    return (begun[0] if begun else "", code[1] if code else "")


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/photos", {"REQUEST_METHOD": "PUT"}),
        ("/photos/key", {}),
        ("/", {}),
        ("/photos", {"CONTENT_TYPE": "application/xml"}),
        ("/photos", {"CONTENT_TYPE": None}),
    ],
)
def test_other_requests_pass_the_form_handler(path: str, changes: dict[str, str | None]) -> None:
    assert post_form(KEY + FILE + END, path, **changes) == ("", "passed on")


@pytest.mark.parametrize(
    ("body", "changes", "code"),
    [
        (KEY + FILE + END, {"CONTENT_LENGTH": None}, "MissingContentLength"),
        (KEY + FILE + END, {"CONTENT_LENGTH": "9999"}, "IncompleteBody"),
        (KEY + FILE + END, {"CONTENT_LENGTH": str(MAX_FORM_BYTES + 1)}, "EntityTooLarge"),
        ("no form", {}, "MalformedPOSTRequest"),
        (KEY, {}, "MalformedPOSTRequest"),
        (KEY + END, {}, "InvalidArgument"),
        (FILE + END, {}, "InvalidArgument"),
        (KEY + KEY + FILE + END, {}, "InvalidArgument"),
        (KEY + part("policy", "p" * (MAX_FIELD_BYTES + 1)) + FILE + END, {}, "InvalidArgument"),
        (part("KEY", "k") + part("policy", "e30=") + FILE + END, {}, "InvalidArgument"),
    ],
)
def test_incomplete_form_is_a_bad_request(body: str, changes: dict[str, Any], code: str) -> None:
    assert post_form(body, **changes) == ("400 Bad Request", code)


def test_complete_form_without_signature_is_denied() -> None:
    assert post_form(KEY + FILE + END) == post_form(KEY + FILE + END, "/photos/") == ("403 Forbidden", "AccessDenied")


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRETS = {owner_key().id: owner_key().secret}


def with_policy(conditions: Any, fields: Mapping[str, str], size: int = 5, expiration: Any = None) -> Form:
    document = {"expiration": expiration or (NOW + timedelta(seconds=1)).isoformat(), "conditions": conditions}
    policy = base64.b64encode(json.dumps(document).encode()).decode()
    return Form("photos", {**fields, "policy": policy}, size)


def rejection_of(form: Form, now: datetime = NOW) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        check_policy(form, now)
    return refused.value


@cache
def signed() -> dict[str, str]:
    """Return the fields of a form that botocore signed."""
    forms = Forms.of(Clients(Endpoint("eu-central-1")), "photos")
    fields = forms.form("a", "image/png", max_bytes=5, seconds=60).fields
    return {name.lower(): value for name, value in fields.items()}


def test_the_signature_of_botocore_is_that_of_the_key_and_its_region() -> None:
    signer = signer_of(Form("photos", signed(), 5), SECRETS.get)
    assert (signer.access_key, signer.region) == (owner_key().id, "eu-central-1")


@given(at=st.integers(0), to=st.sampled_from("ABCabc012+/"))
def test_a_policy_that_was_touched_is_not_signed(at: int, to: str) -> None:
    fields = signed()
    policy = fields["policy"]
    at %= len(policy)
    touched = policy[:at] + to + policy[at + 1 :]
    form = Form("photos", {**fields, "policy": touched}, 5)
    if touched != policy:
        with pytest.raises(RefusedError, match="signature") as refused:
            signer_of(form, SECRETS.get)
        assert (refused.value.status, refused.value.code) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"policy": None}, 403, "AccessDenied"),
        ({"x-amz-signature": None}, 400, "InvalidArgument"),
        ({"x-amz-date": None}, 400, "InvalidArgument"),
        ({"x-amz-signature": "é"}, 403, "SignatureDoesNotMatch"),
        ({"x-amz-algorithm": "AWS4-HMAC-SHA1"}, 400, "InvalidArgument"),
        ({"x-amz-credential": "embedded"}, 400, "InvalidArgument"),
        ({"x-amz-credential": "nobody/20260301/us-east-1/s3/aws4_request"}, 403, "InvalidAccessKeyId"),
        ({"x-amz-credential": "OWNER/20260301/us-east-1/s3/aws4_request"}, 403, "SignatureDoesNotMatch"),
    ],
)
def test_form_without_signature_is_rejected(changes: dict[str, str | None], status: int, code: str) -> None:
    changed = {**signed(), **changes}.items()
    fields = {name: value.replace("OWNER", owner_key().id) for name, value in changed if value is not None}
    with pytest.raises(RefusedError) as refused:
        signer_of(Form("photos", fields, 5), SECRETS.get)
    assert (refused.value.status, refused.value.code) == (status, code)


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        ([{"key": "a"}], {"key": "a"}),
        ([["eq", "$key", "a"]], {"key": "a"}),
        ([["starts-with", "$key", "user/"]], {"key": "user/a"}),
        ([["starts-with", "$Content-Type", "image/"], {"bucket": "photos"}], {"content-type": "image/png"}),
        ([["content-length-range", 5, 5]], {}),
        ([], {"x-ignore-me": "whatever", "x-amz-signature": "0"}),
    ],
)
def test_form_is_accepted_if_all_conditions_hold(conditions: Any, fields: dict[str, str]) -> None:
    check_policy(with_policy(conditions, fields), NOW)


@pytest.mark.parametrize(
    ("conditions", "fields", "message"),
    [
        ([{"key": "a"}], {"key": "b"}, 'Policy Condition failed: ["eq", "$key", "a"]'),
        ([{"key": "a"}], {}, "Policy Condition failed"),
        ([["starts-with", "$key", "user/"]], {"key": "other/a"}, "Policy Condition failed"),
        ([{"bucket": "others"}], {}, "Policy Condition failed"),
        ([{"Content-Type": "image/png"}], {"content-type": "text/html"}, "Policy Condition failed"),
        ([{"key": "a"}], {"key": "a", "acl": "public-read"}, "Extra input fields: acl"),
        ([], {"key": "a"}, "Extra input fields: key"),
    ],
)
def test_form_is_denied_if_a_condition_fails_or_a_field_has_none(
    conditions: Any, fields: dict[str, str], message: str
) -> None:
    refused = rejection_of(with_policy(conditions, fields))
    assert (refused.status, refused.code) == (403, "AccessDenied")
    assert message in refused.message


@pytest.mark.parametrize(("size", "code"), [(4, "EntityTooSmall"), (5, None), (7, None), (8, "EntityTooLarge")])
def test_file_size_must_be_in_the_policys_range(size: int, code: str | None) -> None:
    form = with_policy([["content-length-range", 5, 7]], {}, size)
    if code is None:
        check_policy(form, NOW)
    else:
        refused = rejection_of(form)
        assert (refused.status, refused.code) == (400, code)


def test_a_policy_ends_at_its_moment() -> None:
    form = with_policy([], {}, expiration=NOW.isoformat())
    check_policy(form, NOW - timedelta(seconds=1))
    refused = rejection_of(form, NOW)
    assert (refused.status, refused.code) == (403, "AccessDenied")
    assert "expired" in refused.message


@pytest.mark.parametrize(
    ("conditions", "expiration"),
    [
        ([["content-length-range", "1", "2"]], None),
        ([["matches", "$key", "a"]], None),
        ([["eq", "key", "a"]], None),
        ([{"key": "a", "acl": "b"}], None),
        ("everything", None),
        ([], "tomorrow"),
        ([], 5),
    ],
)
def test_malformed_form_policy_denies(conditions: Any, expiration: Any) -> None:
    refused = rejection_of(with_policy(conditions, {}, expiration=expiration))
    assert (refused.status, refused.code) == (400, "InvalidPolicyDocument")


def test_form_policy_without_json_denies() -> None:
    assert rejection_of(Form("photos", {"policy": "!"}, 5)).code == "InvalidPolicyDocument"


def tagging_xml(*tags: tuple[str, str]) -> str:
    each = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags)
    return f"<Tagging><TagSet>{each}</TagSet></Tagging>"


@pytest.mark.parametrize("header", ["", "kept", "=no", "a=b&c=d", "a=%20", "a=b+c", "aws:a=b", "a" * 129 + "=b"])
def test_stock_moto_parses_headers_with_more_than_one_plain_tag(header: str) -> None:
    assert plain_tag(header) is None


def test_one_plain_tag_is_read() -> None:
    assert plain_tag("kept=no") == [{"Key": "kept", "Value": "no"}]


def test_the_tags_of_a_form_are_read_with_and_without_a_name_space() -> None:
    wanted = [{"Key": "kept", "Value": "no"}, {"Key": "a b", "Value": "ä+=./:@-_"}]
    plain = tagging_xml(("kept", "no"), ("a b", "ä+=./:@-_"))
    named = plain.replace("<Tagging>", '<Tagging xmlns="http://s3.amazonaws.com/doc/2006-03-01/">')
    assert tags_of_form(plain) == tags_of_form(named) == wanted
    assert tags_of_form(tagging_xml()) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("kept=no", "MalformedXML"),
        ("<Tagging/>", "MalformedXML"),
        ("<Tags><TagSet/></Tags>", "MalformedXML"),
        ("<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>", "MalformedXML"),
        (tagging_xml(("a", "1"), ("a", "2")), "InvalidTag"),
        (tagging_xml(("aws:a", "1")), "InvalidTag"),
        (tagging_xml(("a", "?")), "InvalidTag"),
        (tagging_xml(("a" * 129, "")), "InvalidTag"),
        (tagging_xml(("a", "b" * 257)), "InvalidTag"),
        (tagging_xml(*((str(n), "") for n in range(MAX_TAGS + 1))), "BadRequest"),
    ],
)
def test_invalid_object_tags_are_rejected(text: str, code: str) -> None:
    with pytest.raises(RefusedError) as refused:
        tags_of_form(text)
    assert (refused.value.status, refused.value.code) == (400, code)
