"""A client of the HTTP API of users, `/api/v1`."""

import ipaddress
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from tarfile import BLOCKSIZE, USTAR_FORMAT, TarInfo
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import quote, urlencode, urlsplit

import urllib3

from fleetsight_client.media_types import MARKED_BYTES, media_type

URL_VARIABLE: Final = "FLEETSIGHT_URL"
"""The environment variable with the address of commands."""

TOKEN_VARIABLE: Final = "FLEETSIGHT_TOKEN"  # nosec B105 # noqa: S105 (the name of it)
"""The environment variable with the token of commands; all users of a machine can read its command lines."""

TIMEOUT_SECONDS: Final = (5.0, 120.0)
"""Timeouts to connect, and between two bytes of a body or an answer."""

SENT_BYTES: Final = 2**18
"""Bytes of a request that are sent within the second timeout."""

MAX_CONNECTIONS: Final = 32
"""Connections to one server that are kept open; threads beyond that number open one for each call."""

OTHER_TYPE: Final = "application/octet-stream"
"""Media type of files of any kind."""

MAX_NAME_CHARACTERS: Final = 1_024
"""Characters of a name in a request for forms."""

MAX_DETAIL_CHARACTERS: Final = 200
"""Characters of an answer that an error quotes, if the answer is no problem JSON."""

_UNKNOWN: Final = frozenset({404, 405, 501})
"""Statuses of a server that does not know a call; with a web page, it is not Fleetsight."""

_CONNECTION: Final = re.compile(r"^\w*(?:Connection|Pool)\([^)]*\): ")
"""The connection before the reason of an error of urllib3."""


class FleetsightClientError(Exception):
    """Base of every error that the client raises itself."""


class ApiError(FleetsightClientError):
    """Raised when the API rejects a call or does not answer; the message contains the reason."""


class UnreachableError(ApiError):
    """Raised when a call got no answer: it may have been executed."""


class NotRunningError(ApiError):
    """Raised when no Fleetsight answers at the address; the message says what to do."""


