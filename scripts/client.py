"""Clients of the public HTTP API, for the commands and the tests."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from core.config import WebSettings, is_loopback
from services.errors import FleetsightError

TOKEN_VARIABLE = "FLEETSIGHT_TOKEN"  # nosec B105 # noqa: S105 (the name of it)
"""The environment variable with the token of commands; all users of a machine can read its command lines."""

TIMEOUT_SECONDS = (5.0, 120.0)
"""Timeouts to connect, and between two bytes of an answer."""

WILDCARD_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104 # noqa: S104 (what is listened at, not where)
"""Addresses that listen at all interfaces, and the ones to call instead."""


class ApiError(FleetsightError):
    """Raised when the API rejects a call or does not answer; the message contains the reason."""


class RejectedError(ApiError):
    """Raised when the API rejects a call.

    Attributes:
        detail: the API's reason, without the call.
    """

    def __init__(self, call: str, status: int, detail: str) -> None:
        super().__init__(f"{call} answered {status}: {detail}")
        self.detail = detail


@dataclass(frozen=True)
class UploadResult:
    """The result of one upload, in the order of its files."""

    accepted: Sequence[tuple[str, str]]
    """Image ids and filenames."""
    rejected: Sequence[tuple[str, str]]
    """Filenames and reasons."""


@dataclass(frozen=True)
class FileToUpload:
    """A file to upload to the bucket; `size` is in bytes."""

    name: str
    size: int
    content_type: str


@dataclass(frozen=True)
class OfferedForm:
    """The presigned form of a file; `index` is the file's position in the request."""

    index: int
    url: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class FormOffer:
    """Presigned forms, and the names of rejected files with the reasons."""

    upload_id: str
    files: Sequence[OfferedForm]
    rejected: Sequence[tuple[str, str]]


