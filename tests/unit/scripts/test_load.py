"""The load generator: what it sends and where, the classic contract, jobs by the API, uploads to the bucket."""

import csv
import http.server
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from flask import Flask
from PIL import Image

from core.image_open import inspect, open_image
from fleetsight_client.api import ApiError, UploadResult
from scripts.cli import main as run_fleetsight
from scripts.demo_model.signs import samples
from scripts.load import command
from scripts.load.clients import (
    BATCH_FILES,
    ClassicAnswer,
    JobLoad,
    judge_answer,
    judge_label,
)
from scripts.load.demo_model import DemoModel
from scripts.load.inputs import (
    ExpectationError,
    LoadImages,
    LoadTarget,
    TargetError,
    drawn_signs,
    parse_target,
    read_expected,
)
from scripts.load.metrics import (
    ImageVerdict,
    LoadMetrics,
    LoadSummary,
    percentile,
    summary_rows,
)
from scripts.load.runner import LoadTest, run_concurrently
from tests.support.clocks import ManualClock
from tests.support.fake_client import FakeUploads
from tests.support.hostile_images import HONEST
from tests.support.servers import served, serving
from tests.support.waiting import DEADLINE_SECONDS


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the content of the file as its label; `hang up` gets no answer."""

    protocol_version = "HTTP/1.1"
    open_now, max_open, lock = 0, 0, threading.Lock()
    together = threading.Barrier(1)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        form = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        part = cast(Any, form.get_payload())[0]
        label = part.get_payload(decode=True)
        assert self.headers["Connection"] == "close"
        type(self).together.wait(DEADLINE_SECONDS)
        if label == b"hang up":
            return
        assert (self.path, part.get_param("name", header="content-disposition")) == ("/", "myfile")
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(label)))
        self.end_headers()
        self.wfile.write(label)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 100


@pytest.fixture
def target() -> Iterator[LoadTarget]:
    """A server that answers as the contract says."""
    Echo.together = threading.Barrier(1)
    with serving(Server(("127.0.0.1", 0), Echo)) as address:
        yield parse_target(address, anywhere=False)


def pictures(folder: Path, labels: dict[str, str], **sent: str) -> LoadImages:
    """Write files with their labels in them, or with what is `sent` in place of one."""
    for name, label in labels.items():
        (folder / name).write_text(sent.get(Path(name).stem, label))
    return LoadImages([folder / name for name in labels], len(labels), labels)


@pytest.mark.processes
def test_each_image_has_a_connection_of_its_own_and_all_are_open_at_once(target: LoadTarget, tmp_path: Path) -> None:
    Echo.together = threading.Barrier(50)  # no answer before fifty wait for one
    load = LoadTest(target, "classic", 50, 20)
    reported: list[int] = []
    summary = load.run(
        pictures(tmp_path, {f"{n}.jpg": f"label {n}" for n in range(50)}), threading.Event(), reported.append
    )
    assert (summary.right, summary.ok, max(reported)) == (50, True, 50)
    assert summary.p50_s is not None


@pytest.mark.processes
def test_wrong_and_lost_answers_are_counted_and_shown(target: LoadTarget, tmp_path: Path) -> None:
    sent = pictures(tmp_path, {"a.jpg": "stop", "b.jpg": "stop", "c.jpg": "stop"}, b="yield", c="hang up")
    summary = LoadTest(target, "classic", 1, 20).run(sent, threading.Event(), lambda images: None)
    assert (summary.right, summary.wrong, summary.lost, summary.ok) == (1, 1, 1, False)
    assert summary.problems[0] == "wrong: b.jpg: 'yield', not 'stop'"
    assert summary.problems[1].startswith("lost: c.jpg")


def test_drawn_signs_have_new_bytes_in_each_test_and_the_same_pixels(tmp_path: Path) -> None:
    first, second = (drawn_signs(tmp_path, 3, 1, 32, lambda _number: None) for _ in range(2))
    assert first.files == second.files
    for file in first.files:
        sent = [images.content(file) for images in (first, second)]
        assert sent[0] != sent[1]
        pixels = [Image.open(BytesIO(data)).convert("RGB").tobytes() for data in (*sent, file.read_bytes())]
        assert pixels[0] == pixels[1] == pixels[2]
        inspect(sent[0])


@pytest.mark.parametrize("name", sorted(HONEST))
def test_unique_images_have_bytes_of_their_own_and_the_same_pixels(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a"
    original = HONEST[name]()
    file.write_bytes(original)
    images = LoadImages([file], 3, {}, unique=True)
    sent = [images.content(file) for _ in images]
    assert len({*sent, original}) == 4
    assert len({len(data) for data in sent}) == 1
    for data in sent:
        inspect(data)
        with open_image(data) as new, open_image(original) as old:
            assert new.convert("RGB").tobytes() == old.convert("RGB").tobytes()
    assert (images.repeats, replace(images, unique=False).repeats) == (False, True)


def refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Run the command, which ends with status 2."""
    monkeypatch.setattr(sys, "argv", ["fleetsight", "load-test", "--url", url])
    with pytest.raises(SystemExit) as ended:
        run_fleetsight()
    assert ended.value.code == 2


