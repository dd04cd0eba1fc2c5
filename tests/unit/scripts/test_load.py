"""The load generator: what it sends and where, the contract of each answer, closed and open loop, exit status."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from flask import Flask, request

from scripts.load.command import check_thresholds, load_test, read_expected
from scripts.load.runner import (
    ClassicClient,
    LoadSummary,
    LoadTest,
    Verdict,
    judge_answer,
)
from scripts.run.batch import BatchProgress, BatchSummary
from scripts.run.images import ImageSet
from tests.support.clocks import ManualClock
from tests.support.servers import served
from tests.support.waiting import DEADLINE_SECONDS, wait_until


class Echo(Flask):
    """A system that answers a file with its content as the label, and `broken` with 500."""

    def __init__(self) -> None:
        super().__init__("echo")
        self.together, self.sent = threading.Barrier(1), list[bytes]()
        self.models: tuple[dict[str, Any], int] = ({"default": "signs", "models": [{"name": "signs"}]}, 200)
        self.add_url_rule("/", view_func=self.classify, methods=["POST"])
        self.add_url_rule("/api/v1/models", view_func=lambda: self.models)

    def classify(self) -> tuple[str, int, dict[str, str]]:
        content = request.files["myfile"].read()
        self.sent.append(content)
        self.together.wait(DEADLINE_SECONDS)
        label = content.decode()
        return label, 500 if label == "broken" else 200, {"Content-Type": "text/plain"}


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def url(echo: Echo) -> Iterator[str]:
    with served(echo) as address:
        yield address


def files(folder: Path, *labels: str) -> ImageSet:
    """Write a file for each label, with the label in it."""
    found = [folder / f"{number}.jpg" for number in range(len(labels))]
    for file, label in zip(found, labels, strict=True):
        file.write_text(label)
    return ImageSet("test", found, {file.name: label for file, label in zip(found, labels, strict=True)})


def test_all_clients_wait_for_their_answers_at_once(echo: Echo, url: str, tmp_path: Path) -> None:
    echo.together = threading.Barrier(50)  # no answer before fifty wait for one
    images, reported = files(tmp_path, *(f"label {number}" for number in range(50))), list[int]()
    summary = LoadTest(url, "classic", 50, 20).run(images, threading.Event(), reported.append)
    assert (summary.counts["right"], len(summary.times), max(reported)) == (50, 50, 50)


@pytest.mark.parametrize(
    ("status", "content_type", "text", "expected", "verdict"),
    [
        (200, "text/plain; charset=utf-8", "stop", "stop", "right"),
        (200, "text/plain", "a stop", "a:stop", "right"),
        (200, "text/plain", "stop", None, "answered"),
        (200, "text/plain", "yield", "stop", "wrong"),
        (200, "text/plain", "stop\n", "stop", "failed"),
        (200, "text/plain", "", "stop", "failed"),
        (200, "text/html", "stop", "stop", "failed"),
        (200, "text/plain", "a:stop", "stop", "failed"),
        (302, "text/plain", "stop", "stop", "failed"),
        (422, "text/plain", "no image", "stop", "failed"),
    ],
)
def test_answers_are_verified_against_the_contract(
    status: int, content_type: str, text: str, expected: str | None, verdict: Verdict
) -> None:
    assert judge_answer(status, content_type, text, expected)[0] == verdict


def test_a_job_is_judged_by_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def classified(batch: Any) -> BatchSummary:
        batch.show(BatchProgress(4, classified=4))
        return BatchSummary(
            *("job", 0.0, 4, 1, 1, 0, 1, 1, 2.0, 1, 1.0, 2.0),
            failures=[("2.jpg", "torn")],
            mistakes=[("1.jpg", "stop", "yield")],
        )

    def results(_client: object, job_id: str) -> Iterator[dict[str, str]]:
        times = {"accepted_at": "2026-11-24T00:00:01+00:00", "recorded_at": "2026-11-24T00:00:03+00:00"}
        yield from [{"status": "done", **times}, {"status": "failed", **times}, {"status": "waiting"}]

    monkeypatch.setattr("scripts.run.batch.Batch.run", classified)
    monkeypatch.setattr("fleetsight_client.api.ApiClient.results", results)
    reported = list[int]()
    load = LoadTest("http://127.0.0.1:9", "api", 1, 30)
    summary = load.run(files(tmp_path, "stop", "stop", "stop", "stop"), threading.Event(), reported.append)
    assert summary.counts == {"right": 1, "answered": 0, "wrong": 1, "failed": 1, "lost": 1}
    assert (summary.times, reported) == ([2, 2], [4])
    assert summary.problems == ["wrong: 1.jpg: 'yield', not 'stop'", "failed: 2.jpg: torn"]


def invoked(*arguments: str) -> tuple[int, str]:
    """Run the command; return its status and what it prints or raises."""
    before = signal.getsignal(signal.SIGINT)
    try:
        result = CliRunner().invoke(load_test, arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    shown = f"{result.output} {'' if isinstance(result.exception, SystemExit) else result.exception}"
    return result.exit_code, " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize(
    ("labels", "options", "status", "counts"),
    [
        (["stop", "yield"], (), 0, (5, 0, 0)),
        (["stop", "stop"], (), 1, (3, 2, 0)),
        (["stop", "broken"], (), 1, (3, 0, 2)),
        (["stop", "stop"], ("--max-failed", "2"), 0, (3, 2, 0)),
        (["stop", "yield"], ("--min-rate", "100000"), 1, (5, 0, 0)),
    ],
)
def test_the_exit_status_is_1_where_an_image_is_not_right_or_a_limit_is_missed(
    url: str,
    echo: Echo,
    tmp_path: Path,
    labels: list[str],
    options: tuple[str, ...],
    status: int,
    counts: tuple[int, int, int],
) -> None:
    files(tmp_path, *labels)
    truth, out = tmp_path / "truth.csv", tmp_path / "out.json"
    truth.write_text("filename,label\n0.jpg,stop\n1.jpg,yield\n")
    given = ("--url", url, "--images", str(tmp_path), "--expected", str(truth), "--count", "5", "--json", str(out))
    assert invoked(*given, *options)[0] == status
    figures = json.loads(out.read_text())
    assert (figures["right"], figures["wrong"], figures["failed"]) == counts
    assert all(figures["thresholds"].values()) is (status == 0)
    assert len(echo.sent) == 5


def test_a_model_that_does_not_know_the_drawn_signs_is_not_judged(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = files(tmp_path, "cat", "dog")
    monkeypatch.setattr("scripts.load.command.sample_images", lambda _folder: signs)
    status, shown = invoked("--url", url, "--count", "3")
    assert status == 0, shown
    assert "The model signs does not know the drawn signs" in shown
    assert "answered 3" in shown


@pytest.mark.parametrize(
    ("token", "words"), [("", "make a token on your account's page"), ("fst_wrong", "the token is wrong")]
)
def test_without_a_valid_token_nothing_is_sent(
    token: str, words: str, url: str, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, "stop")
    echo.models = {"detail": "the token is wrong"}, 401
    monkeypatch.setenv("FLEETSIGHT_TOKEN", token)
    assert words in invoked("--url", url, "--images", str(tmp_path))[1]
    assert echo.sent == []


def test_after_an_interrupt_the_rest_is_lost_and_the_status_is_130(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, "stop")
    sent = ClassicClient.post
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal

    def interrupted(client: ClassicClient, name: str, data: bytes) -> Any:
        os.kill(os.getpid(), signal.SIGINT)  # to the main thread, as from a terminal
        wait_until(lambda: signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "the main thread has stopped the test")
        return sent(client, name, data)

    monkeypatch.setattr(ClassicClient, "post", interrupted)
    status, shown = invoked("--url", url, "--images", str(tmp_path), "--count", "9", "--concurrency", "1")
    signal.signal(signal.SIGINT, before)
    assert (status, "lost 8" in shown, "images that were not sent count as lost" in shown) == (130, True, True), shown


# An open loop


class Answer:
    """An answer of a server."""

    status, headers, data = 200, {"Content-Type": "text/plain"}, b"stop"


def test_latency_counts_from_the_moment_at_which_an_image_was_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven images are due at once, and one connection answers them one after the other."""
    clock = ManualClock(0)

    def post(_client: ClassicClient, _name: str, _data: bytes) -> Answer:
        clock.sleep(1)
        return Answer()

    monkeypatch.setattr(ClassicClient, "post", post)
    load = LoadTest("http://127.0.0.1:9", "classic", 1, 5, rate=1e9, clock=clock)
    summary = load.run(files(tmp_path, *["stop"] * 7), threading.Event(), lambda _done: None)
    assert summary.times == pytest.approx([1, 2, 3, 4, 5, 6, 7])
    assert (summary.figures()["late"], summary.figures()["latest_s"]) == (6, 6)


