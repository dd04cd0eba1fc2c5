"""Uploads that are repeated, refused, interrupted and resumed: nothing is sent twice, and nothing is missing."""

import json
import os
import re
import sqlite3
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from client.tests.support.results_api import Command, Photos, ResultsApi, problem
from fleetsight_client import uploader
from fleetsight_client.api import ApiClient, ApiError, UnreachableError
from fleetsight_client.journal import Journal
from fleetsight_client.retries import GaveUpError, PatientCalls


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that gives up at the first failure, as if it were killed there."""
    monkeypatch.setattr("fleetsight_client.cli.PatientCalls", partial(PatientCalls, patience_seconds=-1.0))


def busy() -> object:
    return problem(503, "a service does not answer just now")


def many(count: int = 50) -> dict[str, bytes]:
    return {f"{number:03}.jpg": f"cat {number}".encode() for number in range(count)}


def test_a_lost_answer_is_repeated_under_the_same_key(api: ResultsApi, command: Command, photos: Photos) -> None:
    api.faults = [lambda: None, lambda: None]  # executed, and then the answer is lost
    assert command("classify", photos(many())).exit_code == 0
    assert len(api.names) == 50
    assert max(api.names.values()) == 1


def test_all_uploads_of_a_command_are_in_one_trace(api: ResultsApi, command: Command, photos: Photos) -> None:
    api.faults = [lambda: problem(503, "busy")]
    for folder in ("first", "second"):
        assert command("classify", photos(many(), folder)).exit_code == 0
    # https://www.w3.org/TR/trace-context/#traceparent-header
    traces = [re.fullmatch("00-([0-9a-f]{32})-[0-9a-f]{16}-0[01]", each) for each in api.traceparents]
    assert all(traces)
    assert len(set(api.traceparents)) == len(api.traceparents) > 4, "each request is a span of its own"
    assert len({each[1] for each in traces if each}) == 2


def test_an_error_of_the_server_is_shown_with_its_trace(api: ResultsApi, url: str) -> None:
    reply = problem(500, "something went wrong")
    reply.set_data(json.dumps(json.loads(reply.get_data()) | {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}))
    api.faults = [lambda: reply]
    client = ApiClient(url)
    job = client.create_job("x")
    with pytest.raises(ApiError, match=r"something went wrong \(trace ID 4bf92f3577b34da6a3ce929d0e0e4736\)"):
        client.send_images(job, [("a.jpg", b"cat")], "key", positions=[0], trace_id="a" * 32)


@pytest.mark.parametrize("is_source", [False, True])
def test_a_server_that_stops_answering_while_results_are_awaited_is_shown(
    is_source: bool, api: ResultsApi, command: Command, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.sources["s3://photos"] = {"a.jpg": b"cat"}
    status, failures = ApiClient.status, [UnreachableError("GET /jobs/1: refused")] * 2

    def failing(client: ApiClient, job_id: str) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return status(client, job_id)

    monkeypatch.setattr(ApiClient, "status", failing)
    monkeypatch.setattr("fleetsight_client.display.LINE_SECONDS", 0.0)
    done = command("classify", *(("--source", "s3://photos") if is_source else (photos({"a.jpg": b"cat"}),)))
    assert done.exit_code == 0
    assert "(waiting: GET /jobs/1: refused)" in done.stderr


def test_a_pause_that_the_server_asks_for_is_kept_and_bounded() -> None:
    pauses: list[float] = []

    def note(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    calls = PatientCalls(wait=note, uniform=lambda low, _high: low)
    answers = iter([rejected(429, 7.0), rejected(503, None), rejected(429, 301.0)])

    def call() -> None:
        raise next(answers)

    with pytest.raises(GaveUpError, match=r"quota \(possible again in 5 min\)"):
        calls.call(call)
    assert pauses == [7.0, 0.5]


def rejected(status: int, retry_after: float | None) -> Exception:
    from fleetsight_client.api import RejectedError

    return RejectedError("POST /", status, "quota", retry_after_seconds=retry_after)


def test_tries_end_after_a_bounded_time() -> None:
    now = [0.0]

    def wait(seconds: float) -> bool:
        now[0] += seconds
        return False

    calls = PatientCalls(wait=wait, clock=lambda: now[0])

    def call() -> None:
        raise rejected(503, None)

    with pytest.raises(GaveUpError, match="no success in 10 min"):
        calls.call(call)
    assert now[0] < 700


def test_an_exhausted_quota_ends_the_command_which_can_be_resumed(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos(many())
    refuse = partial(problem, 429, "the day's quota is used up", "quota-exceeded", Retry_After="7200")
    api.faults = [None, refuse, refuse]
    ended = command("classify", folder, "--out", tmp_path / "r.csv")
    assert ended.exit_code == 2
    assert "the day's quota is used up (possible again in 2 h 0 min)." in ended.output
    assert "Continue with the same command and --resume." in ended.output
    again = command("classify", folder)
    assert again.exit_code == 2
    assert re.search(r"did not finish: it had sent [12]0 of 50 files\. Continue with --resume", again.output)
    assert command("classify", folder, "--resume", "--out", tmp_path / "r.csv").exit_code == 0
    assert len(api.names) == 50
    assert max(api.names.values()) == 1
    assert len(api.jobs) == 1


def test_a_command_with_an_unknown_model_leaves_nothing_to_resume(
    command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos(many())
    refused = command("classify", folder, "--model", "other", "--out", tmp_path / "r.csv")
    assert refused.exit_code == 2
    assert "there is no model 'other': choose one of demo" in refused.output
    assert "--resume" not in refused.output
    assert command("classify", folder, "--out", tmp_path / "r.csv").exit_code == 0


def test_restart_forgets_what_was_sent(api: ResultsApi, command: Command, photos: Photos) -> None:
    folder = photos(many(5))
    api.faults = [partial(problem, 403, "the token has no right to classify")]
    assert command("classify", folder).exit_code == 2
    assert command("classify", folder, "--restart").exit_code == 0
    assert len(api.jobs) == 2


@pytest.mark.parametrize(("slice_seconds", "most"), [(1e-9, 4), (1e9, 12)], ids=["slow line", "fast line"])
def test_slices_grow_with_the_line_and_say_how_many_files_follow(
    api: ResultsApi,
    command: Command,
    photos: Photos,
    monkeypatch: pytest.MonkeyPatch,
    slice_seconds: float,
    most: int,
) -> None:
    for name, limit in {"SLICE_BYTES": 40, "MAX_SLICE_BYTES": 120, "SLICE_SECONDS": slice_seconds}.items():
        monkeypatch.setattr(uploader, name, limit)
    files = {f"{number:03}.jpg": b"ten of cat" for number in range(100)}
    assert command("classify", photos(files)).exit_code == 0
    assert max(count for _, count in api.slices) == most
    remaining, counts = zip(*sorted(api.slices, reverse=True), strict=True)
    assert [*remaining] == [100 - sent for sent in accumulate(counts)]


def test_a_slice_that_is_too_large_for_the_server_is_halved(
    api: ResultsApi, command: Command, photos: Photos
) -> None:
    api.max_files = 3
    assert command("classify", photos(many())).exit_code == 0
    assert len(api.names) == 50
    assert max(api.names.values()) == 1


@pytest.mark.usefixtures("impatient")
def test_files_that_changed_since_they_were_listed_are_reported(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos(many(30))
    api.faults = [lambda: problem(503, "busy"), lambda: problem(503, "busy")]
    assert command("classify", folder).exit_code == 2
    (folder / "003.jpg").write_bytes(b"other")
    (folder / "025.jpg").unlink()
    done = command("classify", folder, "--resume", "--out", tmp_path / "r.csv")
    assert done.exit_code == 1
    assert "30 images: 28 with a label, 2 rejected." in done.stderr
    assert "No label (changed): 2." in done.stderr
    assert set(api.names) == set(many(30)) - {"003.jpg", "025.jpg"}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("change", [0, 1, 10])
def test_a_file_that_changed_after_its_slice_was_accepted_counts_once(
    change: int, api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos(many(10))
    api.faults = [lambda: None]  # accepted, and the command ends before the answer arrives
    assert command("classify", folder).exit_code == 2
    for number in range(change):
        (folder / f"{number:03}.jpg").write_bytes(b"other")
    assert command("classify", folder, "--resume", "--out", tmp_path / "r.csv").exit_code == 0
    assert api.names == dict.fromkeys(many(10), 1)


def test_a_deleted_job_is_reported_with_what_to_do(api: ResultsApi, command: Command, photos: Photos) -> None:
    folder = photos(many())
    refuse = partial(problem, 429, "quota", "quota-exceeded", Retry_After="7200")
    api.faults = [None, refuse, refuse]
    assert command("classify", folder).exit_code == 2
    api.jobs.clear()
    ended = command("classify", folder, "--resume")
    assert ended.exit_code == 2
    assert "takes no more images" in ended.output
    assert "Begin anew with --restart" in ended.output


def test_a_journal_that_cannot_be_written_is_reported_with_what_to_do(
    api: ResultsApi, command: Command, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(many())
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "settle", Mock(side_effect=sqlite3.OperationalError("database or disk is full")))
        done = command("classify", folder)
    assert done.exit_code == 2
    assert "cannot be written: database or disk is full. Continue with the same command and --resume" in done.output
    assert command("classify", folder, "--resume").exit_code == 0
    assert set(api.names.values()) == {1}


def test_a_pipe_in_place_of_a_file_does_not_block(api: ResultsApi, command: Command, photos: Photos) -> None:
    folder = photos(many(30))
    api.faults = [partial(problem, 429, "quota", "quota-exceeded", Retry_After="7200")] * 2
    assert command("classify", folder).exit_code == 2
    (folder / "007.jpg").unlink()
    os.mkfifo(folder / "007.jpg")
    done = command("classify", folder, "--resume")
    assert done.exit_code == 1
    assert "30 images: 29 with a label, 1 rejected." in done.stderr