def test_without_a_server_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(monkeypatch, "http://127.0.0.1:9")
    said = capsys.readouterr()
    assert said.err.startswith("fleetsight: nothing answers at http://127.0.0.1:9: start ./scripts/run.sh")
    assert said.out == ""


@pytest.mark.parametrize(
    ("token", "words"), [("", "make a token on your account's page"), ("fst_wrong", "the token is wrong")]
)
def test_without_a_valid_token_nothing_is_sent(
    token: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = Flask("signed_in")
    app.add_url_rule("/api/v1/limits", view_func=lambda: ({"detail": "the token is wrong"}, 401))
    monkeypatch.setenv("FLEETSIGHT_TOKEN", token)
    with served(app) as url:
        refused(monkeypatch, url)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "expected", "outcome"),
    [
        (ClassicAnswer(200, "text/plain; charset=utf-8", b"stop"), "stop", "right"),
        (ClassicAnswer(200, "text/plain", b"stop"), None, "answered"),
        (ClassicAnswer(200, "text/plain", b"yield"), "stop", "wrong"),
        (ClassicAnswer(200, "text/plain", b"stop\n"), "stop", "failed"),
        (ClassicAnswer(200, "text/plain", b""), "stop", "failed"),
        (ClassicAnswer(200, "text/html", b"stop"), "stop", "failed"),
        (ClassicAnswer(200, "text/plain", b"a:stop"), "stop", "failed"),
        (ClassicAnswer(302, "text/plain", b"stop"), "stop", "failed"),
        (ClassicAnswer(422, "text/plain", b"no image"), "stop", "failed"),
    ],
)
def test_answers_are_verified_against_the_contract(
    answer: ClassicAnswer, expected: str | None, outcome: ImageVerdict
) -> None:
    images = LoadImages([Path("a.b.jpg")], 1, {} if expected is None else {"a.b.jpg": expected})
    assert judge_answer(answer, "a.b.jpg", images)[0] == outcome


def test_a_label_that_the_model_itself_gives_is_right_though_something_else_was_drawn() -> None:
    images = LoadImages([Path("a.jpg")], 1, {"a.jpg": "stop"}, model_label=lambda _: "airplane")
    verdicts = [judge_label(label, "a.jpg", images)[0] for label in ("stop", "airplane", "cat")]
    assert verdicts == ["right", "right", "wrong"]


def test_the_demo_model_in_this_process_knows_a_drawn_sign(tmp_path: Path) -> None:
    [sample] = samples(1, seed=3)
    (tmp_path / "a").write_bytes(sample.data)
    (tmp_path / "b").write_bytes(b"no image")
    model = DemoModel()
    assert [model.label(tmp_path / "a"), model.label(tmp_path / "b")] == [sample.label, None]