def test_no_image_is_sent_before_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stopped, sent = ManualClock(0), threading.Event(), list[float]()

    def post(_client: ClassicClient, _name: str, _data: bytes) -> Answer:
        sent.append(clock())
        return Answer()

    def wait(seconds: float) -> bool:
        clock.sleep(seconds)
        return False

    monkeypatch.setattr(ClassicClient, "post", post)
    monkeypatch.setattr(stopped, "wait", wait)
    load = LoadTest("http://127.0.0.1:9", "classic", 1, 5, rate=2, clock=clock)
    load.run(files(tmp_path, *["stop"] * 5), stopped, lambda _done: None)
    assert len(sent) == 5
    assert all(moment >= number / 2 for number, moment in enumerate(sent))


# Figures and options


def summary_of(times: list[float], late: list[float] | None = None, **counts: int) -> LoadSummary:
    found = dict.fromkeys(("right", "answered", "wrong", "failed", "lost"), 0) | counts
    return LoadSummary("classic", 10.0, found, times, [], late or [])


@pytest.mark.parametrize(
    ("most", "rate", "times", "missed"),
    [
        (0, None, {}, ["wrong, failed or lost images at most 0 (measured 3)"]),
        (3, 9.7, {"p50": 0.5, "p95": 0.95, "p99": None}, []),
        (3, 9.8, {}, ["images/s at least 9.8 (measured 9.7)"]),
        (3, None, {"p95": 0.9}, ["p95 at most 0.9 s (measured 0.950 s)"]),
    ],
)
def test_a_threshold_is_reached_or_missed(
    most: int, rate: float | None, times: dict[str, float | None], missed: list[str]
) -> None:
    figures = summary_of([number / 100 for number in range(1, 101)], right=95, answered=2, lost=3).figures()
    results = check_thresholds(figures, most, rate, times)
    assert [limit for limit, is_reached in results.items() if not is_reached] == missed


