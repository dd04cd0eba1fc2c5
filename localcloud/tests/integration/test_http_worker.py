"""The cloud's HTTP, byte by byte: what clients do to a connection, and what they get back on it."""

import http.client
import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from moto.s3.models import S3_UPLOAD_PART_MIN_SIZE

from localcloud.clients import ControlClient
from localcloud.tests.support.cloud_clients import CloudClients
from localcloud.tests.support.signed_requests import signed

pytestmark = pytest.mark.processes

_keys = count()


@pytest.fixture(scope="module")
def place(apis: CloudClients) -> tuple[str, int]:
    """Host and port of a cloud with one bucket, `wire`."""
    apis("s3").create_bucket(Bucket="wire")
    url = urlsplit(apis("s3").meta.endpoint_url)
    return str(url.hostname), int(url.port or 0)


@pytest.fixture
def connection(place: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(place, 10) as connected:
        yield connected


@pytest.fixture
def path() -> str:
    return f"/wire/key-{next(_keys)}"


def request(method: str, path: str, body: bytes = b"", *fields: str, service: str = "s3") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    headers = [f"{name}: {value}" for name, value in signed(service, method, f"http://127.0.0.1{path}", body).items()]
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, *length, *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer(connection: socket.socket, method: str = "GET") -> tuple[int, bytes]:
    reply = http.client.HTTPResponse(connection, method=method)
    reply.begin()
    return reply.status, reply.read()


def test_requests_that_come_in_one_piece_are_answered_in_turn(connection: socket.socket, path: str) -> None:
    connection.sendall(request("PUT", path, b"content") + request("GET", path) + request("HEAD", path))
    received = b""
    while received.count(b"HTTP/1.1 200") < 3:
        received += connection.recv(65536)
    assert received.index(b"content") > received.index(b"ETag")


def test_a_request_that_comes_byte_by_byte_is_one_request(connection: socket.socket, path: str) -> None:
    for byte in request("PUT", path, b"slow"):
        connection.sendall(bytes([byte]))
    assert answer(connection)[0] == 200
    connection.sendall(request("GET", path))
    assert answer(connection) == (200, b"slow")


def test_waiting_client_gets_100_continue(connection: socket.socket, path: str) -> None:
    whole = request("PUT", path, b"expected", "Expect: 100-continue")
    connection.sendall(whole.removesuffix(b"expected"))
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"expected")
    assert answer(connection)[0] == 200
    connection.sendall(request("GET", path))
    assert answer(connection) == (200, b"expected")


def test_a_chunked_body_is_read_whole(connection: socket.socket, path: str) -> None:
    chunked = request("PUT", path, b"", "Transfer-Encoding: chunked") + b"4\r\nfour\r\n2\r\n!!\r\n0\r\n\r\n"
    connection.sendall(chunked)
    assert answer(connection)[0] in {200, 411}  # moto's to decide; the connection stays in step
    connection.sendall(request("PUT", path, b"next"))
    assert answer(connection)[0] == 200


def test_an_object_of_parts_is_the_parts_in_their_order(
    connection: socket.socket, apis: CloudClients, path: str
) -> None:
    connection.sendall(request("POST", f"{path}?uploads"))
    status, begun = answer(connection)
    assert status == 200
    named = {"Bucket": "wire", "Key": path.rpartition("/")[2]}
    upload = {**named, "UploadId": begun.partition(b"<UploadId>")[2].partition(b"<")[0].decode()}
    parts = {1: b"a" * S3_UPLOAD_PART_MIN_SIZE, 3: b"b" * S3_UPLOAD_PART_MIN_SIZE, 4: b"last"}
    for number, part in reversed(parts.items()):
        apis("s3").upload_part(**upload, PartNumber=number, Body=part)
    stored = [{"PartNumber": 1, "ETag": "no part"}]
    with pytest.raises(ClientError, match="InvalidPart"):
        apis("s3").complete_multipart_upload(**upload, MultipartUpload={"Parts": stored})
    stored = [{name: part[name] for name in stored[0]} for part in apis("s3").list_parts(**upload)["Parts"]]
    with pytest.raises(ClientError, match="EntityTooSmall"):
        apis("s3").complete_multipart_upload(**upload, MultipartUpload={"Parts": stored[::-1]})
    apis("s3").complete_multipart_upload(**upload, MultipartUpload={"Parts": stored})
    for _ in range(2):
        connection.sendall(request("GET", path))
        assert answer(connection) == (200, b"".join(parts.values()))
    assert apis("s3").get_object(**named, Range="bytes=5242879-5242880")["Body"].read() == b"ab"


