"""Calls of the JSON protocol beside botocore's own: the same results, errors and signatures, and no call lost."""

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EndpointConnectionError, SSLError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from services.clients import Clients, new_session
from services.clock import Clock
from services.endpoint import Endpoint
from services.json_calls import authorization
from tests.support.servers import ScriptedAnswer, ScriptedServer, serving

BODY = {"Messages": [{"MessageId": "1", "Body": "é"}]}


@pytest.fixture
def service() -> Iterator[ScriptedServer]:
    server = ScriptedServer((200, json.dumps(BODY)))
    with serving(server):
        yield server


def sqs(service: ScriptedServer, attempts: int = 2, token: str | None = None, scheme: str = "http") -> Any:
    session = new_session()
    session.set_credentials("AKIAEXAMPLE", "secret", token)
    url = f"{scheme}://127.0.0.1:{service.server_port}"
    return Clients(Endpoint("eu-west-1", url, attempts, connect_timeout=5), session).sqs


def receive(client: Any) -> Any:
    return client.receive_message(QueueUrl="http://queue", MaxNumberOfMessages=10)


def test_a_result_is_that_of_botocore_and_its_calls_share_a_connection(service: ScriptedServer) -> None:
    client, own = sqs(service), sqs(service, attempts=1)  # all calls of the second one are botocore's
    for _ in range(3):
        found, expected = receive(client), receive(own)
        assert found.pop("ResponseMetadata")["HTTPStatusCode"] == 200
        expected.pop("ResponseMetadata")
        assert found == expected == BODY
    requests = [(path, body) for _, path, _, body in service.received]
    assert requests == [requests[0]] * 6
    assert len(service.connections) == 2


@pytest.mark.parametrize("attempts", [1, 2], ids=["botocore's call", "own call"])
def test_the_date_of_each_reply_confirms_the_clock(
    service: ScriptedServer, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for module in ("clock", "json_calls"):
        monkeypatch.setattr(f"services.{module}.CLOCK", clock)
    service.date = "Wed, 01 Jan 2098 00:00:00 GMT"
    receive(sqs(service, attempts))
    assert clock.utc_now().year == 2098


@given(st.binary(max_size=200), st.none() | st.text("abcdef/+=", min_size=1), st.sampled_from(["sqs", "dynamodb"]))
def test_the_signature_is_that_of_botocore(body: bytes, token: str | None, name: str) -> None:
    request = AWSRequest("POST", "http://127.0.0.1:4566/", data=body)
    fields = {"content-type": "application/x-amz-json-1.0", "host": "127.0.0.1:4566", "x-amz-target": "Service.Call"}
    for field, value in fields.items():
        request.headers[field] = value
    SigV4Auth(Credentials("AKIAEXAMPLE", "secret", token), name, "eu-west-1").add_auth(request)
    fields |= {"x-amz-date": request.context["timestamp"]} | ({"x-amz-security-token": token} if token else {})
    found = authorization(dict(sorted(fields.items())), body, ("AKIAEXAMPLE", "secret"), ("eu-west-1", name))
    assert found == request.headers["Authorization"]


def test_a_session_token_is_sent_and_signed(service: ScriptedServer) -> None:
    receive(sqs(service, token="session"))
    [(_, _, fields, _)] = service.received
    assert fields["x-amz-security-token"] == "session"
    assert "x-amz-security-token" in fields["authorization"]


def test_an_error_is_that_of_botocore_and_counts_both_attempts(service: ScriptedServer) -> None:
    service.default = (400, json.dumps({"__type": "com.amazonaws.sqs#OverLimit", "message": "too many"}))
    with pytest.raises(ClientError) as raised:
        receive(sqs(service))
    assert raised.value.response["Error"]["Code"] == "OverLimit"
    assert raised.value.response["ResponseMetadata"]["RetryAttempts"] == 1
    assert len(service.received) == 2


@pytest.mark.parametrize("first", [(503, "{}"), ("cut", json.dumps(BODY)), (200, "[1]")])
def test_a_call_whose_reply_is_lost_is_made_again(service: ScriptedServer, first: ScriptedAnswer) -> None:
    service.answers = [first]
    found = receive(sqs(service))
    assert found["Messages"] == BODY["Messages"]
    assert found["ResponseMetadata"]["RetryAttempts"] == 1
    assert len(service.received) == 2


def test_a_client_with_one_attempt_sends_a_call_once(service: ScriptedServer) -> None:
    service.answers = [(503, "{}")]
    with pytest.raises(ClientError):
        receive(sqs(service, attempts=1))
    assert len(service.received) == 1


def test_a_connection_that_the_service_has_closed_is_not_used(service: ScriptedServer) -> None:
    service.answers = [("last", json.dumps(BODY))]
    client = sqs(service)
    receive(client)
    assert service.closed.wait(60)
    assert receive(client)["ResponseMetadata"]["RetryAttempts"] == 0
    assert (len(service.received), len(service.connections)) == (2, 2)


def test_an_absent_service_is_reported_by_botocore(service: ScriptedServer) -> None:
    service.server_close()
    with pytest.raises(EndpointConnectionError):
        receive(sqs(service))


def speak_tls(service: ScriptedServer, folder: Path) -> Path:
    """Let the service speak TLS; return the file of its certificate."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    authority = x509.BasicConstraints(ca=True, path_length=None)
    builder = (
        builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).add_extension(address, critical=False)
    )
    signed = builder.add_extension(authority, critical=True).sign(key, SHA256())
    certificate, both = folder / "certificate.pem", folder / "both.pem"
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    both.write_bytes(certificate.read_bytes() + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    service.socket = context.wrap_socket(service.socket, server_side=True, do_handshake_on_connect=False)
    return certificate


def test_a_service_with_tls_needs_a_trusted_certificate(
    service: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = speak_tls(service, tmp_path)
    with pytest.raises(SSLError):
        receive(sqs(service, scheme="https"))
    assert service.received == []
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    client = sqs(service, scheme="https")
    assert [receive(client)["Messages"] for _ in range(2)] == [BODY["Messages"]] * 2
    assert (len(service.received), len(service.connections)) == (2, 1)