def test_a_percentile_of_no_answer_does_not_reach_its_threshold() -> None:
    assert not all(check_thresholds(summary_of([], right=0).figures(), 0, None, {"p95": 5.0}).values())


@pytest.mark.parametrize("address", ["http://192.0.2.1", "https://192.0.2.1:8000", "http://127.0.0.1.@192.0.2.1"])
def test_a_system_on_another_machine_is_loaded_only_if_allowed(address: str) -> None:
    status, shown = invoked("--url", address)
    assert (status, "--i-may-load-this-target" in shown) == (2, True), shown


def test_expected_labels_must_be_complete(tmp_path: Path) -> None:
    path, images = tmp_path / "expected.csv", [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    path.write_text("filename,label\na.jpg,stop\n")
    assert read_expected(path, images[:1]) == {"a.jpg": "stop"}
    with pytest.raises(click.UsageError, match=r"no label for 1 images, such as 'b.jpg'"):
        read_expected(path, images)
    path.write_text("name,label\na.jpg,stop\n")
    with pytest.raises(click.UsageError, match="columns filename and label"):
        read_expected(path, images)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ("--rate 5 --mode api", "are for --mode classic"),
        ("--duration 5", "--duration goes with --rate"),
        ("--rate 0", "not in the range"),
        ("--rate 5 --duration 60 --count 3", "omit --count"),
        ("--rate 5000 --duration 3600", "18,000,000 images: 1 to 100,000 are possible"),
        ("--rat 5", "Did you mean"),
        ("--json /no/such/folder/a.json", "cannot write /no/such/folder/a.json"),
        ("--json /", "it is a folder itself"),
        ("--url 127.0.0.1:8000", "is not an address such as http://127.0.0.1:8000"),
        ("--url http://127.0.0.1:9", "Connection refused"),
    ],
)
def test_options_that_do_not_fit_are_named(arguments: str, reported: str) -> None:
    status, shown = invoked(*arguments.split())
    assert status != 0
    assert reported in shown