def test_connection_is_closed_on_request(connection: socket.socket, path: str) -> None:
    connection.sendall(request("PUT", path, b"last", "Connection: close"))
    assert answer(connection)[0] == 200
    assert connection.recv(1) == b""


@pytest.mark.parametrize("wrong", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nbad header\r\n\r\n"])
def test_invalid_http_is_rejected_and_the_server_continues(
    place: tuple[str, int], connection: socket.socket, wrong: bytes
) -> None:
    connection.sendall(wrong)
    assert b" 400 " in connection.recv(65536)
    with socket.create_connection(place, 10) as another:
        another.sendall(request("GET", "/wire"))
        assert answer(another)[0] == 200


def test_a_head_without_an_end_is_refused(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n")
    assert connection.recv(65536).split(b" ")[1] in {b"400", b"431"}


def test_an_error_inside_moto_is_answered_and_the_server_goes_on(place: tuple[str, int]) -> None:
    with socket.create_connection(place, 10) as failing:
        failing.sendall(request("PUT", "/wire?tagging", b"<a/>"))
        assert answer(failing)[0] == 500
    with socket.create_connection(place, 10) as another:
        another.sendall(request("GET", "/wire"))
        assert answer(another)[0] == 200


@pytest.mark.parametrize("size", [5_000, 3_000_000])
def test_partial_upload_stores_no_object(place: tuple[str, int], path: str, size: int) -> None:
    with socket.create_connection(place, 10) as leaving:
        leaving.sendall(request("PUT", path, b"x" * size)[:-100])
    with socket.create_connection(place, 10) as another:
        another.sendall(request("GET", path))
        assert answer(another)[0] == 404


def test_a_receive_that_waits_delays_no_other_call_and_is_counted_once(
    place: tuple[str, int], apis: CloudClients, path: str
) -> None:
    url = apis("sqs").create_queue(QueueName="waited-for")["QueueUrl"]
    fields = ("X-Amz-Target: AmazonSQS.ReceiveMessage", "Content-Type: application/x-amz-json-1.0")
    body = json.dumps({"QueueUrl": url, "WaitTimeSeconds": 20}).encode()
    before = received_calls(place)
    with ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(place, 60)) for _ in range(5)]
        for one in waiting:
            one.sendall(request("POST", "/", body, *fields, service="sqs"))
        other = stack.enter_context(socket.create_connection(place, 60))
        for method in ("PUT", "GET", "GET"):
            other.sendall(request(method, path, b"content" if method == "PUT" else b""))
            assert answer(other)[0] == 200
        assert select.select(waiting, [], [], 0)[0] == []
        for text in "abcde":
            apis("sqs").send_message(QueueUrl=url, MessageBody=text)
        found = [json.loads(answer(one)[1])["Messages"][0]["Body"] for one in waiting]
    assert sorted(found) == list("abcde")
    assert received_calls(place) - before == 5


def received_calls(place: tuple[str, int]) -> int:
    with closing(ControlClient("http://{}:{}".format(*place))) as control:
        return int(control.get("calls")["calls"].get("sqs ReceiveMessage", 0))


def test_more_connections_than_threads_are_all_served(place: tuple[str, int]) -> None:
    connections, sent = [socket.create_connection(place, 20) for _ in range(600)], request("GET", "/wire")
    try:
        for _ in range(2):
            for one in connections:
                one.sendall(sent)
            assert all(answer(one)[0] == 200 for one in connections)
    finally:
        for one in connections:
            one.close()
