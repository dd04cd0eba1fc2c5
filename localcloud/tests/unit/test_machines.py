"""Machines: control groups, and a metadata service that answers as IMDSv2 does."""

from pathlib import Path
from typing import Any

import pytest

from localcloud.machines.machine import Machine, cgroup_folders, remove_cgroups
from localcloud.machines.metadata import (
    TOKEN_HEADER,
    TTL_HEADER,
    MetadataService,
    MetadataTokens,
    RefreshedCredentials,
)
from localcloud.tests.support.waiting import ManualClock


def hierarchy(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.procs").touch()
    return path


def test_the_groups_of_one_machine_are_removed_and_those_of_another_stay(tmp_path: Path) -> None:
    hierarchy(tmp_path / "systemd")
    (mine,) = cgroup_folders("i-1", tmp_path)
    (other,) = cgroup_folders("i-2", tmp_path)
    for group in (mine / "payload" / "system.slice" / "a.service", mine / "supervisor", other):
        group.mkdir(parents=True)
    remove_cgroups("i-1", tmp_path)
    assert not mine.exists()
    assert other.exists()


def test_a_group_that_a_process_does_not_leave_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    hierarchy(tmp_path / "systemd")
    (mine,) = cgroup_folders("i-1", tmp_path)
    (mine / "payload").mkdir(parents=True)
    (mine / "payload" / "stays").touch()
    remove_cgroups("i-1", tmp_path, wait_seconds=0.05)
    assert (mine / "payload" / "stays").exists()


def test_a_disk_is_removed_after_the_last_process_that_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "i-1")

    def last_words(_machine_id: str, **_: float) -> None:
        machine.disk.mkdir(parents=True, exist_ok=True)
        (machine.disk / "journal").touch()

    monkeypatch.setattr("localcloud.machines.machine.remove_cgroups", last_words)
    machine.discard()
    assert not machine.disk.exists()


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