@dataclass
class ApiClient:
    """Calls `/api/v1` at `base_url`; threads may share it, and each has its own connection.

    `timeout_seconds` are to connect, and between two bytes of an answer. `token` is a personal token, or one of the
    user pool; it is sent to `base_url` only, by TLS or to this machine.

    Raises:
        ApiError: `base_url` is no address, or the token would be sent unencrypted over a network.
    """

    base_url: str
    timeout_seconds: tuple[float, float] = TIMEOUT_SECONDS
    token: str | None = field(default=None, repr=False)
    _local: threading.local = field(default_factory=threading.local, repr=False)
    _sessions: list[requests.Session] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        """Check the address, and that the token is not sent unencrypted."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise NotRunningError(
                f"{self.base_url!r} is no address of Fleetsight: write one such as http://127.0.0.1:8000"
            )
        if self.token is not None and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ApiError(
                f"{self.base_url} would show the token ({TOKEN_VARIABLE}) to everybody on the way: use https"
            )

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            # No proxy of the environment: commands often call their own machine.
            self._local.session.trust_env = False
            self._sessions.append(self._local.session)
        session: requests.Session = self._local.session
        return session

    def close(self) -> None:
        """Close the connections of all threads; a server that stops waits for open ones."""
        for session in self._sessions:
            session.close()

    def ready(self) -> bool:
        """Return whether the web tier and all its services are ready."""
        try:
            return self._session.get(f"{self.base_url}/api/v1/readyz", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def create_job(self, name: str, *, keep: bool = False, key: str | None = None) -> str:
        """Create a job, which may `keep` its images; return its id. An idempotency `key` makes it repeatable."""
        return str(self._call("POST", "/jobs", json={"name": name, "keep": keep}, key=key)["job_id"])

    def add_images(
        self,
        job_id: str,
        files: Sequence[tuple[str, bytes]],
        key: str | None = None,
        *,
        first_position: int | None = None,
    ) -> UploadResult:
        """Upload `files`, each a filename with its content. An idempotency `key` makes it repeatable.

        With `first_position`, the place of the first image among those of the job, the images have the order of
        `files`, whichever upload arrives first. The result has the names of `files`; a filename may be a relative
        path.
        """
        places = {}
        if first_position is not None:
            places["positions"] = ",".join(str(first_position + index) for index in range(len(files)))
        parts = [("images", (name, content, "application/octet-stream")) for name, content in files]
        reply = self._call("POST", f"/jobs/{job_id}/images", data=places, files=parts, allowed=(200, 422), key=key)
        for image in (*reply.get("accepted", []), *reply.get("rejected", [])):
            image["filename"] = files[image["index"]][0]
        return _parse_result(reply)

    def offer_uploads(self, job_id: str, files: Sequence[FileToUpload]) -> FormOffer:
        """Request presigned forms for `files`."""
        wanted = [{"name": file.name, "bytes": file.size, "content_type": file.content_type} for file in files]
        reply = self._call("POST", f"/jobs/{job_id}/uploads", json={"files": wanted}, allowed=(200, 422))
        forms = [(each["index"], each["upload"]) for each in reply.get("uploads", [])]
        return FormOffer(
            upload_id=reply.get("upload_id", ""),
            files=[OfferedForm(index, form["url"], form["fields"]) for index, form in forms],
            rejected=_parse_result(reply).rejected,
        )

    def send_form(self, url: str, fields: Mapping[str, str], name: str, content: bytes) -> None:
        """Upload a file to the bucket by its presigned form.

        Raises:
            ApiError: the bucket rejects the file, does not answer, or redirects.
        """
        try:
            reply = self._session.post(
                url,
                data=dict(fields),
                files={"file": (name, content)},
                timeout=TIMEOUT_SECONDS,
                # The caller decides whether another host is allowed.
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise ApiError(f"POST {url}: {error}") from error
        if not reply.ok or reply.is_redirect:
            raise ApiError(f"POST {url} answered {reply.status_code}: {reply.text[:300]}")

    def commit_upload(self, job_id: str, upload_id: str) -> UploadResult:
        """Commit the images of an upload that have arrived in the bucket."""
        reply = self._call("POST", f"/jobs/{job_id}/uploads/{upload_id}/commit", allowed=(200, 422))
        return _parse_result(reply)

    def status(self, job_id: str) -> dict[str, Any]:
        """Return the status of a job."""
        return self._call("GET", f"/jobs/{job_id}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: its images without a result fail, the others stay. Return the status of the job."""
        return self._call("POST", f"/jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> dict[str, int]:
        """Request a job's failed images again, which resumes a cancelled job; return the counts of all calls."""
        total, query = Counter[str](), dict[str, str]()
        while True:
            reply = self._call("POST", f"/jobs/{job_id}/retry", params=query)
            total.update({name: reply[name] for name in ("sent", "refused", "final", "running")})
            total["gone"] += len(reply["gone"])
            if reply["next"] is None:
                return dict(total)
            query = {"after": reply["next"]}

    def fleet(self) -> dict[str, Any] | None:
        """Return the last snapshot of the fleet, or None before the first one."""
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
                f"users sign in at {self.base_url}: make a token on your account's page, and put it into "
                f"{TOKEN_VARIABLE}"
            )
        if reply.status_code not in allowed:
            try:
                detail = str(reply.json()["detail"])
            except (ValueError, KeyError, TypeError):
                detail = reply.text[:200]
            raise RejectedError(f"{method} {url}", reply.status_code, detail)
        body: dict[str, Any] = reply.json() if reply.content else {}
        return body


