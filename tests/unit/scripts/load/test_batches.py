"""A job through the API: every image that was sent gets one verdict."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.client import ApiClient, ApiError, UploadResult
from scripts.load.inputs import LoadImages
from scripts.load.jobs import BATCH_FILES, JobLoad
from scripts.load.metrics import LoadMetrics


@dataclass
class FakeApi(ApiClient):
    """Answers with the content of each file as its label; `!` fails, `?` never has a result, `-` is not accepted."""

    base_url: str = "http://fake"
    sent: list[tuple[str, str]] = field(default_factory=list)
    failing_posts: int = 0

    def add_images(self, job_id: str, files: Sequence[tuple[str, bytes]], key: str | None = None) -> UploadResult:
        if self.failing_posts:
            self.failing_posts -= 1
            raise ApiError("the connection was cut")
        start = len(self.sent)
        self.sent += [(name, content.decode()) for name, content in files if content != b"-"]
        accepted = [(f"id-{start + at}", name) for at, (name, _) in enumerate(self.sent[start:])]
        return UploadResult(accepted, [(name, "not an image") for name, content in files if content == b"-"])

    def status(self, job_id: str) -> dict[str, Any]:
        return {"done": sum(label not in "!?" for _, label in self.sent), "failed": self._count("!")}

    def _count(self, label: str) -> int:
        return sum(each == label for _, each in self.sent)

    def results(self, job_id: str, page: int = 500) -> Iterator[dict[str, Any]]:
        states = {"!": "failed", "?": "waiting"}
        for number, (name, label) in enumerate(self.sent):
            yield {
                "image_id": f"id-{number}",
                "filename": name,
                "status": states.get(label, "done"),
                "label": label,
                "error": {"message": "ends early"},
            }


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def run(tmp_path: Path, contents: Sequence[str], api: FakeApi) -> LoadMetrics:
    """Send files with `contents`, each of which is expected to be a stop sign; return what came of it."""
    files = [tmp_path / f"{number}.jpg" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_text(content)
    figures, clock = LoadMetrics(), Clock()
    pictures = LoadImages(files, len(files), {file.name: "stop" for file in files})
    load = JobLoad(api, pictures, figures, 30, threading.Event(), clock, clock.sleep)
    for part in load.batches():
        load.upload("job", part)
    load.collect("job", lambda images: None)
    return figures


def test_every_image_has_its_verdict(tmp_path: Path) -> None:
    figures = run(tmp_path, ["stop", "yield", "!", "?", "-", "stop"], FakeApi())
    assert figures.counts == {"right": 2, "answered": 0, "wrong": 1, "failed": 2, "lost": 1}
    assert "lost: 3.jpg: accepted, and no result" in figures.problems


def test_images_go_in_slices_and_one_that_is_refused_fails_as_a_whole(tmp_path: Path) -> None:
    figures = run(tmp_path, ["stop"] * (2 * BATCH_FILES + 5), FakeApi(failing_posts=1))
    assert (figures.counts["right"], figures.counts["failed"]) == (BATCH_FILES + 5, BATCH_FILES)


def test_a_job_whose_status_cannot_be_read_is_given_up_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi()

    def unreadable(job_id: str) -> dict[str, Any]:
        raise ApiError("no answer")

    monkeypatch.setattr(api, "status", unreadable)
    assert run(tmp_path, ["stop", "?"], api).counts["lost"] == 1


def test_images_without_an_expected_label_are_only_answered(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_text("anything")
    figures = LoadMetrics()
    load = JobLoad(FakeApi(), LoadImages([file], 3, {}), figures, 30, threading.Event())
    for part in load.batches():
        load.upload("job", part)
    load.collect("job", lambda images: None)
    assert figures.counts["answered"] == 3
