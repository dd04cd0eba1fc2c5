"""A batch accounts for every file, whatever the system answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.client import ApiClient, ApiError, UploadResult
from scripts.run.batch import STALLED_SECONDS, Batch, BatchProgress, InterruptedBatchError
from scripts.run.images import ImageSet, NoImagesError, images_in, sample_images

MODEL = {"name": "demo", "digest": "0123456789abcdef"}


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeApi(ApiClient):
    """Answers as the API does: `label` classifies a filename, None leaves it without a result."""

    def __init__(self, labels: dict[str, str | None], refused: Sequence[str] = (), failing_posts: int = 0) -> None:
        super().__init__("http://fake")
        self.labels, self.refused, self.failing_posts = labels, refused, failing_posts
        self.accepted: list[tuple[str, str]] = []
        self.keeps = False

    def create_job(self, name: str, *, keep: bool = False, key: str | None = None) -> str:
        self.keeps = keep
        return "job"

    def add_images(self, job_id: str, files: Sequence[tuple[str, bytes]], key: str | None = None) -> UploadResult:
        if self.failing_posts:
            self.failing_posts -= 1
            raise ApiError("the connection was cut")
        accepted = [(f"id-{name}", name) for name, _ in files if name not in self.refused]
        self.accepted += accepted
        return UploadResult(accepted, [(name, "not an image") for name, _ in files if name in self.refused])

    def _answered(self) -> list[tuple[str, str]]:
        return [(image_id, name) for image_id, name in self.accepted if self.labels[name] is not None]

    def status(self, job_id: str) -> dict[str, Any]:
        failed = sum(self.labels[name] == "!" for _, name in self._answered())
        return {
            "accepted": len(self.accepted),
            "done": len(self._answered()) - failed,
            "failed": failed,
            "first_result_at": "1970-01-12T13:46:41+00:00",
            "last_result_at": "1970-01-12T13:46:44+00:00",
        }

    def fleet(self) -> dict[str, Any] | None:
        return {"running": 1, "pending": 1, "peak_workers": 5, "problem": None, "reason": "starting"}

    def results(self, job_id: str, page: int = 500) -> Any:
        for image_id, name in self._answered():
            label = self.labels[name]
            if label == "!":
                yield {"image_id": image_id, "status": "failed", "error": {"message": "torn"}}
            else:
                yield {"image_id": image_id, "status": "done", "label": label, "model": MODEL}


def batch(tmp_path: Path, api: FakeApi, truth: dict[str, str], clock: FakeClock | None = None) -> Batch:
    files = [tmp_path / name for name in api.labels]
    for path in files:
        path.write_bytes(b"pixels")
    clock = clock or FakeClock()
    return Batch(api, ImageSet("test", files, truth), lambda _progress: None, clock=clock, sleep=clock.sleep)


def test_every_file_is_right_wrong_failed_or_lost(tmp_path: Path) -> None:
    api = FakeApi({"a": "stop", "b": "yield", "c": "!", "d": "stop", "e": None}, refused=["d"])
    summary = batch(tmp_path, api, dict.fromkeys("abcde", "stop")).run()
    assert (summary.right, summary.wrong, summary.failed, summary.lost) == (1, 1, 2, 1)
    assert summary.mistakes == [("b", "stop", "yield")]
    assert sorted(summary.failures) == [("c", "torn"), ("d", "not an image")]
    assert not summary.ok


@pytest.mark.parametrize("keep", [False, True])
def test_a_batch_is_kept_where_that_is_wanted(tmp_path: Path, keep: bool) -> None:
    api = FakeApi({"a": "stop"})
    replace(batch(tmp_path, api, {}), keep=keep).run()
    assert api.keeps is keep


def test_times_count_from_the_start_of_the_batch(tmp_path: Path) -> None:
    summary = batch(tmp_path, FakeApi({"a": "stop"}), {"a": "stop"}).run()
    assert (summary.first_result_s, summary.last_result_s) == (1.0, 4.0)
    assert summary.images_per_second == 0.2
    assert summary.peak_workers == 5


def test_without_known_labels_nothing_is_called_right_or_wrong(tmp_path: Path) -> None:
    summary = batch(tmp_path, FakeApi({"a": "stop"}), {}).run()
    assert (summary.right, summary.wrong, summary.ok) == (None, None, True)
    assert summary.labels == {"stop": 1}


def test_a_slice_whose_connection_is_cut_is_sent_again(tmp_path: Path) -> None:
    summary = batch(tmp_path, FakeApi({"a": "stop"}, failing_posts=2), {"a": "stop"}).run()
    assert summary.ok


def test_an_upload_that_keeps_failing_ends_the_batch(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="cut"):
        batch(tmp_path, FakeApi({"a": "stop"}, failing_posts=100), {}).run()


def test_a_batch_without_progress_ends_after_a_bounded_wait(tmp_path: Path) -> None:
    clock = FakeClock()
    started = clock.now
    summary = batch(tmp_path, FakeApi({"a": None}), {"a": "stop"}, clock).run()
    assert summary.lost == 1
    assert STALLED_SECONDS <= clock.now - started < STALLED_SECONDS + 10


def test_an_interrupted_batch_says_so(tmp_path: Path) -> None:
    interrupted = batch(tmp_path, FakeApi({"a": None}), {})
    interrupted.interrupted = lambda: True
    with pytest.raises(InterruptedBatchError):
        interrupted.run()


def test_waiting_is_never_negative() -> None:
    assert BatchProgress(10, uploaded=3, classified=5).waiting == 0


def test_the_samples_are_drawn_once_and_their_labels_kept(tmp_path: Path) -> None:
    first = sample_images(tmp_path / "samples")
    changed = first.files[0]
    changed.write_bytes(b"not drawn again")
    second = sample_images(tmp_path / "samples")
    assert len(second.files) == 100
    assert second.truth == first.truth
    assert changed.read_bytes() == b"not drawn again"


def test_a_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(NoImagesError, match=str(tmp_path)):
        images_in(tmp_path)
    with pytest.raises(NoImagesError, match="no such folder"):
        images_in(tmp_path / "absent")


def test_a_folder_is_searched_below(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "photo.JPG").write_bytes(b"")
    assert [path.name for path in images_in(tmp_path).files] == ["photo.JPG"]