def token_from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token in the environment, or None."""
    return environment.get(TOKEN_VARIABLE, "").strip() or None


def _parse_result(reply: dict[str, Any]) -> UploadResult:
    return UploadResult(
        accepted=[(image["image_id"], image["filename"]) for image in reply.get("accepted", [])],
        rejected=[(image["filename"], image["message"]) for image in reply.get("rejected", [])],
    )


class NotRunningError(ApiError):
    """Raised when no Fleetsight answers at the address; the message says what to start."""


def web_url(web: WebSettings) -> str:
    """Return the address of the configured web tier on its own machine."""
    host = WILDCARD_ADDRESSES.get(web.host, web.host)
    return f"http://[{host}]:{web.port}" if ":" in host else f"http://{host}:{web.port}"


@dataclass
class FleetClient(ApiClient):
    """A client of operators' endpoints: the fleet and dead letters; methods return the body of the answer.

    Raises:
        NotRunningError: nothing answers, or another server does.
        ApiError: the API rejects the call; the message says why.
    """

    timeout_seconds: tuple[float, float] = (5.0, 20.0)

    def instances(self) -> dict[str, Any]:
        """Return the instances, newest first."""
        return self._call("GET", "/fleet/instances")

    def decisions(self) -> dict[str, Any]:
        """Return the last decisions, newest first."""
        return self._call("GET", "/fleet/decisions")

    def pause(self, reason: str) -> dict[str, Any]:
        """Pause the fleet."""
        return self._call("POST", "/fleet/pause", json={"reason": reason})

    def resume(self) -> dict[str, Any]:
        """End the pause."""
        return self._call("POST", "/fleet/resume")

    def set_limits(self, min_workers: int | None, max_workers: int, reason: str) -> dict[str, Any]:
        """Override the limits of config.yaml; without `min_workers` keep the minimum, if the maximum allows it."""
        wanted = {"min_workers": min_workers, "max_workers": max_workers, "reason": reason}
        return self._call("PUT", "/fleet/limits", json=wanted)

    def reset_limits(self) -> dict[str, Any]:
        """Remove the override of the limits; the answer is empty."""
        return self._call("DELETE", "/fleet/limits", allowed=(204,))

    def drain(self, instance_id: str) -> dict[str, Any]:
        """Drain an instance."""
        return self._call("POST", f"/fleet/instances/{quote(instance_id, safe='')}/drain", allowed=(202,))

    def dead_letters(self) -> Iterator[dict[str, Any]]:
        """Yield the dead letters of all jobs, those of the newest jobs first."""
        query: dict[str, str] = {}
        while True:
            page = self._call("GET", "/dead-letters", params=query)
            yield from page["dead_letters"]
            if page["next"] is None:
                return
            query = {"before": page["next"]}

    def dead_letter(self, job_id: str, image_id: str) -> dict[str, Any]:
        """Return the dead letter of an image."""
        return self._call("GET", _letter_path(job_id, image_id))

    def redrive(self, job_id: str, image_id: str) -> dict[str, Any]:
        """Request the image of a dead letter again."""
        return self._call("POST", f"{_letter_path(job_id, image_id)}/redrive")

    def redrive_all(self) -> dict[str, Any]:
        """Request the images of all dead letters again; return the counts of all calls together."""
        total: Counter[str] = Counter()
        query: dict[str, str] = {}
        while True:
            counts = self._call("POST", "/dead-letters/redrive", params=query)
            before = counts.pop("next")
            total.update(counts)
            if before is None:
                return dict(total)
            query = {"before": before}

    def discard(self, job_id: str, image_id: str) -> None:
        """Discard the dead letter of an image, if there is one."""
        self._call("DELETE", _letter_path(job_id, image_id), allowed=(204,))

    def _call(self, method: str, path: str, allowed: tuple[int, ...] = (200, 201), **options: Any) -> dict[str, Any]:
        try:
            return super()._call(method, path, allowed, **options)
        except ApiError as error:
            if isinstance(error.__cause__, requests.ConnectionError | requests.Timeout):
                raise NotRunningError(
                    f"nothing answers at {self.base_url}: start Fleetsight with ./scripts/run.sh, "
                    "or say where it is with --url"
                ) from error
            if isinstance(error.__cause__, requests.RequestException):
                raise NotRunningError(
                    f"{self.base_url} is no address to ask at ({error.__cause__}): use --url"
                ) from error
            raise
        except ValueError as error:
            raise NotRunningError(
                f"what answers at {self.base_url} is not Fleetsight: say where it is with --url"
            ) from error


def _letter_path(job_id: str, image_id: str) -> str:
    return f"/dead-letters/{quote(job_id, safe='')}/{quote(image_id, safe='')}"
