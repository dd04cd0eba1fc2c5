"""The recording of a program that runs in a pseudo-terminal."""

import os
import sys
from pathlib import Path

import pytest

from scripts.recording import COLUMNS, RecordingError, record

PROGRAM = """
import shutil, sys
from rich.console import Console
from rich.progress import track
assert sys.stdin.isatty()
for _ in track(range(3), "working"):
    pass
Console().print("[bold]done[/] in", shutil.get_terminal_size().columns, "columns")
sys.exit(int(sys.argv[1]))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "80", "LINES": "24"}


def test_a_recording_begins_with_the_typed_command_and_ends_with_its_output(tmp_path: Path) -> None:
    frames = record("./work", [sys.executable, "-c", PROGRAM, "0"], folder=tmp_path, environment=environment())
    assert [words.text for words in frames[0].lines[0]] == ["$"]
    typed, bar, last = frames[-1].lines
    assert [words.text for words in typed] == ["$ ./work"]
    assert "working" in bar[0].text
    assert "100%" in "".join(words.text for words in bar)
    assert last[0].is_bold
    assert "".join(words.text for words in last).endswith(f"in{COLUMNS}columns")
    assert [frame.seconds for frame in frames] == sorted({frame.seconds for frame in frames})


def test_a_command_that_fails_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"(?s)./work ended with status 3:.*done"):
        record("./work", [sys.executable, "-c", PROGRAM, "3"], folder=tmp_path, environment=environment())
