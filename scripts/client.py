"""A client of the public HTTP API, for the commands and the tests."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests

from core.config import is_loopback
from services.errors import FleetsightError

TOKEN_VARIABLE = "FLEETSIGHT_TOKEN"  # nosec B105 # noqa: S105 (the name of it)
"""Holds the token with which commands ask; a command line is everybody's to read."""

TIMEOUT_SECONDS = (5.0, 120.0)
"""To connect, and between two bytes of an answer."""


class ApiError(FleetsightError):
    """Raised when the API refuses a call or does not answer; the message says what it said."""


@dataclass(frozen=True)
class Outcome:
    """What became of the files of one upload, in their order: accepted ones by id, others with the reason."""

    accepted: Sequence[tuple[str, str]]
    """Image id and filename."""
    rejected: Sequence[tuple[str, str]]
    """Filename and reason."""


@dataclass(frozen=True)
class DirectFile:
    """A file that is to be uploaded straight to the bucket; `size` in bytes."""

    name: str
    size: int
    content_type: str


@dataclass(frozen=True)
class OfferedFile:
    """The form for a file; `index` is its position among those that were asked for."""

    index: int
    url: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class UploadOffer:
    """Forms for files, and the names of those that may not be uploaded, with the reason."""

    upload_id: str
    files: Sequence[OfferedFile]
    rejected: Sequence[tuple[str, str]]


@dataclass
class ApiClient:
    """Calls `/api/v1` at `base_url`; may be shared by threads, each of which keeps its own connection.

    `timeout_seconds` are to connect, and between two bytes of an answer. `token` is a personal one, or of the user
    pool; it goes to `base_url` alone, by TLS or to this machine.

    Raises:
        ApiError: when the token would go over a network that anybody may listen to.
    """

    base_url: str
    timeout_seconds: tuple[float, float] = TIMEOUT_SECONDS
    token: str | None = field(default=None, repr=False)
    _local: threading.local = field(default_factory=threading.local, repr=False)
    _sessions: list[requests.Session] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        """Check that the token stays a secret."""
        parts = urlsplit(self.base_url)
        if self.token is not None and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ApiError(
                f"{self.base_url} would show the token ({TOKEN_VARIABLE}) to everybody on the way: use https"
            )

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            # A proxy from the environment must not stand between a command and its own machine.
            self._local.session.trust_env = False
            self._sessions.append(self._local.session)
        session: requests.Session = self._local.session
        return session

    def close(self) -> None:
        """Close the connections of every thread; a server that stops waits for those that are open."""
        for session in self._sessions:
            session.close()

    def ready(self) -> bool:
        """Return whether the web tier and all it needs answer."""
        try:
            return self._session.get(f"{self.base_url}/api/v1/readyz", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def create_job(self, name: str, *, keep: bool = False, key: str | None = None) -> str:
        """Create a job, which may `keep` its images; return its id. With an idempotency `key` it may be repeated."""
        return str(self._call("POST", "/jobs", json={"name": name, "keep": keep}, key=key)["job_id"])

    def add_images(self, job_id: str, files: Sequence[tuple[str, bytes]], key: str | None = None) -> Outcome:
        """Upload `files`, each a filename with its content. With an idempotency `key` it may be repeated."""
        parts = [("images", (name, content, "application/octet-stream")) for name, content in files]
        reply = self._call("POST", f"/jobs/{job_id}/images", files=parts, allowed=(200, 422), key=key)
        return _outcome(reply)

    def offer_uploads(self, job_id: str, files: Sequence[DirectFile]) -> UploadOffer:
        """Ask for forms to upload `files` straight to the bucket."""
        wanted = [{"name": file.name, "bytes": file.size, "content_type": file.content_type} for file in files]
        reply = self._call("POST", f"/jobs/{job_id}/uploads", json={"files": wanted}, allowed=(200, 422))
        forms = [(each["index"], each["upload"]) for each in reply.get("uploads", [])]
        return UploadOffer(
            upload_id=reply.get("upload_id", ""),
            files=[OfferedFile(index, form["url"], form["fields"]) for index, form in forms],
            rejected=_outcome(reply).rejected,
        )

    def send_form(self, url: str, fields: Mapping[str, str], name: str, content: bytes) -> None:
        """Upload a file with the form that it was offered.

        Raises:
            ApiError: when the bucket refuses it, does not answer, or leads elsewhere.
        """
        try:
            reply = self._session.post(
                url,
                data=dict(fields),
                files={"file": (name, content)},
                timeout=TIMEOUT_SECONDS,
                # The caller of this form decides about another host.
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise ApiError(f"POST {url}: {error}") from error
        if not reply.ok or reply.is_redirect:
            raise ApiError(f"POST {url} answered {reply.status_code}: {reply.text[:300]}")

    def commit_upload(self, job_id: str, upload_id: str) -> Outcome:
        """Have the images accepted that have arrived of an upload."""
        reply = self._call("POST", f"/jobs/{job_id}/uploads/{upload_id}/commit", allowed=(200, 422))
        return _outcome(reply)

    def status(self, job_id: str) -> dict[str, Any]:
        """Return where a job stands."""
        return self._call("GET", f"/jobs/{job_id}")

    def fleet(self) -> dict[str, Any] | None:
        """Return what the autoscaler saw last, or None before its first look."""
        reply = self._call("GET", "/fleet", allowed=(200, 404))
        return reply if "running" in reply else None

    def results(self, job_id: str, page: int = 500) -> Iterator[dict[str, Any]]:
        """Yield every image of a job with its result, if it has one."""
        after: str | None = None
        while True:
            query = {"limit": str(page)} | ({"after": after} if after else {})
            reply = self._call("GET", f"/jobs/{job_id}/results", params=query)
            yield from reply["results"]
            after = reply.get("next")
            if not after:
                return

    def _call(self, method: str, path: str, allowed: tuple[int, ...] = (200, 201), **options: Any) -> dict[str, Any]:
        url, key = f"{self.base_url}/api/v1{path}", options.pop("key", None)
        headers = {} if key is None else {"Idempotency-Key": key}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
            options["allow_redirects"] = False
        options["headers"] = headers
        try:
            reply = self._session.request(method, url, timeout=self.timeout_seconds, **options)
        except requests.RequestException as error:
            raise ApiError(f"{method} {url}: {error}") from error
        if reply.status_code == requests.codes.unauthorized and self.token is None:
            raise ApiError(
                f"{method} {url}: people sign in here. Make a token on your account's page, and put it into "
                f"{TOKEN_VARIABLE}"
            )
        if reply.status_code not in allowed:
            raise ApiError(f"{method} {url} answered {reply.status_code}: {_detail(reply)}")
        body: dict[str, Any] = reply.json() if reply.content else {}
        return body


def token_of(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token that the environment holds, if any."""
    return environment.get(TOKEN_VARIABLE, "").strip() or None


def _outcome(reply: dict[str, Any]) -> Outcome:
    return Outcome(
        accepted=[(image["image_id"], image["filename"]) for image in reply.get("accepted", [])],
        rejected=[(image["filename"], image["message"]) for image in reply.get("rejected", [])],
    )


def _detail(reply: requests.Response) -> str:
    try:
        return str(reply.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]