@dataclass
class FakeApi(FakeUploads):
    """Answers with the content of each file as its label; `!` fails, `?` never has a result, `-` is not accepted."""

    sent: list[tuple[str, str]] = field(default_factory=list)

    def accept(self, files: Sequence[tuple[str, bytes]]) -> UploadResult:
        start = len(self.sent)
        self.sent += [(name, content.decode()) for name, content in files if content != b"-"]
        accepted = [(f"id-{start + at}", name) for at, (name, _) in enumerate(self.sent[start:])]
        return UploadResult(accepted, [(name, "not an image") for name, content in files if content == b"-"])

    def fleet(self) -> dict[str, Any] | None:
        return None

    def status(self, job_id: str) -> dict[str, Any]:
        labels = [label for _, label in self.sent]
        return {"done": sum(label not in "!?" for label in labels), "failed": labels.count("!")}

    def results(self, job_id: str, page: int = 500) -> Iterator[dict[str, Any]]:
        states = {"!": "failed", "?": "waiting"}
        for number, (name, label) in enumerate(self.sent):
            yield {
                "image_id": f"id-{number}",
                "filename": name,
                "status": states.get(label, "done"),
                "label": label,
                "error": {"message": "ends early"},
                "accepted_at": "2026-11-24T00:00:01+00:00",
                "recorded_at": "2026-11-24T00:00:03+00:00",
            }


HERE = LoadTarget("http://127.0.0.1:8000", "127.0.0.1", 8000)


def judged(folder: Path, contents: Sequence[str], api: FakeApi) -> LoadMetrics:
    """Send files with `contents`, each of which should be a stop sign."""
    files = [folder / f"{number}.jpg" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content.encode())
    metrics, clock = LoadMetrics(), ManualClock()
    pictures = LoadImages(files, len(files), {file.name: "stop" for file in files})
    load = JobLoad(api, pictures, metrics, 30, threading.Event(), clock)
    for part in load.batches():
        load.upload("job", part)
    load.collect("job", lambda images: None)
    return metrics


def test_a_rejected_batch_fails_as_a_whole(tmp_path: Path) -> None:
    figures = judged(tmp_path, ["stop"] * (2 * BATCH_FILES + 5), FakeApi(failing_posts=1))
    assert (figures.counts["right"], figures.counts["failed"]) == (BATCH_FILES + 5, BATCH_FILES)


def test_a_job_without_a_readable_status_stalls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi()

    def unreadable(job_id: str) -> dict[str, Any]:
        raise ApiError("no answer")

    monkeypatch.setattr(api, "status", unreadable)
    assert judged(tmp_path, ["stop", "?"], api).counts["lost"] == 1


def test_each_image_has_a_verdict(tmp_path: Path) -> None:
    figures = judged(tmp_path, ["stop", "yield", "!", "?", "-", "stop"], FakeApi())
    assert figures.counts == {"right": 2, "answered": 0, "wrong": 1, "failed": 2, "lost": 1}
    assert "lost: 3.jpg: accepted, and no result" in figures.problems
    assert "failed: 4.jpg: not an image" in figures.problems


def test_a_job_is_sent_by_the_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.load.runner.ApiClient", lambda *_arguments, **_options: FakeApi())
    (tmp_path / "a.jpg").write_bytes(b"stop")
    sent, results = LoadImages([tmp_path / "a.jpg"], 1, {"a.jpg": "stop"}), list[int]()
    summary = LoadTest(HERE, "api", 1, 30).run(sent, threading.Event(), results.append)
    assert (summary.mode, summary.ok, results[-1]) == ("api", True, 1)
    assert ("upload to label, p95", "2.000 s") in summary_rows(summary)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:80/", "https://127.9.9.9"]
)
def test_a_system_on_this_machine_may_be_loaded(url: str) -> None:
    assert parse_target(url, anywhere=False).port in {8000, 80, 443}


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1", "http://10.0.0.1:8000", "http://0.0.0.0", "http://127.0.0.1.@192.0.2.1"]
)
def test_a_system_on_another_machine_is_loaded_only_if_allowed(url: str) -> None:
    with pytest.raises(TargetError, match="--i-may-load-this-target"):
        parse_target(url, anywhere=False)
    parse_target(url, anywhere=True)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x", "http://127.0.0.1/jobs"]
)
def test_an_invalid_target_is_rejected(url: str) -> None:
    with pytest.raises(TargetError, match="--url"):
        parse_target(url, anywhere=True)


