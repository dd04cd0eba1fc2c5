"""The load generator takes no answer for right that is not exactly what the contract says."""

import http.server
import threading
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any, cast

import pytest

from scripts.load.classic import ClassicAnswer, ClassicClient, judge_answer
from scripts.load.inputs import LoadImages, LoadTarget, parse_target
from scripts.load.metrics import ImageVerdict, LoadMetrics
from scripts.load.runner import LoadTest
from tests.support.served import serving
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
        named = part.get_param("name", header="content-disposition") == "inputFile"
        before = f"{Path(part.get_filename()).stem}:".encode() if named else b""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(before + label)))
        self.end_headers()
        self.wfile.write(before + label)

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


@pytest.mark.parametrize("field", ["myfile", "inputFile"])
@pytest.mark.processes
def test_each_image_has_a_connection_of_its_own_and_all_are_open_at_once(
    target: LoadTarget, tmp_path: Path, field: str
) -> None:
    Echo.together = threading.Barrier(50)  # no answer before fifty wait for one
    load = LoadTest(target, "classic", 50, "/", field, 20)
    told: list[int] = []
    summary = load.run(
        pictures(tmp_path, {f"{n}.jpg": f"label {n}" for n in range(50)}), threading.Event(), told.append
    )
    assert (summary.right, summary.ok, max(told)) == (50, True, 50)
    assert summary.p50_s is not None


@pytest.mark.processes
def test_wrong_and_lost_answers_are_counted_and_shown(target: LoadTarget, tmp_path: Path) -> None:
    sent = pictures(tmp_path, {"a.jpg": "stop", "b.jpg": "stop", "c.jpg": "stop"}, b="yield", c="hang up")
    summary = LoadTest(target, "classic", 1, "/", "myfile", 20).run(sent, threading.Event(), lambda images: None)
    assert (summary.right, summary.wrong, summary.lost, summary.ok) == (1, 1, 1, False)
    assert summary.problems[0] == "wrong: b.jpg: 'yield', not 'stop'"
    assert summary.problems[1].startswith("lost: c.jpg")


@pytest.mark.processes
def test_a_load_test_that_is_stopped_counts_the_rest_as_lost(target: LoadTarget, tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    sent = pictures(tmp_path, {"a.jpg": "stop", "b.jpg": "stop"})
    summary = LoadTest(target, "classic", 2, "/", "myfile", 20).run(sent, stopped, lambda images: None)
    assert (summary.lost, summary.ok) == (2, False)


@pytest.mark.processes
def test_nobody_there_is_an_image_lost(tmp_path: Path) -> None:
    nobody = ClassicClient(LoadTarget("http://127.0.0.1:9", "127.0.0.1", 9, False), "/", "myfile", 5)
    figures, sent = LoadMetrics(), pictures(tmp_path, {"a.jpg": "stop"})
    nobody.classify(sent.files[0], sent, figures)
    assert figures.counts["lost"] == 1


@pytest.mark.parametrize(
    ("answer", "field", "expected", "judged"),
    [
        (ClassicAnswer(200, "text/plain; charset=utf-8", b"stop"), "myfile", "stop", "right"),
        (ClassicAnswer(200, "text/plain", b"a.b:stop"), "inputFile", "stop", "right"),
        (ClassicAnswer(200, "text/plain", b"stop"), "myfile", None, "answered"),
        (ClassicAnswer(200, "text/plain", b"yield"), "myfile", "stop", "wrong"),
        (ClassicAnswer(200, "text/plain", b"stop\n"), "myfile", "stop", "failed"),
        (ClassicAnswer(200, "text/plain", b""), "myfile", "stop", "failed"),
        (ClassicAnswer(200, "text/html", b"stop"), "myfile", "stop", "failed"),
        (ClassicAnswer(200, "text/plain", b"a:stop"), "myfile", "stop", "failed"),
        (ClassicAnswer(200, "text/plain", b"a.b.jpg:stop"), "inputFile", "stop", "failed"),
        (ClassicAnswer(200, "text/plain", b"stop"), "inputFile", "stop", "failed"),
        (ClassicAnswer(302, "text/plain", b"stop"), "myfile", "stop", "failed"),
        (ClassicAnswer(422, "text/plain", b"no image"), "myfile", "stop", "failed"),
    ],
)
def test_an_answer_is_judged_by_the_letter(
    answer: ClassicAnswer, field: str, expected: str | None, record_verdict: ImageVerdict
) -> None:
    assert judge_answer(answer, field, "a.b.jpg", expected)[0] == record_verdict
