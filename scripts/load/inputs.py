"""What a load test sends, the answers that it expects, and the system that it loads."""

import csv
import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

from fleetsight_client.api import (
    ApiClient,
    ApiError,
    NotRunningError,
    RejectedError,
    UnreachableError,
    token_from_environment,
)
from scripts.run.images import draw_signs
from services.errors import FleetsightError

ALLOW_FLAG = "--i-may-load-this-target"
SUFFIX_BYTES = 24
"""Bytes that `new_suffix` returns."""

CONNECT_SECONDS = 5.0


class ExpectationError(FleetsightError):
    """Raised when the expected labels cannot be read, or an image has none; the message says which."""


@dataclass(frozen=True)
class LoadImages:
    """The images of a load test: `count` of `files`, which repeat if they are fewer; and known labels by filename."""

    files: Sequence[Path]
    count: int
    expected: Mapping[str, str]
    suffix: bytes = b""
    """Appended to each file: no decoder reads it, and it makes the bytes new to a system that repeats answers."""
    unique: bool = False
    """Whether each image has a suffix of its own, so that a file that is sent again is new, too."""
    model_label: Callable[[Path], str | None] = lambda _: None
    """Returns what the model says of a file: it may err, and the system is right then all the same."""

    def __iter__(self) -> Iterator[Path]:
        """Yield the file of each image."""
        return islice(cycle(self.files), self.count)

    def content(self, file: Path) -> bytes:
        """Return what is sent for a file."""
        return file.read_bytes() + (new_suffix() if self.unique else self.suffix)

    def is_right(self, name: str, label: str) -> bool:
        """Return whether `label` is that of the file called `name`: the known one, or else what the model says.

        A classic answer has spaces for colons.
        """
        known = self.expected[name]
        if label in {known, known.replace(":", " ")}:
            return True
        return label == self.model_label(next(file for file in self.files if file.name == name))

    @property
    def repeats(self) -> bool:
        """Whether the same bytes are sent more than once."""
        return self.count > len(self.files) and not self.unique


def new_suffix() -> bytes:
    """Return random bytes as a free box, which HEIC and AVIF skip; other formats end before it.

    A JPEG without its end mark goes on, so none of the bytes is 255: with it begins a mark of JPEG.
    """
    return b"\0\0\0\x18free" + secrets.token_bytes(SUFFIX_BYTES - 8).replace(b"\xff", b"\xfe")


def read_expected(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return the label of each of `files` by its name, from a CSV file with the columns `filename` and `label`.

    Raises:
        ExpectationError: the file cannot be read, or lacks a label.
    """
    try:
        with path.open(newline="", encoding="utf-8") as rows:
            labels = {row["filename"]: row["label"] for row in csv.DictReader(rows)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ExpectationError(f"--expected {path}: no CSV with columns filename and label ({error!r})") from error
    missing = [file.name for file in files if file.name not in labels]
    if missing:
        raise ExpectationError(f"--expected {path}: no label for {len(missing)} images, such as {missing[0]!r}")
    return labels


def drawn_signs(folder: Path, count: int, seed: int, side: int, drawn: Callable[[int], None]) -> LoadImages:
    """Return `count` road signs and their labels; draw them into `folder` if they do not exist yet.

    Their bytes are new in each test: a system answers the same bytes from its cache, which would be measured.

    Args:
        folder: contains sets of signs, each in a folder of its own.
        count: number of signs.
        seed: the same seed draws the same signs.
        side: width and height in pixels.
        drawn: receives the number of signs that are drawn so far.
    """
    signs = folder / f"signs-{seed}-{side}-{count}"
    expected = draw_signs(signs, count, seed, side, drawn)
    return LoadImages([signs / name for name in expected], count, expected, new_suffix())


class TargetError(FleetsightError):
    """Raised when the target is not an address, or may not be loaded without `ALLOW_FLAG`."""


@dataclass(frozen=True)
class LoadTarget:
    """The server to load. `base_url` has no final slash."""

    base_url: str
    host: str
    port: int

    def check_answers(self) -> None:
        """Check that something listens there, and that its users need not sign in, or the token is valid.

        Raises:
            TargetError: nothing does.
            ApiError: users sign in, and the token is missing or wrong.
        """
        try:
            socket.create_connection((self.host, self.port), CONNECT_SECONDS).close()
        except OSError as error:
            raise TargetError(
                f"nothing answers at {self.base_url}: start ./scripts/run.sh, or say where it is with --url"
            ) from error
        client = ApiClient(self.base_url, token=token_from_environment())
        try:
            client.limits()
        except (NotRunningError, UnreachableError):
            pass  # a system of another make has no such call
        except RejectedError as error:
            if error.status == HTTPStatus.UNAUTHORIZED:
                raise
        finally:
            client.close()

    def models(self) -> tuple[str | None, frozenset[str]]:
        """Return the name of the model of new jobs, and of all models; nothing of a system of another make."""
        client = ApiClient(self.base_url, token=token_from_environment())
        try:
            answer = client.models()
        except ApiError:
            return None, frozenset()
        finally:
            client.close()
        return answer["default"], frozenset(each["name"] for each in answer["models"])


def parse_target(url: str, *, anywhere: bool) -> LoadTarget:
    """Return the server at `url`.

    Args:
        url: scheme, host and port.
        anywhere: allow other machines.

    Raises:
        TargetError: `url` is not an address, or is on another machine without `anywhere`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise TargetError(f"--url {url}: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise TargetError(f"--url {url}: not of the form http://127.0.0.1:8000")
    if not anywhere and not _is_local(parts.hostname):
        raise TargetError(f"refusing to load a remote host, {url}: if you are allowed to, add {ALLOW_FLAG}")
    return LoadTarget(url.rstrip("/"), parts.hostname, port)


def _is_local(host: str) -> bool:
    """Return whether every address of `host` is a loopback address."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise TargetError(f"--url: there is no host {host!r} ({error.strerror})") from error
    return all(ipaddress.ip_address(address).is_loopback for address in found)