class RejectedError(ApiError):
    """Raised when the API rejects a call.

    Attributes:
        status: of HTTP.
        detail: the API's reason, without the call.
        problem: the type of the problem (RFC 9457), such as `quota-exceeded`; empty if the answer has none.
        retry_after_seconds: after which the call may be repeated, or None.
    """

    def __init__(
        self, call: str, status: int, detail: str, problem: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{call} answered {status}: {detail}")
        self.status = status
        self.detail = detail
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class UploadResult:
    """The result of one upload, in the order of its files."""

    accepted: Sequence[tuple[str, str]]
    """Image ids and filenames."""
    rejected: Sequence[tuple[str, str]]
    """Filenames and reasons."""

    @classmethod
    def from_outcome(cls, outcome: Mapping[int, "str | RejectedFile"], names: Mapping[int, str]) -> "UploadResult":
        """Return the result of an upload from the image id or rejection of each file, and its name, by its number."""
        return cls(
            accepted=[(each, names[at]) for at, each in outcome.items() if isinstance(each, str)],
            rejected=[(names[at], each.message) for at, each in outcome.items() if isinstance(each, RejectedFile)],
        )


@dataclass(frozen=True)
class RejectedFile:
    """Why a file was not accepted: a stable code, and a sentence for people."""

    code: str
    message: str

    @property
    def may_pass(self) -> bool:
        """Whether the server only could not store the file just now, so that it can be sent again."""
        return self.code == "unavailable"


class JobFields(TypedDict, total=False):
    """Further fields of a new job; None leaves one out.

    Attributes:
        source: its images come from this folder of S3, and it takes no others.
        source_pattern: of the names there, such as `**/*.jpg`.
        results: folder of S3 to which all results are copied as `JOB_ID.jsonl` when the job is finished.
        model: one of `ApiClient.models`; by default the server chooses it.
        max_failed_percent: of its results may be failures before the server stops it.
        min_score: from which a label counts, 0 to 1; below, its image is `unsure`.
        label_min_scores: the same by label.
        labels: of the model, that can occur; by default all.
        finish_by: when it may be finished at the latest, as ISO 8601 with a zone, so that it costs less.
    """

    source: str | None
    source_pattern: str | None
    results: str | None
    model: str | None
    max_failed_percent: float | None
    min_score: float | None
    label_min_scores: dict[str, float] | None
    labels: list[str] | None
    finish_by: str | None


@dataclass
class ApiClient:
    """Calls `/api/v1` at `base_url`; threads may share it.

    `timeout_seconds` are to connect, and between two bytes of an answer. `token` is a personal token, or one of the
    sign-in provider; it is sent to `base_url` only, by TLS or to this machine. Proxies of the environment are not
    used, as commands often call their own machine. No call is repeated, and no redirect followed.

    Raises:
        NotRunningError: `base_url` is no address.
        ApiError: the token would be sent unencrypted over a network.
    """

    base_url: str
    timeout_seconds: tuple[float, float] = TIMEOUT_SECONDS
    token: str | None = field(default=None, repr=False)
    _pool: urllib3.PoolManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the address, and that the token is not sent unencrypted."""
        try:
            parts = urlsplit(self.base_url)
            is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # such as a port that is no number
            is_address = False
        if not is_address:
            raise NotRunningError(
                f"{self.base_url!r} is no address of Fleetsight: write one such as http://127.0.0.1:8000"
            )
        self.base_url = self.base_url.rstrip("/")
        if self.token is not None and parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise ApiError(
                f"{self.base_url} would show the token ({TOKEN_VARIABLE}) to everybody on the way: use https"
            )
        self._pool = urllib3.PoolManager(maxsize=MAX_CONNECTIONS)
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def close(self) -> None:
        """Close the connections of all threads; a server that stops waits for open ones."""
        self._pool.clear()

    def ready(self) -> bool:
        """Return whether the web tier and all its services are ready."""
        try:
            return self._send("GET", f"{self.base_url}/api/v1/readyz", timeout=(2.0, 2.0)).status == 200
        except ApiError:
            return False

    # Jobs

    def create_job(
        self,
        name: str,
        *,
        keep: bool = False,
        key: str | None = None,
        **further: Unpack[JobFields],
    ) -> str:
        """Create a job, which may `keep` its images; return its id. An idempotency `key` makes it repeatable."""
        body = {"name": name, "keep": keep} | {field: value for field, value in further.items() if value is not None}
        return str(self._call("POST", "/jobs", json=body, key=key)["job_id"])

    def jobs(self, page: int = 50) -> Iterator[dict[str, Any]]:
        """Yield the user's jobs, newest first."""
        before: str | None = None
        while True:
            query = {"limit": str(page)} | ({"before": before} if before else {})
            reply = self._call("GET", "/jobs", params=query)
            yield from reply["jobs"]
            before = reply.get("next")
            if not before:
                return

    def status(self, job_id: str) -> dict[str, Any]:
        """Return the status of a job."""
        return self._call("GET", _job_path(job_id))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: its images without a result fail, the others stay. Return the status of the job."""
        return self._call("POST", f"{_job_path(job_id)}/cancel")

    def set_min_scores(self, job_id: str, scores: JobFields) -> None:
        """Change the scores from which the labels of a job count: `min_score` and `label_min_scores`."""
        self._call("PUT", f"{_job_path(job_id)}/min-scores", json=scores)

    def delete(self, job_id: str) -> None:
        """Delete a job; its images and results are removed soon after."""
        self._call("DELETE", _job_path(job_id), allowed=(204,))

    def retry(self, job_id: str, model: str | None = None) -> dict[str, int]:
        """Request a job's failed images again, which resumes a cancelled job; return the counts of all calls.

        With `model`, another model classifies them, and the images that the job gets later.
        """
        total, query = Counter[str](), {} if model is None else {"model": model}
        while True:
            reply = self._call("POST", f"{_job_path(job_id)}/retry", params=query)
            total.update({name: reply[name] for name in ("sent", "refused", "final", "running")})
            total["gone"] += len(reply["gone"])
            if reply["next"] is None:
                return dict(total)
            query["after"] = reply["next"]

    def results(self, job_id: str, page: int = 500) -> Iterator[dict[str, Any]]:
        """Yield every image of a job with its result, if it has one."""
        after: str | None = None
        while True:
            results, after = self.results_page(job_id, after, page)
            yield from results
            if not after:
                return

    def results_page(
        self, job_id: str, after: str | None = None, limit: int = 500
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return images after the image id `after` with their results, and the cursor of the next page, if any."""
        query = {"limit": str(limit)} | ({"after": after} if after else {})
        reply = self._call("GET", f"{_job_path(job_id)}/results", params=query)
        return reply["results"], reply.get("next")

    def send_truth_file(self, job_id: str, content: bytes) -> dict[str, Any]:
        """Set true labels by a CSV file of up to 2 MB and 20,000 lines; return what was matched."""
        return self._call("POST", f"{_job_path(job_id)}/truth.csv", body=content, content_type="text/csv")

    def models(self) -> dict[str, Any]:
        """Return the models that jobs may name, and the name of the default."""
        return self._call("GET", "/models")

    def limits(self) -> dict[str, Any]:
        """Return the limits of the user and of a request, and what is left of the day's quotas."""
        return self._call("GET", "/limits")

    def forecast(self, images: int, finish_by: str | None = None) -> dict[str, Any] | None:
        """Return when so many images would have results and what they would cost, or None without a forecast."""
        query = {"images": str(images)} | ({} if finish_by is None else {"finish_by": finish_by})
        reply = self._call("GET", "/forecast", params=query, allowed=(200, 404))
        return reply if "text" in reply else None

    def fleet(self) -> dict[str, Any] | None:
        """Return the last snapshot of the fleet, or None before the first one."""
        reply = self._call("GET", "/fleet", allowed=(200, 404))
        return reply if "running" in reply else None

    # Images

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
        places = None if first_position is None else range(first_position, first_position + len(files))
        sent = self.send_images(job_id, files, key, positions=places)
        return UploadResult.from_outcome(sent, {at: name for at, (name, _) in enumerate(files)})

    def send_images(
        self,
        job_id: str,
        files: Sequence[tuple[str, bytes]],
        key: str | None = None,
        *,
        positions: Sequence[int] | None = None,
        remaining: int | None = None,
        trace_id: str | None = None,
    ) -> dict[int, str | RejectedFile]:
        """Upload `files` as `add_images`; return the image id or the rejection of each, by its index in `files`.

        `remaining` is the number of files that further uploads have. The server's log lines about the images have the
        `trace_id`, 32 hexadecimal digits; by default a new one.
        """
        form: list[tuple[str, Any]] = []
        if positions is not None:
            form.append(("positions", ",".join(map(str, positions))))
        if remaining is not None:
            form.append(("remaining", f"{remaining}"))
        form += [("images", (name, content, OTHER_TYPE)) for name, content in files]
        reply = self._call(
            "POST", f"{_job_path(job_id)}/images", fields=form, allowed=(200, 422), key=key, trace_id=trace_id
        )
        return dict(sorted(_outcome(reply).items()))

    def send_images_directly(
        self,
        job_id: str,
        files: Sequence[tuple[str, bytes]],
        key: str,
        *,
        positions: Sequence[int],
        remaining: int,
        trace_id: str,
    ) -> dict[int, str | RejectedFile]:
        """Upload `files` as `send_images`, but straight into the bucket.

        The server signs a form for each pack of them, and accepts what has arrived. A repeat sends all of it again.
        """
        wanted = [
            {
                "name": name[-MAX_NAME_CHARACTERS:],
                "bytes": len(content),
                "content_type": media_type(content[:MARKED_BYTES]) or OTHER_TYPE,
                "position": position,
            }
            for (name, content), position in zip(files, positions, strict=True)
        ]
        body, uploads = {"files": wanted, "remaining": remaining}, f"{_job_path(job_id)}/uploads"
        offer = self._call("POST", uploads, json=body, allowed=(200, 422), key=key, trace_id=trace_id)
        outcome = _outcome(offer)
        for each in offer.get("uploads", []):
            members = [(image["member"], files[image["index"]][1]) for image in each["images"]]
            self._send_form(each["upload"]["url"], each["upload"]["fields"], members)
        if "uploads" in offer:
            commit = f"{uploads}/{quote(offer['upload_id'], safe='')}/commit"
            outcome |= _outcome(self._call("POST", commit, allowed=(200, 422), trace_id=trace_id))
        return dict(sorted(outcome.items()))

    def _send_form(self, url: str, fields: Mapping[str, str], members: Sequence[tuple[str | None, bytes]]) -> None:
        """Send a form with a file, or with a tar of several; no content is copied, and no token sent."""
        file = ("file", ("file", b"", OTHER_TYPE))
        form, content_type = urllib3.encode_multipart_formdata([*fields.items(), file])
        end = form.rindex(b"\r\n--")
        parts = [form[:end], *_pack(members), form[end:]]
        headers = {"Content-Type": content_type, "Content-Length": f"{sum(map(len, parts))}"}
        reply = self._send("POST", url, timeout=self.timeout_seconds, headers=headers, body=iter(parts))
        if reply.status == 403:  # a form that has expired on a slow line, of which a repeat gets another one
            raise UnreachableError(f"POST {url}: the bucket refuses the form: {_text(reply)[:MAX_DETAIL_CHARACTERS]}")
        if reply.status >= 300:
            raise _rejection(f"POST {url}", reply)

    def _call(
        self,
        method: str,
        path: str,
        allowed: tuple[int, ...] = (200, 201),
        *,
        key: str | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str | None = None,
        trace_id: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return the JSON object that the API answers; an empty one for an empty answer.

        Raises:
            UnreachableError: there is no answer.
            NotRunningError: another server answers.
            RejectedError: the status is not one of `allowed`.
            ApiError: users must sign in.
        """
        url = f"{self.base_url}/api/v1{path}"
        headers = {} if key is None else {"Idempotency-Key": key}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if trace_id is not None:
            headers["traceparent"] = f"00-{trace_id}-{os.urandom(8).hex()}-00"  # https://www.w3.org/TR/trace-context/
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        address = f"{url}?{urlencode(params)}" if params else url
        reply = self._send(method, address, timeout=self.timeout_seconds, headers=headers, **options)
        if reply.status == 401 and self.token is None:
            raise ApiError(
                f"users sign in at {self.base_url}: make a token on your account's page, and put it into "
                f"{TOKEN_VARIABLE}"
            )
        if reply.status not in allowed and reply.status in _UNKNOWN and _media_type(reply) == "text/html":
            raise NotRunningError(f"what answers at {self.base_url} is not Fleetsight: say where it is with --url")
        # An upload without any accepted image answers 422 with the reason of each file, which is no problem.
        if reply.status not in allowed or (reply.status == 422 and _is_problem(reply)):
            raise _rejection(f"{method} {url}", reply)
        if not reply.data:
            return {}
        try:
            body = json.loads(reply.data)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise NotRunningError(f"what answers at {self.base_url} is not Fleetsight: say where it is with --url")
        return body

    def _send(
        self, method: str, url: str, *, timeout: tuple[float, float], **options: Any
    ) -> urllib3.BaseHTTPResponse:
        limits = urllib3.Timeout(connect=timeout[0], read=timeout[1])
        try:
            return self._pool.request(method, url, timeout=limits, retries=False, redirect=False, **options)
        except urllib3.exceptions.LocationValueError as error:
            raise NotRunningError(f"{url} is no address that can be called ({error}): use --url") from error
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"{method} {url}: {_cause(error)}") from error


class _SendsPatiently:
    """A connection of urllib3 that applies the timeout to connect to nothing else.

    urllib3 applies it to a request's body as well, and Python to the whole of it: a busy server that reads no byte
    for so long, or a slow line, would end an upload.
    """

    sock: socket.socket | None

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]  # of the other base
        if self.sock is not None:
            self.sock.settimeout(TIMEOUT_SECONDS[1])
        for start in range(0, len(data), SENT_BYTES):
            super().send(memoryview(data)[start : start + SENT_BYTES])  # type: ignore[misc]


class _Connection(_SendsPatiently, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_SendsPatiently, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def token_from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token in the environment, or None."""
    return environment.get(TOKEN_VARIABLE, "").strip() or None


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can be reached at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _job_path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _outcome(reply: Mapping[str, Any]) -> dict[int, str | RejectedFile]:
    """Return the image id or the rejection of each file that an answer names, by its index."""
    outcome: dict[int, str | RejectedFile] = {
        int(image["index"]): str(image["image_id"]) for image in reply.get("accepted", [])
    }
    for image in reply.get("rejected", []):
        outcome[int(image["index"])] = RejectedFile(str(image["code"]), str(image["message"]))
    return outcome


def _pack(members: Sequence[tuple[str | None, bytes]]) -> Iterator[bytes]:
    """Yield the parts of a tar (ustar) of files with names, or a single file without a name."""
    for name, content in members:
        if name is None:
            yield content
            return
        header = TarInfo(name)
        header.size = len(content)
        yield header.tobuf(USTAR_FORMAT)
        yield content
        yield bytes(-len(content) % BLOCKSIZE)
    yield bytes(2 * BLOCKSIZE)


def _text(reply: urllib3.BaseHTTPResponse) -> str:
    return reply.data.decode(errors="replace")


def _is_problem(reply: urllib3.BaseHTTPResponse) -> bool:
    return _media_type(reply) == "application/problem+json"


def _media_type(reply: urllib3.BaseHTTPResponse) -> str:
    return reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _rejection(call: str, reply: urllib3.BaseHTTPResponse) -> RejectedError:
    """Return the error for an answer that is no success."""
    try:
        body = json.loads(reply.data)
        detail, problem = str(body["detail"]), str(body.get("type", "")).rpartition(":")[2]
        if reply.status >= 500 and "trace_id" in body:
            detail += f" (trace ID {body['trace_id']})"
    except (ValueError, KeyError, TypeError, AttributeError):
        detail, problem = _text(reply)[:MAX_DETAIL_CHARACTERS].strip(), ""
        if _media_type(reply) == "text/html":
            detail = f"a web page with status {reply.status} came in place of Fleetsight's answer"
    if location := reply.headers.get("Location", "") if 300 <= reply.status < 400 else "":
        detail = f"it redirects to {location[:MAX_DETAIL_CHARACTERS]}; call that address"
    pause = reply.headers.get("Retry-After", "")
    return RejectedError(call, reply.status, detail, problem, float(pause) if pause.isdecimal() else None)


def _cause(error: urllib3.exceptions.HTTPError) -> str:
    """Return why there is no answer, without the names of Python's objects."""
    return _CONNECTION.sub("", str(error)) or type(error).__name__
