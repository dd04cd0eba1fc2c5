"""``python -m benchmarks.delays``: a process that stands before a cloud on loopback and makes it far away.

Each call of S3 or SQS waits as long as its way to AWS would take, before it goes on (see `benchmarks.relay`). The
process ends with the one that started it and holds its lifeline, and then says how many calls it has delayed.
"""

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from benchmarks.http_messages import MAX_HEAD_BYTES
from benchmarks.relay import Relay

HOST: Final = "127.0.0.1"
ROOT: Final = Path(__file__).resolve().parents[1]
CONNECTIONS: Final = 1024
STOP_SECONDS: Final = 10.0


class DelayedCloud:
    """A delaying proxy before the cloud at `url`, for as long as the context lasts.

    Args:
        url: the cloud's endpoint.
        delays: seconds that each call takes longer, by service (``s3``, ``sqs``).
        lifeline: read end of a pipe; the proxy ends when the pipe ends.
    """

    def __init__(self, url: str, delays: Mapping[str, float], lifeline: int) -> None:
        self._url, self._delays, self._lifeline = url, delays, lifeline
        self.calls: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Start the process; its socket listens already, so there is no need to wait for it."""
        with socket.create_server((HOST, 0), backlog=CONNECTIONS) as listener:
            self.endpoint_url = f"http://{HOST}:{listener.getsockname()[1]}"
            options = [
                *("--cloud", self._url, "--fd", str(listener.fileno()), "--lifeline-fd", str(self._lifeline)),
                *(f"--delay={service}={seconds}" for service, seconds in self._delays.items()),
            ]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.delays", *options],
                pass_fds=[listener.fileno(), self._lifeline],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
        self.pid = self._process.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the process; from now on `calls` says how many it has delayed, by service."""
        self._process.terminate()
        try:
            said, _ = self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        self.calls = json.loads(said or "{}")


async def proxy(listener: socket.socket, relay: Relay, lifeline: int) -> None:
    """Relay every connection until SIGTERM, or until the lifeline ends."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_reader(lifeline, ended.set)  # nothing is written to it: readable means that its other end has gone
    server = await asyncio.start_server(relay.serve, sock=listener, limit=MAX_HEAD_BYTES)
    await ended.wait()
    server.close()


def main() -> None:
    """Run the proxy that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delays", description=__doc__)
    parser.add_argument("--cloud", required=True, help="URL of the cloud")
    parser.add_argument("--fd", type=int, required=True, help="number of an inherited listening socket")
    parser.add_argument("--lifeline-fd", type=int, required=True, help="end when this pipe ends")
    parser.add_argument("--delay", action="append", default=[], metavar="SERVICE=SECONDS")
    options = parser.parse_args()
    place = urlsplit(options.cloud)
    delays = {service: float(seconds) for service, _, seconds in (each.partition("=") for each in options.delay)}
    relay = Relay(place.hostname or HOST, place.port or 80, delays)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole foreground group; the parent ends us
    asyncio.run(proxy(socket.socket(fileno=options.fd), relay, options.lifeline_fd))
    print(json.dumps(relay.calls))


if __name__ == "__main__":
    main()