def test_a_folder_with_too_few_images_is_repeated(tmp_path: Path) -> None:
    assert [file.name for file in LoadImages([tmp_path / "a", tmp_path / "b"], 5, {})] == ["a", "b", "a", "b", "a"]


def test_expected_labels_must_be_complete(tmp_path: Path) -> None:
    path, files = tmp_path / "expected.csv", [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    path.write_text("filename,label\na.jpg,stop\n")
    assert read_expected(path, files[:1]) == {"a.jpg": "stop"}
    with pytest.raises(ExpectationError, match=r"no label for 1 images, such as 'b.jpg'"):
        read_expected(path, files)
    path.write_text("name,label\na.jpg,stop\n")
    with pytest.raises(ExpectationError, match="columns filename and label"):
        read_expected(path, files)


def test_percentiles_use_the_nearest_rank() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, share) for share in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert (percentile([7.0], 50), percentile([], 50)) == (7, None)


def test_images_without_a_verdict_are_lost() -> None:
    figures = LoadMetrics()
    figures.record_verdict("right", images=7)
    summary = figures.summary("classic", 10, 2.0)
    assert (summary.lost, summary.ok, summary.images_per_second) == (3, False, 3.5)
    assert ("right", "7") in summary_rows(summary)
    assert ("request, p95", "-") in summary_rows(summary)


def test_an_error_of_one_client_ends_the_others_and_is_raised() -> None:
    stopped = threading.Event()

    def fail(number: int) -> None:
        if number == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_concurrently(iter(range(1_000_000_000)), 4, fail, stopped)
    assert stopped.is_set()


def summary_of(right: int, wrong: int) -> LoadSummary:
    figures = LoadMetrics()
    figures.record_verdict("right", images=right)
    figures.record_verdict("wrong", "a.jpg: 'x', not 'y'", images=wrong)
    return figures.summary("classic", right + wrong, 1.0)


@pytest.mark.parametrize(("wrong", "status"), [(0, 0), (1, 1)])
def test_the_command_ends_with_status_1_for_any_wrong_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int, status: int
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    expected, out = tmp_path / "expected.csv", tmp_path / "out.json"
    with expected.open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "label"), ("a.jpg", "y")])
    sent: list[LoadImages] = []

    def run_nothing(load: object, pictures: LoadImages, *_rest: object) -> LoadSummary:
        sent.append(pictures)
        return summary_of(9, wrong)

    monkeypatch.setattr(LoadTest, "run", run_nothing)
    monkeypatch.setattr(LoadTarget, "check_answers", lambda _target: None)
    monkeypatch.setattr(signal, "signal", lambda *_given: None)
    arguments = ["--images", str(tmp_path), "--expected", str(expected), "--count", "10", "--json", str(out)]
    result = CliRunner().invoke(command.load_test, arguments)
    assert result.exit_code == status, result.output
    assert (sent[0].count, sent[0].expected) == (10, {"a.jpg": "y"})
    assert (json.loads(out.read_text())["wrong"], "wrong" in result.output) == (wrong, True)


def test_an_interrupted_test_says_that_images_were_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_load: object, _pictures: LoadImages, stopped: threading.Event, *_rest: object) -> LoadSummary:
        stopped.set()
        return summary_of(9, 0)

    (tmp_path / "a.jpg").write_bytes(b"x")
    monkeypatch.setattr(LoadTest, "run", interrupted)
    monkeypatch.setattr(LoadTarget, "check_answers", lambda _target: None)
    monkeypatch.setattr(signal, "signal", lambda *_given: None)
    result = CliRunner().invoke(command.load_test, ["--images", str(tmp_path)])
    assert (result.exit_code, "Interrupted: images that were not sent count as lost." in result.output) == (130, True)
