"""The commands about jobs: their output, refusals and exit statuses."""

import csv
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from flask import Flask

from client.tests.support.results_api import FAILED, Command, Photos, ResultsApi, served
from fleetsight_client.api import ApiClient
from fleetsight_client.cli import COMMANDS, fleetsight


@pytest.fixture
def job_id(api: ResultsApi, command: Command, photos: Photos) -> str:
    command("classify", photos({"a.jpg": b"cat", "b.jpg": FAILED}), "--name", "two [bold]cats[/]")
    return next(iter(api.jobs))


def test_jobs_are_listed_with_their_counts(job_id: str, command: Command) -> None:
    shown = command("jobs")
    assert shown.exit_code == 0
    line = next(line for line in shown.output.splitlines() if job_id in line)
    assert line.split()[-4:] == ["2", "1", "1", "0"]
    assert "two [bold]cats[/]" in line
    assert json.loads(command("jobs", "--json").output)["accepted"] == 2


def test_a_blocked_job_is_listed_with_its_reason(job_id: str, api: ResultsApi, command: Command) -> None:
    api.blocked = ["paused by ops"]
    assert "blocked: paused by ops" in next(each for each in command("jobs").output.splitlines() if job_id in each)


def test_results_are_written_with_status_1_if_an_image_has_no_label(
    job_id: str, command: Command, tmp_path: Path
) -> None:
    shown = command("results", job_id)
    rows = list(csv.DictReader(shown.stdout.splitlines()))
    assert [(row["filename"], row["status"]) for row in rows] == [("a.jpg", "done"), ("b.jpg", "failed")]
    assert shown.exit_code == 1
    assert command("results", job_id, "--out", tmp_path / "r.jsonl").exit_code == 1
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2


def test_a_job_is_cancelled_and_retried(job_id: str, command: Command) -> None:
    assert "1 of 2 images have a label" in command("cancel", job_id).output
    assert command("retry", job_id).output == "2 images were requested again; 1 cannot be classified.\n"


def test_a_job_is_deleted_after_a_question(job_id: str, api: ResultsApi, command: Command) -> None:
    assert command("delete", job_id).exit_code == 1
    assert api.jobs
    assert command("delete", job_id, "--yes").output == f"Job {job_id} was deleted.\n"
    assert not api.jobs


@pytest.mark.parametrize("name", ["results", "cancel", "delete"])
def test_an_unknown_job_is_status_2_with_the_reason(name: str, command: Command) -> None:
    ended = command(name, "01M85JGYAA6YHEQ7XE0BTP5G2H")
    assert (ended.exit_code, ended.output) == (2, "Error: there is no job '01M85JGYAA6YHEQ7XE0BTP5G2H'\n")


@pytest.mark.parametrize("arguments", [("jobs",), ("classify", "."), ("classify", "--source", "s3://photos")])
def test_without_an_answer_the_address_is_in_the_error(arguments: tuple[str, ...], tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    ended = CliRunner(env=environment).invoke(fleetsight, [*arguments, "--url", "http://127.0.0.1:1"])
    assert ended.exit_code == 2
    assert "nothing answers at http://127.0.0.1:1: check --url (Failed to establish" in ended.output


@pytest.mark.parametrize("arguments", [("jobs",), ("classify", "{photos}"), ("classify", "--source", "s3://photos")])
def test_another_web_server_is_reported_without_its_page(
    arguments: tuple[str, ...], command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = str(photos({"a.jpg": b"cat"}))
    with served(Flask("another")) as url:
        ended = command(*(folder if each == "{photos}" else each for each in arguments), "--url", url)
    assert (ended.exit_code, ended.output) == (
        2,
        f"Error: what answers at {url} is not Fleetsight: say where it is with --url\n",
    )
    assert not list((tmp_path / "state").rglob("*.journal"))


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_the_help_warns_of_tokens_on_the_command_line_and_has_the_exit_statuses(name: str) -> None:
    shown = CliRunner().invoke(fleetsight, [name, "-h"]).output
    assert "all users of a machine can read command lines" in " ".join(shown.split())
    assert "FLEETSIGHT_URL" in shown
    assert "\n  2    wrong use, or the server rejects the call or does not answer\n  130  interrupted\n" in shown
    words = "\n  1    a file was rejected, or an image failed or has no result\n"
    assert (words in shown) is (name in {"classify", "results"})


@pytest.mark.parametrize("name", ["results", "cancel", "retry"])
def test_an_interrupted_command_has_status_130(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("status", "cancel", "retry"):
        monkeypatch.setattr(ApiClient, call, Mock(side_effect=KeyboardInterrupt))
    assert command(name, "01M85JGYAA6YHEQ7XE0BTP5G2H").exit_code == 130
