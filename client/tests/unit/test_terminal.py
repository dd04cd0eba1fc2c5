"""What a hostile server, a model or a file's name can do to the terminal of a user: nothing."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest
from flask import Response

from client.tests.support.results_api import FAILED, Command, Photos, ResultsApi, served
from fleetsight_client.cli import COMMANDS, main
from fleetsight_client.terminal import CleanedTerminal, clean_terminal_output, one_line, printable

HOSTILE = "\x1b[41m\x1b]0;title\x07\x9b5m\rover\u202eabc\u200b\U000e0041"
EFFECTIVE = ("\x1b[41m", "\x1b]", "\x9b", "\rover", "\u202e", "\u200b", "\U000e0041")


def screen(command: Callable[[], object], encoding: str = "utf-8") -> str:
    """Run a function whose standard output and error are a terminal; return what the terminal received."""
    ours, theirs = os.openpty()
    received = list[bytes]()

    def read() -> None:
        with suppress(OSError):  # raised once the other end is closed
            while part := os.read(ours, 4096):
                received.append(part)

    reader = Thread(target=read)
    reader.start()
    try:
        with pytest.MonkeyPatch.context() as patch, suppress(SystemExit):
            for name in ("stdout", "stderr"):
                terminal = open(theirs, "w", 1, encoding=encoding, closefd=False)  # noqa: SIM115 (closed below)
                patch.setattr(sys, name, terminal)
            command()
    finally:
        os.close(theirs)
        reader.join()
    os.close(ours)
    return b"".join(received).decode("utf-8", "backslashreplace")


def poisoned(value: Any, key: str = "") -> Any:
    """Return an answer of the API in which the server has spoiled each text that it may."""
    if isinstance(value, dict):
        return {name: poisoned(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return value + HOSTILE if isinstance(value, str) and key not in {"image_id", "next", "status"} else value


@contextmanager
def hostile(api: ResultsApi) -> Iterator[str]:
    """Serve the API with poisoned answers; jobs are found by their poisoned ids, too."""
    app = api.app()

    @app.url_value_preprocessor
    def clean(_endpoint: str | None, values: dict[str, Any] | None) -> None:
        if values:
            values["job_id"] = values["job_id"].removesuffix(HOSTILE)

    @app.after_request
    def poison(answer: Response) -> Response:
        if answer.is_json and answer.status_code != 201:  # the client computes with a job's id
            answer.set_data(json.dumps(poisoned(answer.get_json(force=True))))
        return answer

    with served(app) as url:
        yield url


@pytest.mark.parametrize("name", [str(each.name) for each in COMMANDS])
@pytest.mark.parametrize("is_known", [True, False])
def test_no_command_gives_a_terminal_what_a_server_has_made_up(
    name: str, is_known: bool, api: ResultsApi, command: Command, photos: Photos
) -> None:
    folder = photos({"a.jpg": b"cat\x1b[41m\x9b", "b\x1b[41m\u202e.jpg": FAILED})
    command("classify", folder)
    job_id = next(iter(api.jobs)) if is_known else "01M85JGYAA6YHEQ7XE0BTP5G2H"
    given = {"classify": [str(folder), "--out", "-"], "jobs": [], "delete": [job_id, "--yes"]}
    if not is_known:
        given |= {"classify": [str(folder), "--model", "other"], "delete": [job_id]}
    with hostile(api) as url:
        shown = screen(lambda: main([name, *given.get(name, [job_id]), "--url", url]))
    assert [each for each in EFFECTIVE if each in shown] == []
    assert "is not Fleetsight" not in shown


def test_results_are_whole_in_a_pipe_and_printable_on_a_terminal(
    api: ResultsApi, command: Command, photos: Photos
) -> None:
    command("classify", photos({"a.jpg": b"\x1b[41m\xc2\x9bcat"}))
    assert "\x1b[41m\x9bcat" in command("results", next(iter(api.jobs))).stdout
    with served(api.app()) as url:
        shown = screen(lambda: main(["results", next(iter(api.jobs)), "--url", url]))
    assert "\ufffd[41m\ufffdcat" in shown


def test_names_with_joiners_and_marks_of_every_script_stay_readable(tmp_path: Path) -> None:
    name = "👩\u200d🔬 e\u0301 न\u200dम \u05d0\u200f\tx\n"
    assert printable(name) == name
    assert one_line(name).endswith("\tx\ufffd")


def test_a_text_that_cannot_be_encoded_is_no_error() -> None:
    assert "x\ufffd" in screen(lambda: print("x\udc80", file=CleanedTerminal(sys.stdout)))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_is_cleaned(encoding: str) -> None:
    def show() -> None:
        clean_terminal_output()
        click.echo(HOSTILE)

    shown = screen(show, encoding)
    assert "[41m" in shown
    assert [each for each in EFFECTIVE if each in shown] == []
