"""A metadata service that answers as IMDSv2 does."""

from typing import Any

import pytest

from localcloud.machines.metadata import (
    TOKEN_HEADER,
    TTL_HEADER,
    MetadataService,
    MetadataTokens,
)
from localcloud.tests.support.waiting import ManualClock

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
        lambda what: {"AccessKeyId": "ASIA"} if what else {**IDENTITY, **identity},
        MetadataTokens(b"key", clock or ManualClock()),
    )


def read(metadata: MetadataService, path: str) -> tuple[int, str]:
    token = metadata.answer("PUT", "/latest/api/token", {TTL_HEADER: "60"}).body
    answer = metadata.answer("GET", path, {TOKEN_HEADER: token})
    return answer.status, answer.body


@pytest.mark.parametrize("version", ["2009-04-04", "latest"])
def test_all_metadata_versions_have_the_same_documents(version: str) -> None:
    assert read(service(), f"/{version}/meta-data/instance-id") == (200, "i-1")
    assert version in read(service(), "/")[1].splitlines()


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


@pytest.mark.parametrize(
    "path",
    [
        "latest/meta-data/tags/instance/none",
        "latest/meta-data/spot/instance-action",
        "latest/meta-data/iam/security-credentials/x",
        "latest/user-data",
        "1999-01-01/meta-data/instance-id",
    ],
)
def test_missing_document_is_404(path: str) -> None:
    assert read(service(user_data=""), f"/{path}")[0] == 404


@pytest.mark.parametrize("token", ["", "nonsense", "99999999999.forged"])
def test_metadata_needs_a_valid_session_token(token: str) -> None:
    assert service().answer("GET", "/latest/meta-data/instance-id", {TOKEN_HEADER: token}).status == 401


def test_a_token_outlives_the_service_that_issued_it_and_expires() -> None:
    clock = ManualClock()
    metadata = service(clock)
    token = metadata.answer("PUT", "/latest/api/token", {TTL_HEADER: "60"}).body
    clock.now += 59
    metadata = service(clock)  # another one, as after a restart
    assert metadata.answer("GET", "/latest/meta-data/ami-id", {TOKEN_HEADER: token}).status == 200
    clock.now += 2
    assert metadata.answer("GET", "/latest/meta-data/ami-id", {TOKEN_HEADER: token}).status == 401


@pytest.mark.parametrize("ttl", ["", "0", "21601"])
def test_a_time_to_live_out_of_range_is_refused(ttl: str) -> None:
    assert service().answer("PUT", "/latest/api/token", {TTL_HEADER: ttl}).status == 400


def test_a_request_that_came_through_a_proxy_is_refused() -> None:
    headers = {TTL_HEADER: "60", "x-forwarded-for": "10.0.0.1"}
    assert service().answer("PUT", "/latest/api/token", headers).status == 403
