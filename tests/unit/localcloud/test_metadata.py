"""An instance's metadata service answers as IMDSv2 does."""

import json
from typing import Any

import pytest

from localcloud.machines.metadata import (
    TOKEN_HEADER,
    TTL_HEADER,
    MetadataService,
    MetadataTokens,
    RefreshedCredentials,
)
from tests.support.clock import ManualClock

IDENTITY: dict[str, Any] = {
    "id": "i-1",
    "image_id": "ami-1",
    "instance_type": "t3.micro",
    "region": "eu-west-1",
    "availability_zone": "eu-west-1b",
    "account_id": "123456789012",
    "private_ip": "10.0.0.5",
    "architecture": "x86_64",
    "launch_time": "2026-01-01T00:00:00Z",
    "lifecycle": "on-demand",
    "user_data": "#!/bin/sh\n",
    "tags": {"Name": "app-tier", "fleet": "a"},
    "role": "worker",
    "spot_notice": None,
}


def service(clock: ManualClock | None = None, **identity: Any) -> MetadataService:
    return MetadataService(
        lambda: {**IDENTITY, **identity},
        lambda: {"AccessKeyId": "ASIA"},
        MetadataTokens(b"key", clock or ManualClock()),
    )


def read(metadata: MetadataService, path: str) -> tuple[int, str]:
    token = metadata.answer("PUT", "/latest/api/token", {TTL_HEADER: "60"}).body
    answer = metadata.answer("GET", path, {TOKEN_HEADER: token})
    return answer.status, answer.body


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("meta-data/instance-id", "i-1"),
        ("meta-data/ami-id", "ami-1"),
        ("meta-data/instance-type", "t3.micro"),
        ("meta-data/placement/region", "eu-west-1"),
        ("meta-data/placement/availability-zone", "eu-west-1b"),
        ("meta-data/tags/instance", "Name\nfleet"),
        ("meta-data/tags/instance/Name", "app-tier"),
        ("meta-data/iam/security-credentials/", "worker"),
        ("meta-data/iam/security-credentials/worker", '{"AccessKeyId": "ASIA"}'),
        ("user-data", "#!/bin/sh\n"),
    ],
)
def test_instance_reads_its_identity(path: str, expected: str) -> None:
    assert read(service(), f"/latest/{path}") == (200, expected)


@pytest.mark.parametrize("version", ["2009-04-04", "2021-03-23", "latest"])
def test_all_metadata_versions_have_the_same_documents(version: str) -> None:
    assert read(service(), f"/{version}/meta-data/instance-id") == (200, "i-1")
    assert version in read(service(), "/")[1].splitlines()


def test_a_version_that_never_was_is_404() -> None:
    assert read(service(), "/1999-01-01/meta-data/instance-id")[0] == 404


@pytest.mark.parametrize(
    ("folder", "inside"),
    [
        ("", {"dynamic/", "meta-data/", "user-data"}),
        ("dynamic/instance-identity", {"document"}),
        ("meta-data/iam/", {"security-credentials/"}),
        ("meta-data/placement/", {"availability-zone", "region"}),
        ("meta-data/tags/", {"instance/"}),
    ],
)
def test_folder_lists_its_content(folder: str, inside: set[str]) -> None:
    status, body = read(service(), f"/latest/{folder}")
    assert (status, set(body.splitlines())) == (200, inside)


@pytest.mark.parametrize("tags", [{}, {"Name": "app-tier"}, {"Name": ""}], ids=["no tag", "a tag", "an empty tag"])
def test_folder_lists_lead_to_every_document(tags: dict[str, str]) -> None:
    """As cloud-init does, which tries one that is missing again and again, for seconds, and then gives up."""
    metadata = service(tags=tags)

    def crawl(folder: str) -> list[str]:
        status, body = read(metadata, folder)
        assert status == 200, folder
        found = []
        for name in body.splitlines():
            found += crawl(folder + name) if name.endswith("/") else [folder + name]
        return found

    paths = [path for path in crawl("/latest/meta-data/") if "security-credentials" not in path]
    assert [read(metadata, path)[0] for path in paths] == [200] * len(paths)
    assert "/latest/meta-data/instance-id" in paths
    assert ("/latest/meta-data/tags/instance/Name" in paths) == bool(tags)


def test_the_identity_document_is_json_with_region_and_instance() -> None:
    _, body = read(service(), "/latest/dynamic/instance-identity/document")
    document = json.loads(body)
    assert (document["instanceId"], document["region"]) == ("i-1", "eu-west-1")


@pytest.mark.parametrize(
    "path",
    ["meta-data/tags/instance/none", "meta-data/spot/instance-action", "meta-data/iam/security-credentials/x"],
)
def test_missing_document_is_404(path: str) -> None:
    assert read(service(), f"/latest/{path}")[0] == 404


def test_metadata_without_user_data_has_no_document() -> None:
    assert read(service(user_data=""), "/latest/user-data")[0] == 404


def test_spot_notice_appears_in_the_metadata() -> None:
    notice = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}
    status, body = read(service(spot_notice=notice), "/latest/meta-data/spot/instance-action")
    assert (status, json.loads(body)) == (200, notice)


@pytest.mark.parametrize("token", ["", "nonsense", "99999999999.forged"])
def test_metadata_needs_a_valid_session_token(token: str) -> None:
    assert service().answer("GET", "/latest/meta-data/instance-id", {TOKEN_HEADER: token}).status == 401


def test_a_token_expires_after_its_time_to_live() -> None:
    clock = ManualClock()
    metadata = service(clock)
    token = metadata.answer("PUT", "/latest/api/token", {TTL_HEADER: "60"}).body
    clock.now += 59
    assert metadata.answer("GET", "/latest/meta-data/ami-id", {TOKEN_HEADER: token}).status == 200
    clock.now += 2
    assert metadata.answer("GET", "/latest/meta-data/ami-id", {TOKEN_HEADER: token}).status == 401


def test_a_token_outlives_the_service_that_issued_it() -> None:
    token = service().answer("PUT", "/latest/api/token", {TTL_HEADER: "60"}).body
    assert service().answer("GET", "/latest/meta-data/ami-id", {TOKEN_HEADER: token}).status == 200


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-5", "x"])
def test_a_time_to_live_out_of_range_is_refused(ttl: str) -> None:
    assert service().answer("PUT", "/latest/api/token", {TTL_HEADER: ttl}).status == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/latest/api/token"), ("PUT", "/latest/user-data")])
def test_other_methods_are_not_allowed(method: str, path: str) -> None:
    metadata = service()
    token = metadata.answer("PUT", "/latest/api/token", {TTL_HEADER: "60"}).body
    assert metadata.answer(method, path, {TOKEN_HEADER: token}).status == 405


def test_a_request_that_came_through_a_proxy_is_refused() -> None:
    headers = {TTL_HEADER: "60", "x-forwarded-for": "10.0.0.1"}
    assert service().answer("PUT", "/latest/api/token", headers).status == 403


def test_credentials_are_cached_and_refreshed_before_they_expire() -> None:
    clock, fetched = ManualClock(0.0), []

    def fetch() -> dict[str, str]:
        fetched.append(clock.now)
        return {"Expiration": "1970-01-01T06:00:00Z" if len(fetched) == 1 else "1970-01-01T12:00:00Z"}

    credentials = RefreshedCredentials(fetch, clock)
    credentials()
    credentials()
    assert len(fetched) == 1
    clock.now = 6 * 3600 - 600
    assert credentials()["Expiration"] == "1970-01-01T12:00:00Z"
    assert len(fetched) == 2
