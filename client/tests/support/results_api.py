"""An API of jobs in memory, for tests of the client: it classifies at once, keeps keys, and fails as it is told."""

import csv
import json
import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from click.testing import Result
from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from ulid import ULID
from werkzeug.serving import make_server

DEADLINE_SECONDS = 600.0
"""Longest wait for another process or thread: far more than a busy machine needs."""

REJECTED = b"not an image"
FAILED = b"torn"
UNAVAILABLE = b"unavailable once"


@dataclass
class ApiJob:
    """A job, its images by id, and its slices by key."""

    name: str
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    slices: dict[str, tuple[str, Any]] = field(default_factory=dict)
    source: str = ""
    results: str = ""
    pattern: str = ""
    max_failed_percent: float | None = None
    wanted: dict[str, Any] = field(default_factory=dict)
    polls: int = 0
    order: list[str] = field(default_factory=list)
    """The ids of the images, sorted for a page of results."""


Command = Callable[..., Result]
"""Runs the client's command with arguments."""

Photos = Callable[..., Path]
"""Makes a folder of files, given their contents by path."""

Fault = Callable[[], ResponseReturnValue | None]
"""Returns the answer of a request in place of its execution, or None to execute it and lose the answer."""


def problem(status: int, detail: str, kind: str = "other", **headers: str) -> Response:
    """Return problem JSON."""
    body = {"type": f"urn:fleetsight:problem:{kind}", "title": kind, "status": status, "detail": detail}
    reply = Response(json.dumps(body), status, content_type="application/problem+json")
    reply.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return reply


