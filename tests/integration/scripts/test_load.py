"""What the load generator sends, whom it may load, and how it ends."""

import csv
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.load import __main__ as command
from scripts.load.inputs import ExpectationError, LoadImages, TargetError, drawn_signs, parse_target, read_expected
from scripts.load.metrics import LoadMetrics, LoadSummary, percentile, summary_rows
from scripts.load.runner import LoadTest, run_concurrently
from tests.conftest import ROOT
from tests.support.waiting import DEADLINE_SECONDS


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


def test_signs_are_drawn_once_with_their_labels(tmp_path: Path) -> None:
    drawn: list[int] = []
    first = drawn_signs(tmp_path, 6, 1, 32, drawn.append)
    assert (drawn, len(first.files)) == ([1, 2, 3, 4, 5, 6], 6)
    assert set(first.expected) == {file.name for file in first.files}
    again = drawn_signs(tmp_path, 6, 1, 32, drawn.append)
    assert (len(drawn), again) == (6, first)
    assert all(file.stat().st_size for file in again)


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

    def run(load: object, pictures: LoadImages, *_rest: object) -> LoadSummary:
        sent.append(pictures)
        return summary_of(9, wrong)

    monkeypatch.setattr(LoadTest, "run", run)
    monkeypatch.setattr(signal, "signal", lambda *_given: None)
    arguments = ["--images", str(tmp_path), "--expected", str(expected), "--count", "10", "--json", str(out)]
    result = CliRunner().invoke(command.load_test, arguments)
    assert result.exit_code == status, result.output
    assert (sent[0].count, sent[0].expected) == (10, {"a.jpg": "y"})
    assert (json.loads(out.read_text())["wrong"], "wrong" in result.output) == (wrong, True)


@pytest.mark.processes
def test_a_forbidden_target_is_an_error_of_one_line(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "scripts.load", "--url", "http://192.0.2.1"]
    ended = subprocess.run(
        command_line, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("load_test: --url http://192.0.2.1 is not on this machine")
    assert len(ended.stderr.splitlines()) == 1
