"""The instance metadata service, version 2, on loopback."""

from collections.abc import Iterator

import pytest

from services.errors import MetadataError
from services.metadata import Metadata
from tests.support.metadata_service import INSTANCE_ID, SPOT_ACTION, SPOT_NOTICE, MetadataService

pytestmark = pytest.mark.processes


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with MetadataService.serve() as started:
        started.answers["placement/region"] = [(200, "eu-west-1")]
        yield started


def metadata(service: MetadataService, clock: list[float]) -> Metadata:
    return Metadata(service.url, clock=lambda: clock[0])


def test_identity_is_read_with_one_token_that_is_renewed_when_it_ages(service: MetadataService) -> None:
    clock = [0.0]
    client = metadata(service, clock)
    assert (client.instance_id(), client.region()) == (INSTANCE_ID, "eu-west-1")
    assert service.tokens == 1
    clock[0] = 20_000
    assert client.instance_id() == INSTANCE_ID
    assert service.tokens == 2


def test_there_is_no_spot_notice_until_there_is_one(service: MetadataService) -> None:
    client = metadata(service, [0.0])
    assert client.spot_action() is None
    service.answers[SPOT_ACTION] = [(200, SPOT_NOTICE)]
    assert client.spot_action() == "terminate"


@pytest.mark.parametrize("notice", ["", "soon", "[]", "{}"])
def test_a_spot_notice_that_cannot_be_read_is_told(service: MetadataService, notice: str) -> None:
    service.answers[SPOT_ACTION] = [(200, notice)]
    with pytest.raises(MetadataError, match="has no action"):
        metadata(service, [0.0]).spot_action()


def test_what_is_missing_is_named(service: MetadataService) -> None:
    del service.answers["placement/region"]
    with pytest.raises(MetadataError, match="has no meta-data/placement/region"):
        metadata(service, [0.0]).region()


def test_a_service_that_refuses_is_told(service: MetadataService) -> None:
    service.token_status = 403
    with pytest.raises(MetadataError, match="answered 403"):
        metadata(service, [0.0]).instance_id()


def test_a_machine_that_is_no_instance_is_told_so() -> None:
    with pytest.raises(MetadataError, match="this is no EC2 instance"):
        Metadata("http://127.0.0.1:9", timeout_seconds=0.5).instance_id()


def test_the_address_is_that_which_boto3_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1234/")
    assert Metadata().endpoint == "http://127.0.0.1:1234"
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    assert Metadata().endpoint == "http://169.254.169.254"
