import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from benchmarks.relay import Relay

DELAYS = {"s3": 0.02, "sqs": 0.01}
TIMEOUT = 10.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def signed(service: str) -> bytes:
    scope = f"embedded/20260101/us-east-1/{service}/aws4_request"
    return f"Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0\r\n".encode()


def get(service: str, method: bytes = b"GET") -> bytes:
    return method + b" /bucket/key HTTP/1.1\r\nHost: here\r\n" + signed(service) + b"\r\n"


async def everything_else() -> None:
    """Wait until every other task has ended; an error in one of them is one here."""
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


@dataclass
class FakeSleep:
    """Waits for no time, but says for how long it was asked to."""

    asked: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


@dataclass
class Service:
    """A server that keeps what it got and gives prepared answers, each once `request_ends` is in what it got."""

    answers: list[tuple[bytes, bytes]]
    got: bytes = b""
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for request_ends, answer in self.answers:
            seen = b""
            while request_ends not in seen:
                seen += (piece := await reader.read(65536))
                if not piece:
                    break
            self.got += seen
            writer.write(answer)
            await writer.drain()
        if self.answers[-1][1].endswith(b"until the end"):
            writer.close()
        self.got += await reader.read()
        writer.close()


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def through(service: Service, talk: Talk, sleep: FakeSleep | None = None) -> tuple[Relay, FakeSleep]:
    """Let a client `talk` to `service` through a relay, over real sockets."""
    sleep = sleep or FakeSleep()

    async def scene() -> Relay:
        far = await asyncio.start_server(service.serve, "127.0.0.1", 0)
        relay = Relay("127.0.0.1", far.sockets[0].getsockname()[1], DELAYS, sleep)
        near = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        async with far, near:
            reader, writer = await asyncio.open_connection("127.0.0.1", near.sockets[0].getsockname()[1])
            async with asyncio.timeout(TIMEOUT):
                await talk(reader, writer)
            writer.close()
            await everything_else()
        return relay

    return asyncio.run(scene()), sleep


def saying(request: bytes, answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request)
        assert await reader.readexactly(len(answer)) == answer

    return talk


@pytest.mark.parametrize(("service", "delays"), [("s3", [0.02]), ("sqs", [0.01]), ("dynamodb", [])])
def test_a_request_waits_once_and_as_long_as_its_service_is_away(service: str, delays: list[float]) -> None:
    relay, sleep = through(Service([(b"\r\n\r\n", OK)]), saying(get(service), OK))
    assert sleep.asked == delays
    assert relay.calls == ({service: 1} if delays else {})


def test_header_names_may_be_written_in_any_case() -> None:
    _, sleep = through(Service([(b"\r\n\r\n", OK)]), saying(get("s3").replace(b"Auth", b"auth"), OK))
    assert sleep.asked == [0.02]


def test_a_request_without_a_signature_goes_on_at_once() -> None:
    _, sleep = through(Service([(b"\r\n\r\n", OK)]), saying(b"GET / HTTP/1.1\r\n\r\n", OK))
    assert sleep.asked == []


def test_the_service_sees_nothing_of_a_request_before_its_wait_is_over() -> None:
    service = Service([(b"\r\n\r\n", OK)])
    seen_meanwhile: list[bytes] = []

    class LookingSleep(FakeSleep):
        async def __call__(self, seconds: float) -> None:
            for _ in range(20):  # whatever was sent would arrive now
                await asyncio.sleep(0)
            seen_meanwhile.append(service.got)

    through(service, saying(get("s3"), OK), LookingSleep())
    assert seen_meanwhile == [b""]
    assert service.got == get("s3")


@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_a_body_with_a_length_passes_unchanged(size: int) -> None:
    body = b"x" * size
    head = b"PUT /bucket/key HTTP/1.1\r\nContent-Length: %d\r\n" % size + signed("s3") + b"\r\n"
    service = Service([(head + body, OK)])
    _, sleep = through(service, saying(head + body, OK))
    assert service.got == head + body
    assert sleep.asked == [0.02]


def test_a_body_in_chunks_with_a_trailer_passes_unchanged() -> None:
    head = b"PUT /bucket/key HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + signed("s3") + b"\r\n"
    body = b"5\r\nhello\r\n3;note=x\r\n\r\n!\r\n0\r\nChecksum: 1\r\n\r\n"
    service = Service([(b"Checksum: 1\r\n\r\n", OK)])
    through(service, saying(head + body, OK))
    assert service.got == head + body


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"y" * 100_000,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    ],
)
def test_every_kind_of_answer_passes_and_the_connection_goes_on(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(get("s3"), answer)(reader, writer)
        await saying(get("sqs"), OK)(reader, writer)

    service = Service([(b"\r\n\r\n", answer), (b"\r\n\r\n", OK)])
    relay, sleep = through(service, talk)
    assert sleep.asked == [0.02, 0.01]
    assert relay.calls == {"s3": 1, "sqs": 1}
    assert service.connections == 1


def test_the_answer_to_a_head_request_has_no_body_whatever_its_length_says() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(get("s3", b"HEAD"), answer)(reader, writer)
        await saying(get("s3"), OK)(reader, writer)

    through(Service([(b"\r\n\r\n", answer), (b"\r\n\r\n", OK)]), talk)


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"])
def test_an_answer_of_unknown_length_ends_with_the_connection(connection: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + connection + b"\r\nuntil the end"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(get("s3"))
        assert await reader.read() == answer

    through(Service([(b"\r\n\r\n", answer)]), talk)


def test_a_body_that_waits_for_100_continue_is_asked_for_and_delayed_once() -> None:
    head = b"PUT /b/k HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n" + signed("s3") + b"\r\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(head, b"HTTP/1.1 100 Continue\r\n\r\n")(reader, writer)
        await saying(b"data", OK)(reader, writer)

    service = Service([(b"\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"data", OK)])
    _, sleep = through(service, talk)
    assert service.got == head + b"data"
    assert sleep.asked == [0.02]


def test_a_body_that_is_not_wanted_is_not_waited_for() -> None:
    head = b"PUT /b/k HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n" + signed("s3") + b"\r\n"
    answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        assert await reader.read() == answer

    through(Service([(b"\r\n\r\n", answer)]), talk)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_client_that_goes_away_is_no_error(said: bytes) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    through(Service([(b"never", OK)]), talk)


def test_a_service_that_is_not_there_closes_the_connection() -> None:
    async def scene() -> bytes:
        nobody = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = nobody.sockets[0].getsockname()[1]
        nobody.close()
        await nobody.wait_closed()
        near = await asyncio.start_server(Relay("127.0.0.1", port, DELAYS).serve, "127.0.0.1", 0)
        async with near:
            reader, writer = await asyncio.open_connection("127.0.0.1", near.sockets[0].getsockname()[1])
            said = await reader.read()
            writer.close()
        return said

    assert asyncio.run(scene()) == b""
