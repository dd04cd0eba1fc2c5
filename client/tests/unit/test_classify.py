"""The command `classify`: what is sent, what is written, and the exit status."""

import csv
import json
import os
import sys
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from client.tests.support.results_api import FAILED, REJECTED, UNAVAILABLE, Command, Photos, ResultsApi, problem
from fleetsight_client.output import OutputError, ResultRowsFile
from fleetsight_client.rows import COLUMNS, ResultRow, RowLayout


def rows(file: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a CSV by path."""
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["filename"]: row for row in csv.DictReader(lines)}


def test_each_image_gets_a_row_in_the_order_of_the_names(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({f"day{n % 2}/{n:02}.jpg": f"cat {n}".encode() for n in range(50)} | {"a.PNG": b"dog"})
    done = command("classify", folder, "--out", tmp_path / "r.csv")
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "r.csv")
    assert list(found) == sorted(found)
    assert len(found) == 51
    assert found["a.PNG"]["label"] == "dog"
    assert found["day1/01.jpg"] == found["day1/01.jpg"] | {"status": "done", "label": "cat", "score": "0.900000"}
    assert tuple(found["a.PNG"]) == COLUMNS
    assert max(api.names.values()) == 1
    assert api.job.name == "photos"
    assert not list((tmp_path / "state").rglob("*.journal*")), "a finished command leaves no journal"


def test_rejected_and_failed_images_have_their_reason_and_status_1(
    command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"cat", "b.jpg": REJECTED, "c.jpg": FAILED, "d.jpg": b"", "e.jpg": b"x" * 1_000_001})
    done = command("classify", folder, "--out", tmp_path / "r.jsonl")
    assert done.exit_code == 1
    found = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    codes = [(row["filename"], row["status"], row["error"] and row["error"]["code"]) for row in found]
    assert codes[0] == ("a.jpg", "done", None)
    assert codes[1] == ("b.jpg", "rejected", "not_an_image")
    assert codes[2] == ("c.jpg", "failed", "truncated")
    assert codes[4] == ("e.jpg", "rejected", "too_large")
    assert "5 images: 2 with a label, 1 failed, 2 rejected." in done.stderr


def test_standard_output_has_nothing_but_results(command: Command, photos: Photos) -> None:
    done = command("classify", photos({"a.jpg": b"cat"}), "--out", "-")
    assert [row["label"] for row in csv.DictReader(done.stdout.splitlines())] == ["cat"]
    assert "1 images: 1 with a label." in done.stderr


def test_several_folders_have_their_names_before_the_paths(command: Command, photos: Photos, tmp_path: Path) -> None:
    one, two = photos({"x.jpg": b"cat"}, "one/photos"), photos({"x.jpg": b"dog"}, "two/photos")
    assert command("classify", one, two, "--out", tmp_path / "r.csv").exit_code == 0
    labels = {path: row["label"] for path, row in rows(tmp_path / "r.csv").items()}
    assert labels == {"photos/x.jpg": "cat", "photos (2)/x.jpg": "dog"}


def test_what_is_left_out_is_counted_by_reason_and_loops_end(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"cat", ".hidden.jpg": b"cat", ".git/b.jpg": b"cat", "notes.txt": b"cat"})
    (folder / "loop").symlink_to(folder)
    (folder / "nothing.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    done = command("classify", folder, "--out", folder / "results.csv", "--sort-into", folder / "sorted")
    assert done.exit_code == 0, done.output
    assert api.names == {"a.jpg": 1, "link.jpg": 1}
    for line in (
        "Not sent (hidden): 2.", "Not sent (not an image by name): 1.", "Not sent (link to a folder): 1.",
        "Not sent (not readable): 1.", "Not sent (no regular file): 1.", "Not sent (written by this command): 1.",
    ):  # fmt: skip
        assert line in done.stderr


def test_a_file_is_an_image_by_its_suffix_or_without_one_by_its_start(
    api: ResultsApi, command: Command, photos: Photos
) -> None:
    jpeg = b"\xff\xd8\xff rest"
    names = ("windows.jfif", "old.JPE", "stereo.mpo", "no-suffix")
    folder = photos(dict.fromkeys(names, jpeg) | {"README": b"text", "@eaDir/a.jpg/thumb.jpg": jpeg})
    done = command("classify", folder)
    assert api.names == dict.fromkeys(names, 1)
    assert f"Not sent (not an image by name): 1. The first: {folder / 'README'}." in done.stderr
    assert "Not sent (hidden): 1.\n" in done.stderr


def test_a_folder_in_another_one_is_refused(command: Command, photos: Photos) -> None:
    folder = photos({"day/a.jpg": b"cat"})
    done = command("classify", folder, folder / "day")
    assert (done.exit_code, "name only one of them" in done.output) == (2, True)


def test_a_folder_without_images_is_status_2(api: ResultsApi, command: Command, photos: Photos) -> None:
    done = command("classify", photos({"a.txt": b""}))
    assert (done.exit_code, api.jobs) == (2, {})
    assert "no image was found" in done.output


def test_formulas_in_names_and_labels_are_neutralised(command: Command, photos: Photos, tmp_path: Path) -> None:
    folder = photos({"=1+1.jpg": b"@SUM(1)", "a;=x.jpg": b"cat"})
    command("classify", folder, "--out", tmp_path / "r.csv")
    found = rows(tmp_path / "r.csv")
    assert set(found) == {"'=1+1.jpg", "a;'=x.jpg"}
    assert found["'=1+1.jpg"]["label"] == "'@SUM(1)"
    assert found["a;'=x.jpg"]["label_2"] == "'=second"


def test_a_name_that_is_no_utf8_is_classified_and_shown(command: Command, photos: Photos, tmp_path: Path) -> None:
    folder = photos({"a.jpg": b"cat"})
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_bytes(b"dog")
    assert command("classify", folder, "--out", tmp_path / "r.csv", "--sort-into", tmp_path / "s").exit_code == 0
    assert rows(tmp_path / "r.csv")["\ufffd.jpg"]["label"] == "dog"
    assert (tmp_path / "s" / "dog" / "\ufffd.jpg").read_bytes() == b"dog"


def test_no_wait_ends_when_all_images_are_accepted(api: ResultsApi, command: Command, photos: Photos) -> None:
    api.is_holding = True
    done = command("classify", photos({"a.jpg": b"cat"}), "--no-wait")
    assert done.exit_code == 0
    assert f"fleetsight results {next(iter(api.jobs))} --out results.csv" in done.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--out", "r.txt"), "end"),
        (("--out", "no/such/folder/r.csv"), "there is no folder"),
        (("--no-wait", "--out", "r.csv"), "--no-wait has no results"),
        (("--resume", "--restart"), "exclude each other"),
        (("--watch", "--out", "r.parquet"), "which .parquet does not allow"),
        (("--truth-from-folders", "--no-wait"), "--no-wait has no results"),
        (("--source", "s3://photos"), "--source"),
        (("--max-failed", "5%", "--watch"), "--max-failed does not go with --watch"),
        *((("--max-failed", share), "is no share from 0.1% to 99%") for share in ("100%", "0", "nan", "5 images")),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(
    options: tuple[str, ...], reason: str, api: ResultsApi, command: Command, photos: Photos
) -> None:
    done = command("classify", photos({"a.jpg": b"cat"}), *options)
    assert (done.exit_code, api.jobs) == (2, {})
    assert reason in done.output


def test_an_existing_file_of_results_stays_until_the_new_one_is_whole(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    out = tmp_path / "r.csv"
    out.write_text("before")
    api.results_fault = problem(403, "not yours")
    assert command("classify", photos({"a.jpg": b"cat"}), "--out", out).exit_code == 2
    assert out.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_results_that_do_not_fit_on_the_disk_are_written_by_resume(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photos({f"{number}.jpg": b"cat" for number in range(200)}), tmp_path / "r.csv"
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", lambda **_options: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "x")))
        patch.setattr("os.chmod", lambda *_arguments: None)
        done = command("classify", folder, "--out", out)
    assert done.exit_code == 2
    assert f"--out {out} cannot be written: No space left on device. Continue with the same command" in done.output
    assert command("classify", folder, "--out", out, "--resume").exit_code == 0
    assert len(out.read_text().splitlines()) == 201
    assert set(api.names.values()) == {1}


def test_json_lines_have_the_images_of_the_api_and_times_are_those_of_the_servers_csv(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"cat", "b.jpg": FAILED, "c.jpg": REJECTED})
    command("classify", folder, "--out", tmp_path / "r.jsonl")
    written = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    own = {"job_id": next(iter(api.jobs)), "correct": None}
    assert written[:2] == [image | own for _, image in sorted(api.job.images.items())]
    assert {*written[1], "bytes", "worker", "attempts"} - {"recorded_at"} >= {*written[2]} - {"recorded_at"}
    assert (written[2]["error"]["code"], written[2]["bytes"]) == ("not_an_image", len(REJECTED))
    command("classify", folder, "--out", tmp_path / "r.csv")
    assert rows(tmp_path / "r.csv")["a.jpg"]["recorded_at"] == "2026-11-24 00:00:01"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_of_results_is_not_continued_with_other_columns(suffix: str, tmp_path: Path) -> None:
    out, row = str(tmp_path / f"r.{suffix}"), ResultRow(filename="a.jpg", status="done")
    with ResultRowsFile(out) as file:
        file.write(row)
    with (
        pytest.raises(OutputError, match="has other columns"),
        ResultRowsFile(out, file.end_of_file, RowLayout({"site": str})),
    ):
        pass
    with ResultRowsFile(out, file.end_of_file) as again:
        again.write(row)
    assert again.end_of_file > file.end_of_file


def test_parquet_without_pyarrow_is_refused_before_anything_is_sent(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = command("classify", photos({"a.jpg": b"cat"}), "--out", tmp_path / "r.parquet")
    assert (done.exit_code, api.jobs) == (2, {})
    assert "pip install 'fleetsight-client[parquet]'" in done.output


def test_a_file_that_the_server_cannot_store_is_sent_again_under_a_new_key(
    api: ResultsApi, command: Command, photos: Photos
) -> None:
    done = command("classify", photos({"a.jpg": b"cat", "b.jpg": UNAVAILABLE}))
    assert done.exit_code == 0, done.output
    assert api.names == {"a.jpg": 1, "b.jpg": 1}


def test_without_an_answer_the_variable_with_the_address_is_named(
    command: Command, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETSIGHT_URL", "htp://x")
    done = command("classify", photos({"a.jpg": b"cat"}))
    assert done.exit_code == 2
    assert "FLEETSIGHT_URL=htp://x: 'htp://x' is no address of Fleetsight" in done.output


def test_images_in_s3_are_classified_where_they_are(api: ResultsApi, command: Command, tmp_path: Path) -> None:
    api.sources["s3://photos/day1"] = {"a.jpg": b"cat", "b/c.jpg": b"dog"}
    ended = command("classify", "--source", "s3://photos/day1", "--out", tmp_path / "r.csv")
    assert ended.exit_code == 0, ended.output
    assert "2 images: 2 with a label." in ended.output
    assert "Not sent (no image by its name): 2." in ended.output
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [(row["filename"], row["label"]) for row in rows] == [("a.jpg", "cat"), ("b/c.jpg", "dog")]
    assert api.job.name == "day1"
    assert command("classify", "--source", "s3://photos/day1", "--no-wait").exit_code == 0


@pytest.mark.parametrize("names", [("a.jpg",), ()])
def test_an_image_in_s3_that_is_not_copied_counts_as_rejected(
    api: ResultsApi, command: Command, names: tuple[str, ...]
) -> None:
    api.sources["s3://photos/day1"] = dict.fromkeys(names, b"cat")
    api.skipped = {"not_an_image": 5, "not_readable": 2, "too_large": 1}
    ended = command("classify", "--source", "s3://photos/day1", "--results", "s3://photos/labels")
    assert ended.exit_code == 1
    assert f"{3 + len(names)} images: {len(names)} with a label, 3 rejected." in ended.output
    assert "No label (not readable by Fleetsight): 2." in ended.output


def test_a_source_that_is_rejected_or_cannot_be_listed_is_status_2_with_the_reason(
    api: ResultsApi, command: Command
) -> None:
    refused = command("classify", "--source", "s3://other")
    assert (refused.exit_code, refused.output) == (2, "Error: images of s3://other may not be classified\n")
    api.sources["s3://photos"], api.source_error = {"a.jpg": b"cat"}, "s3://photos: this bucket does not exist"
    ended = command("classify", "--source", "s3://photos")
    assert ended.exit_code == 2
    assert "this bucket does not exist" in ended.output


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_stopped_job_ends_the_command_with_the_reason_and_goes_on_after_retry_and_resume(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path, is_sent: bool
) -> None:
    api.stopped = "6 of 100 images failed"
    if not is_sent:
        api.faults = [partial(problem, 409, "the job is stopped: 6 of 100 images failed", "job-cancelled")]
    arguments = ("classify", photos({"a.jpg": b"cat"}), "--out", tmp_path / "r.csv", "--max-failed", "5%")
    ended = command(*arguments)
    assert (ended.exit_code, api.job.max_failed_percent) == (2, 5.0)
    [job_id] = api.jobs
    assert "stopped: 6 of 100 images failed" in ended.output
    assert f"fleetsight retry {job_id} and --resume" in ended.output
    assert command("retry", job_id).exit_code == 0
    assert command(*arguments, "--resume").exit_code == 0
    assert rows(tmp_path / "r.csv")["a.jpg"]["label"] == "cat"
    assert len(api.jobs) == 1


def test_a_stopped_job_of_a_source_is_status_2_with_the_reason(api: ResultsApi, command: Command) -> None:
    api.sources["s3://photos"], api.stopped = {"a.jpg": b"cat"}, "6 of 100 images failed"
    ended = command("classify", "--source", "s3://photos", "--max-failed", "0.5%")
    assert (ended.exit_code, api.job.max_failed_percent) == (2, 0.5)
    assert f"stopped: 6 of 100 images failed; fleetsight retry {next(iter(api.jobs))} goes on" in ended.output


def test_results_of_a_source_are_copied_to_s3_before_the_command_ends(api: ResultsApi, command: Command) -> None:
    api.sources["s3://photos/day1"] = {"a.jpg": b"cat"}
    ended = command("classify", "--source", "s3://photos/day1", "--results", "s3://photos/labels")
    assert ended.exit_code == 0, ended.output
    assert (api.job.results, api.job.polls) == ("s3://photos/labels", 3)


def test_results_that_cannot_be_copied_are_status_2_with_the_reason(api: ResultsApi, command: Command) -> None:
    api.sources["s3://photos"], api.copy_error = {"a.jpg": b"cat"}, "s3://gone: this bucket does not exist"
    ended = command("classify", "--source", "s3://photos", "--results", "s3://gone")
    assert ended.exit_code == 2
    assert "this bucket does not exist" in ended.output
    without_source = command("classify", ".", "--results", "s3://photos/labels")
    assert without_source.exit_code == 2
    assert "--results goes with --source only" in without_source.output


@pytest.mark.parametrize("arguments", [("photos",), ("--source", "s3://photos/day1")])
def test_a_wait_says_its_reason_once_and_again_when_it_changes(
    arguments: tuple[str, ...], api: ResultsApi, command: Command, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos({"a.jpg": b"cat"}).parent)
    api.sources["s3://photos/day1"] = {"a.jpg": b"cat"}
    cap = "spending cap of today reached; goes on at 00:00 UTC"
    api.blocked = ["paused by ops", "paused by ops", cap, cap, None]
    shown = command("classify", *arguments)
    assert shown.exit_code == 0
    lines = [line for line in shown.stderr.splitlines() if "blocked" in line]
    assert lines == ["blocked: paused by ops", f"blocked: {cap}", "no longer blocked"]


@pytest.mark.parametrize("minutes", [-1, 1])
def test_a_time_of_day_is_the_next_one_on_this_machine(
    api: ResultsApi, command: Command, photos: Photos, minutes: int
) -> None:
    wanted = datetime.now().astimezone() + timedelta(minutes=minutes)
    done = command("classify", photos({"a.jpg": b"cat"}), "--finish-by", f"{wanted:%H:%M}")
    assert done.exit_code == 0, done.output
    sent = datetime.fromisoformat(api.job.wanted["finish_by"])
    assert sent.utcoffset() is not None
    assert sent.replace(second=0) == (wanted + timedelta(days=minutes < 0)).replace(second=0, microsecond=0)


@pytest.mark.parametrize("time", ["8", "25:00", "2020-01-01T08:00", "noon"])
def test_a_time_that_is_none_or_over_is_refused(api: ResultsApi, command: Command, photos: Photos, time: str) -> None:
    refused = command("classify", photos({"a.jpg": b"cat"}), "--finish-by", time)
    assert (refused.exit_code, api.jobs) == (2, {})
    assert "is no time to come" in refused.output