@dataclass
class ResultsApi:
    """The API; a label is the text of the image's content up to a space.

    Attributes:
        faults: for the next uploads, one each; None lets an upload pass.
        max_files: of a request, above which the answer is 413.
        uploads: bytes of each upload's body.
        traceparents: of each upload.
        slices: of each upload that came as a whole: the files that remain, and those that it has.
    """

    jobs: dict[str, ApiJob] = field(default_factory=dict)
    faults: list[Fault | None] = field(default_factory=list)
    max_files: int = 250
    uploads: list[int] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)
    slices: list[tuple[int, int]] = field(default_factory=list)
    truths: list[str] = field(default_factory=list)
    no_classes: set[str] = field(default_factory=set)
    """True labels that are no class of the model."""
    names: Counter[str] = field(default_factory=Counter)
    """Filenames of accepted images."""
    results_fault: Response | None = None
    """The answer to each request for results, in place of them."""
    sources: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Locations in S3 that jobs may read, each with its images by name."""
    skipped: dict[str, int] = field(default_factory=lambda: {"not_an_image": 2})
    """Other objects of each source, by the reason."""
    source_error: str | None = None
    """Why sources cannot be listed."""
    stopped: str | None = None
    """Why the server has stopped its jobs; a retry ends it."""
    unsure: set[str] = field(default_factory=set)
    """Filenames of images with too low a score."""
    copy_error: str | None = None
    """Why results cannot be copied; else they are copied when the status is read a third time."""
    is_holding: bool = False
    """Whether images have no results for now."""
    blocked: list[str | None] = field(default_factory=list)
    """Why no image is classified, by each read of a status; the results are there after the last."""
    _unavailable: set[str] = field(default_factory=set)
    _keys: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def app(self) -> Flask:
        """Return the application."""
        app = Flask("results_api")
        app.config["MAX_FORM_PARTS"] = None
        root = "/api/v1"
        app.add_url_rule(
            f"{root}/limits",
            view_func=lambda: {"max_image_bytes": 1_000_000, "max_files_with_key": 250},
        )
        models = {
            "default": "demo",
            "models": [{"name": "demo", "short_side": 32}, {"name": "fine", "short_side": 64}],
        }
        app.add_url_rule(f"{root}/models", "models", lambda: models)
        app.add_url_rule(f"{root}/forecast", "forecast", self._forecast)
        app.add_url_rule(f"{root}/jobs", "create", self._create, methods=["POST"])
        app.add_url_rule(f"{root}/jobs", "list", self._list)
        app.add_url_rule(f"{root}/jobs/<job_id>", "status", self._status)
        app.add_url_rule(f"{root}/jobs/<job_id>", "delete", self._delete, methods=["DELETE"])
        app.add_url_rule(f"{root}/jobs/<job_id>/images", "images", self._images, methods=["POST"])
        app.add_url_rule(f"{root}/jobs/<job_id>/results", "results", self._results)
        app.add_url_rule(f"{root}/jobs/<job_id>/min-scores", "scores", self._change, methods=["PUT"])
        app.add_url_rule(f"{root}/jobs/<job_id>/cancel", "cancel", self._status, methods=["POST"])
        app.add_url_rule(f"{root}/jobs/<job_id>/retry", "retry", self._retry, methods=["POST"])
        app.add_url_rule(f"{root}/jobs/<job_id>/truth.csv", "truth", self._truth, methods=["POST"])
        return app

    @property
    def job(self) -> ApiJob:
        """The only job."""
        (job,) = self.jobs.values()
        return job

    def _forecast(self) -> ResponseReturnValue:
        is_later = "finish_by" in request.args
        forecast = {"last_result_seconds": 24_000.0 if is_later else 240.0, "dollars": 0.11 if is_later else 0.414}
        return {"text": "Soon.", "images": int(request.args["images"]), **forecast}

    def _create(self) -> ResponseReturnValue:
        key = request.headers.get("Idempotency-Key", f"none {len(self._keys)}")
        job_id = self._keys.setdefault(key, str(ULID()))
        if (model := request.get_json().get("model", "demo")) != "demo":
            return problem(422, f"there is no model {model!r}: choose one of demo", "invalid-request")
        source = request.get_json().get("source", "")
        if source and source not in self.sources:
            return problem(403, f"images of {source} may not be classified", "forbidden")
        job = self.jobs.setdefault(job_id, ApiJob(request.get_json()["name"], source=source))
        job.results = request.get_json().get("results", "")
        job.pattern = request.get_json().get("source_pattern", "")
        job.max_failed_percent = request.get_json().get("max_failed_percent")
        job.wanted = request.get_json()
        for position, (name, content) in enumerate(self.sources.get(source, {}).items()):
            image_id = image_id_of(job_id, position)
            job.images[image_id] = result_of(image_id, name, content)
        return {"job_id": job_id}, 201

    def _list(self) -> ResponseReturnValue:
        return {"jobs": [{"job_id": job_id} for job_id in sorted(self.jobs, reverse=True)], "next": None}

    def _status(self, job_id: str) -> ResponseReturnValue:
        job = self.jobs.get(job_id)
        if job is None:
            return problem(404, f"there is no job {job_id!r}", "not-found")
        done = sum(image["status"] == "done" for image in job.images.values())
        blocked = self.blocked.pop(0) if self.blocked else None
        is_holding = self.is_holding or bool(self.blocked)
        waiting = len(job.images) if is_holding else 0
        source = {
            "uri": job.source, "state": "failed" if self.source_error else "complete",
            "listed": len(job.images) + sum(self.skipped.values()), "accepted": len(job.images),
            "skipped": self.skipped, "error": self.source_error, "paused_until": None,
        }  # fmt: skip
        job.polls += 1
        copied = "failed" if self.copy_error else "written"
        results = {
            "uri": f"{job.results}/{job_id}.jsonl", "state": copied if job.polls > 2 else "waiting",
            "error": self.copy_error if job.polls > 2 else None,
        }  # fmt: skip
        return {
            "source": source if job.source else None, "results": results if job.results else None,
            "job_id": job_id, "name": job.name, "created_at": "2026-11-24T00:00:00+00:00", "state": "finished",
            "stopped": self.stopped, **{name: job.wanted.get(name, 0.5) for name in ("min_score",)},
            "label_min_scores": job.wanted.get("label_min_scores", {}),
            "accepted": len(job.images), "done": 0 if is_holding else done, "blocked": blocked,
            "failed": 0 if is_holding else len(job.images) - done, "waiting": waiting,
        }  # fmt: skip

    def _change(self, job_id: str) -> ResponseReturnValue:
        self.jobs[job_id].wanted.update(request.get_json())
        return self._status(job_id)

    def _delete(self, job_id: str) -> ResponseReturnValue:
        self.jobs.pop(job_id)
        return "", 204

    def _retry(self, job_id: str) -> ResponseReturnValue:
        self.stopped = None
        return {"job_id": job_id, "sent": 2, "refused": 0, "gone": [], "final": 1, "running": 0, "next": None}

    def _truth(self, job_id: str) -> ResponseReturnValue:
        self.truths.append(request.get_data(as_text=True))
        labels = {row["truth"] for row in csv.DictReader(self.truths[-1].splitlines())}
        return {"job_id": job_id, "unknown_classes": sorted(labels & self.no_classes)}

    def _images(self, job_id: str) -> ResponseReturnValue:
        with self._lock:
            self.uploads.append(request.content_length or 0)
            self.traceparents.append(request.headers["traceparent"])
            fault = self.faults.pop(0) if self.faults else None
            answer = None if fault is None else fault()
            if answer is not None:
                return answer
            accepted = self._accept(job_id)
            return problem(502, "the answer was lost") if fault is not None else accepted

    def _accept(self, job_id: str) -> ResponseReturnValue:
        job = self.jobs.get(job_id)
        if job is None:
            return problem(404, f"there is no job {job_id!r}", "not-found")
        files = [(file.filename or "", file.read()) for file in request.files.getlist("images")]
        if len(files) > self.max_files:
            return problem(413, "the request is too large")
        places = [int(place) for place in request.form["positions"].split(",")]
        assert len(places) == len(files)
        self.slices.append((int(request.form["remaining"]), len(files)))
        key = request.headers["Idempotency-Key"]
        digest = sha256(repr(files).encode()).hexdigest()
        if key in job.slices:
            before, answer = job.slices[key]
            return answer if before == digest else problem(422, "other files", "idempotency-key-reused")
        accepted, rejected = [], []
        for index, ((name, content), place) in enumerate(zip(files, places, strict=True)):
            if content == UNAVAILABLE and name not in self._unavailable:
                self._unavailable.add(name)
                rejected.append({"index": index, "filename": name, "code": "unavailable", "message": "again"})
            elif content == REJECTED:
                rejected.append({"index": index, "filename": name, "code": "not_an_image", "message": "no image"})
            else:
                image_id = image_id_of(job_id, place)
                self.names[name] += 1
                unsure = {"decision": "unsure"} if name in self.unsure else {}
                job.images[image_id] = result_of(image_id, name, content) | unsure
                accepted.append({"index": index, "image_id": image_id, "filename": name})
        answer = {"job_id": job_id, "accepted": accepted, "rejected": rejected}, 200 if accepted else 422
        job.slices[key] = digest, answer
        return answer

    def _results(self, job_id: str) -> ResponseReturnValue:
        job = self.jobs.get(job_id)
        if self.results_fault is not None:
            return self.results_fault
        if job is None:
            return problem(404, f"there is no job {job_id!r}", "not-found")
        after, limit = request.args.get("after", ""), int(request.args.get("limit", "100"))
        if len(job.order) != len(job.images):
            job.order = sorted(job.images)
        start = bisect_right(job.order, after)
        ids = job.order[start : start + limit]
        page = [job.images[image_id] for image_id in ids]
        is_last = start + limit >= len(job.order)
        return {"job_id": job_id, "results": page, "next": None if is_last else ids[-1]}


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Serve `app` on a free port of loopback; the context is its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(DEADLINE_SECONDS)
        server.server_close()


def image_id_of(job_id: str, position: int) -> str:
    """Return a new id of an image as the server makes it: the time of the job, pack and place, random bits.

    The image at the position 63 is the last of the first pack, and the others are packs of three.
    """
    place = position if position < 64 else (position - 64) % 3
    field = 64 * (position - place) + place
    return str(ULID.from_bytes(ULID.from_str(job_id).bytes[:6] + field.to_bytes(4, "big") + os.urandom(6)))


def result_of(image_id: str, name: str, content: bytes) -> dict[str, Any]:
    """Return an image with its result, as the API answers it."""
    body: dict[str, Any] = {
        "image_id": image_id, "filename": name, "accepted_at": "2026-11-24T00:00:00+00:00",
        "recorded_at": "2026-11-24T00:00:01+00:00", "truth": None,
        "status": "done", "label": None, "score": None, "decision": None, "top": [], "model": None, "error": None,
    }  # fmt: skip
    if content == FAILED:
        return body | {"status": "failed", "error": {"code": "truncated", "message": "the file ends early"}}
    label = content.decode(errors="replace").partition(" ")[0]
    top = [{"label": label, "score": 0.9}, {"label": "=second", "score": 0.1}]
    return body | {
        "label": label,
        "score": 0.9,
        "decision": label,
        "top": top,
        "model": {"name": "demo", "digest": "abc"},
    }
